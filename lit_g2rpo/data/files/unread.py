"""Columns with images or options that are not read; reporting them keeps a policy from being trained blind."""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from lit_g2rpo.data.media.row_media import texts_of
from lit_g2rpo.rewards.answers.written import from_text
from lit_g2rpo.rewards.rows.media import IMAGE_COLUMN, NOTHING, is_image
from lit_g2rpo.rewards.rows.turns import IMAGE
from lit_g2rpo.rewards.rows.values import listed, shown

NAMES_IMAGE = re.compile(r"(image|img|picture|photo)_?(ids?|no|number|index|idx)", re.IGNORECASE)
"""Names of columns that identify the image of a row."""
READ = {
    "id", "problem", "problem_type", "task_type", "options", "images", "data_source", "answer", "demonstration",
    "earlier_turns", "conversational", "solution", "choices", "completion", "completions",
}  # fmt: skip
"""Columns that are read, or whose text may name an image."""
OPTIONS = re.compile(
    r"(multi(ple)?_?)?(options?|choices?|candidates?)_?(list|texts?)?|(answer|mc)_?(options|choices)", re.IGNORECASE
)
OPTION = re.compile(r"(?i:option|choice|opt?|candidate|answer)[_ -]?[A-Ha-h]|[A-H]")
"""Names of columns with options, all in one or one each."""
LETTER = re.compile(r"\(?[A-Ha-h][.)]?")
LINKED = re.compile(r"!\[[^\]]*\]\([^)]*\)|<img\b[^>]*\bsrc=[^>]*>|<img>[^<]*</img>", re.IGNORECASE)
"""Images in Markdown or HTML syntax."""
MAX_DEPTH = 16
NONE = "'--column images=' if the rows are text alone"


def unread_images(row: Mapping[str, Any]) -> str | None:
    """Say in one line which column has images that are not read; None if there is none, or some images are read.

    Args:
        row: the row, in canonical shape.
    """
    options = [option.partition(". ")[2] or option for option in row["options"]]
    if options and all("." in option and is_image(option, loose=False) for option in options):
        return f"its options are images ({shown(options[0])}); put them in 'images', and '<image 1>', .. in 'options'"
    if row["images"] or row.get("videos") or any(IMAGE in text for text in texts_of(row)):
        return None
    others = [(key, value) for key, value in row.items() if key not in READ and _is_worth_a_look(value)]
    found = [name for key, value in others for name in _holding(key, value)]
    if found:
        names = ", ".join(map(repr, found))
        option = "--column images=" + ",".join(found)
        return (
            f"no image is read, but {names} {'holds one' if len(found) == 1 else 'hold some'}; name the column in "
            f"data.columns.images ({option}), or {NONE}"
        )
    if name := next((key for key, value in row.items() if key not in READ and _names_image(key, value)), None):
        return f"no image is read, but {name!r} names one; give its path in 'images', or {NONE}"
    if link := next(filter(None, (LINKED.search(text) for text in texts_of(row) if "](" in text or "<" in text)), None):
        return f"no image is read, but the question has {shown(link[0])}; give its path in 'images', or {NONE}"
    return None


def unread_options(row: Mapping[str, Any]) -> str | None:
    """Say in one line which columns have options that are not read; None if there are none, or some options are read.

    Args:
        row: the row, in canonical shape.
    """
    answer = row.get("answer")
    if row["options"] or not isinstance(answer, str) or not LETTER.fullmatch(answer.strip()):
        return None
    found = {name: listed(from_text(value)) for name, value in row.items() if OPTIONS.fullmatch(name)}
    found = {name: value for name, value in found.items() if isinstance(value, list) and len(value) > 1}
    each = {name[-1].lower(): name for name in row if OPTION.fullmatch(name)}
    names = list(found)[:1] or [each[letter] for letter in sorted(each)] * ("a" in each and len(each) > 1)
    texts = next(iter(found.values()), [row[name] for name in names])
    # the question itself may list them
    if not names or all(str(text) in row["problem"] for text in texts):
        return None
    return (
        f"no options are read, but {', '.join(map(repr, names))} {'holds' if len(names) == 1 else 'hold'} some; name "
        f"them in data.columns.options (--column options={','.join(names)})"
    )


def _is_worth_a_look(value: Any) -> bool:
    """Return quickly whether a value may contain an image."""
    if isinstance(value, str):
        # a path has a dot; base64 and data URLs are long
        return "." in value or len(value) > 40
    return value is not None and not isinstance(value, int | float)


def _names_image(name: str, value: Any) -> bool:
    if not _is_image_name(name) or isinstance(value, bool):
        return False
    if isinstance(value, str):
        return len(value.split()) == 1 and value.casefold() not in NOTHING
    return value not in (None, [], {})


@lru_cache(maxsize=4096)
def _is_image_name(name: str) -> bool:
    return bool(NAMES_IMAGE.fullmatch(name) or IMAGE_COLUMN.fullmatch(name))


def _holding(name: str, value: Any, depth: int = 0) -> Iterator[str]:
    """Find the columns, and the keys inside them, whose values are images."""
    value = listed(from_text(value))
    if is_image(value, loose=False):
        yield name
    elif isinstance(value, Mapping) and depth < MAX_DEPTH:
        for key, inside in value.items():
            yield from _holding(f"{name}.{key}", inside, depth + 1)
    elif isinstance(value, list) and depth < MAX_DEPTH:
        for inside in value[:8]:
            if found := list(_holding(name, inside, depth + 1)):
                yield found[0]
                return
