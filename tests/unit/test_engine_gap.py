"""In every rollout the trainer computes a few log-probabilities again, and a run whose engine has others ends."""

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning.pytorch as L
import pytest
import torch
from helpers.build import data, module, trainer
from helpers.faulty_engines import (
    CopyEngine,
    NormalizedTwice,
    OtherTemperature,
    StaleHead,
    StaleImages,
    StaleWeights,
)
from torch import Tensor

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.errors import EngineGapError, UserError
from lit_g2rpo.experience import Completion, Experience
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.engine_gap import check_engine_gap, choose

POLICY = "package:lit_g2rpo.mini/weights"
NAMES = ("rollout/engine_gap_mean", "rollout/engine_gap_max")


class Shifted(NativeEngine):
    """Log-probabilities are off by a thousandth of the completion's index, and by more at the last token."""

    def generate(self, *arguments: Any) -> list[Completion]:
        completions = super().generate(*arguments)
        for i, completion in enumerate(completions):
            completion.logprobs -= 0.001 * i
            completion.logprobs[-1] -= 0.5
        return completions


class Record(L.Callback):
    """Record what each rollout logs."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if len(self.found) < pl_module.rollout_index:
            metrics = trainer.callback_metrics
            self.found.append({name: float(metrics[name]) for name in NAMES if name in metrics})


def fit(
    folder: Path,
    engine: NativeEngine | None = None,
    steps: int = 4,
    path: Any = None,
    shapes: Any = None,
    **rollout: Any,
) -> tuple[Any, list[dict[str, float]]]:
    """A run of two rollouts, and what it logs."""
    torch.manual_seed(5)
    sizes = {} if shapes is None else {"shapes": shapes}
    run = module(POLICY, rollout=rollout, **sizes)
    if engine is not None:
        run.engine = engine
    keeper, record = RolloutCheckpoint(every_rollouts=50, monitor=None, dirpath=str(folder)), Record()
    trainer(folder, steps, callbacks=[keeper, record], enable_checkpointing=True).fit(run, data(), ckpt_path=path)
    return run, record.found


def same(a: Any, b: Any) -> bool:
    other = b.policy.state_dict()
    return all(torch.equal(weight, other[name]) for name, weight in a.policy.state_dict().items())


@pytest.mark.parametrize("shapes", ["exact", "static"])
def test_an_engine_on_the_trained_weights_has_no_gap_and_the_check_changes_nothing(tmp_path: Path, shapes: str) -> None:
    checked, found = fit(
        tmp_path / "checked", CopyEngine(slots=16) if shapes == "static" else CopyEngine(), shapes=shapes
    )
    assert [set(metrics) for metrics in found] == [set(NAMES)] * 2
    assert all(0 < metrics[NAMES[0]] <= metrics[NAMES[1]] < 1e-4 for metrics in found)
    plain, found = fit(
        tmp_path / "plain", CopyEngine(slots=16) if shapes == "static" else None, shapes=shapes, gap_checks=0
    )
    assert found == [{}, {}]
    assert same(checked, plain)
    passes = [run.policy.backbone.counters.train_passes for run in (checked, plain)]
    # one per micro-batch in each of two rollouts
    assert passes[0] - passes[1] == 2 * 4


FAULTS = [(StaleWeights, 1.0), (StaleHead, 1.0), (StaleImages, 1.0), (NormalizedTwice, 1.0), (OtherTemperature, 0.7)]


@pytest.mark.parametrize(
    ("engine", "temperature", "old_logprobs"),
    [(*fault, "rollout") for fault in FAULTS] + [(*fault, "recompute") for fault in FAULTS[2::2]],
)
def test_a_silent_fault_ends_the_run_within_its_rollout_saved(
    tmp_path: Path, engine: type[CopyEngine], temperature: float, old_logprobs: str
) -> None:
    settings: dict[str, Any] = {"old_logprobs": old_logprobs, "temperature": temperature}
    # what is stale differs from the second rollout on
    fails_in = 2 if engine in (StaleWeights, StaleHead, StaleImages) else 1
    with pytest.raises(EngineGapError, match=rf"^rollout {fails_in}: engine .* trainer differ by .* nats") as caught:
        fit(tmp_path / "faulty", engine(), **settings)
    assert "allowed are 0.0001 and 0.01 (model.rollout.mean_gap, max_gap)" in str(caught.value)
    if fails_in == 2 and old_logprobs == "rollout":
        assert "continues from the checkpoint of step 2" in caught.value.__notes__[0]
        resumed, _ = fit(tmp_path / "faulty", path=tmp_path / "faulty" / "last.ckpt", **settings)
        straight, _ = fit(tmp_path / "straight", **settings)
        assert same(resumed, straight)


def test_a_gap_is_that_of_the_chosen_completions(tmp_path: Path) -> None:
    run, [metrics] = fit(tmp_path, Shifted(), steps=2, mean_gap=1.0, max_gap=1.0, gap_checks=5)
    chosen = choose(torch.ones(12, 4, dtype=torch.bool), 5, (7, 0)).flatten().nonzero().flatten().tolist()
    expected = [
        0.001 * i + (0.5 if t == len(run.experience.completions[i].token_ids) - 1 else 0)
        for i in chosen
        for t in range(len(run.experience.completions[i].token_ids))
    ]
    assert metrics[NAMES[0]] == pytest.approx(sum(expected) / len(expected), abs=1e-5)
    assert metrics[NAMES[1]] == pytest.approx(max(expected), abs=1e-5)


@pytest.mark.parametrize("limits", [{"mean_gap": 0.01, "max_gap": 1.0}, {"mean_gap": 1.0, "max_gap": 0.4}])
def test_each_limit_stops(tmp_path: Path, limits: dict[str, float]) -> None:
    with pytest.raises(EngineGapError, match=rf"allowed are {limits['mean_gap']:g} and {limits['max_gap']:g}"):
        fit(tmp_path, Shifted(), steps=2, **limits)


def test_a_recomputed_rollout_is_compared_without_a_forward(tmp_path: Path) -> None:
    counts = []
    for checks in (8, 0):
        run, found = fit(tmp_path / str(checks), steps=2, old_logprobs="recompute", gap_checks=checks)
        counts.append(run.policy.backbone.counters.train_passes)
        assert bool(found[0]) == bool(checks)
    assert counts[0] == counts[1]


def test_the_completions_follow_from_the_counters() -> None:
    everything = torch.ones(6, 4, dtype=torch.bool)
    first = choose(everything, 6, (7, 0))
    assert first.sum(1).tolist() == [1] * 6
    assert choose(everything, 8, (7, 0)).sum(1).sort().values.tolist() == [1, 1, 1, 1, 2, 2]
    assert torch.equal(choose(everything, 6, (7, 0)), first)
    assert not torch.equal(choose(everything, 6, (7, 1)), first)
    assert not torch.equal(choose(everything, 6, (8, 0)), first)
    some = torch.zeros(6, 4, dtype=torch.bool)
    some[2, 1:] = True
    assert torch.equal(choose(some, 8, (7, 0)), some)
    assert not choose(everything, 0, (7, 0)).any()


class OneOf:
    """One rank of several, which notes what it would sum."""

    def __init__(self) -> None:
        self.sums: list[Tensor] = []
        self.maxima: list[Tensor] = []

    def sum(self, values: Tensor) -> Tensor:
        self.sums.append(values)
        return values.clamp(min=1e-9)

    def largest(self, values: Tensor) -> Tensor:
        self.maxima.append(values)
        return values


@pytest.mark.parametrize("world", [2, 5])
def test_ranks_together_compare_the_same_completions_in_equally_many_forwards(tmp_path: Path, world: int) -> None:
    run, _ = fit(tmp_path, Shifted(), steps=2, mean_gap=1.0, max_gap=1.0)
    whole, ranks, passes = run.experience, OneOf(), []
    for rank in range(world):
        own = [completion for i, completion in enumerate(whole.completions) if i // 4 % world == rank]
        part = dataclasses.replace(
            whole, prompts=whole.prompts[rank::world], completions=own, rank=rank, world_size=world
        )
        before = run.policy.backbone.counters.train_passes
        check_engine_gap(as_rank(run, ranks), part)
        passes.append(run.policy.backbone.counters.train_passes - before)
    assert len(set(passes)) == 1
    total, tokens = torch.stack(ranks.sums).sum(0).tolist()
    # after two optimizer steps, the policy is another one
    check_engine_gap(as_rank(run, one := OneOf()), whole)
    assert [total, tokens] == pytest.approx(one.sums[0].tolist(), rel=1e-5)
    assert float(torch.stack(ranks.maxima).max()) == pytest.approx(float(one.maxima[0]), rel=1e-5)


def as_rank(run: Any, ranks: OneOf) -> Any:
    """The run in its first rollout, with other ranks."""
    config = dataclasses.replace(run.rollout, mean_gap=torch.inf, max_gap=torch.inf)
    return SimpleNamespace(
        rollout=config, rollout_index=0, ranks=ranks, engine=run.engine, policy=run.policy, update=run.update,
        objective=run.objective, trainer=run.trainer,
    )  # fmt: skip


def test_a_log_probability_that_is_not_finite_is_no_gap_of_zero(tmp_path: Path) -> None:
    run, _ = fit(tmp_path, steps=2)
    experience: Experience = run.experience
    for completion in experience.completions:
        completion.logprobs[-1] = torch.nan
    ranks = OneOf()
    with pytest.raises(EngineGapError, match="differ by inf nats on average"):
        check_engine_gap(SimpleNamespace(**vars(as_rank(run, ranks)) | {"rollout": run.rollout}), experience)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"gap_checks": -1}, "gap_checks is -1"),
        ({"mean_gap": 0.0}, "mean_gap is 0.0"),
        ({"max_gap": -2.0}, "max_gap is -2"),
    ],
)
def test_limits_out_of_range_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=rf"model\.rollout\.{says}"):
        module(POLICY, rollout=settings)
