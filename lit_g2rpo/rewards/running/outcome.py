"""The result of a custom reward, read as a score or as a failure."""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any

from lit_g2rpo.rewards.answers.parse import envelope
from lit_g2rpo.rewards.compose import RewardResult
from lit_g2rpo.rewards.config import RewardConfig

TOTALS = ("total", "score", "overall")
NOT_APPLICABLE = "not_applicable"
MAX_TRACEBACK = 8192


@dataclass(slots=True, frozen=True)
class Failure:
    """The reason why a completion has no reward.

    Args:
        code: an error code, as in `RewardResult`.
        message: what happened, in one line.
        traceback: the traceback; empty if nothing was raised.
    """

    code: str
    message: str
    traceback: str = field(default="", compare=False)


def failure_of(error: BaseException) -> Failure:
    """Describe what the user's code raised, and in which line."""
    code = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1]
    try:
        said = " ".join(str(error).split())
    except Exception:  # may be a user-defined class
        said = type(error).__name__
    message = f"{said[:500]} ({Path(place.filename).name}, line {place.lineno})"
    return Failure(code, message, "".join(traceback.format_exception(error))[-MAX_TRACEBACK:])


def read_outcome(value: Any, completion: str, config: RewardConfig) -> RewardResult | Failure:
    """Read what a reward function returned for a completion: the score, or why there is none.

    Args:
        value: a number from 0 to 1; a mapping with it under ``total``, ``score`` or ``overall``, optionally with
            ``accuracy`` and ``format`` from 0 to 1 and other finite numbers; a `RewardResult`; None if the function
            does not apply to the completion.
        config: supplies the tags.
    """
    if isinstance(value, Failure):
        return value
    form = float(envelope(completion, config.thinking_tag, config.answer_tag).well_formed)
    if value is None:
        return replace(failed(Failure(NOT_APPLICABLE, "the reward does not apply to this completion")), format=form)
    if isinstance(value, RewardResult):
        parts = {**value.components, "total": value.total, "accuracy": value.accuracy, "format": value.format}
    elif isinstance(value, Mapping):
        parts = {str(name): part for name, part in value.items() if _number(part) is not None}
    else:
        parts = {"total": value}
    name = next((name for name in TOTALS if name in parts), None)
    total = None if name is None else _number(parts.pop(name))
    if total is None:
        return Failure("bad_value", f"returned {_shown(value)}; a number, or a mapping with one under 'total'")
    accuracy = _number(parts.pop("accuracy", parts.pop("acc", total)))
    form = _number(parts.pop("format", form)) or 0.0
    numbers = {"total": total, "accuracy": accuracy or 0.0, "format": form}
    for part, number in (numbers | parts).items():
        if not math.isfinite(number):
            return Failure("not_finite", f"{part} is {number}")
        if part in numbers and not 0 <= number <= 1:
            return Failure("out_of_range", f"{part} is {number}; it must lie between 0 and 1")
    components = {name: float(number) for name, number in parts.items()}
    components |= {"accuracy": numbers["accuracy"], "format": form, "structure": 0.0}
    error = value.error if isinstance(value, RewardResult) else None
    return RewardResult(total, numbers["accuracy"], form, 0.0, components, error, 0.0)


def failed(failure: Failure) -> RewardResult:
    """Return the placeholder for a missing score: zeros, the error code, and the reason."""
    components = {"accuracy": 0.0, "format": 0.0, "structure": 0.0}
    return RewardResult(0.0, 0.0, 0.0, 0.0, components, failure.code, 0.0, failure.message)


def _number(value: Any) -> float | None:
    if hasattr(value, "item") and getattr(value, "size", None) != 0:
        # a numpy or torch scalar
        try:
            value = value.item()
        except (ValueError, RuntimeError):
            return None
    return float(value) if isinstance(value, Real) else None


def _shown(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 80 else text[:80] + '...'}"
