"""PyTorch/XLA on the CPU against the same code run eagerly; ``tests/xla.sh`` makes the environment for it."""

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS, ROOT
from helpers.processes import Commands

pytest.importorskip("torch_xla")
pytestmark = pytest.mark.xla
os.environ.setdefault("PJRT_DEVICE", "CPU")
# before anything is differentiated: the engine of autograd counts devices once
import torch_xla  # noqa: E402

torch_xla.device()

from helpers.forwards import FROZEN, OBJECTIVE, assert_equal, assert_same, batch  # noqa: E402
from helpers.forwards import load as load_whole  # noqa: E402

from lit_g2rpo.experience import Prompt  # noqa: E402
from lit_g2rpo.hardware.hooks import end_graph  # noqa: E402
from lit_g2rpo.mini.policy import build_processor, initial_policy, mini_config  # noqa: E402
from lit_g2rpo.policy.config import LoraConfig  # noqa: E402
from lit_g2rpo.policy.policy import Policy  # noqa: E402
from lit_g2rpo.rollout.engine import Sampling  # noqa: E402
from lit_g2rpo.rollout.native.engine import NativeEngine  # noqa: E402
from lit_g2rpo.strategies import XLAStrategy  # noqa: E402


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random mini policy of three layers: compiling takes the time of these tests."""
    folder = tmp_path_factory.mktemp("tiny")
    processor = build_processor()
    config = mini_config(processor.tokenizer)
    config.text_config.num_hidden_layers = 3
    initial_policy(config, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


def load(folder: str, device: str, **options: Any) -> Policy:
    policy = load_whole(folder, True, **options).to(device)
    policy.base.tie_weights()
    return policy


def learned(policy: Policy, prompts: list[Prompt]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    microbatch = batch([replace(prompt, encoded=None) for prompt in prompts], torch.float32)
    loss, _ = policy.loss(microbatch, OBJECTIVE.token_loss)
    loss.backward()
    end_graph(policy.device)
    return loss.detach().cpu(), {n: p.grad.cpu() for n, p in policy.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module", autouse=True)
def _graphs() -> None:
    XLAStrategy()  # says how graphs end


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"activation_checkpointing": "full"}, id="all-checkpointed"),
        pytest.param({"freeze": FROZEN, "lora": LoraConfig(rank=4, alpha=8)}, id="lora"),
    ],
)
def test_loss_and_gradients_equal_eager(tiny_folder: str, mixed_prompts: list[Prompt], options: dict[str, Any]) -> None:
    ours, theirs = (load(tiny_folder, device, **options) for device in ("xla", "cpu"))
    assert ours.static
    assert not theirs.static
    assert_equal(learned(ours, mixed_prompts), learned(theirs, mixed_prompts), torch.float32)


def test_adapters_on_half_precision_are_as_exact_as_eager(tiny_folder: str, mixed_prompts: list[Prompt]) -> None:
    """What `configs/model/qwen3_vl_2b_lora.yaml` asks for, against single precision of the same rounded weights."""
    options = {"freeze": FROZEN, "lora": LoraConfig(rank=4, alpha=8), "activation_checkpointing": "selective"}
    gradients = []
    for device, dtype in (("cpu", torch.float32), ("cpu", torch.bfloat16), ("xla", torch.bfloat16)):
        policy = load(tiny_folder, "cpu", shapes="static", **options)
        for name, parameter in policy.named_parameters():
            if "lora" not in name:
                parameter.data = parameter.bfloat16().to(dtype)
        policy.to(device).base.tie_weights()
        gradients.append(torch.cat([g.flatten() for g in learned(policy, mixed_prompts)[1].values()]))
    exact, theirs, ours = gradients
    assert 1e-3 < (theirs - exact).norm() / exact.norm() < 0.03
    assert (ours - exact).norm() < 1.2 * (theirs - exact).norm()


@pytest.mark.parametrize("sampling", [Sampling(14, temperature=0), Sampling(14, top_p=0.9, top_k=30, seed=1)])
def test_completions_equal_eager(tiny_folder: str, mixed_prompts: list[Prompt], sampling: Sampling) -> None:
    found = []
    for device in ("xla", "cpu"):
        engine = NativeEngine(slots=6)
        engine.attach(load(tiny_folder, device, freeze=FROZEN))
        found.append(engine.generate([replace(prompt, encoded=None) for prompt in mixed_prompts], 4, sampling))
    assert_same(*found)


def test_the_default_run_begins_as_on_the_cpu(tmp_path: Path, commands: Commands) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = []
    for strategy in ("xla_trainium", "cpu"):
        commands.python(
            "-m", "lit_g2rpo", "fit", "--config", CONFIGS / "g2rpo.yaml",
            "--trainer", CONFIGS / "strategy" / f"{strategy}.yaml", "--name", strategy,
            "--schedule.rollouts=2", "--trainer.callbacks=[]", "--trainer.limit_val_batches=0",
            "--trainer.num_sanity_val_steps=0",
        )  # fmt: skip
        events = EventAccumulator(str(tmp_path / "runs" / strategy / "version_0"), size_guidance={"scalars": 0})
        events.Reload()
        curves.append({name: [e.value for e in events.Scalars(name)] for name in events.Tags()["scalars"]})
    ours, theirs = curves
    assert ours.keys() == theirs.keys()
    assert len(ours["train/loss"]) >= 2
    for name in (name for name in ours if name.startswith(("train/", "rollout/")) and "gap" not in name):
        assert ours[name] == pytest.approx(theirs[name], rel=1e-4, abs=1e-5), name


@pytest.mark.parametrize(("microbatches", "accumulate", "batches"), [("2", "1", "50"), ("4", "2", "30")])
def test_nothing_compiles_after_the_warm_up(
    tmp_path: Path, commands: Commands, microbatches: str, accumulate: str, batches: str
) -> None:
    found = tmp_path / "found.json"
    commands.python(
        ROOT / "benchmarks" / "xla_compiles.py", "--batches", batches, "--json", found,
        "--microbatches", microbatches, "--accumulate", accumulate,
    )  # fmt: skip
    figures = json.loads(found.read_text())["figures"]
    assert figures["compilations, warm-up"] > 3 * figures["sizes of micro-batches"] > 30
    assert figures[f"compilations, {batches} batches after it"] == 0
    assert 0 < figures["pads to tokens in training"] < 0.15
