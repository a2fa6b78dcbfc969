"""Mathematics: equality of final results. Algebra, if needed, runs in processes that can be killed."""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction

from lit_g2rpo.rewards.answers.cost import slow_to_read
from lit_g2rpo.rewards.answers.final_form import is_copied, is_final, is_stated, operators
from lit_g2rpo.rewards.answers.notation import compact, is_explosive, normal_form
from lit_g2rpo.rewards.answers.quantities import Quantity, is_name, quantity, units_agree, values_agree
from lit_g2rpo.rewards.answers.results import MAX_RESULT_CHARACTERS, Result, interval, result
from lit_g2rpo.rewards.answers.symbols import FUNCTIONS
from lit_g2rpo.rewards.answers.text import words_agree
from lit_g2rpo.rewards.answers.units import NO_UNIT
from lit_g2rpo.rewards.running.pool import TimedOut, current_pool

__all__ = ["MAX_RESULT_CHARACTERS", "TimedOut", "results_agree"]

_LETTERS = re.compile(r"\\[A-Za-z]+|[A-Za-z]")
_UPRIGHT = re.compile(r"\\text\{([A-Za-z]{1,4})\}")
_INDEXED = re.compile(r"(?:\(?[A-Z][a-z]?\)?(?:_?\d{1,3}|_\{\d{1,3}\})?){1,16}", re.ASCII)
_NO_INDEX = str.maketrans("", "", "_{}")
_CONSTANTS = {
    "e",
    *(f"\\{name}" for name in (*FUNCTIONS, *str.split("sqrt frac pi cdot times binom circ lfloor rfloor"))),
}
_NUMERAL = re.compile(r"([0-9A-Z]+)_\{?(\d{1,2})\}?", re.ASCII)

Close = Callable[[Fraction, Fraction], bool]


def results_agree(
    answer: str, gold: str, *, question: str = "", final_form: bool = True, close: Close | None = None
) -> bool:
    """Compare two final results: as text, as words, as numbers with units, item by item, and finally by algebra.

    Args:
        answer: what the policy wrote.
        gold: the right result.
        question: names what is counted, and has the formula that may not be copied.
        final_form: reject an answer copied from the question or with a kind of operator that gold lacks.
        close: compares an answer with a gold number written as a decimal; by default exactly.

    Raises:
        TimedOut: if the comparison exceeded its limit of time or memory, or would have.

    Source: math-verify 0.9 (https://github.com/huggingface/Math-Verify) decides the cases that text and numbers do not.
    """
    if len(answer) > MAX_RESULT_CHARACTERS or len(gold) > MAX_RESULT_CHARACTERS:
        return False
    found, right = result(answer), result(gold)
    if found is None or right is None:
        # only its own text matches an unreadable gold answer
        text = compact(normal_form(answer))
        return bool(text) and text == compact(normal_form(gold))
    if _as_typed(found.form) == _as_typed(right.form):
        return True
    if right.kind == "words":
        return _words_agree(found, right.form)
    if any(is_explosive(form) or slow_to_read(form) for form in (found.form, right.form)):
        raise TimedOut("too large to compute")
    if final_form and not _is_final(found, right, question):
        return False
    verdict = _Comparison(question, final_form, close).results(found, right)
    return current_pool().verify(*_for_algebra(right, found)) if verdict is None else verdict


def _as_typed(form: str) -> str:
    """Write a name with indices, such as a chemical formula, as people type it: CO2."""
    text = _UPRIGHT.sub(r"\1", compact(form))
    return text.translate(_NO_INDEX) if _INDEXED.fullmatch(text) else compact(form)


def _words_agree(answer: Result, gold: str) -> bool:
    if answer.kind == "words":
        return words_agree(answer.form, gold)
    # a letter in brackets
    return len(gold) == 1 and answer.form == f"({gold})"


def _is_final(answer: Result, gold: Result, question: str) -> bool:
    if len(answer.items) == 1 == len(gold.items) and answer.brackets != "||":
        a, g = answer.items[0], gold.items[0]
        if a.body == g.body and not _converted(a, g):
            return True
        if _converted(a, g) and is_stated(answer.form, question):
            return False
        return is_final(operators(a.body), operators(g.body)) and not is_copied(a.body, g.body, question)
    ours, theirs = (frozenset().union(*map(operators, _bodies(side))) for side in (answer, gold))
    return is_final(ours, theirs) and not is_copied(answer.form, gold.form, question)


