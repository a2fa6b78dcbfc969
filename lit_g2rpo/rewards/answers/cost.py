"""Results that would take too long to be read, told by their text."""

import re

MAX_BARS = 16
"""Bars of absolute values; where one opens and where it closes is tried in all ways."""
MAX_OPENED = 8
"""Braces that open one behind the other."""
MAX_CHOSEN = 4
"""Digits of a number that a binomial coefficient is taken of."""

_BAR = re.compile(r"\\?\||\\(?:[lr]?[vV]ert|mid)(?![A-Za-z])")
_OPENED = re.compile(rf"(?:\{{ ?){{{MAX_OPENED + 1}}}")
_LARGE = rf"(?:\d{{{MAX_CHOSEN + 1}}}|[\^!])"
_BINOMIAL = re.compile(
    rf"\\[dt]?binom ?\{{?[^{{}}\\]{{0,32}}{_LARGE}|{_LARGE}[^{{}}\\]{{0,32}}\}}? ?\\choose", re.ASCII
)


def slow_to_read(text: str) -> bool:
    """Tell a result in normal form that would take the reader of LaTeX seconds: long chains of bars, nested braces.

    How large it gets when it is computed is seen once it is read (`running.size`).
    """
    return len(_BAR.findall(text)) > MAX_BARS or bool(_OPENED.search(text) or _BINOMIAL.search(text))
