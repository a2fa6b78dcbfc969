"""Detection of results that would take too long to read."""

import re

MAX_BARS = 16
"""Most bars of absolute values; the reader tries every way to pair them."""
MAX_OPENED = 8
"""Most braces that open one after the other."""
MAX_CHOSEN = 4
"""Most digits of a number in a binomial coefficient."""

_BAR = re.compile(r"\\?\||\\(?:[lr]?[vV]ert|mid)(?![A-Za-z])")
_OPENED = re.compile(rf"(?:\{{ ?){{{MAX_OPENED + 1}}}")
_LARGE = rf"(?:\d{{{MAX_CHOSEN + 1}}}|[\^!])"
_BINOMIAL = re.compile(
    rf"\\[dt]?binom ?\{{?[^{{}}\\]{{0,32}}{_LARGE}|{_LARGE}[^{{}}\\]{{0,32}}\}}? ?\\choose", re.ASCII
)


def slow_to_read(text: str) -> bool:
    """Return whether the LaTeX reader would need seconds for a normal form: long chains of bars, nested braces.

    `running.size` bounds the computed size after the result is read.
    """
    return len(_BAR.findall(text)) > MAX_BARS or bool(_OPENED.search(text) or _BINOMIAL.search(text))