def _bodies(side: Result) -> list[str]:
    # the bars of a determinant are its computation
    return [*[item.body for item in side.items], *["\\det"] * (side.brackets == "||")] or [compact(side.form)]


def _converted(a: Quantity, g: Quantity) -> bool:
    ours, theirs = a.unit or NO_UNIT, g.unit or NO_UNIT
    return ours.dimension == theirs.dimension and ours.size != theirs.size


def _for_algebra(gold: Result, answer: Result) -> tuple[str, str]:
    if gold.kind == answer.kind == "one":
        a, g = answer.items[0], gold.items[0]
        if not g.name or not a.name or a.name == g.name:
            sized = _converted(a, g) and units_agree(a, g)
            return _scaled(g, sized), _scaled(a, sized)
    return gold.form, answer.form


def _scaled(q: Quantity, sized: bool) -> str:
    unit = q.unit or NO_UNIT
    factor = unit.scale * unit.size if sized and unit.dimension else unit.scale
    return q.body if factor == 1 else f"\\frac{{{factor.numerator}}}{{{factor.denominator}}}({q.body})"


class _Comparison:
    """Compare two results that were read: True, False, or None if only algebra can decide."""

    def __init__(self, question: str, final_form: bool, close: Close | None) -> None:
        self.question = question
        self.final_form = final_form
        self.close = close
        self.about = False

    def results(self, answer: Result, gold: Result) -> bool | None:
        self.about = "\\approx" in answer.form
        if gold.kind == answer.kind == "one":
            return self.chain(answer.items[0], gold.items[0])
        if gold.kind != answer.kind and "one" in (gold.kind, answer.kind):
            single, other = (answer, gold) if answer.kind == "one" else (gold, answer)
            if other.kind == "list" and len(other.items) == 1 and other.brackets != "\\{\\}":
                return self.chain(answer.items[0], gold.items[0])
            if other.kind == "range" and other is answer and not self.final_form:
                return self._difference(answer, gold.items[0])
            if other.kind == "matrix" and other.brackets == "||":
                return None
            return False if single.items[0].value is not None or other.kind in ("range", "time") else None
        if gold.kind == answer.kind == "list":
            return self.lists(answer, gold)
        if gold.kind != answer.kind:
            if {gold.kind, answer.kind} == {"list", "equation"}:
                return self.intervals(answer, gold)
            return None if {gold.kind, answer.kind} <= {"list", "equation", "one"} else False
        if gold.kind == "matrix":
            return self.matrices(answer, gold)
        if gold.kind in ("range", "time"):
            return self.ranges(answer.items, gold.items)
        return None

    def chain(self, answer: Quantity, gold: Quantity) -> bool | None:
        """Compare the last side and every earlier side that is not a name."""
        if gold.sides and not _is_computed(gold):
            return None if answer.name or gold.value is None else False
        if gold.name and answer.name and gold.name != answer.name:
            return None if gold.value is None else False
        for side in answer.sides:
            other = quantity(side)
            if other is None:
                return False
            if other.value is None and (gold.value is not None or is_name(side)):
                if not any(mark.isalpha() for mark in side) or not self._computes(side, gold):
                    return False
                continue
            part = self.quantities(other, replace(gold, name=""))
            if part is not True:
                return part
        return self.quantities(answer, gold)

    def _computes(self, side: str, gold: Quantity) -> bool:
        """Return whether the last side computes another: one in symbols, which is unknown, or an equal constant."""
        if self.about or not _CONSTANTS.issuperset(_LETTERS.findall(side)):
            return True
        return gold.value is None or current_pool().verify(gold.body, side)

    def quantities(self, answer: Quantity, gold: Quantity) -> bool | None:
        if not units_agree(answer, gold, self.question):
            return False
        if answer.value is not None and gold.value is not None:
            if self.close is not None and gold.decimal and (answer.unit or NO_UNIT) == (gold.unit or NO_UNIT):
                return self.close(answer.value, gold.value)
            return values_agree(answer, gold)
        if answer.body == gold.body and not _converted(answer, gold):
            return True
        ours, theirs = (_NUMERAL.fullmatch(side.body) for side in (answer, gold))
        if ours and theirs:
            # numerals with their base, which algebra would ignore
            return ours.groups() == theirs.groups()
        if gold.value is not None and not _needs_algebra(answer.body, self.final_form):
            return False
        if answer.value is not None and gold.unit != NO_UNIT and _converted(answer, gold):
            return False
        return None

    def lists(self, answer: Result, gold: Result) -> bool | None:
        if answer.brackets and gold.brackets and _shape(answer.brackets) != _shape(gold.brackets):
            return False
        if len(answer.items) != len(gold.items):
            return None if any("\\pm" in item.body for item in (*answer.items, *gold.items)) else False
        ours, theirs = _without_names(answer), _without_names(gold)
        if ours is None or theirs is None:
            return None
        ordered = (answer.brackets or gold.brackets) not in ("", "\\{\\}") or _apart(answer) or _apart(gold)
        return self.in_order(ours, theirs) if ordered else self.in_any_order(ours, theirs)

    def intervals(self, answer: Result, gold: Result) -> bool | None:
        """Compare ``2 < x < 5`` with a list, which may not be an interval."""
        ours, theirs = interval(answer), interval(gold)
        if ours is not None and theirs is not None:
            return self.lists(ours, theirs)
        relation = ours if answer.kind == "equation" else theirs
        listed = (answer if gold.kind == "equation" else gold).items
        return None if relation is None or any(item.value is None or item.name for item in listed) else False

    def matrices(self, answer: Result, gold: Result) -> bool | None:
        if answer.brackets != gold.brackets:
            return False
        same_shape = answer.columns == gold.columns and len(answer.items) == len(gold.items)
        if gold.brackets == "||":
            # determinants may be equal in any notation
            return True if same_shape and self.in_order(answer.items, gold.items) else None
        return self.in_order(answer.items, gold.items) if same_shape else False

    def ranges(self, answer: Sequence[Quantity], gold: Sequence[Quantity]) -> bool | None:
        ours, theirs = (
            [replace(q, unit=items[-1].unit if q.unit == NO_UNIT else q.unit) for q in items]
            for items in (answer, gold)
        )
        return self.in_order(ours, theirs)

    def in_order(self, answer: Sequence[Quantity], gold: Sequence[Quantity]) -> bool | None:
        verdicts = [self.quantities(a, g) for a, g in zip(answer, gold, strict=True)]
        return False if False in verdicts else None if None in verdicts else True

    def in_any_order(self, answer: Sequence[Quantity], gold: Sequence[Quantity]) -> bool | None:
        left = list(gold)
        unmet = []
        for a in answer:
            at = next((at for at, g in enumerate(left) if self.quantities(a, g) is True), None)
            if at is None:
                unmet.append(a)
            else:
                left.pop(at)
        if any(all(self.quantities(a, g) is False for g in left) for a in unmet):
            return False
        return None if unmet else True

    def _difference(self, answer: Result, gold: Quantity) -> bool:
        low, high = (item.value for item in answer.items)
        return "-" in answer.form and low is not None and high is not None and low - high == gold.value


