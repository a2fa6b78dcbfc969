"""One draw of completions for a rank's prompts, with the scoring of finished groups while others are sampled."""

import time
from typing import Any, Self

import torch

from lit_g2rpo.experience import Completion, Prompt, to_score
from lit_g2rpo.hardware.steps import PAUSE, Step
from lit_g2rpo.rewards.running.scorer import Scored
from lit_g2rpo.rollout.engine import Pushed, Sampling
from lit_g2rpo.training.background_scoring import BackgroundScoring
from lit_g2rpo.training.partial_rollout import PartialRollout
from lit_g2rpo.training.run import Run


class Abandoned(Exception):
    """Nobody needs the draw any more."""


class Draw:
    """Draw completions for the rollout after those collected so far; close it, or use it as a context manager.

    Args:
        run: the run.
        prompts: this rank's prompts.
        wave: index of the draw within the rollout.
        total: number of prompts over all ranks.

    ``completions`` are those drawn, prompt by prompt; ``tokens`` counts the tokens sampled now; ``seconds`` is how long
    sampling took; ``pushed`` is what it cost to push the weights; ``step`` shows the progress while the run waits;
    ``abandoned``, once set, ends sampling at the next complete group.
    """

    def __init__(self, run: Run, prompts: list[Prompt], wave: int, total: int) -> None:
        self._run, self.prompts, self._wave, self._total = run, prompts, wave, total
        self.name = f"rollout {run.rollout_index + 1}" + (f", refill {wave}" if wave else "")
        self.completions: list[Completion] = []
        self.tokens, self.seconds = 0, 0.0
        self.step = Step(f"sampling {self.name}", len(prompts), "groups", PAUSE)
        self.abandoned = False
        self.pushed: Pushed | None = None
        self._version = run.trainer.global_step
        config = run.rollout
        self._sampling = Sampling(
            run.cut.max_tokens, config.temperature, config.top_p, config.top_k, config.seed, run.rollout_index, wave
        )
        self._partial: PartialRollout | None = None
        self._scoring = BackgroundScoring(self._score, here=run.scorer.needs_caller)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()

    def begin(self) -> None:
        """Push the weights and look for groups sampled before; call this on gathered weights."""
        self._run.engine.push()
        self._partial = PartialRollout(self._run, self.prompts, self._wave, self._total)

    @torch.no_grad()
    def sample(self) -> None:
        """Sample the completions; a separate engine may do so in another thread than that of `begin`."""
        assert self._partial is not None, "begin comes first"
        start = time.perf_counter()
        self.completions = self._partial.generate(self._sampling, self._finished)
        for completion in self.completions:
            completion.version = self._version
        self.tokens, self.pushed = self._partial.tokens, self._run.engine.pushed
        self.seconds = time.perf_counter() - start

    def give(self, completions: list[Completion]) -> None:
        """Use completions that an earlier process sampled, prompt by prompt."""
        size = self._run.rollout.group_size
        self.completions = completions
        for i in range(len(self.prompts)):
            self._finished(i, completions[i * size : (i + 1) * size])

    def settle(self) -> None:
        """Wait until no other thread scores."""
        self._scoring.settle()

    def scores(self) -> list[Scored]:
        """Wait for the score of each completion; scoring may raise here."""
        return self._scoring.results()

    def close(self) -> None:
        """End the scoring."""
        self._scoring.close()

    def _finished(self, index: int, completions: list[Completion]) -> None:
        if self.abandoned:
            raise Abandoned(self.name)
        self._scoring.finished(index, completions)
        self.step.advance()

    def _score(self, indices: list[int], completions: list[Completion]) -> list[Scored]:
        if self._partial is None:
            return self._attempt(indices, completions)
        return self._partial.score(indices, completions, self._attempt)

    def _attempt(self, indices: list[int], completions: list[Completion]) -> list[Scored]:
        batch = to_score([self.prompts[i] for i in indices], completions)
        return self._run.scorer.attempt(batch, self._run.rollout.group_size)
