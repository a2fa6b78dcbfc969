"""A resumed run equals the straight one bit for bit, wherever it was cut."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer, varied_score

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives import G2RPO, GRPO, EmaGRPO, Objective
from lit_g2rpo.policy.config import LoraConfig


class SaveAt(pl.Callback):
    """Save a checkpoint when so many micro-batches are done."""

    def __init__(self, path: Path, after: int) -> None:
        self.path, self.after, self.done = path, after, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        if self.done == self.after:
            trainer.save_checkpoint(self.path)


class Trace(pl.Callback):
    """Keep every logged training metric by optimizer step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("perf/")}
        self.steps[trainer.global_step] = {k: v for k, v in metrics.items() if "/" in k}


def objective() -> G2RPO:
    return G2RPO(filtering="off", entropy_coefficient=0.02, length_weight=0.1, kl_coefficient=0.01)


STEPS = 10

pytestmark = pytest.mark.usefixtures("varied_rewards_of_module")


@pytest.fixture(scope="module")
def varied_rewards_of_module() -> Iterator[None]:
    """The straight run is shared by all tests, so its rewards are replaced for the whole module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        yield


@pytest.fixture(scope="module")
def straight(
    random_folder: str, tmp_path_factory: pytest.TempPathFactory, varied_rewards_of_module: None
) -> tuple[dict[str, Any], Trace, Path]:
    """Five rollouts of 4 micro-batches and 2 optimizer steps, in epochs of 3 rollouts, with checkpoints inside."""
    folder = tmp_path_factory.mktemp("straight")
    trace = Trace()
    saves = [SaveAt(folder / f"{after}.ckpt", after) for after in (8, 10, 12, 14)]
    run = module(random_folder, objective())
    trainer(folder, STEPS, callbacks=[trace, *saves]).fit(run, data())
    return run.policy.state_dict(), trace, folder


@pytest.mark.parametrize(
    ("after", "where"),
    [
        (8, "between two rollouts"),
        (10, "between two optimizer steps of a rollout"),
        (12, "at the end of an epoch"),
        (14, "in the first rollout after an epoch's end"),
    ],
)
def test_resume_is_bit_exact(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, tmp_path: Path, after: int, where: str
) -> None:
    weights, trace, folder = straight
    resumed = Trace()
    run = module(random_folder, objective())
    fit = trainer(tmp_path, STEPS, callbacks=[resumed])
    fit.fit(run, data(), ckpt_path=folder / f"{after}.ckpt")
    assert fit.global_step == STEPS
    for name, weight in run.policy.state_dict().items():
        assert torch.equal(weight, weights[name]), f"{where}: {name}"
    for step in range(after // 2 + 1, STEPS + 1):
        loss = {k: v for k, v in resumed.steps[step].items() if k.startswith("train/")}
        assert loss == {k: v for k, v in trace.steps[step].items() if k in loss}
        assert loss["train/tokens"] > 0
        rollout = {k: v for k, v in trace.steps[step].items() if k.startswith("rollout/")}
        assert rollout == {k: v for k, v in resumed.steps[step].items() if k.startswith("rollout/")}
        assert loss["train/grad_norm"] > 1e-3


def test_dropout_of_adapters_goes_on_bit_for_bit(random_folder: str, tmp_path: Path) -> None:
    def run() -> Any:
        return module(random_folder, lora=LoraConfig(rank=2, alpha=4, dropout=0.5))

    straight, resumed = run(), run()
    trainer(tmp_path, 3, callbacks=[SaveAt(tmp_path / "cut.ckpt", 2)]).fit(straight, data())
    torch.rand(5)  # another process begins elsewhere in the running generator
    trainer(tmp_path, 3).fit(resumed, data(), ckpt_path=tmp_path / "cut.ckpt")
    for name, weight in resumed.policy.state_dict().items():
        assert torch.equal(weight, straight.policy.state_dict()[name]), name


def test_the_checkpoint_holds_no_reference_and_no_classes(straight: tuple[dict[str, Any], Trace, Path]) -> None:
    checkpoint = torch.load(straight[2] / "10.ckpt", weights_only=True)
    assert all(name.startswith("policy.") for name in checkpoint["state_dict"])
    assert checkpoint["g2rpo"]["experience"]["token_ids"].shape == (12, 4, 8)
    assert "experience" not in torch.load(straight[2] / "8.ckpt", weights_only=True)["g2rpo"]


def test_terms_may_change_inside_a_rollout(random_folder: str, tmp_path: Path) -> None:
    """KL that a resumed run adds is to the reference of a run that had it from the start; its steps move nothing."""

    def run(steps: int, objective: Objective, cut: Path | None = None) -> tuple[Trace, pl.Trainer]:
        trace, made = Trace(), module(random_folder, objective)
        made.optimizer = partial(torch.optim.SGD, lr=1e-30)
        fit = trainer(tmp_path, steps, callbacks=[trace])
        fit.fit(made, data(), ckpt_path=cut)
        return trace, fit

    run(1, GRPO(filtering="off"))[1].save_checkpoint(tmp_path / "cut.ckpt")
    straight, _ = run(2, EmaGRPO(filtering="off", kl_coefficient=0.1))
    resumed, _ = run(2, EmaGRPO(filtering="off", kl_coefficient=0.1), tmp_path / "cut.ckpt")
    assert resumed.steps[2]["train/kl"] == straight.steps[2]["train/kl"]


def test_a_checkpoint_of_another_model_is_refused(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    checkpoint = torch.load(straight[2] / "8.ckpt", weights_only=True)
    name = next(n for n in checkpoint["state_dict"] if n.endswith("q_proj.weight"))
    checkpoint["state_dict"][name] = torch.zeros(3, 3)
    torch.save(checkpoint, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="checkpoint of another model") as error:
        trainer(tmp_path, STEPS).fit(module(random_folder), data(), ckpt_path=tmp_path / "other.ckpt")
    assert name in str(error.value)


def test_a_checkpoint_of_a_run_that_froze_less_is_refused(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    run = module(random_folder, objective(), freeze=["vision"])
    with pytest.raises(UserError, match=r"weights learned that model.policy.freeze keeps .* policy\S*\.visual"):
        trainer(tmp_path, STEPS).fit(run, data(), ckpt_path=straight[2] / "8.ckpt")
    trainer(tmp_path, STEPS).validate(run, data(), ckpt_path=straight[2] / "8.ckpt", verbose=False)


def test_a_checkpoint_inside_a_rollout_refuses_other_prompts(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="the data has changed"):
        trainer(tmp_path, STEPS).fit(
            module(random_folder, objective(), rollout={"seed": 8}), data(), ckpt_path=straight[2] / "10.ckpt"
        )


class Options(pl.Callback):
    """Keep the options of the optimizer at every step."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, Any]] = {}

    def on_before_optimizer_step(self, trainer: pl.Trainer, module: Any, optimizer: torch.optim.Optimizer) -> None:
        group = optimizer.param_groups[0]
        self.steps[trainer.global_step] = {key: value for key, value in group.items() if key != "params"}


