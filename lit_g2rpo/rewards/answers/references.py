"""Gold answers that list several right answers."""

from typing import Any

from lit_g2rpo.rewards.answers.written import from_text


def references(gold: str) -> list[str]:
    """Read the right answers from a list of texts or a single text, without empty ones."""
    value = text_list(gold)
    if value and all(isinstance(item, str) for item in value):
        return [item for item in value if item.strip()]
    return [gold] if gold.strip() else []


def text_list(text: str) -> list[Any] | None:
    """Read a list that is written as text; None if it is not a list."""
    value = from_text(text)
    return value if isinstance(value, list) else None
