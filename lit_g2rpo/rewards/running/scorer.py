"""Scoring of whole rollouts: built-in rewards in threads, custom ones in processes, with failures counted."""

import json
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lit_g2rpo.errors import ScoringStopError, UserError
from lit_g2rpo.hardware.aside import Aside
from lit_g2rpo.rewards.built_in_types import BUILT_IN
from lit_g2rpo.rewards.compose import RewardResult, score
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.running.adapters import Batch
from lit_g2rpo.rewards.running.isolated import IsolatedReward
from lit_g2rpo.rewards.running.judge import Judge, JudgeConfig
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rewards.running.outcome import NOT_APPLICABLE, Failure, failed
from lit_g2rpo.rewards.running.pool import Pool, use_pool
from lit_g2rpo.rewards.running.user import UserReward

JUDGE = "judge"
OUTSIDE = "problem_type"
"""Stand-in for the import path of custom problem types' rewards."""
SMALLEST_WINDOW = 200
"""Fewest completions that the failure fraction assumes, so that one failure in ten does not end a run."""


class TooManyFailuresError(ScoringStopError, RuntimeError):
    """A custom reward failed for more completions than the run allows."""


@dataclass(slots=True, frozen=True)
class Scored:
    """A score that has not been counted yet.

    Args:
        path: the custom reward that gave it; None for the built-in one.
        failure: the entry for the file of failures; None if the reward did not fail.
    """

    result: RewardResult
    path: str | None = None
    failure: dict[str, Any] | None = None


