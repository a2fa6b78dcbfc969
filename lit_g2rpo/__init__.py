"""Gaussian GRPO for vision-language models, on Lightning."""

import lazy_loader

__version__ = "0.1.0"

# the names come from __init__.pyi, which type checkers read too; each is imported on first use
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
