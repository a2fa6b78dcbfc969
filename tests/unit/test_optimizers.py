"""Optimizers that a user names in YAML, beyond those of torch; steps too small for the type of the weights."""

import io
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from helpers.build import data, module, trainer
from helpers.composed import compose
from lightning.pytorch.strategies import SingleDeviceStrategy

from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.training.settings_checks import check_rounding

RATE = 2e-6
"""The paper's learning rate."""


def moved(make: Any, dtype: torch.dtype, steps: int = 200, cut: int | None = None) -> torch.Tensor:
    """How far weights move in 200 steps of noisy gradients, what rounding dropped counted in where it is kept."""
    generator = torch.Generator().manual_seed(1)
    start = (0.02 * torch.randn(5000, generator=generator)).bfloat16().to(dtype)
    mean = 0.3 * torch.randn(5000, generator=generator)
    weight = torch.nn.Parameter(start.clone())
    optimizer = make([weight], lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    for step in range(steps):
        if step == cut:
            saved = io.BytesIO()
            torch.save(optimizer.state_dict(), saved)
            saved.seek(0)
            weight = torch.nn.Parameter(weight.detach().clone())
            # what a checkpoint holds, and how it is read
            optimizer = make([weight], lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
            optimizer.load_state_dict(torch.load(saved, weights_only=True))
        weight.grad = (1e-3 * (mean + torch.randn(5000, generator=generator))).to(dtype)
        optimizer.step()
    kept = optimizer.state[weight].get("kahan_comp")
    return weight.detach().double() - start + (0 if kept is None else kept.double())


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def test_the_papers_rate_is_lost_in_bfloat16_and_kept_by_kahans_sum() -> None:
    optimi = pytest.importorskip("optimi")
    expected = moved(torch.optim.AdamW, torch.float32)
    assert error(moved(torch.optim.AdamW, torch.bfloat16), expected) > 0.9
    # moments are bfloat16 too, so that it is near and not equal
    assert error(moved(optimi.AdamW, torch.bfloat16), expected) < 0.05
    # and on float32 weights, such as DeepSpeed's own, it is AdamW
    assert error(moved(optimi.AdamW, torch.float32), expected) < 1e-3


def test_kahans_sum_goes_on_from_a_checkpoint_bit_for_bit() -> None:
    optimi = pytest.importorskip("optimi")
    whole = moved(optimi.AdamW, torch.bfloat16)
    assert torch.equal(moved(optimi.AdamW, torch.bfloat16, cut=90), whole)


def test_the_fragment_keeps_the_recipes_numbers() -> None:
    pytest.importorskip("optimi")
    optimizer = compose(
        "--config", "@openvlthinker_v2.yaml", "--model.optimizer", "@optimizer/kahan.yaml"
    ).model.optimizer
    assert optimizer.class_path == "optimi.AdamW"
    values = optimizer.init_args
    assert (values.lr, values.betas, values.weight_decay, values.eps) == (RATE, (0.9, 0.999), 0.01, 1e-8)


def test_steps_that_rounding_drops_are_refused() -> None:
    ranks = Ranks(L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False))

    def check(optimizer: torch.optim.Optimizer) -> None:
        check_rounding(optimizer, SingleDeviceStrategy(), ranks)

    weight = torch.nn.Parameter((0.02 * torch.randn(1000)).bfloat16())
    with pytest.raises(UserError, match=r"steps of 2e-06 are rounded away in 9[0-9]% of the half-precision weights"):
        check(torch.optim.AdamW([weight], lr=RATE))
    check(torch.optim.AdamW([weight], lr=1e-3))
    check(torch.optim.AdamW([torch.nn.Parameter(weight.detach().float())], lr=RATE))
    optimi = pytest.importorskip("optimi")
    check(optimi.AdamW([weight], lr=RATE))


def test_a_run_that_could_not_learn_does_not_start(random_folder: str, tmp_path: Path) -> None:
    run = module(random_folder, dtype="bfloat16")
    run.optimizer = lambda groups: torch.optim.AdamW(groups, lr=1e-9)
    with pytest.raises(UserError, match=r"add --model\.optimizer configs/optimizer/kahan\.yaml"):
        trainer(tmp_path, 1).fit(run, data())
    assert run.rollout_index == 0


@pytest.mark.usefixtures("varied_rewards")
@pytest.mark.parametrize("frozen", [["vision"], ["merger"], ["language"]])
def test_each_part_learns_at_its_own_rate(random_folder: str, tmp_path: Path, frozen: list[Any]) -> None:
    rates = {"vision": 0.25, "merger": 0.5, "language": 2.0}
    run = module(random_folder, freeze=frozen, lr_scale=rates)
    run.configure_model()
    before = {name: weight.detach().clone() for name, weight in run.policy.named_parameters()}
    trainer(tmp_path, 1).fit(run, data())
    # Adam's first step moves every weight that has a gradient by the rate, whatever the gradient
    steps, part_of = dict.fromkeys(rates, 0.0), run.policy.backbone.family.part_of
    for name, weight in run.policy.named_parameters():
        step = (
            weight.detach() - before[name] * (1 if part_of(name) in frozen else 1 - 1e-5 * rates[part_of(name)])
        ).abs()
        steps[part_of(name)] = max(steps[part_of(name)], float(step.max()))
    assert steps == pytest.approx(
        {part: 0 if part in frozen else 1e-3 * rate for part, rate in rates.items()}, rel=0.01
    )


def test_options_that_optimizer_or_schedule_do_not_take_are_one_line(random_folder: str) -> None:
    made = module(random_folder)
    made.configure_model()
    made.optimizer = partial(torch.optim.AdamW, lr=-1.0)
    with pytest.raises(UserError, match=r"model\.optimizer cannot be built: ValueError: Invalid learning rate: -1\.0$"):
        made.optimizer_settings.build()
    made.optimizer = partial(torch.optim.AdamW, lr=1.0)
    made.lr_scheduler = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1.0, total_steps=-1)
    with pytest.raises(UserError, match=r"model\.lr_scheduler cannot be built: ValueError: .*total_steps"):
        made.optimizer_settings.state_dict()


def test_a_policy_of_which_nothing_learns_is_refused(random_folder: str) -> None:
    made = module(random_folder)
    made.policy_config.freeze = ["vision", "merger", "language"]
    made.configure_model()
    with pytest.raises(UserError, match=r"model\.policy\.freeze keeps every part from learning"):
        made.optimizer_settings.build()
