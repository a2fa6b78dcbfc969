"""One rollout, from prompts to experience."""

import time
from itertools import pairwise

import torch
from torch import Tensor

from lit_g2rpo.experience import Completion, Experience, Prompt, to_score
from lit_g2rpo.hardware.hooks import generation_context
from lit_g2rpo.hardware.steps import PAUSE, Step
from lit_g2rpo.rewards import RewardResult
from lit_g2rpo.rewards.running.scorer import Scored
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.training.background_scoring import BackgroundScoring
from lit_g2rpo.training.checks import stop_at_scores
from lit_g2rpo.training.logprobs import logprobs_of, ref_logprobs
from lit_g2rpo.training.metrics import reward_counts, rollout_metrics
from lit_g2rpo.training.partial_rollout import PartialRollout
from lit_g2rpo.training.run import Run
from lit_g2rpo.training.table import build_table, shaped_columns, to_share, usable_groups


@torch.no_grad()
def collect(run: Run, prompts: list[Prompt]) -> tuple[Experience, dict[str, float]]:
    """Sample, score, filter and compute advantages; then compute log-probabilities, only of what is learned from.

    Returns:
        This rank's experience, not yet cut into micro-batches, and the rollout's metrics, the same on every rank.
    """
    drawn = _Drawn(run, prompts)
    first = shaped_columns(drawn.values, run.objective, run.tasks, run.cut.max_tokens)
    if run.objective.filtering == "refill":
        drawn.refill()
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
    if run.objective.filtering == "refill":
        metrics["rollout/refilled"] = sum(map(len, drawn.refills)) / len(drawn.values)
    return experience, metrics | reward_counts(run.scorer, run.ranks) | {
        "data/failures": float(run.loader.failures),
        "perf/rollout_seconds": drawn.seconds[0],
        "perf/score_seconds": drawn.seconds[1],
        "perf/logprobs_seconds": time.perf_counter() - start,
        "perf/tokens_per_second": float(run.ranks.sum(torch.tensor(drawn.tokens))) / drawn.seconds[0],
    }


class _Drawn:
    """The part of a rollout drawn so far: this rank's completions with their rewards, and the columns of all ranks."""

    def __init__(self, run: Run, prompts: list[Prompt]) -> None:
        self.run, self.prompts = run, list(prompts)
        self.seconds, self.tokens = [0.0, 0.0], 0
        self.refills: list[list[int]] = []
        self.completions, self.rewards = self._draw(prompts, 0, run.rollout.prompts)
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

    def _draw(self, prompts: list[Prompt], wave: int, total: int) -> tuple[list[Completion], list[RewardResult]]:
        run, config = self.run, self.run.rollout
        clock = [time.perf_counter()]
        sampling = Sampling(
            run.cut.max_tokens, config.temperature, config.top_p, config.top_k, config.seed, run.rollout_index, wave
        )

        def attempt(indices: list[int], own: list[Completion]) -> list[Scored]:
            return run.scorer.attempt(to_score([prompts[i] for i in indices], own), config.group_size)

        def score(indices: list[int], own: list[Completion]) -> list[Scored]:
            return partial.score(indices, own, attempt)

        what = f"rollout {run.rollout_index + 1}" + (f", refill {wave}" if wave else "")
        with BackgroundScoring(score, here=run.scorer.needs_caller) as scoring:
            with (
                Step(f"sampling {what}", len(prompts), "groups", PAUSE) as step,
                generation_context(run.trainer.strategy, run.policy),
            ):
                partial = PartialRollout(run, prompts, wave, total)

                def finished(index: int, completions: list[Completion]) -> None:
                    scoring.finished(index, completions)
                    step.advance()

                completions = partial.generate(sampling, finished)
                run.policy.prepare_features(prompts)
            clock.append(time.perf_counter())
            with Step(f"scoring {what}", after=PAUSE):
                rewards = run.scorer.count(scoring.results())
        clock.append(time.perf_counter())
        self.seconds = [total + b - a for total, (a, b) in zip(self.seconds, pairwise(clock), strict=True)]
        self.tokens += partial.tokens
        return completions, rewards

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
