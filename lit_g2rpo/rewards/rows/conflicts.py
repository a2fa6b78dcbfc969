"""Columns of a row with conflicting gold answers."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any

from lit_g2rpo.rewards.answers.choice import choice
from lit_g2rpo.rewards.answers.parse import unbox, unwrap
from lit_g2rpo.rewards.answers.quantities import Quantity
from lit_g2rpo.rewards.answers.results import result
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.options import given_options, lettered
from lit_g2rpo.rewards.rows.targets import conclusion
from lit_g2rpo.rewards.rows.values import listed, missing, shown

MAX_CHARACTERS = 64
"""Most characters of an answer; longer texts are explanations."""

ROUNDING = Fraction(1, 100)
"""Largest relative difference between a number and its rounded form."""

GOLD_COLUMNS = ("answer", "solution", "reward_model.ground_truth", "ground_truth")
_HOLDERS = {"answer", "solution", "reward_model", "ground_truth"}


def conflict(row: Mapping[str, Any]) -> str | None:
    """Say in one line which columns of a raw row hold different gold answers; None if none clearly do.

    Only clearly different answers count: another number, letter or word, not another way to write a formula.

    Args:
        row: a row in any accepted format, as in its file.
    """
    if len(_HOLDERS & row.keys()) < 2:
        return None
    model = from_text(row.get("reward_model"))
    given = {**row, "reward_model.ground_truth": model.get("ground_truth") if isinstance(model, Mapping) else None}
    found = [(name, listed(given[name])) for name in GOLD_COLUMNS if name in given and not missing(given[name])]
    for name, other in found[1:]:
        first, gold = found[0]
        if _differ(gold, other, row):
            return f"{first!r} is {shown(gold)} but {name!r} is {shown(other)}; leave the wrong one out"
    return None


def _differ(gold: Any, other: Any, row: Mapping[str, Any]) -> bool:
    if isinstance(gold, list) and isinstance(other, list):
        return gold != other
    if isinstance(gold, bool) or isinstance(other, bool):
        return False
    if not isinstance(gold, str | int | float) or not isinstance(other, str | int | float):
        return False
    kind = row.get("problem_type")
    a, b = (unbox(unwrap(conclusion(str(text), kind))) for text in (gold, other))
    if a == b or max(len(a), len(b)) > MAX_CHARACTERS:
        return False
    try:
        options = lettered(given_options(row))
    except ValueError:  # reported elsewhere
        options = []
    if options:
        letters = choice(a, options), choice(b, options)
        return None not in letters and letters[0] != letters[1]
    first, second = result(a), result(b)
    if first is None or second is None:
        return False
    if first.kind == second.kind == "one":
        return _numbers_differ(first.items[0], second.items[0])
    # a letter may stand for the word
    return (
        first.kind == second.kind == "words"
        and (len(first.form) == 1) == (len(second.form) == 1)
        and " " not in first.form + second.form
        and first.form.casefold() != second.form.casefold()
    )


def _numbers_differ(a: Quantity, b: Quantity) -> bool:
    if a.value is None or b.value is None or a.unit != b.unit:
        return False
    return abs(a.value - b.value) > ROUNDING * abs(a.value)
