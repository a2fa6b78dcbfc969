"""Data: files and rows that become prompts, the prompt stream, and the loaders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_g2rpo.data.json_datamodule import JsonPrompts

__all__ = ["JsonPrompts"]


def __getattr__(name: str) -> Any:
    """Import the datamodule on first use: importing Lightning takes seconds, and readers do not need it."""
    if name == "JsonPrompts":
        from lit_g2rpo.data.json_datamodule import JsonPrompts

        return JsonPrompts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
