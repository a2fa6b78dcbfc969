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
    """KL that a resumed run adds is to the reference of a run that had it from the start, which lr 0 does not move."""

    def run(steps: int, objective: Objective, cut: Path | None = None) -> tuple[Trace, pl.Trainer]:
        trace, made = Trace(), module(random_folder, objective)
        made.optimizer = partial(torch.optim.SGD, lr=0.0)
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
