"""Values that a table holds as text: JSON, or what Python prints of a list."""

import ast
import json
import re
from typing import Any

# numpy prints a list of texts without commas, and Python would read neighbouring texts as one
_NO_COMMA = re.compile(r"""(['"])\s+(['"])""")
MAX_TEXT = 2**20


def from_text(value: Any) -> Any:
    """Read a list or an object that is written as text, in JSON or as Python prints it.

    Returns:
        The list or dict; ``value`` itself if it is none, or written in another way.
    """
    if not isinstance(value, str):
        return value
    text = value.strip()
    if (text[:1] + text[-1:]) not in ("[]", "{}") or len(text) > MAX_TEXT:
        return value
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        try:
            found = None if _NO_COMMA.search(text) else ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            found = None
    return found if isinstance(found, list | dict) else value
