"""Servers that are killed at every step: the run heals, and samples what it would have sampled."""

import socket
import sys

import torch
from helpers.paths import HELPERS
from helpers.processes import Commands
from helpers.vllm_stub import GENERATE, STEPS

from lit_g2rpo.experience import Prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.server.engine import PROCESS, VllmServerEngine
from lit_g2rpo.rollout.vllm.server.gate import CLIENT
from lit_g2rpo.rollout.vllm.server.wire import Wire


def test_a_server_that_is_killed_at_any_step_is_healed(
    commands: Commands, random_folder: str, mixed_prompts: list[Prompt]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = commands.start(sys.executable, HELPERS / "vllm_stub.py", random_folder, port)
    policy = load_policy(PolicyConfig(path=random_folder))
    engine, native = VllmServerEngine([f"http://127.0.0.1:{port}"]), NativeEngine()
    engine.attach(policy)
    native.attach(policy)
    assert process.stdout is not None
    process.stdout.readline()
    wire = Wire(f"http://127.0.0.1:{port}")
    engine.push()
    for number, path in enumerate([*STEPS, GENERATE]):
        wire.call("POST", "/kill_at", path.encode(), headers={CLIENT: f"{PROCESS}/0"})
        with torch.no_grad():
            for weight in policy.parameters():
                weight.mul_(1.01)
        policy.version += 1
        sampling = Sampling(8, rollout=number)
        engine.push()
        own = engine.generate(mixed_prompts, 2, sampling)
        expected = native.generate(mixed_prompts, 2, sampling)
        assert [one.token_ids.tolist() for one in own] == [one.token_ids.tolist() for one in expected], path
        assert process.stdout.readline() == "started\n", path
