"""What `plan` computes without weights: published sizes, what passes keep, what strategies split, and its errors."""

from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS, ROOT
from helpers.prompts import make_prompt

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.verbs.plan import types_of
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.planning.memory import adapters
from lit_g2rpo.planning.sharding import Sharding, sharding_of
from lit_g2rpo.planning.simulation import MicrobatchSize, Phantom
from lit_g2rpo.planning.sizes import PUBLISHED, model_config
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy

RECIPE = ["plan", "--config", str(CONFIGS / "g2rpo.yaml")]
LENGTHS = (40, 25, 31)


@pytest.mark.parametrize(
    ("name", "billions"), list(zip(PUBLISHED, (2.127532032, 4.437815808, 8.767123696), strict=True))
)
def test_published_models_have_the_published_number_of_weights(name: str, billions: float) -> None:
    phantom = Phantom(model_config(f"{name}-Instruct"), PolicyConfig(name), "cuda", torch.bfloat16, True)
    assert sum(weight.numel() for weight in phantom.parameters.values()) == pytest.approx(billions * 1e9, rel=1e-9)
    assert phantom.learning == list(phantom.parameters.values())


def saved(folder: str, config: dict[str, Any]) -> tuple[int, int]:
    """Bytes that a real forward saves for its backward, weights left out, and length of the prompt."""
    policy = load_policy(PolicyConfig(path=folder, **config)).train()
    prompt = make_prompt("one", 1)
    policy.prepare_features([prompt])
    weights = {weight.untyped_storage()._cdata for weight in policy.parameters()}
    features = policy.encode(prompt).features
    if features is not None:
        weights |= {t.untyped_storage()._cdata for t in (features.embeddings, *features.deepstack)}
    found: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            found[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        hidden, _ = policy.hidden_states([prompt] * len(LENGTHS), [torch.full((n,), 30) for n in LENGTHS])
    assert hidden.requires_grad
    return sum(storage.nbytes() for storage in found.values()), len(policy.encode(prompt).input_ids)


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"packed_attention": "two_part"},
        {"freeze": ["vision", "merger"]},
        {"freeze": ["vision", "merger"], "lora": LoraConfig(rank=4)},
    ],
    ids=["all", "two_part", "frozen", "lora"],
)
def test_a_phantom_keeps_what_a_real_forward_saves(random_folder: str, config: dict[str, Any]) -> None:
    if "lora" in config:
        pytest.importorskip("peft")
    expected, length = saved(random_folder, config)
    shape = model_config(random_folder)
    patches = 64 // shape.vision_config.patch_size
    phantom = Phantom(shape, PolicyConfig(random_folder, **config), "cpu", torch.float32, False)
    kept = phantom.microbatch(MicrobatchSize(length, ((patches, patches),), (LENGTHS,)), GRPO(), True).kept
    # the hidden states themselves are alive too, and index tensors are not counted
    assert kept == pytest.approx(expected, rel=0.05)


def test_recomputing_keeps_less_and_longer_completions_more(random_folder: str) -> None:
    shape = model_config(random_folder)

    def kept(mode: Any, tokens: int) -> int:
        phantom = Phantom(
            shape, PolicyConfig(random_folder, activation_checkpointing=mode), "cuda", torch.float32, False
        )
        return phantom.microbatch(MicrobatchSize(100, (), ((tokens,) * 4,)), GRPO(), True).kept

    off, selective, full = (kept(mode, 200) for mode in ("off", "selective", "full"))
    assert off > selective > full > 0
    once, twice, thrice = (kept("off", tokens) for tokens in (200, 400, 600))
    # linear in tokens, which the largest micro-batch is found by
    assert thrice - twice == pytest.approx(twice - once, rel=0.01)


def deepspeed(**arguments: Any) -> dict[str, Any]:
    return {"class_path": "lit_g2rpo.strategies.G2RPODeepSpeedStrategy", "init_args": arguments}


@pytest.mark.parametrize(
    ("strategy", "ranks", "expected"),
    [
        ("auto", 1, Sharding("single device")),
        ("ddp", 4, Sharding("DDP", 4, copies_gradients=True)),
        ("deepspeed_stage_2", 8, Sharding("DeepSpeed ZeRO-2", 8, False, True, True, True)),
        (deepspeed(stage=1), 8, Sharding("DeepSpeed ZeRO-1", 8, False, False, True, True)),
        (
            deepspeed(stage=3, offload_optimizer=True, offload_parameters=True),
            8,
            Sharding("DeepSpeed ZeRO-3", 8, True, True, True, True, False, True, True),
        ),
        ({"class_path": "lit_g2rpo.strategies.FSDP2Strategy"}, 2, Sharding("FSDP2", 2, True, True, True)),
    ],
)
def test_what_a_strategy_splits(strategy: Any, ranks: int, expected: Sharding) -> None:
    assert sharding_of(strategy, ranks) == expected


@pytest.mark.parametrize(
    ("dtype", "precision", "split", "expected"),
    [
        ("bfloat16", "32-true", False, (torch.bfloat16, False)),
        ("float32", "bf16-mixed", False, (torch.float32, True)),
        ("float32", "bf16-true", False, (torch.bfloat16, False)),
        ("float32", "bf16-mixed", True, (torch.bfloat16, True)),
        ("bfloat16", "32-true", True, (torch.float32, False)),
    ],
)
def test_the_types_that_weights_lie_in(dtype: str, precision: str, split: bool, expected: tuple[Any, bool]) -> None:
    """DeepSpeed gives all weights the precision's type; `tests/slow/test_sharded.py` looks at those of adapters."""
    assert types_of(dtype, precision, sharding_of(deepspeed(stage=3) if split else "auto", 1)) == expected


def test_adapters_are_asked_for_by_a_fragment_that_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert adapters("Qwen/Qwen3-VL-8B-Instruct") == "--model.policy configs/model/qwen3_vl_8b_lora.yaml"
    assert adapters("Qwen/Qwen3-VL-4B-Instruct") == adapters("mine") == "--model.policy.lora '{rank: 32}'"


def test_the_default_run_fits(random_folder: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--data.max_prompt_tokens", "200", "--model.policy.path", random_folder, "--trainer.accelerator", "cpu"]
    small += ["--model.rollout.prompts", "4", "--model.rollout.group_size", "2"]
    assert main([*RECIPE, *small]) == 0
    out = capsys.readouterr().out
    assert "4 prompts x 2, 4 prompts a rank" in out
    assert "micro-batch, worst case: 2 x (200 prompt + 2 x " in out
    assert "it fits: " in out
    assert "largest micro-batch that fits: about " in out
    assert main([*RECIPE, *small, "--memory_gib", "0.01"]) == 0
    out = capsys.readouterr().out
    assert "it does not fit: " in out
    assert out.index("activation_checkpointing selective or full") < out.index("more model.update.microbatches")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--memory_gib", "0"], "--memory_gib is 0.0; give the memory of a device, such as 80"),
        (["--images", "-1"], "--images is -1; give the images of a prompt, 0 or more"),
        (["--model.policy.packing", "false"], "plan knows packed groups alone"),
        (["--trainer.accelerator", "gpu", "--trainer.devices", "auto"], "say how many: --trainer.devices 8"),
        (["--trainer.accelerator", "gpu"], "say how much memory it has: --memory_gib 80"),
        (["--model.policy.path", "./nowhere"], "holds no config.json"),
        (["--model.update.microbatches", "7", "--model.rollout.prompts", "5"], "must be a multiple of 7"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "gpu" in words and torch.cuda.is_available():
        pytest.skip("the machine says it itself")
    assert main([*RECIPE, *words]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
