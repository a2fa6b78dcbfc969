"""A rollout that is sampled while the policy learns from the one before: right weights, equal bits, exact resume."""

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from helpers.build import data, module, trainer, varied_score
from helpers.refill_run import coin_score
from helpers.separate_engine import SeparateEngine

import lit_g2rpo.rewards.running.scorer
import lit_g2rpo.training.ahead
import lit_g2rpo.training.group_records
from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint
from lit_g2rpo.errors import EngineGapError, ScoringStopError, UserError
from lit_g2rpo.module import G2RPOModule
from lit_g2rpo.objectives import G2RPO, GRPO
from lit_g2rpo.rewards.running.scorer import Scorer
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.ahead import SamplingStopError

ROLLOUTS = 5
STEPS = 2 * ROLLOUTS


@pytest.fixture(scope="module", autouse=True)
def _varied_rewards() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lit_g2rpo.rewards.running.scorer, "score", varied_score)
        patch.setattr(lit_g2rpo.training.group_records, "DELAY", 0.0)
        yield


class Trace(pl.Callback):
    """Record metrics by optimizer step, and by rollout the completions, their versions and the weights."""

    def __init__(self) -> None:
        self.steps: dict[int, dict[str, float]] = {}
        self.staleness: dict[int, float] = {}
        self.tokens: dict[int, list[list[int]]] = {}
        self.versions: dict[int, list[int]] = {}
        self.prompts: dict[int, list[Any]] = {}
        self.weights: dict[int, dict[str, torch.Tensor]] = {}

    def on_train_batch_start(self, trainer: Any, run: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 0:
            self.weights[run.rollout_index] = {n: w.clone() for n, w in run.policy.state_dict().items()}

    def on_train_batch_end(self, trainer: Any, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if not k.startswith("perf/")}
        self.steps[trainer.global_step] = {k: v for k, v in metrics.items() if k.startswith(("train/", "rollout/"))}
        rollout = run.rollout_index - 1
        self.staleness[rollout] = metrics.get("rollout/staleness_max", 0)
        self.tokens[rollout] = [c.token_ids.tolist() for c in run.experience.completions]
        self.versions[rollout] = [c.version for c in run.experience.completions]
        self.prompts[rollout] = run.experience.prompts


class SaveAt(pl.Callback):
    """Save a checkpoint when so many micro-batches are done."""

    def __init__(self, folder: Path, after: tuple[int, ...]) -> None:
        self.folder, self.after, self.done = folder, after, 0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.done += 1
        if self.done in self.after:
            trainer.save_checkpoint(self.folder / f"{self.done}.ckpt")


def lagged(
    policy: str,
    lag: int = 1,
    objective: Any = None,
    engine: str = "helpers.separate_engine.SeparateEngine",
    **rollout: Any,
) -> G2RPOModule:
    objective = objective or G2RPO(filtering="off", entropy_coefficient=0.02, length_weight=0.1)
    return module(policy, objective, rollout={"engine": engine, "lag": lag, "prompts": 8} | rollout)


def fit(
    run: G2RPOModule, folder: Path, *callbacks: pl.Callback, checkpoint: Path | None = None, **options: Any
) -> Trace:
    trace = Trace()
    keeps = any(isinstance(callback, RolloutCheckpoint) for callback in callbacks)
    steps = options.pop("steps", STEPS)
    fitted = trainer(folder, steps, callbacks=[trace, *callbacks], enable_checkpointing=keeps, **options)
    fitted.fit(run, data(), ckpt_path=checkpoint, weights_only=False)
    return trace


def keeper(folder: Path, **options: Any) -> RolloutCheckpoint:
    return RolloutCheckpoint(**({"every_rollouts": 50, "monitor": None, "dirpath": str(folder)} | options))


def assert_same(ours: G2RPOModule, theirs: G2RPOModule) -> None:
    assert ours.trainer.global_step == theirs.trainer.global_step
    for name, weight in ours.policy.state_dict().items():
        assert torch.equal(weight, theirs.policy.state_dict()[name]), name
    mine, other = (run.trainer.optimizers[0].state_dict()["state"] for run in (ours, theirs))
    for key in mine:
        assert all(torch.equal(mine[key][name], other[key][name]) for name in mine[key])


def begun(run: G2RPOModule) -> list[int]:
    """The rollouts whose sampling began, in order."""
    return [rollout for what, rollout in run.engine.log if what == "begin"]  # type: ignore[attr-defined]


CUTS = (2, 4, 10, 12, 16)
"""Micro-batches, four a rollout and three rollouts an epoch, after which a run is cut."""


@pytest.fixture(scope="module")
def straight(
    random_folder: str, tmp_path_factory: pytest.TempPathFactory, _varied_rewards: None
) -> tuple[G2RPOModule, Trace, Path]:
    folder = tmp_path_factory.mktemp("straight")
    run = lagged(random_folder)
    return run, fit(run, folder, SaveAt(folder, CUTS)), folder


def test_an_engine_with_a_copy_changes_nothing_without_lag(random_folder: str, tmp_path: Path) -> None:
    copied, native = lagged(random_folder, lag=0), lagged(random_folder, lag=0, engine="native")
    traces = [fit(run, tmp_path, steps=4) for run in (copied, native)]
    assert_same(copied, native)
    assert traces[0].steps == traces[1].steps
    assert traces[0].steps[4]["train/logprob_gap"] < 1e-5
    assert "rollout/staleness_max" not in traces[0].steps[4]
    assert copied.engine.log == [(what, rollout) for rollout in range(2) for what in ("begin", "end")]  # type: ignore[attr-defined]


def test_a_rollout_is_sampled_with_the_weights_before_the_last_update(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str
) -> None:
    run, trace, _ = straight
    engine = NativeEngine()
    policy = run.engine.policy
    engine.attach(policy)
    for rollout in range(ROLLOUTS):
        before = max(rollout - 1, 0)
        policy.load_state_dict(trace.weights[before])
        completions = engine.generate(trace.prompts[rollout], 4, Sampling(8, seed=7, rollout=rollout))
        assert [c.token_ids.tolist() for c in completions] == trace.tokens[rollout]
        assert set(trace.versions[rollout]) == {2 * before}
        metrics = trace.steps[2 * rollout + 1]
        assert metrics["rollout/staleness_mean"] == metrics["rollout/staleness_max"] == (2 if rollout else 0)
    # otherwise this would prove nothing
    policy.load_state_dict(trace.weights[4])
    newest = engine.generate(trace.prompts[4], 4, Sampling(8, seed=7, rollout=4))
    assert [c.token_ids.tolist() for c in newest] != trace.tokens[4]
    assert not any("logprob_gap" in name for metrics in trace.steps.values() for name in metrics)


def test_the_gap_between_engine_and_trainer_is_measured_before_the_policy_learns(
    straight: tuple[G2RPOModule, Trace, Path],
) -> None:
    for rollout in range(ROLLOUTS):
        metrics = straight[1].steps[2 * rollout + 1]
        assert 0 < metrics["rollout/engine_gap_mean"] <= metrics["rollout/engine_gap_max"] < 1e-5


class Stale(SeparateEngine):
    """No push arrives after the first."""

    pushed_once = False

    def push(self) -> None:
        if not self.pushed_once:
            super().push()
        self.pushed_once = True


def test_a_push_that_does_not_arrive_ends_the_run_saved(random_folder: str, tmp_path: Path) -> None:
    run = lagged(random_folder)
    run.engine = Stale()
    said = r"rollout 3 could not be sampled: engine .* and trainer differ by .* look for "
    with pytest.raises(SamplingStopError, match=said) as caught:
        fit(run, tmp_path, keeper(tmp_path))
    assert isinstance(caught.value.__cause__, EngineGapError)
    assert (tmp_path / "last.ckpt").resolve().name == "rollout=00002-step=000004.ckpt"
    assert begun(run) == [0, 1]


def test_a_second_run_has_the_same_bits(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    again = lagged(random_folder, engine_options={"seconds": 0.05})
    assert fit(again, tmp_path).steps == straight[1].steps
    assert_same(again, straight[0])


@pytest.mark.parametrize("after", CUTS)
def test_resume_is_bit_exact(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path, after: int
) -> None:
    whole, trace, folder = straight
    state = torch.load(folder / f"{after}.ckpt", weights_only=True)["g2rpo"]
    assert "ahead" in state
    assert ("experience" in state) == bool(after % 4)
    run = lagged(random_folder)
    resumed = fit(run, tmp_path, checkpoint=folder / f"{after}.ckpt")
    assert_same(run, whole)
    for step in range(after // 2 + 1, STEPS + 1):
        assert resumed.steps[step]["train/tokens"] > 0
        assert resumed.steps[step].items() <= trace.steps[step].items()
    # what is in the checkpoint is not sampled again
    assert begun(run) == list(range(-(-after // 4) + 1, ROLLOUTS))


def test_no_rollout_is_sampled_that_nobody_learns_from(straight: tuple[G2RPOModule, Trace, Path]) -> None:
    assert begun(straight[0]) == list(range(ROLLOUTS))


class Hold(pl.Callback):
    """Let rollout k + 1 through only when the update from rollout k has ended, and record that."""

    def on_train_batch_end(self, trainer: Any, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 3:
            run.engine.log.append(("update", run.rollout_index - 1))
            if run.rollout_index in run.engine.gates:
                run.engine.gates[run.rollout_index].set()


def test_sampling_and_learning_overlap(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    """A rollout that waits for the end of the update before it would wait forever if that had not begun."""
    run = lagged(random_folder)
    run.engine.gates = {rollout: threading.Event() for rollout in (1, 2, 3, 4)}  # type: ignore[attr-defined]
    fit(run, tmp_path, Hold())
    assert_same(run, straight[0])
    log = run.engine.log  # type: ignore[attr-defined]
    for rollout in range(1, ROLLOUTS):
        order = [log.index(("begin", rollout)), log.index(("update", rollout - 1)), log.index(("end", rollout))]
        assert order == sorted(order)


def test_a_step_that_is_one_update_is_one_behind(random_folder: str, tmp_path: Path) -> None:
    trace = fit(lagged(random_folder), tmp_path, steps=3, accumulate_grad_batches=4)
    assert trace.staleness == {0: 0, 1: 1, 2: 1}


class Validated(pl.Callback):
    """Record whether a validation sampled with the newest weights, and what was in flight."""

    def __init__(self) -> None:
        self.newest: list[bool] = []
        self.open: list[int] = []

    def on_validation_batch_end(self, trainer: Any, run: Any, *_: Any) -> None:
        pairs = zip(run.engine.policy.parameters(), run.policy.parameters(), strict=True)
        self.newest.append(all(torch.equal(own, weight) for own, weight in pairs))
        events = [what for what, _ in run.engine.log]
        self.open.append(events.count("begin") - events.count("end"))


def test_validations_in_between_use_the_newest_weights_and_change_nothing(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    run, seen = lagged(random_folder), Validated()
    assert run.evaluation_engine is run.engine
    trace = fit(run, tmp_path, seen, limit_val_batches=1.0, val_check_interval=4, check_val_every_n_epoch=None)
    assert_same(run, straight[0])
    assert trace.tokens == straight[1].tokens
    assert len(seen.newest) >= ROLLOUTS
    assert all(seen.newest)
    assert not any(seen.open)


def test_a_rollout_that_cannot_be_sampled_ends_the_run_saved(random_folder: str, tmp_path: Path) -> None:
    run = lagged(random_folder, engine_options={"fail_at": 3})
    said = r"rollout 4 could not be sampled: ConnectionError: the server has gone"
    with pytest.raises(SamplingStopError, match=said) as caught:
        fit(run, tmp_path, keeper(tmp_path))
    assert "continues from the checkpoint of step 6" in caught.value.__notes__[0]
    assert isinstance(caught.value.__cause__, ConnectionError)
    again = lagged(random_folder)
    trace = fit(again, tmp_path, keeper(tmp_path), checkpoint=tmp_path / "last.ckpt")
    assert again.trainer.global_step == STEPS
    # nothing older than the newest weights is left to learn from
    assert set(trace.versions[3]) == {6}
    assert trace.steps[7]["rollout/staleness_max"] == 0
    assert trace.steps[9]["rollout/staleness_max"] == 2


def test_the_same_module_fits_again_after_a_failure(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    run = lagged(random_folder)

    class Stop(pl.Callback):
        def on_train_batch_end(self, trainer: Any, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if run.rollout_index == 3:
                raise KeyError("stop")

    with pytest.raises(KeyError, match="stop"):
        fit(run, tmp_path, Stop())
    fit(run, tmp_path, checkpoint=straight[2] / "4.ckpt")
    assert_same(run, straight[0])


def test_scores_that_cannot_be_had_do_not_lose_what_was_sampled(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted, calls = Scorer.count, list[int]()

    def count(scorer: Scorer, scored: Any) -> Any:
        calls.append(len(scored))
        if len(calls) == 3:
            scorer._stop = ScoringStopError("the judge has been away")
        return counted(scorer, scored)

    with monkeypatch.context() as away, pytest.raises(ScoringStopError, match="away"):  # noqa: PT012
        away.setattr(Scorer, "count", count)
        fit(lagged(random_folder), tmp_path, keeper(tmp_path))
    run = lagged(random_folder)
    fit(run, tmp_path, keeper(tmp_path), checkpoint=tmp_path / "last.ckpt")
    assert_same(run, straight[0])


def test_an_interrupted_run_waits_for_what_is_in_flight_and_resumes_exactly(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path
) -> None:
    class Press(pl.Callback):
        def on_train_batch_start(self, trainer: Any, run: Any, batch: Any, batch_idx: int) -> None:
            if (run.rollout_index, batch[1]) == (3, 1):
                os.kill(os.getpid(), signal.SIGINT)

    cut = lagged(random_folder, engine_options={"seconds": 0.3})
    fit(cut, tmp_path, GracefulInterrupt(), keeper(tmp_path), Press())
    assert cut.trainer.global_step == 5
    run = lagged(random_folder)
    fit(run, tmp_path, keeper(tmp_path), checkpoint=tmp_path / "last.ckpt")
    assert_same(run, straight[0])


class Killed(BaseException):
    """Stands for the death of a process: nothing is saved on exit."""


def test_groups_of_a_killed_run_are_used_again(
    straight: tuple[G2RPOModule, Trace, Path], random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr("lit_g2rpo.training.partial_rollout.rank_zero_info", lines.append)
    monkeypatch.setattr("lit_g2rpo.training.partial_rollout.rank_zero_warn", lines.append)

    class Kill(pl.Callback):
        def on_train_batch_end(self, trainer: Any, run: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
            if (run.rollout_index, batch[1]) == (4, 1):
                run._ahead.wait()
                raise Killed

    options: dict[str, Any] = {"every_rollouts": 2, "partial_rollouts": True}
    with pytest.raises(Killed):
        fit(lagged(random_folder), tmp_path, keeper(tmp_path, **options), Kill())
    run = lagged(random_folder)
    fit(run, tmp_path, keeper(tmp_path, **options), checkpoint=tmp_path / "last.ckpt")
    assert_same(run, straight[0])
    # the third is in the checkpoint
    assert lines == [f"resumed: 8 of 8 groups of rollout {number} were already sampled" for number in (4, 5)]


@pytest.fixture
def refilled(random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[G2RPOModule, Trace, Path]:
    monkeypatch.setattr(lit_g2rpo.rewards.running.scorer, "score", coin_score)
    run = lagged(random_folder, objective=GRPO(filtering="refill", refill_waves=2), group_size=2)
    return run, fit(run, tmp_path, SaveAt(tmp_path, (6, 8))), tmp_path


def test_refills_come_from_the_newest_weights(refilled: tuple[G2RPOModule, Trace, Path], random_folder: str) -> None:
    whole, trace, folder = refilled
    for rollout in range(1, ROLLOUTS):
        metrics = trace.steps[2 * rollout + 1]
        share = metrics["rollout/refilled"]
        assert share > 0
        assert set(trace.versions[rollout]) == {2 * rollout - 2, 2 * rollout}
        fresh = trace.versions[rollout].count(2 * rollout) / 16
        assert metrics["rollout/staleness_max"] == 2
        assert metrics["rollout/staleness_mean"] == pytest.approx(2 * (1 - fresh))
    for after in (6, 8):
        run = lagged(random_folder, objective=GRPO(filtering="refill", refill_waves=2), group_size=2)
        fit(run, folder, checkpoint=folder / f"{after}.ckpt")
        assert_same(run, whole)


def test_other_settings_sample_again(
    straight: tuple[G2RPOModule, Trace, Path],
    random_folder: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said: list[str] = []
    monkeypatch.setattr(lit_g2rpo.training.ahead, "rank_zero_warn", said.append)
    for change in ({"temperature": 0.7}, {"lag": 0}):
        run = lagged(random_folder, **change)
        trace = fit(run, tmp_path, checkpoint=straight[2] / "12.ckpt", steps=8)
        assert set(trace.versions[3]) == {6}
        assert f"rollout 4 was sampled ahead before, with other settings ({', '.join(change)})" in said.pop()


def test_with_recomputed_log_probabilities_the_lag_is_weighted(random_folder: str, tmp_path: Path) -> None:
    objective = G2RPO(filtering="off", importance_cap=2.0)
    trace = fit(lagged(random_folder, objective=objective, old_logprobs="recompute"), tmp_path, steps=4)
    # at the first step the ratio is 1, and the weight carries the distance to the older policy
    assert trace.steps[3]["train/ratio"] == pytest.approx(1, abs=1e-5)
    assert abs(trace.steps[3]["train/importance"] - 1) > 1e-4
    assert abs(trace.steps[1]["train/importance"] - 1) < 1e-5
    assert trace.steps[3]["train/logprob_gap"] < 1e-5


def test_old_log_probabilities_of_a_rollout_are_those_of_the_older_policy(
    straight: tuple[G2RPOModule, Trace, Path],
) -> None:
    steps = straight[1].steps
    assert steps[1]["train/approx_kl"] < 1e-9
    assert steps[3]["train/approx_kl"] > 1e-6


@pytest.mark.parametrize(
    ("rollout", "objective", "said"),
    [
        ({"lag": 2}, {}, "model.rollout.lag is 2; give 1"),
        ({"engine": "native"}, {}, "model.rollout.engine native samples with the weights that learn"),
        ({"engine": "huggingface"}, {}, "model.rollout.engine huggingface samples with the weights that learn"),
        ({"old_logprobs": "recompute"}, {}, "set model.objective.importance_cap"),
        ({}, {"importance_cap": 2.0}, "model.rollout.old_logprobs: recompute"),
    ],
)
def test_combinations_that_would_be_wrong_are_refused(
    random_folder: str, rollout: dict[str, Any], objective: dict[str, Any], said: str
) -> None:
    with pytest.raises(UserError, match=said):
        lagged(random_folder, objective=GRPO(**objective), **rollout)


@pytest.mark.parametrize(
    ("max_lag", "said"),
    [(1, "2 optimizer steps between sampling a rollout and learning from it, more than"), (-1, "max_lag is -1")],
)
def test_a_bound_on_the_lag_is_kept(random_folder: str, tmp_path: Path, max_lag: int, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fit(lagged(random_folder, max_lag=max_lag), tmp_path)