def go_on(
    folder: str, cut: Path, optimizer: Any, lr_scheduler: Any = None, steps: int = STEPS, **sizes: Any
) -> Options:
    """Resume with another optimizer or schedule, and return what its steps were made with."""
    options, run = Options(), module(folder, objective(), **sizes)
    run.optimizer, run.lr_scheduler = optimizer, lr_scheduler
    trainer(cut.parent, steps, callbacks=[options]).fit(run, data(), ckpt_path=cut)
    return options


def test_options_of_the_optimizer_are_those_of_now(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str
) -> None:
    """The optimizer's own state comes from the checkpoint, and with it the options of then."""
    now = {"lr": 5e-4, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.3, "foreach": True}
    optimizer = partial(torch.optim.AdamW, **now)
    used = go_on(random_folder, straight[2] / "14.ckpt", optimizer, lr_scale={"vision": 0.5})
    assert sorted(used.steps) == [7, 8, 9]
    for options in used.steps.values():
        assert {key: options[key] for key in now} == now | {"lr": options["lr"]}
        assert options["lr"] in (5e-4, 2.5e-4)


def sequential(optimizer: torch.optim.Optimizer) -> Any:
    schedules = torch.optim.lr_scheduler
    parts = [schedules.ConstantLR(optimizer, 0.5, 3), schedules.ExponentialLR(optimizer, 0.9)]
    return schedules.SequentialLR(optimizer, parts, milestones=[3])


LINEAR = partial(torch.optim.lr_scheduler.LinearLR, start_factor=0.1, total_iters=20)
COSINE = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=12)
ONE_CYCLE = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=2e-3, total_steps=12)


