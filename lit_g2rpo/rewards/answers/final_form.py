"""Final form: which computations a result leaves open."""

import re
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from math import gcd

from lit_g2rpo.rewards.answers.arithmetic import exact, is_mixed
from lit_g2rpo.rewards.answers.arranged import arranged
from lit_g2rpo.rewards.answers.notation import normal_form
from lit_g2rpo.rewards.answers.terms import Term, TooDeep, term

CLOSED = frozenset(("root", "sum of constants", "quotient"))
"""Operators that a closed-form result may have if gold itself leaves a function or a power to compute."""
MAX_QUESTION = 4096

_CONSTANTS = {"\\pi", "e", "i"}
_FORMULA = re.compile(r"\$([^$]{1,512})\$|\\\(([^$]{1,512}?)\\\)|\\\[([^$]{1,512}?)\\\]")

_CONVERSION = re.compile(
    r"\b(?:write|express|convert|rewrite|change|turn|put|reduce|represent|give|state)\b|as an? |化为|写成|表示|化成",
    re.I,
)


@lru_cache(4096)
def operators(form: str) -> frozenset[str]:
    r"""List the kinds of computation that a result in normal form leaves open.

    These are in final form: decimals, fractions that are not whole numbers, mixed numbers, ``a \times 10^{n}``, every
    formula in symbols, and a number times a root, ``\pi`` or ``e``.

    Returns:
        Kinds such as ``integral``, ``logarithm``, ``sum of numbers`` or ``power``.
    """
    seen = _Operators()
    try:
        seen.shape(term(form))
    except TooDeep:
        seen.found.add("nesting")
    return frozenset(seen.found)


def is_final(answer: frozenset[str], gold: frozenset[str]) -> bool:
    """Return whether an answer's `operators` leave nothing open that gold's do not."""
    return answer <= (gold | CLOSED if gold - CLOSED else gold)


def is_copied(answer: str, gold: str, question: str) -> bool:
    """Return whether an answer copies a result from the question, up to `arranged`, that gold writes differently.

    A number in lowest terms is not a copy unless the question asks to rewrite its one number, as gold does.

    Args:
        answer: in normal form.
        gold: in normal form.
        question: as the row has it.
    """
    question = question[:MAX_QUESTION]
    if arranged(answer) == arranged(gold):
        wanted = arranged(answer, collected=False)
        return wanted != arranged(gold, collected=False) and wanted in _stated(question, collected=False)
    stated = _stated(question)
    if arranged(answer) not in stated:
        return False
    converted = len(stated) == 1 and _CONVERSION.search(question) and _writing(answer) != _writing(gold)
    return bool(converted) or not _is_reduced(answer) or bool(operators(gold))


def is_stated(answer: str, question: str) -> bool:
    """Return whether a question contains a result as a separate word, ignoring blanks and dollar signs."""
    text = re.escape(answer.replace(" ", ""))
    return re.search(rf"(?<![\w.]){text}(?!\w)", _flat(question[:MAX_QUESTION])) is not None


@lru_cache(64)
def _flat(question: str) -> str:
    return re.sub(r"(?<=\d) (?=[A-Za-z])|[$~]", "", question)


def _is_reduced(form: str) -> bool:
    """Return whether a number is written as simply as its kind allows."""
    try:
        tree = term(form)
    except TooDeep:
        return False
    if exact(tree) is None or operators(form):
        return False
    above, below = (exact(part) for part in tree.parts) if tree.kind == "quotient" else (None, None)
    return above is None or below is None or gcd(int(above), int(below)) == 1


def _writing(form: str) -> str:
    """Return how a number is written: ``number``, ``mixed``, ``quotient``, or ``product`` with a power of ten."""
    try:
        tree = term(form)
    except TooDeep:
        return ""
    return "mixed" if is_mixed(tree) else "product" if "e" in tree.text.lower() else tree.kind


@lru_cache(64)
def _stated(question: str, *, collected: bool = True) -> frozenset[object]:
    """List the formulas of a question and their sides or, if it has none, its runs of mathematical words."""
    formulas = [next(filter(None, found)) for found in _FORMULA.findall(question)]
    if not formulas:
        formulas = [run.strip(" .,;:?!") for run in re.split(r"[A-Za-z]{2,64}(?![A-Za-z(\\{])", question)]
        formulas = [run for run in formulas if len(run) > 1 or run.isdigit()]
    sides = [side for formula in formulas for side in formula.split("=")]
    parts = dict.fromkeys(part for part in formulas + sides if part.strip() and len(part) <= 512)
    return frozenset(arranged(normal_form(part), collected=collected) for part in parts)


