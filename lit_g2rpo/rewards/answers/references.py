"""Gold answers that list several right ones, and lists that a table holds as text."""

import ast
import json
import re
from typing import Any

MAX_LIST_CHARACTERS = 2**16

# Python joins 'a' 'b', as numpy prints two texts, into one
_ADJACENT = re.compile(r"""['"]\s+['"]""")
# LaTeX with single backslashes, of which Python would make a tab or a warning
_LATEX = re.compile(r"""(?<!\\)(?:\\\\)*\\[^\\'"nxuU]""")


def references(gold: str) -> list[str]:
    """Read the right answers, none of them empty: those of a list of texts, or the one text."""
    value = text_list(gold)
    if value and all(isinstance(item, str) for item in value):
        return [item for item in value if item.strip()]
    return [gold] if gold.strip() else []


def text_list(text: str) -> list[Any] | None:
    """Read a list that is written as text, as JSON has it or as Python does: ``['a', 'b']``; None if it is none."""
    body = text.strip()
    if not (body.startswith("[") and body.endswith("]")) or len(body) > MAX_LIST_CHARACTERS:
        return None
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        if not body[1:].lstrip().startswith(("'", '"')) or _ADJACENT.search(body) or _LATEX.search(body):
            return None
        try:
            value = ast.literal_eval(body)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return value if isinstance(value, list) else None
