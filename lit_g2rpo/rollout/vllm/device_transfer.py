"""Weights from GPU to GPU, by the backends that vLLM has for a server: NCCL, and CUDA-IPC on the same GPU.

Written against vLLM 0.32 and not run: tests cover what needs no GPU, which is what is handed to vLLM.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.vllm.push import named_weights

if TYPE_CHECKING:
    from lit_g2rpo.rollout.vllm.server.server import Server

Backend = Literal["nccl", "ipc"]


class DeviceLoad:
    """Send a policy's weights from its GPU to a server, which is connected for one update and then released.

    Args:
        backend: ``nccl`` for servers on other GPUs, ``ipc`` for a server on the policy's own.
        policy: the policy, whose weights are gathered as long as this is used.
        ranks: ranks of the run.

    Raises:
        UserError: if the policy is on no GPU, or CUDA-IPC would need a handle of each rank.
    """

    def __init__(self, backend: Backend, policy: Policy, ranks: int) -> None:
        where = f"model.rollout.engine_options.transfer is {backend}"
        if policy.device.type != "cuda":
            raise UserError(f"{where}, but the policy is on {policy.device.type}; give files")
        if backend == "ipc" and ranks > 1:
            raise UserError(f"{where}, which is for one rank, but the run has {ranks}; give nccl or files")
        self._backend, self._policy = backend, policy

    @property
    def size(self) -> int:
        """Bytes of the weights."""
        return sum(weight.nbytes for _, weight in named_weights(self._policy))

    def __call__(self, server: "Server", post: Callable[..., None]) -> None:
        """Make a whole update of a server's weights."""
        assert server.serves is not None, "a leased server is known"
        # called in a thread, which starts on the first GPU
        with torch.cuda.device(self._policy.device), torch.no_grad():
            sender = connected(self._backend, self._policy, control(post), server.serves.workers)
            try:
                sender.send_weights()
            finally:
                sender.shutdown()
        post("/shutdown_weight_transfer_engine")


def connected(backend: Backend, policy: Policy, client: Any, workers: int) -> Any:
    """Connect a policy to the workers of a server.

    Args:
        client: calls the server, see `control`.
        workers: number of its workers.

    Returns:
        vLLM's ``TrainerWeightTransferEngine``.
    """
    from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

    info: Any
    if backend == "nccl":
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo
        from vllm.utils.network_utils import get_ip, get_open_port

        info = NCCLTrainerInitInfo(get_ip(), get_open_port(), workers + 1, rank=0)
    else:
        from vllm.distributed.weight_transfer.ipc_engine import IPCTrainerInitInfo

        # packed, so that one buffer is shared instead of a copy of every weight
        info = IPCTrainerInitInfo(packed=True, rank=0)
    return WeightTransferTrainerFactory.trainer_init(info, client=client, source=PolicySource(policy))


class PolicySource:
    """A policy's gathered weights as vLLM's senders read them: described first, then one at a time.

    It has the methods of vLLM's ``WeightSource`` that they call; the class itself cannot be imported without vLLM.

    Args:
        policy: the policy.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy

    def metadata(self) -> list[Any]:
        """Return name, type and shape of every weight."""
        from vllm.distributed.weight_transfer.base import ParamMeta

        return [ParamMeta(name, weight.dtype, tuple(weight.shape)) for name, weight in named_weights(self._policy)]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return named_weights(self._policy)


def control(post: Callable[..., None]) -> Any:
    """Return the client with which vLLM's senders call a server.

    Args:
        post: sends a request to a path of the server, with content that JSON can carry or None.

    Returns:
        vLLM's ``VLLMWeightSyncClient``, which turns the handles of CUDA-IPC into text; a server reads those only with
        ``VLLM_ALLOW_INSECURE_SERIALIZATION=1``.
    """
    from vllm.distributed.weight_transfer import HTTPVLLMWeightSyncClient

    class Control(HTTPVLLMWeightSyncClient):  # type: ignore[misc]  # vLLM's classes are not known to mypy
        def _post(self, path: str, json: Any = None) -> None:
            post(f"/{path}", json)

    return Control("")
