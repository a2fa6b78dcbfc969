"""LaTeX rewriting, command by command: remove sizes and fonts, unify spellings, insert braces."""

import re

from lit_g2rpo.rewards.answers.symbols import BLANKS, DROPPED, FONTS, MARKS, SPELLINGS

NARROW, TIGHT, DOLLAR = "\ue000", "\ue001", "\ue002"
"""Marks for a narrow space, a negative space, and a dollar sign that is not a delimiter."""

_ARGUMENTS = {"frac": 2, "binom": 2, "sqrt": 1, "overline": 1, "dot": 1, "mathbb": 1, "vec": 1, "hat": 1}
_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|.", re.DOTALL)
_NARROW_BLANKS = {",", ";", ":", ">", "thinspace", "medspace", "thickspace"}


def rewritten(text: str) -> str:
    r"""Rewrite whole commands only: ``\left(`` is a bracket, ``\leftarrow`` stays an arrow.

    ``\frac12``, ``\sqrt10``, ``x^-1`` and ``\sqrt(2)`` get the braces that their author meant: a root or a power takes
    all digits.
    """
    return _joined(_Rewriter(_TOKEN.findall(text)).run())


class _Rewriter:
    """Rewrite in one pass over the tokens; ``stack`` has the open brackets, ``need`` how many arguments are missing."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = tokens
        self.at = 0
        self.out: list[str] = []
        self.stack: list[tuple[str, str, int]] = []
        self.need = 0
        self.of = ""

    def run(self) -> list[str]:
        while self.at < len(self.tokens):
            token = self.tokens[self.at]
            self.at += 1
            if len(token) > 1:
                self._command(SPELLINGS.get(token[1:], token[1:]))
            else:
                self._character(token)
        return self.out

    def _command(self, name: str) -> None:
        following = self.tokens[self.at] if self.at < len(self.tokens) else ""
        if name in DROPPED:
            # \left. is an invisible bracket
            self.at += following == "." and name in ("left", "right")
        elif name in MARKS:
            self.out.append(TIGHT if name in "!/" else DOLLAR if MARKS[name] == "$" else MARKS[name])
        elif name in BLANKS:
            self.out.append(NARROW if name in _NARROW_BLANKS else " ")
        elif name in ("(", ")", "[", "]"):
            pass
        elif name in FONTS:
            if "{" in (following, following.strip() or "".join(self.tokens[self.at + 1 : self.at + 2])):
                self.out.append("\\text")
        elif name in _ARGUMENTS:
            self.out.append(f"\\{name}")
            self.need, self.of = _ARGUMENTS[name], name
        elif name == "circ" and self.out[-1:] == ["^"]:
            self.out.append("\\circ")
            self.need = 0
        else:
            self._emit(f"\\{name}")

    def _character(self, token: str) -> None:
        if token == "{" or (token == "(" and self.need):
            self.out.append("{")
            self.stack.append(("}" if token == "{" else ")", "}", max(self.need - 1, 0)))
            self.need = 0
        elif token == "(":
            self.out.append("(")
            self.stack.append((")", ")", 0))
        elif token in "})":
            self._close(token)
        elif token == "[" and self.need and self.of == "sqrt" and "]" in self.tokens[self.at : self.at + 16]:
            end = self.tokens.index("]", self.at) + 1
            self.out.append("".join(["[", *self.tokens[self.at : end]]).replace(" ", ""))
            self.at = end
        elif token in "^_":
            self.out.append(token)
            self.need, self.of = 1, "log" if self.out[-2:-1] == ["\\log"] else token
        elif token.isspace():
            self.out.append(" ")
        elif token == "~":
            self.out.append("~" if self._between_digits() else " ")
        else:
            self._emit(token)

    def _emit(self, token: str) -> None:
        if not self.need:
            self.out.append(token)
            return
        sign = token if token in "+-" and self.of == "^" and self.tokens[self.at : self.at + 1] else ""
        if sign:
            token = self.tokens[self.at]
            self.at += 1
        if token.isdigit() and self.of in ("sqrt", "^", "_"):
            while self.at < len(self.tokens) and self.tokens[self.at].isdigit():
                token += self.tokens[self.at]
                self.at += 1
        self.out.append(f"{{{sign}{token}}}")
        self.need -= 1

    def _close(self, token: str) -> None:
        if token == "}":
            # a bracket left open inside braces, as in [0, 1), ends where they close
            while self.stack and self.stack[-1][0] == ")":
                self.stack.pop()
        if self.stack and self.stack[-1][0] == token:
            _, token, self.need = self.stack.pop()
        self.out.append(token)

    def _between_digits(self) -> bool:
        return "".join(self.out[-1:])[-1:].isdigit() and "".join(self.tokens[self.at : self.at + 1]).isdigit()


def _joined(tokens: list[str]) -> str:
    # a command ends where no letter follows
    return "".join(
        f"{token} " if token[:1] == "\\" and token[-1:].isalpha() and after[:1].isalpha() else token
        for token, after in zip(tokens, [*tokens[1:], ""], strict=False)
    )
