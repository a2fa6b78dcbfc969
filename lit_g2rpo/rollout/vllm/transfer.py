"""How weights enter a vLLM worker: as tensors of its own process, or as files that the trainer has written.

Only vLLM's processes import this, and a trainer that builds an engine; a server imports it for its extension of the
worker, which registers the backend.
"""

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory

from lit_g2rpo.rollout.vllm.push import BACKEND


@dataclass
class Connection(WeightTransferInitInfo):  # type: ignore[misc]
    """What connects trainer and worker: nothing."""


@dataclass
class Part(WeightTransferUpdateInfo):  # type: ignore[misc]
    """Some of the weights, under the names of the checkpoint.

    Args:
        weights: names and tensors, if engine and trainer are one process.
        paths: files of safetensors.
    """

    weights: Iterable[tuple[str, Tensor]] = ()
    paths: list[str] = field(default_factory=list)


class Transfer(WeightTransferEngine[Connection, Part]):  # type: ignore[misc]  # vLLM's classes are not known to mypy
    """Load weights into a worker in place, layer by layer, so that no second copy of the model exists."""

    init_info_cls, update_info_cls = Connection, Part

    @override
    def init_transfer_engine(self, init_info: Connection) -> None:
        """Do nothing, since nothing is connected."""

    @override
    def start_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

        initialize_layerwise_reload(self.model)

    @override
    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        # vLLM's own method also does this on the CPU, where there is nothing to wait for
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    @override
    def receive_weights(self, update_info: Part) -> None:
        from safetensors.torch import load_file

        self.model.load_weights(iter(update_info.weights))
        for path in update_info.paths:
            self.model.load_weights(iter(load_file(path).items()))

    @override
    def finish_weight_update(self) -> None:
        from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

        # it warns of every layer without a new weight, also of those that only hold what is computed
        with _quiet(finalize_layerwise_reload.__module__, "RotaryEmbedding: Failed to load weights"):
            finalize_layerwise_reload(self.model, self.model_config)

    @override
    def shutdown(self) -> None:
        """Do nothing, since nothing is connected."""


@contextmanager
def _quiet(name: str, ending: str) -> Iterator[None]:
    """Leave messages with an ending out of a log.

    Args:
        name: name of the logger.
        ending: how the messages end.
    """

    def keep(record: logging.LogRecord) -> bool:
        return not record.getMessage().endswith(ending)

    logger = logging.getLogger(name)
    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)


class Extension:
    """An empty extension of a server's worker: vLLM imports this file for it, which registers the backend."""


WeightTransferEngineFactory.register_engine(BACKEND, Transfer)
