"""Formulas without their arrangement: ordering, repeating or padding terms leaves a formula the same."""

from collections import Counter
from fractions import Fraction
from functools import lru_cache

from lit_g2rpo.rewards.answers.arithmetic import exact, is_mixed
from lit_g2rpo.rewards.answers.terms import Term, TooDeep, term

_MINUS = "-"
_MAX_POWER = 64


@lru_cache(4096)
def arranged(form: str, *, collected: bool = True) -> object:
    r"""Return a value that is equal for two normal forms if they only differ in arrangement.

    Arrangement is the order of terms and factors, redundant brackets, added zeros, factors and divisors of one,
    ``x \cdot x`` for ``x^2``, ``6.0`` for 6, and double signs. Nothing is computed, multiplied out or factored:
    ``17 \cdot 23`` is not 391, and ``\frac{12}{16}`` is not ``\frac{3}{4}``.

    Args:
        collected: treat ``x \cdot x`` as ``x^2``.
    """
    try:
        return _whole(term(form), collected)
    except TooDeep:
        return form


def _whole(tree: Term, collected: bool) -> object:
    factors = _factors(tree, collected)
    return frozenset((factor, power) for factor, power in factors.items() if power)


def _factors(tree: Term, collected: bool) -> Counter[object]:
    match tree.kind:
        case "number":
            return _number(tree)
        case "minus":
            return _product(Counter({_MINUS: 1}), _factors(tree.parts[0], collected))
        case "product" if not is_mixed(tree):
            return _product(*(_factors(part, collected) for part in tree.parts))
        case "quotient":
            above, below = (_factors(part, collected) for part in tree.parts)
            return _product(above, _raised(below, -1))
        case "power" if collected:
            power = exact(tree.parts[1])
            if power is not None and power.denominator == 1 and abs(power) <= _MAX_POWER:
                return _raised(_factors(tree.parts[0], collected), int(power))
        case "sum":
            return _sum(tree, collected)
        case "list" if not tree.text:
            return Counter({("list", frozenset(Counter(_parts(tree, collected)).items())): 1})
    return Counter({(tree.kind, tree.text, _parts(tree, collected)): 1})


def _parts(tree: Term, collected: bool) -> tuple[object, ...]:
    return tuple(_whole(part, collected) for part in tree.parts)


def _number(tree: Term) -> Counter[object]:
    digits, ten, power = tree.text.lower().partition("e")
    value = exact(Term("number", (), digits))
    if value is None:
        return Counter({("number", tree.text): 1})
    return _product(Counter({value: int(value != 1)}), Counter({Fraction(10): int(power) if ten else 0}))


def _sum(tree: Term, collected: bool) -> Counter[object]:
    terms = [factors for factors in (_factors(part, collected) for part in tree.parts) if factors[Fraction(0)] <= 0]
    if len(terms) == 1:
        return terms[0]
    plain, negative = (
        Counter(frozenset((f, n) for f, n in _product(sign, factors).items() if n) for factors in terms)
        for sign in (Counter[object](), Counter[object]({_MINUS: 1}))
    )
    # a sum and its negative differ only in sign
    order = [sorted(map(_text, side.elements())) for side in (plain, negative)]
    chosen = plain if order[0] <= order[1] else negative
    return Counter({("sum", frozenset(chosen.items())): 1, _MINUS: int(chosen is negative)})


def _text(value: object) -> str:
    if isinstance(value, frozenset | tuple):
        parts = [_text(part) for part in value]
        return f"({' '.join(sorted(parts) if isinstance(value, frozenset) else parts)})"
    return str(value)


def _product(*sides: Counter[object]) -> Counter[object]:
    result: Counter[object] = Counter()
    for side in sides:
        for factor, power in side.items():
            result[factor] += power
    result[_MINUS] %= 2
    return result


def _raised(factors: Counter[object], power: int) -> Counter[object]:
    return _product(Counter({factor: times * power for factor, times in factors.items()}))