@pytest.mark.parametrize(
    ("before", "schedule"),
    [
        (None, LINEAR),
        (LINEAR, None),
        (LINEAR, COSINE),
        (COSINE, sequential),
        (sequential, ONE_CYCLE),
        (ONE_CYCLE, COSINE),
    ],
    ids=["none linear", "linear none", "linear cosine", "cosine sequential", "sequential cycle", "cycle cosine"],
)
def test_a_changed_schedule_is_where_it_would_be_had_it_been_there_from_the_start(
    random_folder: str, tmp_path: Path, before: Any, schedule: Any
) -> None:
    """Against the schedule stepped by hand."""
    run = module(random_folder, update={"microbatches": 2})
    run.lr_scheduler = before
    trainer(tmp_path, 3, callbacks=[SaveAt(tmp_path / "cut.ckpt", 6)]).fit(run, data(max_completion_tokens=2))
    used = go_on(
        random_folder,
        tmp_path / "cut.ckpt",
        partial(torch.optim.AdamW, lr=4e-4),
        schedule,
        5,
        update={"microbatches": 2},
    )
    by_hand = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=4e-4)
    stepped = schedule(by_hand) if schedule else None
    for step in range(5):
        if step in used.steps:
            assert used.steps[step]["lr"] == pytest.approx(by_hand.param_groups[0]["lr"], rel=1e-12), step
            assert used.steps[step]["betas"] == by_hand.param_groups[0]["betas"]
        by_hand.step()
        if stepped:
            stepped.step()
    assert sorted(used.steps) == [3, 4]


@pytest.mark.parametrize(
    ("optimizer", "says"),
    [
        (
            partial(torch.optim.SGD, lr=1e-3),
            r"the optimizer of the checkpoint: torch\.optim\.adamw\.AdamW, here",
        ),
        (partial(torch.optim.AdamW, lr=1e-3, amsgrad=True), "with amsgrad changed it needs max_exp_avg_sq"),
    ],
)
def test_an_optimizer_that_the_state_does_not_fit_is_refused(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, optimizer: Any, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        go_on(random_folder, straight[2] / "8.ckpt", optimizer)


def test_a_schedule_that_has_no_such_step_is_refused(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str
) -> None:
    schedule = partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=1e-3, total_steps=3)
    with pytest.raises(UserError, match=r"model\.lr_scheduler cannot go on at optimizer step 4"):
        go_on(random_folder, straight[2] / "8.ckpt", partial(torch.optim.AdamW, lr=1e-3), schedule)


def test_micro_batches_may_change_between_rollouts_where_the_steps_stay(
    straight: tuple[dict[str, Any], Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    """Twice as many of half the size, accumulated, learn what the straight run learns, across an epoch's end."""
    weights, _, folder = straight
    run = module(random_folder, objective(), update={"microbatches": 8})
    fit = trainer(tmp_path, STEPS, accumulate_grad_batches=4)
    fit.fit(run, data(), ckpt_path=folder / "8.ckpt")
    assert (fit.global_step, run.rollout_index, fit.fit_loop.total_batch_idx) == (STEPS, 5, 5 * 8 - 1)
    for name, weight in run.policy.state_dict().items():
        torch.testing.assert_close(weight, weights[name], rtol=0, atol=2e-5)


@pytest.mark.parametrize(
    ("file", "sizes", "accumulate", "says"),
    [
        (
            "8.ckpt",
            {"update": {"microbatches": 8}},
            2,
            "a rollout of the checkpoint is 2 optimizer steps, here it is 4",
        ),
        ("10.ckpt", {"update": {"microbatches": 8}}, 4, "was saved within a rollout of 4 micro-batches"),
        (
            "10.ckpt",
            {"rollout": {"group_size": 2}},
            2,
            "of groups of 4, but model.rollout.group_size is 2",
        ),
    ],
)
def test_sizes_that_the_state_does_not_fit_are_refused(
    straight: tuple[dict[str, Any], Trace, Path],
    random_folder: str,
    tmp_path: Path,
    file: str,
    sizes: dict[str, Any],
    accumulate: int,
    says: str,
) -> None:
    run = module(random_folder, objective(), **sizes)
    with pytest.raises(UserError, match=says):
        trainer(tmp_path, 20, accumulate_grad_batches=accumulate).fit(run, data(), ckpt_path=straight[2] / file)
