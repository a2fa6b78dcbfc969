"""Exact counts of the work that a policy has done."""

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Work of a policy since it was built; the difference between two readings is the cost of a step.

    Args:
        images_preprocessed: images split into patches.
        images_encoded: images sent through the vision tower.
        prefill_tokens: prompt tokens that rollout read.
        row_steps: rows times decoding steps of rollout.
        train_prompt_tokens: prompt tokens in forwards for training and for old and reference log-probabilities.
        train_completion_tokens: completion tokens in those forwards.
        train_padded_tokens: pad and dummy tokens in those forwards.
        train_passes: number of those forwards.
    """

    images_preprocessed: int = 0
    images_encoded: int = 0
    prefill_tokens: int = 0
    row_steps: int = 0
    train_prompt_tokens: int = 0
    train_completion_tokens: int = 0
    train_padded_tokens: int = 0
    train_passes: int = 0
