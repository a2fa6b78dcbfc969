"""What `plan` computes of an engine's memory and of the seconds of a rollout."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS

from lit_g2rpo.__main__ import main
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding
from lit_g2rpo.planning.devices import DEVICES, Device, measured_cpu, named_device
from lit_g2rpo.planning.engines import WORKSPACE, Decoding, decoding, engine_copy
from lit_g2rpo.planning.memory import RolloutSize
from lit_g2rpo.planning.simulation import Phantom
from lit_g2rpo.planning.sizes import planned_model
from lit_g2rpo.planning.times import ARITHMETIC, BANDWIDTH, LINK, Costs, Work, decoded, phases
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.rollout.config import RolloutConfig
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.engine import VllmEngine
from lit_g2rpo.rollout.vllm.server.engine import VllmServerEngine

WEIGHTS = 8_767_123_696
"""Of Qwen3-VL 8B, whose head is not tied."""
LAYERS = 36 * (2 * 4096 * 32 * 128 + 2 * 4096 * 8 * 128 + 3 * 4096 * 12288 + 2 * 4096 + 2 * 128)
HEAD = 151_936 * 4096
CACHE = 2 * 36 * 8 * 128 * 2
"""Bytes of a token's keys and values, bfloat16."""
GIB = 2**30
# 64 prompts of a rank, 1,000 tokens each, 8 completions of 500 tokens
WORK = Work(64, 8, 1000, 3000, 500, 4096, 1, 64, 1)
ROLLOUT = RolloutConfig(prompts=512)
PLAIN = Device("plain", 80, 1e12, 1e14, 1e11, call=0.0)


@pytest.fixture(scope="module")
def phantom() -> Phantom:
    config = PolicyConfig("Qwen/Qwen3-VL-8B-Instruct")
    return Phantom(*planned_model(config), config, "cuda", torch.bfloat16, True)


@pytest.fixture(scope="module")
def costs(phantom: Phantom) -> Costs:
    return Costs(phantom, Sharding("ZeRO-3", 8, True, True, True, True), PLAIN, recomputed=True)


def test_decoding_reads_weights_in_each_step_and_what_tokens_see(costs: Costs) -> None:
    how = Decoding(64, 512, 512, 1, False, 12, "device")
    steps, seconds = decoded(costs, WORK, how)
    assert steps == 4096, "all rows start together, and one runs to the limit"
    read = 4096 * 2 * (LAYERS + HEAD) + 512 * 500 * (1000 + 250) * CACHE
    assert seconds == pytest.approx(read / (0.7 * 1e12), rel=1e-6)
    # half the rows: the others start when the first end
    steps, _ = decoded(costs, WORK, replace(how, rows=256))
    assert steps == 4096 + 500
    # batches of 128 rows, one after the other, whose groups share their prompts
    steps, seconds = decoded(costs, WORK, replace(how, rows=128, batch=128, shares_prompts=True))
    assert steps == 4 * 4096
    read = steps * 2 * (LAYERS + HEAD) + (steps * 16 * 1000 + 512 * 500 * 250) * CACHE
    assert seconds == pytest.approx(read / (0.7 * 1e12), rel=1e-6)


def test_kernels_and_arithmetic_take_time_too(costs: Costs, phantom: Phantom) -> None:
    how = Decoding(64, 512, 512, 1, False, 12, "")
    slow = Costs(phantom, costs.sharding, replace(PLAIN, call=1e-5), recomputed=True)
    assert decoded(slow, WORK, how)[1] - decoded(costs, WORK, how)[1] == pytest.approx(4096 * 36 * 12 * 1e-5)
    weak = Costs(phantom, costs.sharding, replace(PLAIN, flops=1e11), recomputed=True)
    operations = 512 * 500 * (2 * (LAYERS + HEAD) + 4 * 1250 * 36 * 32 * 128)
    assert decoded(weak, WORK, how)[1] == pytest.approx(operations / (ARITHMETIC * 1e11), rel=1e-6)


def test_the_phases_of_a_rollout(costs: Costs) -> None:
    found = {phase.name: phase.seconds for phase in phases(costs, WORK, Decoding(64, 512, 512, 1, False, 12, "device"))}
    pushed = 2 * 2 * WEIGHTS / (BANDWIDTH * 1e12) + 7 / 8 * 2 * WEIGHTS / (LINK * 1e11)
    assert found["weights to the engine"] == pytest.approx(pushed, rel=1e-6)
    # a forward, a backward of two and the forward again, next to one forward for the log-probabilities
    assert found["learning"] == pytest.approx(4 * found["log-probabilities"], rel=1e-6)
    tokens = 64 * 1000 + 512 * 500
    text = 2 * LAYERS * tokens + 2 * HEAD * 512 * 500
    attention = 4 * 36 * 32 * 128 * (64 * 1000**2 / 2 + 512 * 500 * 1250)
    assert found["log-probabilities"] == pytest.approx((text + attention) / (ARITHMETIC * 1e14), rel=0.1)
    once = {phase.name for phase in phases(costs, replace(WORK, forwards=0), Decoding(64, 9, 9, 1, True, 42, ""))}
    assert once == {"reading prompts", "decoding", "weights to the engine", "learning"}


