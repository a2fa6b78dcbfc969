"""A server that speaks vLLM's protocol behind the real gate, on the native engine.

Faults come from the test: at a request, it ends, fails, talks nonsense or stalls. ``python vllm_stub.py FOLDER PORT``
serves in a process that starts again if it ends; a request for ``/kill_at`` says at which path it will.
"""

import asyncio
import base64
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import msgspec
import torch
import uvicorn
from safetensors.torch import load_file

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.encoding import EncodedPrompt
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.draw import DRAWN, KEY, LOGPROBS_MODE, PROCESSOR
from lit_g2rpo.rollout.vllm.push import BACKEND
from lit_g2rpo.rollout.vllm.server import gate

STEPS = [
    "/pause",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/reset_encoder_cache",
    "/reset_mm_cache",
    "/update_weight_version",
    "/resume",
]
"""The requests of a push, in order."""
GENERATE = "/inference/v1/generate"

Fault = Callable[[str], str | None]
"""Takes the path of a request, and returns what to do instead: ``end``, ``500``, ``garbage``, ``stall`` or None."""


class Stub:
    """An engine with a copy of the weights, and the application in front of it.

    Args:
        folder: folder of the model.
        fault: what goes wrong.
        settings: replaces settings that the gate reports.
    """

    def __init__(self, folder: str, fault: Fault = lambda path: None, **settings: Any) -> None:
        self.policy: Policy = load_policy(PolicyConfig(path=folder)).eval()
        self.fault, self.paths = fault, list[str]()
        self.version, self.paused, self.updating = "default", False, False
        self.tokens = 0
        # vLLM counts them itself
        gate.tokens_so_far = lambda: self.tokens
        self._engine = NativeEngine()
        self._engine.attach(self.policy)
        self.lock = threading.Lock()
        media = SimpleNamespace(mm_device_do_normalize=settings.pop("mm_device_do_normalize", False))
        backend = settings.pop("backend", BACKEND)
        splits = settings.pop("enable_chunked_prefill", False)
        self.state = SimpleNamespace(
            args=SimpleNamespace(api_key=settings.pop("api_key", None)),
            engine_client=self,
            server=None,
            vllm_config=SimpleNamespace(
                model_config=SimpleNamespace(
                    model=folder,
                    dtype=torch.float32,
                    hf_config=self.policy.base.config,
                    multimodal_config=media,
                    **{
                        "max_model_len": 1024,
                        "logits_processors": [PROCESSOR],
                        "logprobs_mode": LOGPROBS_MODE,
                    }
                    | settings,
                ),
                scheduler_config=SimpleNamespace(max_num_seqs=16, enable_chunked_prefill=splits),
                device_config=SimpleNamespace(device_type="cpu"),
                parallel_config=SimpleNamespace(world_size_across_dp=1),
                weight_transfer_config=SimpleNamespace(backend=backend) if backend else None,
            ),
        )
        self._gate = gate.Gate(self.answer)

    async def get_weight_version(self) -> str:
        return self.version

    async def is_paused(self) -> bool:
        return self.paused

    async def finish_weight_update(self) -> None:
        assert self.updating, "no update has been started"
        self.updating = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            while (message := await receive())["type"] != "lifespan.shutdown":
                await send({"type": message["type"] + ".complete"})
            await send({"type": "lifespan.shutdown.complete"})
            return
        scope["app"] = self
        await self._gate(scope, receive, send)

    async def answer(self, scope: Any, receive: Any, send: Any) -> None:
        """Do what vLLM does for a path."""
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        path = scope["path"]
        self.paths.append(path)
        fault = self.fault(path)
        if path == "/kill_at":
            self.fault = lambda asked: "end" if asked == body.decode() else None
        if fault == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "stall":
            await asyncio.sleep(3600)
        try:
            status, content = (500, b"internal") if fault == "500" else (200, await self._done(path, body))
        except Exception as error:  # as vLLM replies
            said = {"error": {"message": f"{type(error).__name__}: {error}"}}
            status, content = 500, json.dumps(said).encode()
        if fault == "garbage":
            content = b"<html>"
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    async def _done(self, path: str, body: bytes) -> bytes:
        if path == "/start_weight_update":
            assert not self.updating, "a weight update is already active"
            self.updating = True
        elif path == "/update_weights":
            assert self.updating, "no update has been started"
            for file in json.loads(body)["update_info"]["paths"]:
                found = load_file(file)
                self.policy.base.load_state_dict(found, strict=False)
        elif path == "/finish_weight_update":
            await self.finish_weight_update()
        elif path == "/update_weight_version":
            self.version = json.loads(body)["new_version"]
        elif path in ("/pause", "/resume"):
            self.paused = path == "/pause"
        elif path == GENERATE:
            return await asyncio.to_thread(self._generate, msgspec.json.decode(body))
        return b"{}"

    def _generate(self, body: dict[str, Any]) -> bytes:
        while self.paused:
            time.sleep(0.01)
        params = body["sampling_params"]
        given = params["extra_args"][KEY]
        assert params["stop_token_ids"] == self.policy.eos_token_ids
        assert params["ignore_eos"]
        assert given["forbidden"] == self.policy.forbidden_token_ids
        sampling = Sampling(
            given["max_tokens"], given["temperature"], given["top_p"], given["top_k"], given["seed"],
            given["rollout"], given["wave"],
        )  # fmt: skip
        prompt = Prompt(given["prompt"], "", "", [], [], {}, encoded=self._encoded(body))
        with self.lock:
            version = self.version
            group = self._engine.generate([prompt], params["n"], sampling)
            self.tokens += sum(len(one.token_ids) for one in group)
        return msgspec.json.encode({"choices": [self._choice(i, one, version) for i, one in enumerate(group)]})

    def _encoded(self, body: dict[str, Any]) -> EncodedPrompt:
        ids = torch.tensor(body["token_ids"])
        base, family = self.policy.base, self.policy.backbone.family
        types = torch.zeros_like(ids)
        patches = grid = None
        if (features := body.get("features")) is not None:
            items = [msgspec.msgpack.decode(base64.b64decode(item)) for item in features["kwargs_data"]["image"]]
            patches = torch.cat([_tensor(item["pixel_values"]["data"]) for item in items])
            grid = torch.stack([_tensor(item["image_grid_thw"]["data"]) for item in items])
            for place in features["mm_placeholders"]["image"]:
                types[place["offset"] : place["offset"] + place["length"]] = 1
        positions = family.positions(base, ids[None], types[None], grid)
        return EncodedPrompt(ids, types, positions[:, 0], int(positions.max()) + 1, patches, grid)

    def _choice(self, index: int, one: Completion, version: str) -> dict[str, Any]:
        values = torch.stack([torch.full_like(one.logprobs, DRAWN), one.entropy, one.logprobs], 1).tolist()
        tops = [{"top_logprobs": [{"token_id": 0, "logprob": value} for value in row]} for row in values]
        return {
            "index": index,
            "finish_reason": "length" if one.truncated else "stop",
            "token_ids": one.token_ids.tolist(),
            "logprobs": {"content": tops},
            "weight_versions": [{"version": version, "start": 0, "end": len(one.token_ids)}],
        }


@contextmanager
def serving(stub: Stub) -> Iterator[str]:
    """Serve in a thread until the block ends; yields the address."""
    own = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(stub, log_level="critical", timeout_graceful_shutdown=1))
    stub.state.server = server
    thread = threading.Thread(target=server.run, args=([own],), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{own.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def _tensor(data: list[Any]) -> torch.Tensor:
    kind, shape, raw = data
    return torch.frombuffer(bytearray(raw.data), dtype=getattr(torch, kind)).view(shape)


def main(folder: str, port: int) -> None:
    torch.set_num_threads(1)
    stub = Stub(folder)
    while True:
        # the weights of the folder are those that a server starts with
        process = os.fork()
        if not process:
            server = uvicorn.Server(uvicorn.Config(stub, port=port, log_level="critical"))
            stub.state.server = server
            server.run()
        print("started", flush=True)
        os.waitpid(process, 0)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
