"""Settings of rollouts, evaluation and the updates from a rollout."""

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)  # no slots: the config parser reads a default through its __dict__
class RolloutConfig:
    """Configure how completions are sampled for training.

    Args:
        engine: ``native`` samples with the policy and reads each prompt and image once; ``huggingface`` does the same
            with the model's own ``generate``, on every architecture; ``demonstrations`` reads completions from the
            data; or the import path of a `RolloutEngine`.
        engine_options: arguments of an imported engine that are not keys here.
        prompts: prompts per rollout, over all ranks.
        group_size: completions per prompt.
        temperature: softmax temperature.
        top_p: nucleus mass, 1 for all.
        top_k: number of most likely tokens kept, 0 for all.
        old_logprobs: use the sampling log-probabilities of the ``rollout``, or ``recompute`` them with a forward if the
            engine's numerics differ from the trainer's.
        lag: 0 samples a rollout with the newest weights; 1 samples it while the policy learns from the one before, with
            an engine that has its own copy of the weights, so that a step takes as long as the longer of the two.
        max_lag: most optimizer steps that may lie between the weights that sample a rollout and those that begin to
            learn from it; null for no bound.
        seed: (seed, rollout, prompt, completion, wave) determines every completion.
        max_rows: most rows the engine holds at a time; bounds memory.
        slots: rows that ``native`` decodes at a time in a fixed shape, replacing finished rows with waiting ones; null
            drops finished rows on the CPU and means 64 elsewhere.
        gap_checks: completions per rollout whose log-probabilities the trainer computes again, to stop a run whose
            engine does not sample from the trained policy; 0 for none.
        mean_gap: largest mean difference of log-probabilities between engine and trainer, nats; null for 1e-4, or 0.02
            in 16 bits.
        max_gap: largest difference for a single token, nats; null for 0.01, or 2 in 16 bits.
        prefill_mib: most memory in which ``native`` reads prompts at a time, MiB; one that needs more is read alone.
    """

    engine: str = "native"
    engine_options: dict[str, Any] = field(default_factory=dict)
    prompts: int = 24
    group_size: int = 8
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    old_logprobs: Literal["rollout", "recompute"] = "rollout"
    lag: int = 0
    max_lag: int | None = None
    seed: int = 0
    max_rows: int = 512
    slots: int | None = None
    prefill_mib: float = 1024
    gap_checks: int = 8
    mean_gap: float | None = None
    max_gap: float | None = None

    @property
    def on_policy(self) -> bool:
        """True if old log-probabilities are those of the policy that begins to learn from a rollout."""
        return not self.lag or self.old_logprobs == "recompute"


@dataclass(frozen=True)  # no slots: the config parser reads a default through its __dict__
class EvaluationConfig:
    """Configure how completions are sampled for validation, test and prediction.

    Args:
        temperature: softmax temperature; 0 is greedy.
        top_p: nucleus mass, 1 for all.
        top_k: number of most likely tokens kept, 0 for all.
        repeats: completions per prompt; more than one needs a temperature.
        baseline: ``predictions.jsonl`` or ``metrics.json`` of another run, or its folder, that ``test`` compares with.
        reading: how a benchmark's answers are read for its score, interval and comparison: ``strict``, only the answer
            block, or ``suite``, free text as the evaluation suites do; ``test`` prints both figures.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repeats: int = 1
    baseline: str | None = None
    reading: Literal["strict", "suite"] = "strict"


@dataclass(frozen=True)  # no slots: the config parser reads a default through its __dict__
class UpdateConfig:
    """Configure the updates made from a rollout.

    Args:
        epochs: passes over a rollout.
        microbatches: forward and backward passes per rank and epoch; with trainer.accumulate_grad_batches they make
            ``epochs * microbatches / accumulate_grad_batches`` optimizer steps per rollout.
    """

    epochs: int = 1
    microbatches: int = 2
