"""What one optimizer step learns does not depend on how it is cut into micro-batches."""

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer, varied_score
from lightning.pytorch.plugins import MixedPrecision

import lit_g2rpo.rewards.running.scorer
from lit_g2rpo.errors import NonFiniteError, UserError
from lit_g2rpo.objectives import G2RPO, GRPO, Objective, Supervised


class Gradient(pl.Callback):
    """Keep the gradient of the first optimizer step."""

    def __init__(self) -> None:
        self.gradients: dict[str, torch.Tensor] = {}

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        if not self.gradients:
            self.gradients = {n: p.grad.clone() for n, p in pl_module.policy.named_parameters()}


def first_step(folder: str, tmp_path: Path, accumulate: int, objective: G2RPO) -> tuple[dict[str, torch.Tensor], float]:
    keep = Gradient()
    run = module(folder, objective, update={"microbatches": accumulate})
    fit = trainer(tmp_path, 1, callbacks=[keep], accumulate_grad_batches=accumulate, gradient_clip_val=None)
    fit.fit(run, data(max_completion_tokens=12))
    return keep.gradients, float(fit.callback_metrics["train/loss"])


def terms() -> G2RPO:
    return G2RPO(filtering="off", entropy_coefficient=0.05, length_weight=0.1, kl_coefficient=0.1)


