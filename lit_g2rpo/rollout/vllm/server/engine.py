"""vLLM servers, which sample with a copy of the weights."""

import os
import socket
import time
import uuid
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, cast

import torch.distributed as dist
from typing_extensions import override

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Finished, Pushed, RolloutEngine, Sampling
from lit_g2rpo.rollout.vllm.device_transfer import DeviceLoad
from lit_g2rpo.rollout.vllm.inputs import prompt_input
from lit_g2rpo.rollout.vllm.push import BACKEND, exchange
from lit_g2rpo.rollout.vllm.ranks import rank_count

if TYPE_CHECKING:
    from lit_g2rpo.rollout.vllm.server.fleet import Fleet
    from lit_g2rpo.rollout.vllm.server.protocol import Serves
    from lit_g2rpo.rollout.vllm.server.server import Load, Server

PROCESS = uuid.uuid4().hex[:12]
"""Name of this process as a client of servers; those of a run use the first rank's."""
MOST_REQUESTS = 128
"""Most requests to a server at a time, each of which takes a thread."""
ATTACHED = count()
"""Numbers the policies that are attached in this process, which happens alike on all ranks."""


class VllmServerEngine(RolloutEngine):
    """Sample on vLLM servers over HTTP; all ranks of a run share them.

    Every completion is drawn from the run's counters, so it does not matter which server samples it, or how often one
    is restarted. ``python -m lit_g2rpo serve`` starts a server.

    Args:
        urls: addresses of the servers, such as ``http://127.0.0.1:8000``; they share the prompts.
        api_key_env: environment variable that holds the servers' key; empty for servers without one.
        patience: seconds without an answer or a token after which the run is saved and ends.
        folder: where the first rank writes the weights for the servers, which must see it under the same path; null
            for memory that the processes of this machine share.
        transfer: ``files`` for weights in that folder; ``nccl`` sends them from the first rank's GPU to servers on
            other GPUs, ``ipc`` to a server on the same GPU, by vLLM's own backends, which the servers must be started
            with. A server that restarts in the middle of a rollout then ends the run, since only files can be read
            again. Neither has been run.
    """

    separate: ClassVar[bool] = True
    gap_causes: ClassVar[str] = "a server whose dtype, kernels or vLLM version are others, or stale weights"

    def __init__(
        self,
        urls: list[str],
        api_key_env: str = "",
        patience: float = 60.0,
        folder: str | None = None,
        transfer: Literal["files", "nccl", "ipc"] = "files",
    ) -> None:
        where = "model.rollout.engine_options"
        if transfer not in ("files", "nccl", "ipc"):
            raise UserError(f"{where}.transfer is {transfer!r}; give files, nccl or ipc")
        if not isinstance(urls, list) or not urls or len(set(urls)) < len(urls):
            raise UserError(f"{where}.urls is {urls!r}; give a list of different addresses: [http://127.0.0.1:8000]")
        if not patience > 0:
            raise UserError(f"{where}.patience is {patience}; give seconds above 0")
        if folder is not None and not Path(folder).is_dir():
            raise UserError(f"{where}.folder is {folder!r}, which is no folder here")
        self.urls, self.patience, self._folder = urls, patience, folder
        self._key = _key(api_key_env, f"{where}.api_key_env")
        self._transfer, self._load = transfer, cast("Load | None", None)
        self._fleet: Fleet[list[Completion]] | None = None
        self._files = Path()
        self._run = self._version = ""
        self._attached = 0

    @override
    def check(self) -> None:
        if find_spec("msgspec") is None:
            raise UserError(
                "model.rollout.engine is vllm_server, but msgspec is not installed: "
                "pip install 'lit_g2rpo[vllm_server]'"
            )
        if self._fleet is None:
            self._fleet = self._meet()

    @override
    def attach(self, policy: Policy) -> None:
        super().attach(policy)
        self._attached, self._version = next(ATTACHED), ""

    @override
    def push(self) -> None:
        from lit_g2rpo.rollout.vllm.server.weight_files import write_weights

        self.check()
        assert self._fleet is not None
        start, size = time.perf_counter(), 0
        version = f"{self._run}.{self._attached}.{self.policy.version}"
        if version != self._version:
            try:
                with _stopping():
                    if self._transfer != "files":
                        load = DeviceLoad(self._transfer, self.policy, rank_count())
                        self._load, size = (load, load.size) if _rank() == 0 else (None, 0)
                    elif _rank() == 0:
                        size = write_weights(self.policy, self._files, version)
                    self._version = version
                    self._fleet.bring_up()
            finally:
                # afterwards the weights may be split again, or changing
                self._load = None
            self.pushed = Pushed(time.perf_counter() - start, size)
        else:
            self.pushed = Pushed()

    @override
    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        from lit_g2rpo.rollout.vllm.server.protocol import group_of, group_request

        policy, fleet = self.policy, self._fleet
        assert fleet is not None, "push comes first"
        ends = policy.eos_token_ids
        merge = policy.backbone.family.image_sizes(policy.base.config).merge
        longest = min(server.serves.max_model_len for server in fleet.servers if server.serves is not None)

        def request(prompt: Prompt) -> bytes:
            own = prompt_input(policy.encode(prompt), merge)
            if len(own.token_ids) + sampling.max_tokens > longest:
                raise UserError(
                    f"row {prompt.id}: {len(own.token_ids)} prompt tokens and up to {sampling.max_tokens} completion "
                    f"tokens are more than the servers' max_model_len {longest}; start them with a longer one"
                )
            return group_request(own, prompt.id, group_size, sampling, policy)

        def read(_: int, reply: bytes) -> list[Completion]:
            return group_of(reply, group_size, self._version, sampling.max_tokens, ends)

        def at_once(server: "Server") -> int:
            # enough to fill its batch while it sends a reply
            rows = server.serves.max_num_seqs if server.serves is not None else 1
            return min(-(-rows // group_size) + 1, MOST_REQUESTS)

        groups = {i: self.known[prompt.id] for i, prompt in enumerate(prompts) if prompt.id in self.known}
        for i, group in groups.items():
            if finished is not None:
                finished(i, group)
        requests = {i: partial(request, prompt) for i, prompt in enumerate(prompts) if i not in groups}
        with _stopping(), closing(fleet.sample(requests, read, at_once)) as sampled:
            for i, group in sampled:
                groups[i] = [replace(completion, text=policy.decode(completion.token_ids)) for completion in group]
                if finished is not None:
                    finished(i, groups[i])
        return [completion for i in range(len(prompts)) for completion in groups[i]]

    def _meet(self) -> "Fleet[list[Completion]]":
        """Lease the servers for this run, whose name and folder of weights all ranks share."""
        from lit_g2rpo.rollout.vllm.server.fleet import Fleet
        from lit_g2rpo.rollout.vllm.server.server import Client, Server
        from lit_g2rpo.rollout.vllm.server.wire import Wire

        wires = [Wire(url, self._key) for url in self.urls]
        stack = ExitStack()
        shared = ["", ""]
        if _rank() == 0:
            shared = [PROCESS, str(stack.enter_context(exchange(self._folder)))]
        if dist.is_initialized():
            dist.broadcast_object_list(shared, src=0)
        self._run, self._files = shared[0], Path(shared[1])
        client = Client(self._run, _rank(), f"process {os.getpid()} on {socket.gethostname()}")
        servers = [Server(wire, client, self.patience) for wire in wires]
        for server in servers:
            stack.callback(server.release)
        weakref.finalize(self, stack.close)
        fleet: Fleet[list[Completion]] = Fleet(
            servers,
            self._check,
            self._newest,
            self.patience,
        )
        fleet.meet()
        return fleet

    def _newest(self) -> "tuple[str, Load | None]":
        from lit_g2rpo.rollout.vllm.server.weight_files import load_files

        load = self._load if self._transfer != "files" else load_files(self._files, self._version)
        return self._version, load

    def _check(self, url: str, serves: "Serves") -> None:
        from lit_g2rpo.rollout.vllm.server.checks import check_flags, check_model

        check_flags(url, serves, BACKEND if self._transfer == "files" else self._transfer)
        if hasattr(self, "policy"):
            check_model(url, serves, self.policy.base.config)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


@contextmanager
def _stopping() -> Iterator[None]:
    """Let a server that cannot be used end the run saved."""
    try:
        yield
    except UserError as error:
        raise RolloutStopError(str(error)) from error


def _key(variable: str, where: str) -> str:
    if not variable:
        return ""
    key = os.environ.get(variable, "").strip()
    if not key:
        raise UserError(f"{where} is {variable!r}, which the environment lacks")
    if not (key.isascii() and key.isprintable()):
        raise UserError(f"the environment's {variable} is no key: it holds line ends or other letters")
    return key
