"""A group of a rollout as plain values, for the log files, the page and the loggers."""

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn
from PIL import Image
from torch import Tensor

from lit_g2rpo.callbacks.rollouts.token_text import TokenText
from lit_g2rpo.experience import Evaluated, Experience, Prompt
from lit_g2rpo.registry import one_line
from lit_g2rpo.rewards.answers.parse import envelope, unwrap
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.canonical import canonical

Record = dict[str, Any]

IMAGE_SIDE = 512


def group_record(batch: Experience | Evaluated, index: int, reward: RewardConfig, spell: TokenText) -> Record:
    """Describe a group: its prompt, the true answer, and the completions with their scores.

    Args:
        batch: a rollout of this rank, or a batch of its validation.
        index: index of the group's prompt in the batch.
        reward: knows the tags around an answer.
        spell: spells the tokens.

    Returns:
        JSON values, with coordinates on the 0..1000 grid, and entropy and log-probabilities in nats. The caller stores
        the images.
    """
    prompt = batch.prompts[index]
    size = len(batch.completions) // len(batch.prompts)
    gold = gold_answer(prompt.sample, reward)
    return {
        "task": prompt.task,
        "problem_type": prompt.problem_type,
        "id": prompt.id,
        "prompt": prompt_text(prompt),
        "gold": gold,
        **shapes(prompt.problem_type, gold),
        "completions": [
            completion_record(batch, row, prompt.problem_type, reward, spell)
            for row in range(index * size, (index + 1) * size)
        ],
    }


def completion_record(
    batch: Experience | Evaluated, row: int, problem_type: str, reward: RewardConfig, spell: TokenText
) -> Record:
    """Describe a completion.

    Args:
        batch: a rollout of this rank, or a batch of its validation.
        row: index of the completion in the batch.
        problem_type: form of its answer, which may contain shapes to draw.
        reward: knows the tags around an answer.
        spell: spells the tokens.

    Returns:
        Plain values; for a rollout, they include what was learned from the completion.
    """
    completion, scores = batch.completions[row], batch.rewards[row]
    record: Record = {
        "text": completion.text,
        "reward": rounded(scores.total),
        "parts": {
            "accuracy": rounded(scores.accuracy),
            "format": rounded(scores.format),
            **{name: rounded(value) for name, value in scores.components.items()},
        },
        "error": scores.error,
        "truncated": completion.truncated,
        "length": len(completion.token_ids),
        "entropy": rounded(float(completion.entropy.double().mean())),
        "logprobs": summary(completion.logprobs),
        **shapes(problem_type, envelope(completion.text, reward.thinking_tag, reward.answer_tag).answer or ""),
        "opened": spell.opened,
        "tokens": spell.pieces(completion.token_ids.tolist()),
        "token_entropy": [round(value, 3) for value in completion.entropy.tolist()],
    }
    if not isinstance(batch, Experience):
        return record
    record["parts"]["shaping"] = rounded(float(batch.total_rewards[row]) - scores.total)
    return record | learning_record(batch, row)


def learning_record(rollout: Experience, row: int) -> Record:
    """Describe what was learned from a completion.

    Args:
        rollout: a rollout of this rank.
        row: index of the completion in the rollout.

    Returns:
        Plain values. ``reward`` includes shaping; ``trainer_logprobs`` exist if the trainer computed its own, with
        ``gap``, the largest difference from the engine's.
    """
    completion = rollout.completions[row]
    record: Record = {
        "reward": rounded(float(rollout.total_rewards[row])),
        "advantage": rounded(float(rollout.advantages[row])),
        "valid": bool(rollout.valid[row]),
    }
    trainer = None if rollout.old_logprobs is None else rollout.old_logprobs[row]
    # these are the engine's own if the trainer computed none
    if trainer is not None and trainer is not completion.logprobs:
        # keep float noise visible, since a healthy gap consists of it
        gap = rounded(float((trainer - completion.logprobs).abs().max()), digits=8)
        record["trainer_logprobs"] = summary(trainer) | {"gap": gap}
    return record


def summary(logprobs: Tensor) -> dict[str, float | None]:
    """Summarize log-probabilities ``[T]`` by mean and minimum, nats."""
    return {"mean": rounded(float(logprobs.double().mean())), "min": rounded(float(logprobs.min()))}


def rounded(value: float, digits: int = 4) -> float | None:
    """Round to a number of decimals; None for values that JSON cannot represent."""
    return round(value, digits) if math.isfinite(value) else None


def gold_answer(sample: Mapping[str, Any], reward: RewardConfig) -> str:
    """Read a data row's true answer without tags; empty if there is none, or only the task's own reward can read it."""
    try:
        return unwrap(str(canonical(sample).get("answer", "")), reward.answer_tag)
    except ValueError:
        return ""


def shapes(problem_type: str, answer: str) -> dict[str, list[Any]]:
    """Read the shapes in an answer that can be drawn over its image.

    Args:
        answer: the answer without tags.

    Returns:
        ``boxes`` (left, top, right, bottom) and ``points`` (x, y), on the 0..1000 grid; both empty if there are none.
    """
    kind = known_problem_type(problem_type)
    try:
        boxes, points = kind.draw(answer) if kind is not None and kind.draw is not None else ([], [])
    except Exception as error:  # from a custom problem type; the page must not end a run
        rank_zero_warn(f"problem type {problem_type} cannot draw an answer ({one_line(error)}); it is left out")
        boxes, points = [], []
    return {"boxes": boxes, "points": points}


def prompt_text(prompt: Prompt) -> str:
    """Format the messages of a prompt as text, with ``[image]`` in the place of each image."""
    lines = []
    for message in prompt.messages:
        content = message["content"]
        items = [{"type": "text", "text": content}] if isinstance(content, str) else content
        lines += [item["text"] if item["type"] == "text" else f"[{item['type']}]" for item in items]
    return "\n".join(lines)


def small_image(image: Image.Image) -> Image.Image:
    """Shrink an image to at most 512 pixels per side, RGB; a smaller one keeps its size."""
    small = image.convert("RGB")
    small.thumbnail((IMAGE_SIDE, IMAGE_SIDE))
    return small