@pytest.fixture(scope="module")
def whole(random_folder: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, torch.Tensor], float]:
    """Gradient and loss of one big batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        return first_step(random_folder, tmp_path_factory.mktemp("whole"), 1, terms())


@pytest.mark.parametrize("accumulate", [2, 3, 5])
@pytest.mark.usefixtures("varied_rewards")
def test_unequal_microbatches_add_up_to_one_big_batch(
    whole: tuple[dict[str, torch.Tensor], float], random_folder: str, tmp_path: Path, accumulate: int
) -> None:
    gradients, loss = whole
    parts, parts_loss = first_step(random_folder, tmp_path, accumulate, terms())
    assert parts_loss == pytest.approx(loss, abs=1e-6)
    scale = max(g.abs().max() for g in gradients.values())
    assert scale > 1e-3
    for name, gradient in gradients.items():
        assert (gradient - parts[name]).abs().max() < 1e-5 * scale, name


def test_groups_that_teach_nothing_leave_the_policy_alone(random_folder: str, tmp_path: Path) -> None:
    """A random policy is always wrong: every group is dropped and nothing but weight decay would move."""
    run = module(random_folder, GRPO(filtering="drop"))
    run.optimizer = lambda parameters: torch.optim.SGD(parameters, lr=1.0)
    fit = trainer(tmp_path, 2)
    fit.fit(run, data())
    assert float(fit.callback_metrics["rollout/dropped"]) == 1
    assert float(fit.callback_metrics["train/tokens"]) == 0
    assert float(fit.callback_metrics["train/loss"]) == 0
    before = module(random_folder)
    before.configure_model()
    for name, weight in before.policy.state_dict().items():
        assert torch.equal(weight, run.policy.state_dict()[name])


class Poison(pl.Callback):
    """Make the loss of a rollout's last micro-batch NaN."""

    def on_before_zero_grad(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        pl_module.experience.microbatches[-1].fields.weight.fill_(torch.nan)


def test_a_gradient_that_is_not_finite_stops_the_run(random_folder: str, tmp_path: Path) -> None:
    run = module(random_folder)
    with pytest.raises(NonFiniteError, match="the loss or its gradient is not finite in rollout 1"):
        trainer(tmp_path, 8, callbacks=[Poison()]).fit(run, data())
    saved = next(tmp_path.glob("**/non_finite_rank0.json")).read_text()
    assert all(p.id in saved for p in run.experience.microbatches[-1].prompts)


@pytest.mark.usefixtures("varied_rewards")
def test_an_overflow_of_16_bits_is_the_scalers_matter(random_folder: str, tmp_path: Path) -> None:
    """A scaler finds its scale by overflows, which lower it and skip the step; one at scale 1 is no overflow."""

    def fit(scale: float, *callbacks: pl.Callback) -> float:
        scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        precision = MixedPrecision("16-mixed", "cpu", scaler=scaler)
        options = {"plugins": [precision], "callbacks": list(callbacks), "accumulate_grad_batches": 1}
        trainer(tmp_path, 4, **options).fit(module(random_folder), data())
        return float(scaler.get_scale())

    assert fit(2.0**30) < 2.0**30
    with pytest.raises(NonFiniteError):
        fit(1.0, Poison())


def test_a_reward_that_is_not_finite_stops_the_run(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lit_g2rpo.rewards import RewardResult

    nan = RewardResult(
        total=float("nan"), accuracy=0.0, format=0.0, structure=0.0, components={}, error=None, seconds=0.0
    )
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", lambda *_: nan)
    with pytest.raises(NonFiniteError, match="a reward or log-probability is not finite"):
        trainer(tmp_path, 2).fit(module(random_folder), data())
    assert "ocr" in next(tmp_path.glob("**/non_finite_rank0.json")).read_text()


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ({"rollout": {"group_size": 1}}, {}, "group_size is 1; .* at least 2"),
        (
            {"update": {"microbatches": 3}},
            {},
            "microbatches \\(3\\) must be a multiple of trainer.accumulate_grad",
        ),
        ({"rollout": {"prompts": 7}}, {}, "prompts is 7; it must be a multiple of 2"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(
    random_folder: str, tmp_path: Path, sizes: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        trainer(tmp_path, 2, **options).fit(module(random_folder, **sizes), data())


@pytest.mark.parametrize(
    ("objective", "engine", "message"),
    [(Supervised(), "native", "imitates"), (GRPO(), "demonstrations", "compares completions of one prompt")],
)
def test_an_objective_that_learns_nothing_from_its_engine_is_refused(
    random_folder: str, objective: Objective, engine: str, message: str
) -> None:
    """A policy would imitate its own samples, or find every group tied, and nothing would say so."""
    with pytest.raises(UserError, match=f"model.rollout.engine is {engine}, but .* {message}"):
        module(random_folder, objective, rollout={"engine": engine})


def test_a_prompt_that_is_too_long_is_named(random_folder: str, tmp_path: Path) -> None:
    source = data()
    source.max_prompt_tokens = 20
    with pytest.raises(UserError, match=r"row \S+: its prompt has \d+ tokens .* data.max_prompt_tokens allows 20"):
        trainer(tmp_path, 2).fit(module(random_folder), source)


def test_engine_and_trainer_agree_on_the_first_update_alone(
    random_folder: str, tmp_path: Path, varied_rewards: None
) -> None:
    gaps: list[tuple[float, float]] = []

    class Note(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            found = trainer.callback_metrics
            if "train/logprob_gap" in found:
                gaps.append((float(found["train/logprob_gap"]), float(found["train/logprob_gap_max"])))

    run = module(random_folder)
    trainer(tmp_path, 2, callbacks=[Note()]).fit(run, data())
    assert gaps
    assert 0 < gaps[0][0] <= gaps[0][1] < 1e-4
    # the second update's policy is another one: its distance is no gap
    assert gaps[-1] == gaps[0]


@pytest.mark.parametrize(("precision", "dtype"), [("bf16-mixed", "float32"), ("32-true", "bfloat16")])
@pytest.mark.usefixtures("varied_rewards")
def test_half_precision_learns_on_the_cpu(random_folder: str, tmp_path: Path, precision: str, dtype: str) -> None:
    keep = Gradient()
    run = module(random_folder, dtype=dtype)
    fit = trainer(tmp_path, 1, callbacks=[keep], precision=precision)
    fit.fit(run, data(max_completion_tokens=12))
    assert 0 < float(fit.callback_metrics["train/logprob_gap"]) < 0.02
    assert float(fit.callback_metrics["train/logprob_gap_max"]) < 0.1
    exact = module(random_folder)
    exact.configure_model()
    for microbatch in run.experience.microbatches[:2]:
        exact.policy.loss(microbatch, exact.objective.token_loss)[0].backward()
    theirs = torch.cat([parameter.grad.flatten() for parameter in exact.policy.parameters()])
    ours = torch.cat([gradient.float().flatten() for gradient in keep.gradients.values()])
    assert torch.cosine_similarity(ours, theirs, 0) > 0.99
