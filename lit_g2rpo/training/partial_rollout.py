"""Groups that a draw takes over from a run that ended in the middle of it, and keeps for a run that resumes."""

import hashlib
import importlib.util
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.digest import prompt_digest, weights_digest
from lit_g2rpo.rewards.running.scorer import Scored
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.training.group_records import failed, group_record, read_group, read_scores, scores_record
from lit_g2rpo.training.run import Run

Attempt = Callable[[list[int], list[Completion]], list[Scored]]

UNMOVED = ("old_logprobs", "prompts", "lag", "max_lag", "gap_checks", "mean_gap", "max_gap")
"""Rollout settings that do not affect its groups, given the weights."""


class PartialRollout:
    """Reuse the groups of one draw that are on disk, and record new ones; without records, do neither.

    Args:
        run: the run, with gathered weights.
        prompts: this rank's prompts.
        wave: index of the draw within the rollout.
        total: number of prompts over all ranks.

    ``known`` holds the groups sampled earlier, by prompt id, and ``tokens`` counts the tokens sampled now.
    """

    def __init__(self, run: Run, prompts: list[Prompt], wave: int, total: int) -> None:
        self._run, self._prompts, self._wave = run, prompts, wave
        self.known: dict[str, list[Completion]] = {}
        self.tokens = 0
        self._scores: dict[str, list[Scored]] = {}
        # a rollout sampled ahead is recorded with its weights, which are not those of its refills
        self._records = None if wave and run.rollout.lag else run.records
        if self._records is None:
            return
        if wave == 0:
            _begin(run)
        found = self._records.found
        if not found.groups:
            return
        for prompt in prompts:
            record = found.groups.get((wave, prompt.id))
            if record is None or record["inputs"] != prompt_digest(run.policy.encode(prompt)):
                continue
            self.known[prompt.id] = read_group(record, run.policy.decode)
            if (scores := found.scores.get((wave, prompt.id))) is not None:
                self._scores[prompt.id] = read_scores(scores)
        # over all ranks, since each rank has read the files of all
        count = sum(place[0] == wave for place in found.groups)
        what = f"rollout {run.rollout_index + 1}" + (f", refill wave {wave}" if wave else "")
        rank_zero_info(f"resumed: {count} of {total} groups of {what} were already sampled")

    def generate(self, sampling: Sampling, finished: Finished) -> list[Completion]:
        """Sample the unknown groups and record them; arguments and result are those of `RolloutEngine.generate`."""
        run, size = self._run, self._run.rollout.group_size

        def told(index: int, completions: list[Completion]) -> None:
            prompt = self._prompts[index]
            if prompt.id in self.known:
                completions = self.known[prompt.id]
            elif self._records is not None:
                place, encoded = (self._wave, prompt.id), run.policy.encode(prompt)
                self._records.add(lambda: group_record(place, prompt_digest(encoded), completions))
            finished(index, completions)

        run.engine.known = self.known
        try:
            completions = run.engine.generate(self._prompts, size, sampling, told)
        finally:
            run.engine.known = {}
        for i, prompt in enumerate(self._prompts):
            own = slice(i * size, (i + 1) * size)
            if prompt.id in self.known:
                completions[own] = self.known[prompt.id]
            else:
                self.tokens += sum(len(completion.token_ids) for completion in completions[own])
        return completions

    def score(self, indices: list[int], completions: list[Completion], attempt: Attempt) -> list[Scored]:
        """Score groups, skipping those that were scored earlier.

        Args:
            indices: indices of their prompts.
            completions: all their completions, group by group.
            attempt: scores groups.
        """
        size = len(completions) // len(indices)
        groups = {i: completions[k * size : (k + 1) * size] for k, i in enumerate(indices)}
        missing = [i for i in indices if self._prompts[i].id not in self._scores]
        fresh = attempt(missing, [c for i in missing for c in groups[i]]) if missing else []
        scored = {i: self._scores[self._prompts[i].id] for i in indices if i not in missing}
        for k, i in enumerate(missing):
            scored[i] = fresh[k * size : (k + 1) * size]
            self._keep(self._prompts[i], scored[i])
        return [one for i in indices for one in scored[i]]

    def _keep(self, prompt: Prompt, scores: list[Scored]) -> None:
        # a rule from outside the package may be fixed before the run resumes
        if self._records is None or "." in prompt.problem_type or any(map(failed, scores)):
            return
        place = self._wave, prompt.id
        self._records.add(lambda: scores_record(place, scores))


def _begin(run: Run) -> None:
    """Start the record of a rollout, and warn which older groups are dropped and why."""
    assert run.records is not None
    settings = {name: value for name, value in asdict(run.rollout).items() if name not in UNMOVED}
    state = {
        "rollout": run.rollout_index,
        "max_completion_tokens": run.cut.max_tokens,
        "precision": str(run.trainer.precision),
        "weights": weights_digest(run.policy),
        **settings,
    }
    number = run.rollout_index + 1
    for other in run.records.begin(number, state, _rewards_digest(run)):
        before = other.state.get("state", {})
        differ = ", ".join(name for name in state if before.get(name) != state[name]) if before else "no first line"
        rank_zero_warn(
            f"{len(other.groups)} groups of rollout {number} that were sampled before are dropped, since they belong "
            f"to another state ({differ}); they are sampled again"
        )
    if broken := run.records.found.broken:
        rank_zero_warn(f"{broken} lines of groups of rollout {number} are not whole; they are left out")


def _rewards_digest(run: Run) -> str:
    """Digest everything but the completions that determines scores, including the source of the user's functions."""
    digest = hashlib.blake2b(digest_size=16)
    paths = {name: task.reward for name, task in run.tasks.items()}
    digest.update(repr((run.reward, run.judge, sorted(paths.items(), key=str))).encode())
    for path in sorted({path for path in paths.values() if path and "." in path}):
        source = Path(_source(path))
        digest.update(source.read_bytes() if source.is_file() else b"")
    return digest.hexdigest()


def _source(path: str) -> str:
    """Find the source file of a function from its import path, in either form accepted by `registry.load`."""
    file, colon, _ = path.rpartition(":")
    if colon:
        return file
    spec = importlib.util.find_spec(path.rpartition(".")[0])
    return spec.origin or "" if spec is not None else ""
