"""Words of a command line that are short for others, or set what the parser's nested keys cannot."""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from lit_g2rpo.errors import UserError

SHORT = {
    "--limit": "--data.limit",
    "--repeats": "--model.evaluation.repeats",
    "--baseline": "--model.evaluation.baseline",
}
"""Short names of keys that only exist in evaluation."""

TASK_KEY = re.compile(r"--data\.(?:init_args\.)?tasks\.(?P<task>[^.=]+)\.(?P<key>[^.=]+)(?:=(?P<value>.*))?", re.DOTALL)


def task_words(arguments: list[str]) -> tuple[list[str], dict[str, dict[str, Any]]]:
    """Extract the words that set one key of one task, which the parser's nested keys cannot.

    Returns:
        The other words, and the values by task and key.

    Raises:
        UserError: if a key has no value, or one that is not YAML.
    """
    others: list[str] = []
    said: dict[str, dict[str, Any]] = {}
    words = iter(arguments)
    for word in words:
        if not (found := TASK_KEY.fullmatch(word)):
            others.append(word)
            continue
        value = next(words, None) if found["value"] is None else found["value"]
        where = f"data.tasks.{found['task']}.{found['key']}"
        if value is None or value.startswith("--"):
            raise UserError(f"{where} has no value; give one after the key")
        try:
            said.setdefault(found["task"], {})[found["key"]] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"{where} is {value!r}, which is not YAML") from None
    return others, said


def split_key(word: str) -> tuple[str, str]:
    """Split ``--key=value`` into ``--key`` and ``=value``; other words have no second part."""
    key, equals, value = word.partition("=")
    return key, equals + value


def pairs(words: list[str]) -> Iterator[tuple[str, str | None]]:
    """Yield each key with its value, whether joined by ``=`` or not; a key without a value has None."""
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        if word.startswith("--"):
            key, joined, value = word.partition("=")
            yield key, value if joined else None if following.startswith("--") else following


def take(key: str, words: list[str]) -> tuple[str | None, list[str]]:
    """Remove an option from the words.

    Returns:
        Its last value, or None if it is missing, and the other words.

    Raises:
        UserError: if it has no value.
    """
    value, others, rest = None, [], list(words)
    while rest:
        word = rest.pop(0)
        if word != key and not word.startswith(f"{key}="):
            others.append(word)
            continue
        value = word.partition("=")[2] if "=" in word else rest.pop(0) if rest else ""
        if not value or value.startswith("--"):
            raise UserError(f"{key} has no value; give one after the key")
    return value, others


def without(keys: tuple[str, ...], words: list[str]) -> list[str]:
    """Remove keys that only some verbs know, with their values."""
    kept, skip = [], False
    for word in words:
        own = word.split("=")[0].split(".")[0] in keys
        if not (own or skip):
            kept.append(word)
        skip = own and "=" not in word
    return kept
