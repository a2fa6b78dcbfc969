"""Lists and objects stored as text in a table: JSON, or as Python prints them."""

import ast
import json
import re
from typing import Any

MAX_CHARACTERS = 2**20

# a list of texts, lists or objects as Python prints it; numbers alone may be mathematics
_PYTHON = re.compile(r"""[\[{]\s*['"\[{]""")
# numpy prints a list of texts without commas, and Python would join neighboring texts
_ADJACENT = re.compile(r"""['"]\s+['"]""")
# LaTeX with single backslashes, which Python would turn into a tab or a warning
_LATEX = re.compile(r"""(?<!\\)(?:\\\\)*\\[^\\'"nxuU]""")


def from_text(value: Any) -> Any:
    """Read a list or an object that is written as text, in JSON or as Python prints it.

    Returns:
        The list or dict; ``value`` itself if it is neither, or written in another way.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if (text[:1] + text[-1:]) not in ("[]", "{}") or len(text) > MAX_CHARACTERS:
        return value
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        if not _PYTHON.match(text) or _ADJACENT.search(text) or _LATEX.search(text):
            return value
        try:
            found = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return value
    return found if isinstance(found, list | dict) else value
