"""The embedded default: a small Qwen3-VL and six visual tasks drawn from real images, with no download."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_g2rpo.mini.data import MiniPrompts

__all__ = ["MiniPrompts"]


def __getattr__(name: str) -> Any:
    """Import Lightning only when the data module is accessed."""
    if name == "MiniPrompts":
        from lit_g2rpo.mini.data import MiniPrompts

        return MiniPrompts
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
