"""Mathematics: equality of final results; algebra, where it is needed, runs in processes that can be killed."""

import re

from lit_g2rpo.rewards.answers.cost import slow_to_read
from lit_g2rpo.rewards.answers.notation import is_balanced, is_explosive, is_words, normal_form
from lit_g2rpo.rewards.answers.quantities import quantity, units_agree, value, values_agree
from lit_g2rpo.rewards.running.pool import TimedOut, current_pool

__all__ = ["MAX_RESULT_CHARACTERS", "TimedOut", "results_agree"]

MAX_RESULT_CHARACTERS = 512
# a blank between two digits says something: 3 1/2 is not 31/2
_BLANK = re.compile(r"(?<!\d) | (?!\d)")


def results_agree(answer: str, gold: str) -> bool:
    """Compare two final results: as text, as numbers with their units, and last by algebra.

    Words are compared as words, whatever their case. Two units must be the same; one that stands on one side only is
    passed over, unless it changes the value as a per cent sign does. An answer that lists candidates, or a chain of
    sides that are not equal, does not agree.

    Raises:
        TimedOut: if the comparison passed its limit of time or memory, or would have.

    Source: math-verify 0.9 (https://github.com/huggingface/Math-Verify) decides what text and numbers leave open.
    """
    if len(answer) > MAX_RESULT_CHARACTERS or len(gold) > MAX_RESULT_CHARACTERS:
        return False
    answer, gold = normal_form(answer), normal_form(gold)
    a, g = _BLANK.sub("", answer), _BLANK.sub("", gold)
    if not a or a == g:
        return bool(a)
    if is_words(gold):
        return a.casefold() == g.casefold() if len(g) > 1 else a == f"({g})"
    # math-verify reads every box it finds, so an answer must not open one
    if not is_balanced(answer) or not is_balanced(gold) or "\\boxed" in answer:
        return False
    found, right = quantity(answer), quantity(gold)
    if not units_agree(found.unit, right.unit):
        return False
    a_value, g_value = value(found.body), value(right.body)
    if a_value is not None and g_value is not None:
        same_name = found.name == right.name or not (found.name and right.name)
        return same_name and values_agree(a_value, g_value)
    if g_value is not None and not _needs_algebra(found.body):
        return False
    if any(is_explosive(text) or slow_to_read(text) for text in (answer, gold)):
        raise TimedOut("too large to compute")
    if found.unit == right.unit and "=" not in found.body + right.body:
        answer, gold = found.body, right.body
    return current_pool().verify(gold, answer)


def _needs_algebra(answer: str) -> bool:
    """Whether an answer that is no plain number could still equal one: a power, a root, ``f(2) = 3``."""
    if any(mark in "\\^!" for mark in answer):
        return True
    # Without a name on either side it is a false equation of numbers, or none, whatever its last side is.
    return "=" in answer and any(mark.isalpha() for mark in answer)
