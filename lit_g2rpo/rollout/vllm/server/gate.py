"""The gate of a server: an ASGI middleware that ``serve`` puts in front of vLLM; it imports nothing but Python."""

import asyncio
import hmac
import json
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import suppress
from typing import Any
from urllib.parse import parse_qs

PATH = "lit_g2rpo.rollout.vllm.server.gate.Gate"
"""Where vLLM finds it."""

STATE, LEASE = "/lit_g2rpo", "/lit_g2rpo/lease"
CLIENT = "x-lit-g2rpo-client"
"""The header that names the client of a push."""

LEASED = 409
"""Status of a request that only the run that leases the server may make."""

KEY_VARIABLE = "VLLM_API_KEY"
SAMPLING = ("/inference/", "/v1/")
"""Paths that leave the engine as it is."""
COUNTERS = ("vllm:generation_tokens", "vllm:prompt_tokens")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]


class Gate:
    """Let one run at a time use a server, and nobody without the key.

    * The key is asked for on every path but ``/health``; vLLM's own check leaves out those that change the engine.
    * ``GET /lit_g2rpo`` describes the engine: how it was started, the version of its weights, its progress.
    * ``GET /lit_g2rpo/lease`` leases the server to a run, as long as the connection stays open; it is refused while
      another run has it. A run that is killed loses its connections, and so its lease, at once.
    * Only a client of that run may change the engine, and one at a time, from pause to resume. What a client left half
      done when it died is ended for the next.

    Args:
        app: what is behind it.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._run = self._name = ""
        self._clients: dict[object, str] = {}
        self._pushing = ""

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self._app(scope, receive, send)
            return
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        if not _allowed(headers.get("authorization", ""), _keys(scope)):
            await _reply(send, 401, {"error": "the key is missing or wrong"})
        elif scope["path"] == STATE:
            await _reply(send, 200, await self._state(scope["app"].state))
        elif scope["path"] == LEASE:
            await self._lease(scope, receive, send)
        elif scope["method"] == "GET" or scope["path"].startswith(SAMPLING):
            await self._app(scope, receive, send)
        else:
            await self._change(headers.get(CLIENT, ""), scope, receive, send)

    async def _state(self, state: Any) -> dict[str, Any]:
        engine = state.engine_client
        return {
            "version": await engine.get_weight_version(),
            "paused": await engine.is_paused(),
            "tokens": tokens_so_far(),
            "serves": serves(state.vllm_config),
        }

    async def _lease(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        asked = {key: values[0] for key, values in parse_qs(scope["query_string"].decode()).items()}
        if self._clients and asked["run"] != self._run:
            await _reply(send, LEASED, {"error": self._name})
            return
        self._run, self._name = asked["run"], asked["name"]
        mine = object()
        self._clients[mine] = asked["client"]
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"leased\n", "more_body": True})
            # a server that is to end waits for its connections
            while not gone.done() and not getattr(scope["app"].state.server, "should_exit", False):
                await asyncio.wait([gone], timeout=0.5)
        finally:
            gone.cancel()
            del self._clients[mine]
        with suppress(OSError, RuntimeError):
            await send({"type": "http.response.body", "body": b""})

    async def _change(self, client: str, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        present = set(self._clients.values())
        if present and client not in present:
            await _reply(send, LEASED, {"error": self._name})
            return
        if self._pushing in present - {client}:
            await _reply(send, 503, {"error": "another rank is pushing weights"})
            return
        if scope["path"] == "/pause":
            begun, self._pushing = self._pushing, client
            if begun:
                # it may have ended by itself, as it does after an error
                with suppress(Exception):
                    await scope["app"].state.engine_client.finish_weight_update()
        await self._app(scope, receive, send)
        if scope["path"] == "/resume":
            self._pushing = ""


def serves(config: Any) -> dict[str, Any]:
    """Describe how an engine was started.

    Args:
        config: a ``vllm.config.VllmConfig``.
    """
    model, transfer, media = config.model_config, config.weight_transfer_config, config.model_config.multimodal_config
    processors = model.logits_processors or []
    return {
        "model": str(model.model),
        "dtype": str(model.dtype).removeprefix("torch."),
        "sizes": sizes(model.hf_config.to_dict()),
        "max_model_len": model.max_model_len,
        "max_num_seqs": config.scheduler_config.max_num_seqs,
        "logits_processors": [path if isinstance(path, str) else path.__qualname__ for path in processors],
        "logprobs_mode": str(model.logprobs_mode),
        "workers": config.parallel_config.world_size_across_dp,
        "weight_transfer": "" if transfer is None else str(transfer.backend),
        "normalizes": bool(media is not None and media.mm_device_do_normalize),
        "splits": bool(config.scheduler_config.enable_chunked_prefill) and config.device_config.device_type == "cpu",
    }


def sizes(config: Mapping[str, Any]) -> dict[str, int]:
    """Collect the whole numbers of a model's config, such as its sizes and special tokens, by dotted name."""
    found: dict[str, int] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": number for key, number in sizes(value).items()}
        elif isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
    return found


def tokens_so_far() -> int:
    """Count the tokens that the engine has read and written, from vLLM's own metrics."""
    from prometheus_client import REGISTRY

    families: Iterable[Any] = REGISTRY.collect()
    samples = (sample for family in families if family.name in COUNTERS for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name.endswith("_total")))


def _keys(scope: MutableMapping[str, Any]) -> list[str]:
    given = getattr(scope["app"].state.args, "api_key", None) or [os.environ.get(KEY_VARIABLE, "")]
    return [key for key in given if key]


def _allowed(authorization: str, keys: list[str]) -> bool:
    given = authorization.removeprefix("Bearer ").encode()
    return not keys or any(hmac.compare_digest(given, key.encode()) for key in keys)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _reply(send: Send, status: int, content: dict[str, Any]) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
