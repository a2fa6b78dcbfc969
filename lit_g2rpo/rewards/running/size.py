"""Estimates of an expression's size when multiplied out, without computing it; sympy is already loaded."""

import math
from dataclasses import dataclass
from typing import Any

import sympy

MAX_TERMS = 300
"""Most terms, multiplied out, in one or two variables; more take seconds to simplify. More variables allow fewer."""
MAX_DIGITS = 20_000
MAX_RANGE = 1000
"""Most values of the index of a sum or product."""
MAX_NODES = 2000


@dataclass(slots=True)
class Size:
    """The size of an expression once computed.

    Args:
        terms: terms, multiplied out.
        digits: digits of the longest number in it.
        widest: most terms in any of its parts.
        below: terms in its denominator.
    """

    terms: float = 1.0
    digits: float = 0.0
    widest: float = 1.0
    below: float = 1.0

    def exceeds(self, variables: int) -> bool:
        """Return whether computing it takes too long, given its number of variables."""
        return self.widest * max(variables, 2) > 2 * MAX_TERMS or self.digits > MAX_DIGITS


def same_form(a: Any, b: Any) -> bool:
    """Return whether two expressions differ only in the order of terms and factors, without multiplying out."""
    return a == b or (size(a).digits <= MAX_DIGITS >= size(b).digits and bool(_ordered(a) == _ordered(b)))


def _ordered(expression: Any) -> Any:
    arguments = getattr(expression, "args", ())
    return expression.func(*map(_ordered, arguments)) if arguments else expression


def size(expression: Any) -> Size:
    """Estimate the size of a sympy expression, or of a tuple, set, matrix or relation of them."""
    args = [size(argument) for argument in getattr(expression, "args", ())]
    digits = max((argument.digits for argument in args), default=0.0)
    widest = max((argument.widest for argument in args), default=1.0)
    if isinstance(expression, sympy.Rational):
        return Size(digits=math.log10(max(abs(expression.p), expression.q)))
    if isinstance(expression, sympy.Add):
        if expression.is_rational or all(isinstance(argument, sympy.Number) for argument in expression.args):
            return Size(1.0, digits, widest)
        # over one denominator, in which terms of one variable collect
        below = math.prod(argument.below for argument in args) if len(expression.free_symbols) > 1 else 1.0
        terms = sum(argument.terms * max(below / argument.below, 1.0) for argument in args)
        return Size(terms, digits, max(widest, terms, below), below)
    if isinstance(expression, sympy.Mul):
        terms = _collected(expression, _bounded(math.prod(argument.terms for argument in args)))
        below = _bounded(math.prod(argument.below for argument in args))
        return Size(terms, sum(argument.digits for argument in args), max(widest, terms), below)
    if isinstance(expression, sympy.Pow | sympy.exp):
        return _power(expression, size(expression.base), size(expression.exp))
    if isinstance(expression, sympy.factorial | sympy.factorial2 | sympy.gamma | sympy.binomial):
        number = _magnitude(expression.args[0], args[0])
        return Size(1.0, max(digits, number * math.log10(max(number, 10.0))), widest)
    if isinstance(expression, sympy.Sum | sympy.Product):
        return _range(expression, args[0], digits, widest)
    if isinstance(expression, sympy.MatPow):
        power = _magnitude(expression.args[1], args[1])
        return Size(1.0, power * (digits + 1), widest)
    return Size(1.0, digits, widest)


def too_large(expression: Any) -> bool:
    """Return whether an expression would take too long to compute; False for anything else."""
    if not isinstance(expression, sympy.Basic | sympy.MatrixBase):
        return False
    nodes = sum(1 for _ in zip(range(MAX_NODES + 1), sympy.preorder_traversal(expression), strict=False))
    return nodes > MAX_NODES or size(expression).exceeds(len(expression.free_symbols))


def _power(expression: Any, base: Size, power: Size) -> Size:
    exponent = expression.exp
    if not exponent.is_number or expression.base in (0, 1, -1):
        return Size(1.0, max(base.digits, power.digits), max(base.widest, power.widest))
    times = _magnitude(exponent, power)
    digits = max(base.digits, 0.3) * times if expression.base.is_number else base.digits
    if not isinstance(exponent, sympy.Integer):
        return Size(1.0, max(digits, power.digits), max(base.widest, power.widest))
    terms = _collected(expression, _combinations(times, base.terms))
    if base.terms > 1:
        digits = times * (base.digits + math.log10(base.terms))
    if exponent < 0:
        return Size(base.below, digits, max(base.widest, terms), terms)
    return Size(terms, digits, max(base.widest, terms), base.below)


def _range(expression: Any, term: Size, digits: float, widest: float) -> Size:
    count = 1.0
    for _, *bounds in expression.limits:
        low, high = (bounds or (0, 0))[0], (bounds or (0, 0))[-1]
        if isinstance(low, sympy.Integer) and isinstance(high, sympy.Integer):
            count *= max(float(high - low + 1) if abs(high - low) < 10**9 else math.inf, 1.0)
    if count > MAX_RANGE:
        return Size(math.inf, digits, math.inf)
    if not expression.free_symbols:
        return Size(1.0, digits, widest)
    if isinstance(expression, sympy.Sum):
        return Size(term.terms * count, digits, max(widest, term.terms * count))
    terms = min(
        _bounded(math.pow(term.terms, min(count, 30.0))) if term.terms > 1 else 1.0,
        _combinations(count * _degree(expression.function), len(expression.free_symbols) + 1.0),
    )
    return Size(terms, digits, max(widest, terms))


def _collected(expression: Any, terms: float) -> float:
    """Bound the terms of a polynomial by the number of monomials of its degree in its variables."""
    if terms <= MAX_TERMS:
        return terms
    symbols = expression.free_symbols
    degree = _degree(expression)
    if not symbols or degree > MAX_TERMS:
        return terms
    return min(terms, _combinations(degree, len(symbols) + 1.0))


def _degree(expression: Any) -> float:
    """Return the degree of a polynomial in all its variables; infinite if it is not a polynomial."""
    degrees = [_degree(argument) for argument in expression.args]
    if isinstance(expression, sympy.Symbol):
        return 1.0
    if isinstance(expression, sympy.Add):
        return max(degrees)
    if isinstance(expression, sympy.Mul):
        return sum(degrees)
    if isinstance(expression, sympy.Pow) and expression.exp.is_Integer and expression.exp > 0:
        return degrees[0] * float(min(expression.exp, 10**9))
    return 0.0 if expression.is_number else math.inf


def _magnitude(expression: Any, size: Size) -> float:
    """Return the absolute value of a number, infinite if it is long; 1 for anything else."""
    if not expression.is_number:
        return 1.0
    if size.digits > 6 or size.exceeds(0):
        return math.inf
    try:
        return abs(float(expression))
    except (TypeError, ValueError, OverflowError):
        return math.inf


def _combinations(times: float, terms: float) -> float:
    """Count the terms of a sum raised to the power ``times``."""
    if terms <= 1:
        return 1.0
    if times > MAX_TERMS or terms > MAX_TERMS:
        return math.inf
    return _bounded(float(math.comb(int(times) + int(terms) - 1, int(terms) - 1)))


def _bounded(value: float) -> float:
    return value if value < 1e9 else math.inf
