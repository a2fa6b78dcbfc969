"""The reward of a completion: accuracy by problem type, plus format."""

import math
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from lit_g2rpo.rewards.answers.parse import Envelope, envelope, last_boxed, unbox, unwrap
from lit_g2rpo.rewards.answers.references import references
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig
from lit_g2rpo.rewards.problem_type import ProblemType, Unreadable
from lit_g2rpo.rewards.problem_types import known_problem_type
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.rules.math import TimedOut
from lit_g2rpo.rewards.rules.parity import structure_reward

ACCURACY_WEIGHT = 0.9
FORMAT_WEIGHT = 0.1
MAX_COMPLETION = 2**18
NO_SCORE = {
    "timeout": "the comparison was cut off by its limit",
    "not_finite": "the rule gave no finite accuracy",
    "out_of_range": "the rule gave an accuracy outside 0 to 1",
}
"""Error codes that are not about the answer, and what they mean."""


@dataclass(slots=True, frozen=True)
class RewardResult:
    """Score of a completion.

    Args:
        total: ``0.9 accuracy + 0.1 format``, from 0 to 1, plus the structure reward.
        accuracy: how right the answer is, from 0 to 1.
        format: 1 if the completion has the requested form, else 0.
        structure: 0, or from 0 to 0.5 in the style of the released reward.
        components: the named parts.
        error: why accuracy is 0 without a comparison, as a code; None if answer and gold were compared.
        seconds: time spent.
        failure: why the reward itself failed; the completion is then dropped from its group. None for a score.
    """

    total: float
    accuracy: float
    format: float
    structure: float
    components: dict[str, float]
    error: str | None
    seconds: float
    failure: str | None = None


def score(completion: str, sample: Mapping[str, Any], config: RewardConfig = DEFAULT) -> RewardResult:
    """Score a completion against a data row, without ever raising.

    Args:
        completion: what the policy wrote, including tags.
        sample: a row in any accepted format, with its problem type, its gold answer (in answer tags or plain) and,
            for multiple choice, its options.

    Returns:
        The score. A completion that cannot be scored gets accuracy 0 and an error code.

    Source: OpenVLThinkerV2 (arXiv 2604.08539) and its released code, without its constant structure reward unless
        ``config.style`` asks for it.
    """
    start = perf_counter()
    accuracy = form = structure = 0.0
    error: str | None = None
    broken: str | None = None
    try:
        if len(completion) > MAX_COMPLETION:
            raise Unreadable("completion_too_long")
        parts = envelope(completion, config.thinking_tag, config.answer_tag)
        form = float(parts.well_formed and len(parts.reasoning or "") >= config.min_reasoning)
        row, kind = _row(sample)
        answer, gold = _answer(parts, config), unwrap(row["answer"])
        accuracy, error = _accuracy(kind, answer, gold, row, config)
        if error in NO_SCORE:
            broken = NO_SCORE[error]
        if config.style == "onethinker" and form:
            readable = not kind.structured or error is None
            structure = structure_reward(kind.track, unbox(answer), unbox(gold), readable)
    except Unreadable as reason:
        error = str(reason)
    except Exception as failure:  # an exception here would stop every rank; the error code says what happened
        accuracy, error, broken = 0.0, type(failure).__name__, traceback.format_exc()
    total = ACCURACY_WEIGHT * accuracy + FORMAT_WEIGHT * form + structure
    components = {"accuracy": accuracy, "format": form, "structure": structure}
    return RewardResult(total, accuracy, form, structure, components, error, perf_counter() - start, broken)


def _row(sample: Mapping[str, Any]) -> tuple[dict[str, Any], ProblemType]:
    try:
        row = canonical(sample)
    except ValueError:
        raise Unreadable("bad_row") from None
    kind = known_problem_type(row["problem_type"])
    if kind is None:
        raise Unreadable("unknown_problem_type")
    if "answer" not in row:
        raise Unreadable("no_gold")
    return row, kind


def _answer(parts: Envelope, config: RewardConfig) -> str:
    answer = parts.answer
    if answer is None and parts.answer_blocks == 0 and config.fallback == "whole_response":
        answer = last_boxed(parts.tail) or parts.tail
    if not answer:
        raise Unreadable("no_answer")
    return answer


def _accuracy(
    kind: ProblemType, answer: str, gold: str, row: Mapping[str, Any], config: RewardConfig
) -> tuple[float, str | None]:
    if len(answer) > max(kind.limit, 2 * len(gold)):
        return 0.0, "answer_too_long"
    golds = references(gold) if kind.references else [gold]
    if not kind.verbatim:
        answer, golds = unbox(answer), [unbox(one) for one in golds]
    found: list[float] = []
    refused = "bad_gold"
    for one in golds:
        try:
            found.append(kind.accuracy(answer, one, row, config))
        except Unreadable as reason:
            refused = str(reason)
        except TimedOut:
            refused = "timeout"
        if found and found[-1] == 1:
            break
    if not found:
        return 0.0, refused
    accuracy = max(found)
    if not 0 <= accuracy <= 1:
        # from a custom problem type; custom rewards must meet the same bounds
        return 0.0, "out_of_range" if math.isfinite(accuracy) else "not_finite"
    return accuracy, None
