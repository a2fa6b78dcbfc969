"""Formulas as trees: a parser of normal forms that accepts any text and reads unknown parts as symbols."""

import re
from dataclasses import dataclass
from functools import lru_cache

from lit_g2rpo.rewards.answers.notation import MAX_DEPTH, compact
from lit_g2rpo.rewards.answers.symbols import FUNCTIONS

OPERATORS = {
    **dict.fromkeys(("int", "iint", "iiint", "oint"), "integral"), **dict.fromkeys(("sum",), "series"),
    **dict.fromkeys(("prod",), "series product"), **dict.fromkeys(("lim", "limsup", "liminf"), "limit"),
    **dict.fromkeys(("partial", "nabla"), "derivative"), **dict.fromkeys(("bmod", "mod", "pmod"), "remainder"),
    **dict.fromkeys(("choose",), "binomial"), **dict.fromkeys(("cap", "setminus", "bigcup", "bigcap"), "set operation"),
}  # fmt: skip
"""Commands for a computation, with its kind."""

_TOKEN = re.compile(
    r"\d+ \d+/\d+|(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d{1,4}(?![\d.]))?|"
    r"\\text\{[^{}]*\}|\\[A-Za-z]+ ?|\\.|.",
    re.DOTALL | re.ASCII,
)
_RELATIONS = {"=", "<", ">", ",", ";", "&", "\\\\", "\\le", "\\ge", "\\neq", "\\approx", "\\in", "\\cup",
              "\u2013", "\\rightarrow", "\\leftarrow", "\\equiv", "\\sim", "~"}  # fmt: skip
_CLOSERS = {")", "]", "}", "\\}", "\\rfloor", "\\rceil", "\\rangle", "\\end"}
_OPENERS = {"(", "[", "\\{", "\\langle"}
_SIGNS = {"+", "-", "\\pm", "\\mp"}
_STEPS = {"\\lfloor": "floor", "\\lceil": "ceil"}


@dataclass(slots=True, frozen=True)
class Term:
    """A node of a parsed formula.

    Args:
        kind: ``number``, ``mixed``, ``repeating``, ``symbol``, ``sum``, ``minus``, ``either`` (plus or minus),
            ``product``, ``quotient``, ``power``, ``root``, ``degrees``,
            ``factorial``, ``call``, ``list`` or ``matrix``.
        parts: its children.
        text: the number, the symbol, the kind of function, or the opening bracket of a list.
    """

    kind: str
    parts: tuple["Term", ...] = ()
    text: str = ""


class TooDeep(ValueError):
    """A formula that is nested too deeply to read."""


