"""What `plan` computes without weights: published sizes, what passes keep, what strategies split, and its errors."""

from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS, ROOT
from helpers.prompts import make_prompt
from lightning.pytorch.strategies import DDPStrategy, Strategy
from torch.distributed.fsdp import CPUOffload, ShardingStrategy

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.verbs.plan import types_of
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.hooks import Sharding, sharding
from lit_g2rpo.objectives import GRPO
from lit_g2rpo.planning.memory import adapters
from lit_g2rpo.planning.sharding import sharding_of
from lit_g2rpo.planning.simulation import MicrobatchSize, Phantom
from lit_g2rpo.planning.sizes import PUBLISHED, planned_model
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.strategies import G2RPODeepSpeedStrategy

RECIPE = ["plan", "--config", str(CONFIGS / "g2rpo.yaml")]
LENGTHS = (40, 25, 31)


@pytest.mark.parametrize(
    ("name", "billions"), list(zip(PUBLISHED, (2.127532032, 4.437815808, 8.767123696), strict=True))
)
def test_published_models_have_the_published_number_of_weights(name: str, billions: float) -> None:
    config = PolicyConfig(f"{name}-Instruct")
    phantom = Phantom(*planned_model(config), config, "cuda", torch.bfloat16, True)
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
        weights |= {t.untyped_storage()._cdata for t in (features.embeddings, *features.added)}
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
    asked = PolicyConfig(random_folder, **config)
    phantom = Phantom(*planned_model(asked), asked, "cpu", torch.float32, False)
    patches = 64 // phantom.backbone.image_sizes.patch
    kept = phantom.microbatch(MicrobatchSize(length, ((patches, patches),), (LENGTHS,)), GRPO(), True).kept
    # the hidden states themselves are alive too, and index tensors are not counted
    assert kept == pytest.approx(expected, rel=0.05)


def test_recomputing_keeps_less_and_longer_completions_more(random_folder: str) -> None:
    def kept(mode: Any, tokens: int) -> int:
        config = PolicyConfig(random_folder, activation_checkpointing=mode)
        phantom = Phantom(*planned_model(config), config, "cuda", torch.float32, False)
        return phantom.microbatch(MicrobatchSize(100, (), ((tokens,) * 4,)), GRPO(), True).kept

    off, selective, full = (kept(mode, 200) for mode in ("off", "selective", "full"))
    assert off > selective > full > 0
    once, twice, thrice = (kept("off", tokens) for tokens in (200, 400, 600))
    # linear in tokens, which the largest micro-batch is found by
    assert thrice - twice == pytest.approx(twice - once, rel=0.01)


def stock(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"lightning.pytorch.strategies.{name}", "init_args": arguments}


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
        ("deepspeed_stage_3_offload", 8, Sharding("DeepSpeed ZeRO-3", 8, True, True, True, True, False, True, True)),
        ({"class_path": "lit_g2rpo.strategies.FSDP2Strategy"}, 2, Sharding("FSDP2", 2, True, True, True)),
        (stock("ModelParallelStrategy", tensor_parallel_size=1), 2, Sharding("FSDP2", 2, True, True, True)),
        ("fsdp", 2, Sharding("FSDP", 2, True, True, True)),
        (
            stock("FSDPStrategy", sharding_strategy=ShardingStrategy.FULL_SHARD),
            2,
            Sharding("FSDP", 2, True, True, True),
        ),
        (stock("FSDPStrategy", cpu_offload=CPUOffload(False)), 2, Sharding("FSDP", 2, True, True, True)),
        ("fsdp_cpu_offload", 2, Sharding("FSDP", 2, True, True, True, False, False, True, True)),
        ("auto", 4, Sharding("DDP", 4, copies_gradients=True)),
        (stock("DDPStrategy", gradient_as_bucket_view=True), 4, Sharding("DDP", 4)),
        ("g2rpo_neuron", 4, Sharding("DDP", 4, copies_gradients=True)),
        ("g2rpo_xla", 1, Sharding("single device")),
        ("single_device", 1, Sharding("single device")),
    ],
)
def test_what_a_strategy_splits(strategy: Any, ranks: int, expected: Sharding) -> None:
    assert sharding_of(strategy, ranks) == expected


class Outside(G2RPODeepSpeedStrategy):
    """A strategy from outside that builds on one that says what it splits."""


class ZeroThreeStrategy(DDPStrategy):
    """A strategy from outside whose class and name say nothing."""


class Said(Strategy):
    """A strategy from outside that says what it splits."""


@sharding.register(Said)
def _(strategy: type, ranks: int, arguments: Any) -> Sharding:
    return Sharding(strategy.__name__, ranks, optimizer=arguments["split"])


def test_strategies_from_outside_inherit_or_say_what_they_split() -> None:
    outside = {"class_path": f"{__name__}.Outside", "init_args": {"stage": 3}}
    assert sharding_of(outside, 8) == sharding_of(deepspeed(stage=3), 8)
    said = {"class_path": f"{__name__}.Said", "init_args": {"split": True}}
    assert sharding_of(said, 8) == Sharding("Said", 8, optimizer=True)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        ({"class_path": f"{__name__}.ZeroThreeStrategy"}, r"ZeroThreeStrategy does not say what it splits over ranks"),
        (stock("ModelParallelStrategy", tensor_parallel_size=2), "ModelParallelStrategy does not say what it splits"),
        (stock("FSDPStrategy", sharding_strategy="NO_SHARD"), "FSDPStrategy does not say what it splits"),
        (deepspeed(config={"zero_optimization": {"stage": 3}}), "DeepSpeedStrategy does not say what it splits"),
        ("dpp", "trainer.strategy is 'dpp'; known: auto, ddp, "),
    ],
)
def test_no_table_is_made_up_for_a_strategy_that_says_nothing(strategy: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        sharding_of(strategy, 8)


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
        (
            ["--trainer.strategy", f'{{"class_path": "{__name__}.ZeroThreeStrategy"}}'],
            "hooks.sharding for it in its file",
        ),
        (["--model.policy.packing", "false"], "plan only supports packed groups"),
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
