"""Plain arithmetic: sums, products, quotients and brackets of decimal numbers, exact."""

import re
from fractions import Fraction

from lit_g2rpo.rewards.answers.notation import MAX_DEPTH
from lit_g2rpo.rewards.answers.numbers import number

_TOKEN = re.compile(r" ?([\d.,]{1,64}|[-+*/()]) ?", re.ASCII)


def arithmetic(text: str) -> Fraction | None:
    """Compute a term of numbers, ``+ - * /`` and brackets; without powers, so its size is bounded by its length.

    Returns:
        Its exact value; None if it is no such term, divides by zero, or is nested beyond ``MAX_DEPTH``.
    """
    tokens: list[str] = []
    end = 0
    while end < len(text):
        found = _TOKEN.match(text, end)
        if found is None:
            return None
        tokens.append(found[1])
        end = found.end()
    try:
        result, rest = _sum(tokens, 0, 0)
    except (_NoTerm, ZeroDivisionError):
        return None
    return result if rest == len(tokens) else None


class _NoTerm(Exception):
    pass


def _sum(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _product(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "+-":
        term, after = _product(tokens, at + 1, depth)
        total, at = (total + term if tokens[at] == "+" else total - term), after
    return total, at


def _product(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    total, at = _factor(tokens, at, depth)
    while at < len(tokens) and tokens[at] in "*/":
        factor, after = _factor(tokens, at + 1, depth)
        total, at = (total * factor if tokens[at] == "*" else total / factor), after
    return total, at


def _factor(tokens: list[str], at: int, depth: int) -> tuple[Fraction, int]:
    sign = 1
    while at < len(tokens) and tokens[at] in "+-":
        sign, at = (-sign if tokens[at] == "-" else sign), at + 1
    if at == len(tokens) or depth > MAX_DEPTH:
        raise _NoTerm
    if tokens[at] == "(":
        inner, at = _sum(tokens, at + 1, depth + 1)
        if at == len(tokens) or tokens[at] != ")":
            raise _NoTerm
        return sign * inner, at + 1
    plain = number(tokens[at])
    if plain is None:
        raise _NoTerm
    return sign * plain, at + 1
