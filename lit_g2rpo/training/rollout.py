"""One rollout, from prompts to experience."""

import time
from contextlib import nullcontext
from itertools import pairwise

import torch
from torch import Tensor

from lit_g2rpo.errors import RolloutStopError
from lit_g2rpo.experience import Completion, Experience, Prompt
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.hardware.steps import PAUSE, Step
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rollout.engine import Pushed
from lit_g2rpo.training.ahead import Ahead, SavedAhead
from lit_g2rpo.training.checks import stop_at_scores, stop_together
from lit_g2rpo.training.draw import Draw
from lit_g2rpo.training.engine_gap import check_engine_gap
from lit_g2rpo.training.logprobs import logprobs_of, ref_logprobs
from lit_g2rpo.training.metrics import reward_counts, rollout_metrics
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import build_table, shaped_columns, to_share, usable_groups


@torch.no_grad()
def collect(
    run: Run, prompts: list[Prompt], ahead: Ahead | SavedAhead | None = None
) -> tuple[Experience, dict[str, float]]:
    """Sample, score, filter and compute advantages; then compute log-probabilities, only of what is learned from.

    Args:
        run: the run.
        prompts: this rank's prompts.
        ahead: the rollout, if it has been sampled ahead.

    Returns:
        This rank's experience, not yet cut into micro-batches, and the rollout's metrics, the same on every rank.
    """
    drawn = _Drawn(run, prompts, ahead)
    first = shaped_columns(drawn.values, run.objective, run.tasks, run.cut.max_tokens)
    if run.objective.filtering == "refill":
        drawn.refill()
    run.engine.rest()
    start = time.perf_counter()
    column = shaped_columns(drawn.values, run.objective, run.tasks, run.cut.max_tokens)
    usable = usable_groups(column, run.objective)
    table = build_table(column, usable, run.objective, run.tasks)
    experience = Experience(
        prompts=drawn.prompts,
        completions=drawn.completions,
        rewards=drawn.rewards,
        old_logprobs=None,
        ref_logprobs=None,
        table=table,
        rank=run.ranks.rank,
        world_size=run.ranks.count,
        refills=drawn.refills,
    )
    if run.rollout.old_logprobs == "recompute":
        experience.old_logprobs = logprobs_of(run, run.policy, experience)
    if run.reference_needed:
        experience.ref_logprobs = ref_logprobs(run, experience)
    metrics = rollout_metrics(table, usable, first, list(run.tasks))
    # the weights that sampled ahead are gone, and their gap was measured before
    metrics |= check_engine_gap(run, experience) if ahead is None or drawn.ahead is None else ahead.metrics
    if run.rollout.lag:
        staleness = run.trainer.global_step - column["version"]
        metrics |= {
            "rollout/staleness_mean": float(staleness.mean()),
            "rollout/staleness_max": float(staleness.max()),
            "perf/wait_seconds": drawn.waited,
        }
    if run.objective.filtering == "refill":
        metrics["rollout/refilled"] = sum(map(len, drawn.refills)) / len(drawn.values)
    return experience, metrics | reward_counts(run.scorer, run.ranks) | {
        "data/failures": float(run.loader.failures),
        "perf/rollout_seconds": drawn.seconds[0],
        "perf/score_seconds": drawn.seconds[1],
        "perf/logprobs_seconds": time.perf_counter() - start,
        "perf/tokens_per_second": float(run.ranks.sum(torch.tensor(drawn.tokens))) / drawn.seconds[0],
        **drawn.push_metrics(),
    }


