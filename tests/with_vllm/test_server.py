"""A server that ``serve`` has started samples what the native engine samples."""

import json
import os
import signal
import socket
import subprocess
import sys
from functools import partial

import pytest
import torch
from helpers.forwards import assert_same as assert_close
from helpers.paths import CONFIGS
from helpers.processes import Commands
from helpers.prompts import make_prompt

from lit_g2rpo.errors import RolloutStopError, UserError
from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.server.engine import PROCESS, VllmServerEngine
from lit_g2rpo.rollout.vllm.server.gate import CLIENT
from lit_g2rpo.rollout.vllm.server.wire import Wire

# another implementation of the same layers
assert_same = partial(assert_close, atol=5e-5)

STARTING = 900.0
"""Patience while the server starts on a busy machine, seconds."""
VARIABLE, KEY = "LIT_G2RPO_TEST_KEY", "of-the-test"


@pytest.fixture(scope="module")
def server(shared_commands: Commands) -> tuple[str, "subprocess.Popen[str]"]:
    """A server's address and its process."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    os.environ[VARIABLE] = KEY
    words = ["--config", CONFIGS / "g2rpo.yaml", "--port", port, "--api_key_env", VARIABLE]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    # on the CPU, prompts shorter than a block are never cached
    words += ["--vllm=--block-size 32"]
    process = shared_commands.start(sys.executable, "-m", "lit_g2rpo", "serve", *words, **options)
    return f"http://127.0.0.1:{port}", process


def engine_on(url: str, policy: Policy, patience: float = STARTING) -> VllmServerEngine:
    os.environ[VARIABLE] = KEY
    engine = VllmServerEngine([url], VARIABLE, patience)
    engine.attach(policy)
    return engine


def native(policy: Policy, prompts: list[Prompt], size: int, sampling: Sampling) -> list[Completion]:
    engine = NativeEngine()
    engine.attach(policy)
    return engine.generate(prompts, size, sampling)


def test_a_server_samples_what_the_native_engine_samples_after_every_push(
    server: tuple[str, object], policy: Policy, mixed_prompts: list[Prompt]
) -> None:
    engine = engine_on(server[0], policy)
    for rollout, part in enumerate(["", "visual", "language_model"]):
        with torch.no_grad():
            for name, weight in policy.named_parameters():
                if part and part in name:
                    weight.mul_(1.05)
        policy.version += 1
        engine.push()
        for sampling, size in ((Sampling(24, seed=4, rollout=rollout), 8), (Sampling(24, temperature=0), 1)):
            own = engine.generate(mixed_prompts, size, sampling)
            assert_same(own, native(policy, mixed_prompts, size, sampling))


def test_another_run_and_another_key_are_refused(
    server: tuple[str, object], policy: Policy, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_on(server[0], policy)
    engine.push()
    monkeypatch.setattr("lit_g2rpo.rollout.vllm.server.engine.PROCESS", "another")
    with pytest.raises(UserError, match="is used by another run: process"):
        engine_on(server[0], policy).check()
    with pytest.raises(UserError, match="refuses the key"):
        Wire(server[0]).call("POST", "/collective_rpc", json.dumps({"method": "reset_weights"}).encode())
    with pytest.raises(UserError, match="is used by another run: process"):
        Wire(server[0], KEY).call("POST", "/pause", b"")


def test_an_update_that_a_trainer_left_half_done_is_replaced(
    server: tuple[str, object], policy: Policy, mixed_prompts: list[Prompt]
) -> None:
    wire = Wire(server[0], KEY)
    for path in ("/pause?mode=wait", "/start_weight_update"):
        wire.call("POST", path, b"", headers={CLIENT: f"{PROCESS}/0"})
    engine, sampling = engine_on(server[0], policy), Sampling(16, rollout=9)
    engine.push()
    assert_same(engine.generate(mixed_prompts, 4, sampling), native(policy, mixed_prompts, 4, sampling))


def test_a_server_that_is_killed_is_named(server: tuple[str, "subprocess.Popen[str]"], policy: Policy) -> None:
    url, process = server
    engine = engine_on(url, policy, patience=3.0)
    engine.push()
    os.killpg(process.pid, signal.SIGKILL)
    with pytest.raises(RolloutStopError, match=f"no completion for 3 s: {url}"):
        engine.generate([make_prompt("one", 1, 1)], 4, Sampling(8))
