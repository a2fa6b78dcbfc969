"""Data: files and rows to prompts, the prompt stream, and the loaders."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_g2rpo.data.json_datamodule import JsonPrompts

__all__ = ["JsonPrompts"]


def __getattr__(name: str) -> Any:
    """Import the datamodule when it is asked for: Lightning takes seconds that readers and check need not pay."""
    if name == "JsonPrompts":
        from lit_g2rpo.data.json_datamodule import JsonPrompts

        return JsonPrompts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