class _Drawn:
    """The part of a rollout drawn so far: this rank's completions with their rewards, and the columns of all ranks."""

    def __init__(self, run: Run, prompts: list[Prompt], ahead: Ahead | SavedAhead | None) -> None:
        self.run, self.prompts = run, list(prompts)
        start = time.perf_counter()
        self.ahead = None if ahead is None else ahead.take(run, prompts)
        self.waited = time.perf_counter() - start
        self.seconds, self.tokens = [0.0, 0.0], 0
        self._pushes: list[Pushed] = []
        self.refills: list[list[int]] = []
        self.completions, self.rewards = self._draw(prompts, 0, run.rollout.prompts, self.ahead)
        self.values = self._gathered()

    def refill(self) -> None:
        """Replace groups that teach nothing with groups of other prompts from the same task, wave by wave.

        A wave draws exactly as many prompts as are missing, and each stays on the rank of the group it replaces, so
        the prompts drawn do not depend on the number of ranks, and none is left over.
        """
        run, names = self.run, list(self.run.tasks)
        for wave in range(1, run.objective.refill_waves + 1):
            column = shaped_columns(self.values, run.objective, run.tasks, run.cut.max_tokens)
            slots = (~usable_groups(column, run.objective)).nonzero().flatten().tolist()
            if not slots:
                return
            self.refills.append(slots)
            tasks = [names[int(column["task"][slot, 0])] for slot in slots]
            own = [i for i, slot in enumerate(slots) if slot % run.ranks.count == run.ranks.rank]
            prompts = run.loader.refill(tasks, own)
            completions, rewards = self._draw(prompts, wave, len(slots))
            size = run.rollout.group_size
            for k, i in enumerate(own):
                place = slots[i] // run.ranks.count
                self.prompts[place] = prompts[k]
                self.completions[place * size : (place + 1) * size] = completions[k * size : (k + 1) * size]
                self.rewards[place * size : (place + 1) * size] = rewards[k * size : (k + 1) * size]
            self.values = self._gathered()

    def _draw(
        self, prompts: list[Prompt], wave: int, total: int, ahead: Draw | None = None
    ) -> tuple[list[Completion], list[RewardResult]]:
        run, clock = self.run, [time.perf_counter()]
        with ahead or Draw(run, prompts, wave, total) as draw:
            with nullcontext() if ahead else draw.step, generation_context(run.trainer.strategy, run.policy):
                failed = None
                if ahead is None:
                    try:
                        draw.begin()
                        draw.sample()
                    except RolloutStopError as error:
                        failed = error
                run.policy.prepare_features(prompts)
            if run.engine.separate:
                stop_together(run.ranks, failed)
            clock.append(time.perf_counter())
            with Step(f"scoring {draw.name}", after=PAUSE):
                rewards = run.scorer.count(draw.scores())
        clock.append(time.perf_counter())
        self.seconds = [total + b - a for total, (a, b) in zip(self.seconds, pairwise(clock), strict=True)]
        self.seconds[0] += draw.seconds if ahead else 0.0
        self.tokens += draw.tokens
        if draw.pushed is not None:
            self._pushes.append(draw.pushed)
        # a copy, since refills replace some, and the next checkpoint may still need what was sampled ahead
        return list(draw.completions), rewards

    def push_metrics(self) -> dict[str, float]:
        """Add up what pushing the weights cost in this rollout; nothing for an engine that samples the live ones."""
        if not self._pushes:
            return {}
        size = sum(pushed.size for pushed in self._pushes)
        seconds = sum(pushed.seconds for pushed in self._pushes)
        return {"perf/push_seconds": seconds, "perf/push_mib": size / 2**20}

    def _gathered(self) -> Tensor:
        run = self.run
        bands = [run.tasks[prompt.task].relative_length for prompt in self.prompts]
        asked = [p.answer if b and b.unit == "reference" else "" for p, b in zip(self.prompts, bands, strict=True)]
        lengths = [len(run.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else 0 for text in asked]
        own = to_share(self.prompts, self.completions, self.rewards, list(run.tasks), lengths)
        values = run.ranks.gather_prompts(own, run.rollout.prompts)
        if not values.isfinite().all():
            stop_at_scores(run, values, self.prompts)
        return values
