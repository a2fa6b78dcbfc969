"""The reward of a completion: accuracy by problem type, and format."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any, TypeVar

from lit_g2rpo.rewards.choice import choice
from lit_g2rpo.rewards.geometry import box, iou
from lit_g2rpo.rewards.math import results_agree
from lit_g2rpo.rewards.numbers import number, numbers_agree, without_percent
from lit_g2rpo.rewards.parse import envelope, unwrap
from lit_g2rpo.rewards.regression import mean_relative_accuracy
from lit_g2rpo.rewards.text import character_accuracy

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1
MAX_COMPLETION = 2**18
MAX_ANSWER = 512
MAX_TRANSCRIPTION = 4096

T = TypeVar("T")


class Unreadable(Exception):
    """An answer or a gold answer that does not have the form of its problem type; the message is the error code."""


@dataclass(slots=True, frozen=True)
class RewardResult:
    """Score of a completion.

    Args:
        total: ``0.9 accuracy + 0.1 format``, from 0 to 1.
        accuracy: how right the answer is, from 0 to 1.
        format: 1 if the completion has the asked form, else 0.
        structure: 0; the place of a reward for valid structured output.
        components: the named parts.
        error: why accuracy is 0 without a comparison, as a code; None if answer and gold were compared.
        seconds: time spent.
    """

    total: float
    accuracy: float
    format: float
    structure: float
    components: dict[str, float]
    error: str | None
    seconds: float


def score(completion: str, sample: dict[str, Any]) -> RewardResult:
    """Scores a completion against a data row; never raises.

    Args:
        completion: what the policy wrote, tags included.
        sample: the row, with ``problem_type``, ``answer`` (wrapped in answer tags or plain) and, for multiple
            choice, ``options``.

    Returns:
        The score. What cannot be scored has accuracy 0 and an error code.

    Source: OpenVLThinkerV2 (arXiv 2604.08539) and its released code, without the constant structure reward.
    """
    start = perf_counter()
    accuracy = form = 0.0
    error: str | None = None
    try:
        if len(completion) > MAX_COMPLETION:
            raise Unreadable("completion_too_long")
        parts = envelope(completion)
        form = float(parts.well_formed)
        if not parts.answer:
            raise Unreadable("no_answer")
        accuracy = _accuracy(parts.answer, sample)
    except Unreadable as reason:
        error = str(reason)
    except Exception as failure:  # a reward that raises would stop every rank; the code tells what happened
        error = type(failure).__name__
    total = ACCURACY_WEIGHT * accuracy + FORMAT_WEIGHT * form
    components = {"accuracy": accuracy, "format": form, "structure": 0.0}
    return RewardResult(total, accuracy, form, 0.0, components, error, perf_counter() - start)


def _accuracy(answer: str, sample: Mapping[str, Any]) -> float:
    problem_type = sample["problem_type"]
    if problem_type not in _ACCURACY:
        raise Unreadable("unknown_problem_type")
    gold = unwrap(sample["answer"])
    limit = max(MAX_TRANSCRIPTION, 2 * len(gold)) if problem_type == "OCR" else MAX_ANSWER
    if len(answer) > limit:
        raise Unreadable("answer_too_long")
    return _ACCURACY[problem_type](answer, gold, sample)


def _choice(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    options = sample.get("options") or ()
    right = _read(choice(gold, options), "bad_gold")
    return float(_read(choice(answer, options)) == right)


def _numerical(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    right = _read(number(without_percent(gold)), "bad_gold")
    return float(numbers_agree(_read(number(without_percent(answer))), right))


def _regression(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    right = _read(number(gold), "bad_gold")
    return mean_relative_accuracy(_read(number(answer)), right)


def _transcription(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    return character_accuracy(answer, gold)


def _math(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    return float(results_agree(answer, gold))


def _grounding(answer: str, gold: str, sample: Mapping[str, Any]) -> float:
    right = _read(box(gold), "bad_gold")
    return iou(_read(box(answer)), right)


def _read(value: T | None, code: str = "unparsed") -> T:
    if value is None:
        raise Unreadable(code)
    return value


_ACCURACY: dict[str, Callable[[str, str, Mapping[str, Any]], float]] = {
    "multiple choice": _choice,
    "numerical": _numerical,
    "regression": _regression,
    "OCR": _transcription,
    "math": _math,
    "spatial grounding": _grounding,
}

PROBLEM_TYPES = tuple(_ACCURACY)
