"""Exact arithmetic on numbers with signs, brackets, powers and factorials."""

import math
from fractions import Fraction

from lit_g2rpo.rewards.answers.numbers import number
from lit_g2rpo.rewards.answers.terms import Term, TooDeep, term

MAX_BITS = 2**16
"""Largest number that is computed."""
MAX_FACTORIAL = 4000


class _NoNumber(Exception):
    pass


def arithmetic(form: str) -> Fraction | None:
    """Compute a normal form of numbers and operators.

    Returns:
        Its exact value; None if it has a symbol or function, divides by zero, is too large or is nested too deeply.
    """
    try:
        return exact(term(form))
    except TooDeep:
        return None


def exact(tree: Term) -> Fraction | None:
    """Compute a tree; None if it is not a number."""
    try:
        return _value(tree)
    except (_NoNumber, ZeroDivisionError):
        return None


def is_mixed(tree: Term) -> bool:
    r"""Return whether this is a mixed number, such as ``3\frac{1}{2}``: a whole number before a fraction below one."""
    if tree.kind != "product" or tree.text or len(tree.parts) != 2:
        return False
    whole, part = tree.parts
    if whole.kind != "number" or not whole.text.isdigit() or part.kind != "quotient":
        return False
    above, below = part.parts
    return above.text.isdigit() and below.text.isdigit() and int(above.text) < int(below.text)


def _value(tree: Term) -> Fraction:
    values = [_value(part) for part in tree.parts]
    result: Fraction | None
    match tree.kind:
        case "number":
            result = number(tree.text)
        case "mixed":
            whole, _, part = tree.text.partition(" ")
            result = int(whole) + Fraction(part)
            if result >= int(whole) + 1:
                result = None
        case "repeating":
            result = _repeating(*tree.text.split(" "))
        case "minus":
            result = -values[0]
        case "sum":
            result = sum(values, Fraction(0))
        case "product":
            result = sum(values, Fraction(0)) if is_mixed(tree) else _product(tree, values)
        case "quotient":
            result = values[0] / values[1]
        case "power":
            result = _power(*values)
        case "factorial":
            result = _factorial(values[0])
        case _:
            result = None
    if result is None or max(result.numerator.bit_length(), result.denominator.bit_length()) > MAX_BITS:
        raise _NoNumber
    return Fraction(result)


def _product(tree: Term, values: list[Fraction]) -> Fraction | None:
    # 2\frac{3}{2} is neither a mixed number nor clearly a product
    if not tree.text and tree.parts[0].kind == "number" and tree.parts[1].kind == "quotient":
        return None
    if sum(max(v.numerator.bit_length(), v.denominator.bit_length()) for v in values) > MAX_BITS:
        return None
    return math.prod(values, start=Fraction(1))


def _power(base: Fraction, exponent: Fraction) -> Fraction | None:
    size = max(base.numerator.bit_length(), base.denominator.bit_length())
    if exponent.denominator != 1 or abs(exponent) * size > MAX_BITS:
        return None
    return Fraction(base ** int(exponent))


def _factorial(value: Fraction) -> Fraction | None:
    whole = value.denominator == 1 and 0 <= value <= MAX_FACTORIAL
    return Fraction(math.factorial(int(value))) if whole else None


def _repeating(start: str, digits: str) -> Fraction | None:
    whole, _, decimals = start.partition(".")
    if not digits.isdigit() or len(start) + len(digits) > 64:
        return None
    shown = int(whole + decimals or "0")
    period = Fraction(int(digits), 10 ** len(digits) - 1)
    return (shown + period) / Fraction(10 ** len(decimals))