def test_a_rollout_that_takes_ten_minutes_shows_it(phantom: Phantom) -> None:
    """The paper's rollout on eight A100, sampled 32 rows at a time and by vLLM."""
    device = named_device("a100")
    costs = Costs(phantom, Sharding("ZeRO-3", 8, True, True, True, True), device, recomputed=True)
    seconds = []
    for engine in (NativeEngine(32), VllmEngine(memory=0.45, sleep=2)):
        rollout = replace(ROLLOUT, max_rows=getattr(engine, "max_rows", 512))
        how = decoding(engine, phantom, rollout, 8, device.gib, WORK.context)
        assert how is not None
        seconds.append(decoded(costs, WORK, how)[1])
    assert seconds[0] > 600 > 4 * seconds[1]


def test_what_an_engine_of_its_own_holds(phantom: Phantom) -> None:
    size = RolloutSize(64, 8, 16_384, 1024, 4096, 512, None, 1024)
    copy = engine_copy(VllmEngine(memory=0.45, sleep=2), phantom, size, 80)
    assert copy is not None
    assert copy.weights == 2 * WEIGHTS
    assert copy.cache == int(0.45 * 80 * GIB) - 2 * WEIGHTS - WORKSPACE
    assert not copy.resident
    assert engine_copy(NativeEngine(), phantom, size, 80) is None
    assert engine_copy(VllmServerEngine(["http://127.0.0.1:8000"]), phantom, size, 80) is None
    how = decoding(VllmEngine(memory=0.45), phantom, ROLLOUT, 8, 80, 1250)
    assert how == Decoding(64, int(copy.cache / (CACHE * 1250)), 512, 1, False, 12, "device")
    both = decoding(VllmEngine(memory=0.45, tensor_parallel=2), phantom, ROLLOUT, 8, 80, 1250)
    assert both is not None
    assert (both.prompts, both.devices) == (128, 2)
    assert both.rows > 2 * how.rows
    served = decoding(VllmServerEngine(["http://a:1", "http://b:1"]), phantom, ROLLOUT, 8, 80, 1250)
    assert served is not None
    assert (served.prompts, served.pushed) == (256, "host")
    assert served.rows == int((int(0.9 * 80 * GIB) - 2 * WEIGHTS - WORKSPACE) / (CACHE * 1250))
    with pytest.raises(UserError, match=r"vLLM would have 0\.0 GiB for keys and values, and a completion of 20480"):
        engine_copy(VllmEngine(memory=0.2), phantom, size, 80)


def test_devices_are_found_by_name_and_a_cpu_is_measured() -> None:
    assert named_device("rtx 4090") is DEVICES["RTX4090"]
    with pytest.raises(UserError, match="--device is T4, whose rates are unknown; known: A100, H100"):
        named_device("T4")
    cpu = measured_cpu(16)
    assert cpu.measured
    assert 1e8 < cpu.bandwidth < 1e13
    assert 1e8 < cpu.flops < 1e14
    assert 1e-8 < cpu.call < 1e-2


def test_a_plan_says_what_is_computed(random_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["plan", "--config", str(CONFIGS / "g2rpo.yaml"), "--model.policy.path", random_folder]
    words += ["--data.max_prompt_tokens", "200", "--model.rollout.prompts", "4", "--model.rollout.group_size", "2"]
    assert main([*words, "--trainer.accelerator", "cpu", "--completion_tokens", "10"]) == 0
    out = capsys.readouterr().out
    assert "this CPU, one thread, rates measured now" in out
    assert "4 prompts of " in out
    gpus: list[Any] = ["--trainer.accelerator", "gpu", "--trainer.devices", "2", "--device", "H100"]
    assert main([*words, *gpus, "--model.rollout", str(CONFIGS / "rollout" / "vllm.yaml")]) == 0
    out = capsys.readouterr().out
    assert "of 80 GiB" in out
    assert "the engine's weights" in out
    assert "H100 SXM 80 GB, rates of its data sheet, not measured" in out
    assert "copied on the device" in out
    assert main([*words, "--completion_tokens", "0"]) == 2
    assert "--completion_tokens is 0; give a mean of 1 or more" in capsys.readouterr().err