@dataclass(slots=True)
class _Operators:
    found: set[str] = field(default_factory=set)

    def shape(self, tree: Term) -> str:
        """Record the operators of a tree and return its kind.

        Returns:
            ``number`` for a plain number, ``ten`` for a power of ten, ``rational``, ``root``, ``constant``, ``sum`` of
            constants, ``list`` or ``symbol``.
        """
        if tree.kind in ("number", "mixed", "repeating"):
            return "number"
        if tree.kind == "symbol":
            return "constant" if tree.text in _CONSTANTS else "symbol"
        if is_mixed(tree):
            return "number"
        shapes = [self.shape(part) for part in tree.parts]
        match tree.kind:
            case "minus" | "either" | "degrees":
                return shapes[0]
            case "sum":
                return self._sum(shapes)
            case "product":
                return self._product(tree, shapes)
            case "quotient":
                return self._quotient(tree, shapes)
            case "power":
                return self._power(tree, shapes)
            case "root":
                self.found.add("root")
                return "root" if shapes[0] != "symbol" else "symbol"
            case "factorial":
                self.found.add("factorial")
            case "call":
                self.found.add(tree.text)
            case "matrix":
                self.found |= {"determinant"} if tree.text == "vmatrix" else set()
                return "list"
            case "list":
                return "list"
        return "symbol"

    def _sum(self, shapes: list[str]) -> str:
        if "list" in shapes:
            self.found.add("sum of lists")
        if sum(shape in ("number", "rational", "ten") for shape in shapes) > 1:
            self.found.add("sum of numbers")
            if len(set(shapes) - {"number", "ten"}) == 0:
                return "rational"
        constants = sum(shape not in ("symbol", "list") for shape in shapes)
        if constants > 1:
            self.found.add("sum of constants")
        if shapes.count("sum"):
            self.found.add("sum of sums")
        return "sum" if constants == len(shapes) else "symbol"

    def _product(self, tree: Term, shapes: list[str]) -> str:
        if shapes == ["number", "ten"] and tree.text:
            return "number"
        if "list" in shapes:
            self.found.add("product of lists")
        rational = sum(shape in ("number", "rational", "ten") for shape in shapes)
        if rational > 1 or shapes.count("root") > 1 or shapes.count("sum") > 1:
            self.found.add("product of numbers")
        if rational == len(shapes):
            return "rational"
        return "symbol" if "symbol" in shapes else "constant" if "sum" not in shapes else "sum"

    def _quotient(self, tree: Term, shapes: list[str]) -> str:
        above, below = (
            exact(part) if shape == "number" else None for part, shape in zip(tree.parts, shapes, strict=True)
        )
        if above is not None and below is not None and above.denominator == below.denominator == 1:
            if below not in (0, 1) and gcd(int(above), int(below)) == abs(below):
                self.found.add("quotient of numbers")
                return "rational"
            return "number"
        if shapes == ["number", "ten"]:
            return "number"
        if all(shape in ("number", "rational", "ten") for shape in shapes):
            self.found.add("quotient of numbers")
            return "rational"
        if shapes[1] == "sum" and shapes[0] != "symbol":
            self.found.add("quotient")
        return "symbol" if "symbol" in shapes else "sum" if "sum" in shapes else "constant"

    def _power(self, tree: Term, shapes: list[str]) -> str:
        base, exponent = shapes
        value = exact(tree.parts[1]) if exponent != "symbol" else None
        if base == "list":
            self.found.add("power of a list")
            return "list"
        if tree.parts[0].text == "10" and value is not None and value.denominator == 1:
            return "ten"
        if value is not None and value.denominator != 1:
            self.found.add("root")
            return "root" if base != "symbol" else "symbol"
        if base in ("number", "rational", "ten", "root", "sum") and exponent != "symbol":
            self.found.add("power" if value != Fraction(1) else "product of numbers")
            return "rational" if base in ("number", "rational", "ten") else "constant"
        if base == "constant" and value not in (1, -1):
            self.found.add("power" if tree.parts[0].text == "i" else "power of a constant")
        return "symbol" if "symbol" in shapes else "constant"
