"""Judging of answers to benchmarks whose protocol uses a judge."""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.benchmarks import known_benchmark
from lit_g2rpo.evaluation.readings import JUDGE_FAILED, tried
from lit_g2rpo.evaluation.suite import Suite, suite_text
from lit_g2rpo.hardware.steps import each
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.rules.math import TimedOut
from lit_g2rpo.rewards.running.judge import Judge, JudgeConfig
from lit_g2rpo.rewards.running.outcome import Failure

MAX_TOKENS = 256
"""Longest reply in tokens: an extracted answer, or a few lines of JSON."""

MAX_FAILURES = 20
"""Consecutive failures of the judge that end the evaluation."""

Verdict = tuple[float | None, str | None]


class Judging:
    """Ask a judge about answers, several at a time.

    Args:
        config: the judge and its requests; its prompt and scale belong to rewards and are not used.
        reward: supplies the tags.

    Raises:
        UserError: if the judge's key is missing from the environment.
    """

    def __init__(self, config: JudgeConfig, reward: RewardConfig) -> None:
        self._judge = Judge(replace(config, max_tokens=max(config.max_tokens, MAX_TOKENS)), reward)
        self._config, self._reward = config, reward
        self._failures, self._last = 0, ""
        self._lock = threading.Lock()

    def judge(self, rows: Sequence[dict[str, Any]]) -> None:
        """Score the rows whose benchmark uses a judge and whose text the suite's own rule cannot read.

        An answer whose judge fails counts as wrong, with an error code that begins with ``judge``.

        Args:
            rows: scored predictions; ``suite_value``, ``suite_score`` and ``suite_error`` are set.

        Raises:
            UserError: if the judge failed for ``MAX_FAILURES`` answers in a row.
        """
        asked = []
        for row in rows:
            benchmark = known_benchmark(row["benchmark"]) if row.get("benchmark") and row["gold"] is not None else None
            if benchmark is not None and benchmark.suite is not None and benchmark.suite.talk is not None:
                asked.append((row, benchmark, benchmark.suite))
        with ThreadPoolExecutor(self._config.concurrency) as threads:
            answers = threads.map(lambda one: self._verdict(one[0], one[2]), asked)
            verdicts = [next(answers) for _ in each(asked, "asking the judge", "answers")]
        if self._failures >= MAX_FAILURES:
            raise UserError(
                f"the judge {self._config.model} at {self._config.url} failed for {self._failures} answers in a row "
                f"({self._last}); see that it runs, then give the same command again"
            )
        for (row, benchmark, _), (value, error) in zip(asked, verdicts, strict=True):
            row |= {"suite_value": value, "suite_score": benchmark.score(value), "suite_error": error}

    def _verdict(self, row: Mapping[str, Any], suite: Suite) -> Verdict:
        text = suite_text(row["completion"], self._reward)
        # older rows have no question, so use the prompt
        sample = {"problem": row["prompt"]} | row["sample"]
        value, error = tried(suite.read, text, sample)
        if error != "unparsed" or self._failures >= MAX_FAILURES:
            return value, error
        try:
            verdict = self._talked(suite, text, sample)
        except TimedOut:
            return None, "timeout"
        except ValueError as reason:
            verdict = Failure("judge_unparsed", str(reason))
        with self._lock:
            self._failures = self._failures + 1 if isinstance(verdict, Failure) else 0
            if isinstance(verdict, Failure):
                self._last = verdict.message
                return None, f"{JUDGE_FAILED}_{verdict.code.removeprefix(JUDGE_FAILED).strip('_') or 'error'}"
        return verdict

    def _talked(self, suite: Suite, text: str, sample: Mapping[str, Any]) -> Verdict | Failure:
        assert suite.talk is not None
        talk = suite.talk(text, sample)
        try:
            request = next(talk)
            while True:
                reply = self._judge.ask(request)
                if isinstance(reply, Failure):
                    return reply
                request = talk.send(reply)
        except StopIteration as end:
            value: float | None = end.value
            return value, "unparsed" if value is None else None