def _is_computed(gold: Quantity) -> bool:
    """Return whether this is a chain of equal numbers, which means the same as its last side: ``3+4=7``."""
    sides = [quantity(side) for side in gold.sides]
    return gold.value is not None and all(side and side.value == gold.value for side in sides)


def _shape(brackets: str) -> str:
    return "()" if brackets == "\\langle\\rangle" else brackets


def _apart(answer: Result) -> bool:
    """Return whether items have distinct names, as in ``x = 3, y = 4``, which define their order."""
    names = {item.name for item in answer.items}
    return len(names) == len(answer.items) and all(names)


def _without_names(answer: Result) -> list[Quantity] | None:
    """Sort items by name if each has one; None for equations, or if only some have names."""
    names = [item.name for item in answer.items]
    if not any(names):
        return list(answer.items)
    if any(item.sides for item in answer.items) or not all(names):
        return None
    items = sorted(answer.items, key=lambda item: item.name) if len(set(names)) == len(names) else answer.items
    return [replace(item, name="") for item in items]


def _needs_algebra(answer: str, final_form: bool) -> bool:
    """Return whether an answer that is not a plain number could still equal one: a power, a root, a function."""
    if final_form and any(len(word) == 1 and word not in "ei" for word in _LETTERS.findall(answer)):
        return False
    return any(mark in "\\^!|" for mark in answer) and "\\text" not in answer
