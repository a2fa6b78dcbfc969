"""What a strategy must do around sampling; strategies register their own."""

from contextlib import AbstractContextManager, nullcontext
from functools import singledispatch
from typing import Any


@singledispatch
def generation_context(strategy: Any, model: Any) -> AbstractContextManager[Any]:
    """Context in which whole weights are there to sample with; all ranks enter together.

    Args:
        strategy: the trainer's strategy.
        model: the module that is sampled from.

    Returns:
        A context manager that does nothing, unless the strategy has registered another.
    """
    return nullcontext()