class Scorer:
    """Score completions for training and evaluation.

    Args:
        config: settings of the built-in reward.
        functions: maps task names to the import path of a reward, or ``judge``; other tasks use the built-in one.
        in_process: tasks whose custom reward or problem type runs in this process, without limits.
        limits: limits of scoring.
        judge: the judge, if there is one.
        failures_file: JSON-lines file for samples whose reward failed; None writes none.
        total: sums numbers over the ranks that share the failure budget; None for no budget.
        key: how messages name the reward of the task ``{}``.

    ``failures`` counts completions whose reward failed, ``timeouts`` those stopped by a limit (for both kinds of
    reward), ``restarts`` killed processes, ``seconds`` time spent.

    Raises:
        UserError: if a reward cannot be found or has an unknown signature, or the judge is not configured.
    """

    def __init__(
        self,
        config: RewardConfig = DEFAULT,
        functions: Mapping[str, str] | None = None,
        *,
        in_process: Collection[str] = (),
        limits: Limits | None = None,
        judge: JudgeConfig | None = None,
        failures_file: str | Path | None = None,
        total: Callable[[list[int]], list[int]] | None = None,
        key: str = "data.tasks.{}.reward",
    ) -> None:
        self.config, self.limits = config, limits or Limits()
        self.failures = self.timeouts = 0
        self.seconds = 0.0
        self.last_failure = ""
        self._stop: ScoringStopError | None = None
        self._pool = Pool(self.limits.workers, self.limits.seconds, self.limits.memory << 20)
        # More threads than processes, since threads that wait for the same comparison are idle.
        self._threads = ThreadPoolExecutor(4 * self.limits.workers, "reward", use_pool, (self._pool,))
        self._window: deque[bool] = deque(maxlen=self.limits.failure_window)
        self._nones: dict[str, int] = {}
        self._total = total
        self._file, self._written = failures_file and Path(failures_file), 0
        self._aside = Aside(f"{failures_file}")
        self._rewards: dict[str, UserReward | IsolatedReward | Judge] = {}
        self._paths, self._in_process = dict(functions or {}), frozenset(in_process)
        here = {path for task, path in self._paths.items() if task in self._in_process}
        for task, path in self._paths.items():
            where = key.format(task)
            if path == JUDGE and judge is None:
                raise UserError(f"{where} is 'judge', but model.judge is not given; give its url and model")
            if path not in self._rewards:
                self._rewards[path] = (
                    Judge(judge, config)
                    if path == JUDGE and judge is not None
                    else UserReward(path, config, where=where)
                    if path in here
                    else IsolatedReward(path, config, self.limits, where)
                )

    @property
    def restarts(self) -> int:
        """Number of processes that died or were killed by a limit."""
        isolated = (reward for reward in self._rewards.values() if isinstance(reward, IsolatedReward))
        return self._pool.restarts + sum(reward.restarts for reward in isolated)

    @property
    def recent(self) -> tuple[int, int]:
        """Failures and completions among the newest ones that custom rewards scored on this rank."""
        return sum(self._window), len(self._window)

    def score(self, batch: Batch) -> list[RewardResult]:
        """Score completions and count them; a failed reward gives zeros and an error code.

        Args:
            batch: ``N`` completions.

        Returns:
            ``N`` scores. Errors of custom rewards: the exception's name, ``timeout``, ``not_finite``,
            ``out_of_range``, ``bad_value``, and ``not_applicable``, which is not a failure.

        Raises:
            UserError: if the processes for algebra cannot start, a reward asks for a column that no row has, or
                rewards fail too often.
        """
        return self.count(self.attempt(batch))

    @property
    def needs_caller(self) -> bool:
        """Return whether a custom reward is called in this process, and so in the caller's thread."""
        return any(isinstance(reward, UserReward) for reward in self._rewards.values())

    def attempt(self, batch: Batch, group_size: int | None = None) -> list[Scored]:
        """Score completions but leave counting to ``count``, which may run in another order.

        Args:
            batch: ``N`` completions.
            group_size: completions per call of a batched function; None for all.

        Returns:
            ``N`` scores.

        Raises:
            UserError: as ``score`` does; ``count`` reports an unavailable judge, so that all ranks stop together.
        """
        start = time.perf_counter()
        by_path: dict[str | None, list[int]] = {}
        for i, task in enumerate(batch.tasks):
            by_path.setdefault(self._paths.get(task) or self._outside(task, batch.samples[i]), []).append(i)
        scored: dict[int, Scored] = {}
        for path, indices in by_path.items():
            part = batch if len(by_path) == 1 else batch.only(indices)
            try:
                found = self._built_in(part) if path is None else self._user(path, part, group_size)
            except ScoringStopError as error:
                self._stop = error
                found = [Scored(failed(Failure("judge", str(error))), path)] * len(indices)
            scored |= zip(indices, found, strict=True)
        self.seconds += time.perf_counter() - start
        return [scored[i] for i in range(len(batch.completions))]

    def count(self, scored: Sequence[Scored]) -> list[RewardResult]:
        """Count scores and record failures; all ranks that share a budget must call it.

        Args:
            scored: results of ``attempt``, in an order that does not depend on their timing.

        Returns:
            The scores.

        Raises:
            ScoringStopError: on every rank, if custom rewards failed for more completions than the budget allows, or
                the judge of any rank is unavailable.
        """
        for one in scored:
            self.timeouts += one.result.error == "timeout"
            if one.path is not None:
                self._window.append(one.failure is not None)
                self._warn_of_none(one)
            if one.failure is not None:
                self.failures += 1
                self.last_failure = f"{one.path}: {one.failure['error']}: {one.failure['message']}"
                self._write(one.failure)
        stopped = self._stop is not None
        if self._total is not None:
            failures, completions, stopping = self._total([*self.recent, stopped])
            stopped = bool(stopping)
            if not stopped:
                self._check_budget(failures, completions)
        if stopped:
            raise self._stop or ScoringStopError("rewards cannot be had on another rank; see its error")
        return [one.result for one in scored]

    def _check_budget(self, failures: int, completions: int) -> None:
        """Stop the run if rewards fail too often among the newest completions of all ranks."""
        if failures > self.limits.failure_budget * max(completions, SMALLEST_WINDOW):
            last = f"; the last here: {self.last_failure}" if self.last_failure else ""
            where = f"; samples are in {self._file}" if self._file else ""
            raise TooManyFailuresError(
                f"rewards failed for {failures} of {completions} completions, more than "
                f"model.reward_limits.failure_budget {self.limits.failure_budget:g} allows{last}{where}"
            )

    @contextmanager
    def uncounted(self) -> Iterator[None]:
        """Score on trial: nothing counted or recorded inside is kept, and no budget is checked."""
        names = (
            "failures",
            "timeouts",
            "seconds",
            "last_failure",
            "_window",
            "_nones",
            "_file",
            "_written",
            "_total",
            "_stop",
        )
        kept = {name: getattr(self, name) for name in names}
        self._window, self._nones, self._file = self._window.copy(), self._nones.copy(), None
        self._total = None
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def close(self) -> None:
        """End threads and processes."""
        self._threads.shutdown(cancel_futures=True)
        self._pool.close()
        for reward in self._rewards.values():
            if isinstance(reward, IsolatedReward):
                reward.close()

    def _warn_of_none(self, one: Scored) -> None:
        """Warn about a function that forgets to return: None is not a failure, but teaches nothing."""
        path = str(one.path)
        self._nones[path] = self._nones.get(path, 0) + 1 if one.result.error == NOT_APPLICABLE else 0
        if self._nones[path] == SMALLEST_WINDOW:
            warnings.warn(
                f"reward {path} returned None for the last {SMALLEST_WINDOW} completions, which score 0 and teach "
                "nothing; does it return a number?",
                stacklevel=2,
            )

    def _built_in(self, batch: Batch) -> list[Scored]:
        results = list(self._threads.map(lambda c, s: score(c, s, self.config), batch.completions, batch.samples))
        self._pool.forget()
        if self._pool.broken is not None:
            raise self._pool.broken
        return [Scored(result) for result in results]

    def _outside(self, task: str, sample: Mapping[str, Any]) -> str | None:
        """Return where rows of a custom problem type are scored; None for built-in types."""
        name = sample.get("problem_type")
        outside = isinstance(name, str) and "." in name and name not in BUILT_IN
        if not outside or task in self._in_process:
            return None
        if OUTSIDE not in self._rewards:
            self._rewards[OUTSIDE] = IsolatedReward(None, self.config, self.limits, OUTSIDE)
        return OUTSIDE

    def _user(self, path: str, batch: Batch, group_size: int | None) -> list[Scored]:
        start, reward, n = time.perf_counter(), self._rewards[path], len(batch.completions)
        # Only a batched function can notice how many completions are scored at a time.
        size = group_size if group_size and reward.batched else n
        outcomes = [outcome for i in range(0, n, size) for outcome in reward(batch.only(range(i, min(i + size, n))))]
        seconds = (time.perf_counter() - start) / n
        scored = []
        for i, outcome in enumerate(outcomes):
            result = failed(outcome) if isinstance(outcome, Failure) else outcome
            failure = None
            if isinstance(outcome, Failure) and outcome.code != NOT_APPLICABLE:
                failure = {
                    "reward": path, "task": batch.tasks[i], "error": outcome.code, "message": outcome.message,
                    "traceback": outcome.traceback, "completion": batch.completions[i],
                    "sample": dict(batch.samples[i]),
                }  # fmt: skip
            scored.append(Scored(replace(result, seconds=seconds), path, failure))
        return scored

    def _write(self, entry: dict[str, Any]) -> None:
        if not self._file or self._written >= self.limits.failed_samples:
            return
        self._written += 1
        with self._aside.guard():
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a") as file:
                file.write(json.dumps(entry, default=lambda value: f"<{type(value).__name__}>") + "\n")