@lru_cache(4096)
def term(form: str) -> Term:
    """Read a normal form; several sides or items give a ``list``.

    Raises:
        TooDeep: if it is nested beyond ``MAX_DEPTH``.
    """
    return _Reader([token.rstrip() or " " for token in _TOKEN.findall(compact(form))]).items("", 0)


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.bars = 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self) -> str:
        token = self.peek()
        self.at += 1
        return token

    def items(self, opener: str, depth: int) -> Term:
        """Read one side or item, to the end or past a closing bracket."""
        found: list[Term] = []
        if depth > MAX_DEPTH:
            raise TooDeep
        separated = closed = False
        while self.peek():
            token = self.peek()
            if token in _CLOSERS and opener:
                self.take()
                closed = True
                break
            if token in _RELATIONS or token in _CLOSERS:
                separated = True
                found += [Term("symbol")] * (token in _CLOSERS)
                self.take()
            else:
                found.append(self.sum(depth))
        found += [Term("symbol")] * bool(opener and not closed)
        if len(found) == 1 and not separated and opener not in ("\\{", "[", "\\langle"):
            return found[0]
        return Term("list", tuple(found), opener)

    def sum(self, depth: int) -> Term:
        terms = [self.product(depth)]
        while self.peek() in _SIGNS:
            sign = self.take()
            terms.append(_signed(sign, self.product(depth)))
        return terms[0] if len(terms) == 1 else Term("sum", tuple(terms))

    def product(self, depth: int) -> Term:
        if self.peek() in _SIGNS:
            if depth > MAX_DEPTH:
                raise TooDeep
            return _signed(self.take(), self.product(depth + 1))
        factors = [self.factor(depth)]
        explicit, quotients = "", 0
        while not self._ends():
            token = self.peek()
            quotients += token in "/:"
            if quotients > MAX_DEPTH:
                raise TooDeep
            if token in ("/", ":"):
                self.take()
                above = factors[0] if len(factors) == 1 else Term("product", tuple(factors), explicit)
                factors, explicit = [Term("quotient", (above, self.signed(depth)))], ""
            elif token in ("*", "\\times", "\\cdot"):
                self.take()
                explicit = "*"
                factors.append(self.signed(depth))
            else:
                # 2 4 and 1.2.3 are not products
                factors += [Term("symbol")] * (_is_number(token) and _is_number(self.tokens[self.at - 1]))
                factors.append(self.factor(depth))
        return factors[0] if len(factors) == 1 else Term("product", tuple(factors), explicit)

    def signed(self, depth: int) -> Term:
        minus = False
        while self.peek() in ("+", "-"):
            minus ^= self.take() == "-"
        inner = Term("symbol") if self._ends() else self.factor(depth)
        return Term("minus", (inner,)) if minus else inner

    def factor(self, depth: int) -> Term:
        base = self.base(depth)
        signs = 0
        while self.peek() in ("^", "_", "!", "'"):
            token = self.take()
            signs += 1
            if signs > MAX_DEPTH:
                raise TooDeep
            if token == "!":
                base = Term("factorial", (base,))
            elif token == "^" and self.peek() == "\\circ":
                self.take()
                base = Term("degrees", (base,))
            elif token == "^":
                base = Term("power", (base, self._exponent(depth)))
            elif token == "_":
                # an index makes another symbol; on a bracket its meaning is unknown
                index = self.argument(depth)
                base = Term("symbol", (), f"{base.text}_{index.text}") if base.kind in ("symbol", "number") else base
            elif token == "'":
                base = Term("call", (base,), "derivative") if base.kind != "symbol" else base
        return base

    def _exponent(self, depth: int) -> Term:
        exponent = self.argument(depth)
        if self.peek() != "^" or depth > MAX_DEPTH:
            return exponent
        self.take()
        return Term("power", (exponent, self._exponent(depth + 1)))

    def argument(self, depth: int) -> Term:
        if self.peek() == "{":
            self.take()
            return self.items("{", depth + 1)
        return self.base(depth)

    def base(self, depth: int) -> Term:
        token = self.take()
        if token in _OPENERS or token == "{":
            return self.items(token, depth + 1)
        if token == "|":
            return self._absolute(depth)
        if token in _STEPS:
            return Term("call", (self.items(token, depth + 1),), _STEPS[token])
        if _is_number(token):
            return self._number(token)
        if token.startswith("\\") and len(token) > 2:
            return self._command(token[1:], depth)
        return Term("symbol", (), "" if token in _CLOSERS or token in _RELATIONS or token == " " else token)

    def _number(self, token: str) -> Term:
        if " " in token:
            return Term("mixed", (), token)
        if "." in token and self.peek() in ("\\overline", "\\dot"):
            self.take()
            if self.tokens[self.at : self.at + 1] == ["{"] and self.tokens[self.at + 2 : self.at + 3] == ["}"]:
                digits = self.tokens[self.at + 1]
                self.at += 3
                return Term("repeating", (), f"{token} {digits}")
            return Term("symbol")
        return Term("number", (), token)

    def _command(self, name: str, depth: int) -> Term:
        if name == "frac":
            start = self.at
            above, below = self.argument(depth), self.argument(depth)
            derivative = self.tokens[start + 1 : start + 2] == ["d"] and below.kind in ("product", "power", "symbol")
            return Term("call", (below,), "derivative") if derivative else Term("quotient", (above, below))
        if name == "sqrt":
            if self.peek() == "[":
                self.take()
                self.items("[", depth + 1)
            return Term("root", (self.argument(depth),))
        if name == "binom":
            return Term("call", (self.argument(depth), self.argument(depth)), "binomial")
        if name in FUNCTIONS:
            return self._call(FUNCTIONS[name], depth)
        if name == "begin":
            return self._matrix(depth)
        return Term("call", (), OPERATORS[name]) if name in OPERATORS else Term("symbol", (), f"\\{name}")

    def _call(self, name: str, depth: int) -> Term:
        if depth > MAX_DEPTH:
            raise TooDeep
        while self.peek() in ("_", "^"):
            self.take()
            self.argument(depth)
        arguments: list[Term] = []
        bracketed = self.peek() in ("(", "{", "[")
        while not self._ends() and self.peek() not in ("*", "\\times", "\\cdot", "/") and not self._calls():
            arguments.append(self.factor(depth + 1))
            if bracketed:
                break
        if not arguments and self._calls():
            arguments.append(self.factor(depth + 1))
        return Term("call", tuple(arguments), name)

    def _matrix(self, depth: int) -> Term:
        name = self._braced()
        if name == "array" and self.peek() == "{":
            self._braced()
        inner = self.items("\\begin", depth + 1)
        self._braced()
        return Term("matrix", inner.parts if inner.kind == "list" else (inner,), name)

    def _braced(self) -> str:
        start = self.at + 1
        while self.peek() not in ("", "}"):
            self.at += 1
        self.at += 1
        return "".join(self.tokens[start : self.at - 1])

    def _absolute(self, depth: int) -> Term:
        if self.bars or depth > MAX_DEPTH:
            return Term("symbol", (), "|")
        self.bars = 1
        inner = Term("symbol") if self._ends() else self.sum(depth + 1)
        self.bars = 0
        if self.peek() == "|":
            self.take()
        return Term("call", (inner,), "abs")

    def _calls(self) -> bool:
        return self.peek()[1:] in FUNCTIONS

    def _ends(self) -> bool:
        token = self.peek()
        return (
            token == ""
            or token in _SIGNS
            or token in _RELATIONS
            or token in _CLOSERS
            or (token == "|" and self.bars > 0)
        )


def _signed(sign: str, inner: Term) -> Term:
    return inner if sign == "+" else Term("minus" if sign == "-" else "either", (inner,))


def _is_number(token: str) -> bool:
    return token[:1].isdigit() or (token[:1] == "." and len(token) > 1)
