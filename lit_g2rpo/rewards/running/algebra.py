"""Algebra: compare two LaTeX results with math-verify, in a process that can be killed."""

import logging
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

MAX_READ = 2048
"""Parsed results kept in a cache: the answers of a group share their gold result."""
_DEGREES = re.compile(r"(\d+(?:\.\d+)?|[a-z]|\\[a-z]+|\([^()]{1,64}\))\^\\circ", re.ASCII)
_CAPITAL_I = re.compile(r"\\text\{[^{}]*\}|\\[A-Za-z]+|I(?!_)")
PRECISION = 30
"""Precision of constants, in digits."""
TOLERANCE = 1e-12
"""Relative error allowed between two constants, neither of them a decimal."""
DECIMAL_TOLERANCE = 1e-6
"""Relative error allowed between a constant and a decimal that approximates it."""

Compare = Callable[[str, str | None], bool]
"""Returns whether an answer equals gold or, given only gold, whether it can be read."""


class TooLarge(Exception):
    """A comparison that would run into its limit."""


def comparison() -> Compare:
    """Import what algebra needs, and return a function that compares a gold result and an answer in normal form."""
    from latex2sympy2_extended.latex2sympy2 import ConversionConfig, latex2sympy
    from math_verify.grader import should_treat_as_complex, verify
    from sympy import Basic, Expr, Float, I, Symbol, expand, preorder_traversal

    from lit_g2rpo.rewards.running.size import same_form, too_large

    logging.disable(logging.CRITICAL)
    config = ConversionConfig(lowercase_symbols=False)

    @lru_cache(MAX_READ)
    def read(text: str) -> Any:
        # latex2sympy reads the sine of 60 degrees as the sine of 60
        text = _DEGREES.sub(r"(\\frac{\1\\pi}{180})", text)
        # it also reads I, which may be a current, as the imaginary unit, but not i
        text = _CAPITAL_I.sub(lambda found: "I_{0}" if found[0] == "I" else found[0], text)
        tree = latex2sympy(text, is_real=not should_treat_as_complex(text), conversion_config=config)
        symbols = getattr(tree, "free_symbols", ())
        return tree.xreplace(dict.fromkeys(symbols, I)) if [s.name for s in symbols] == ["i"] else tree

    def constants_agree(gold: Any, answer: Any) -> bool:
        # math-verify compares constants by absolute error, so two tiny ones would agree
        g, a = (side.doit().evalf(PRECISION) for side in (gold, answer))
        if not (g.is_finite and a.is_finite):
            return bool(g == a)
        tolerance = DECIMAL_TOLERANCE if gold.has(Float) or answer.has(Float) else TOLERANCE
        return bool(abs(g - a) <= tolerance * abs(g))

    def is_rational_polynomial(side: Any) -> bool:
        return isinstance(side, Expr) and all(
            node.is_Symbol or node.is_Rational or node.is_Add or node.is_Mul or (node.is_Pow and is_power(node.exp))
            for node in preorder_traversal(side)
        )

    def is_power(exponent: Expr) -> bool:
        return bool(exponent.is_Integer and exponent >= 0)

    def compare(gold: str, answer: str | None) -> bool:
        g = read(gold)
        if answer is None:
            return g is not None
        a = read(answer)
        if too_large(g) or too_large(a):
            if same_form(g, a):
                return True
            raise TooLarge
        if isinstance(g, Symbol) and isinstance(a, Symbol):
            # verify ignores the case of their names
            return bool(g.name == a.name)
        if all(isinstance(side, Basic) and getattr(side, "is_number", False) for side in (g, a)):
            return constants_agree(g, a)
        if is_rational_polynomial(g) and is_rational_polynomial(a) and g.free_symbols == a.free_symbols:
            # verify would find this by simplifying; it may still find symbols with other names equal
            return bool(expand(g - a) == 0)
        # in this order: verify is not symmetric; the parent's clock is the limit
        return bool(verify(g, a, timeout_seconds=None, allow_set_relation_comp=True))

    return compare
