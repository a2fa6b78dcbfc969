"""What is pushed into an engine with a copy of the weights: every name of the checkpoint, and exactly the policy's."""

import copy
import weakref
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import helpers.build as build
import lightning.pytorch as pl
import pytest
import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file

from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Completion
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.engine import Pushed
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.rollout.vllm.adapters import adapter_arguments, write_adapters
from lit_g2rpo.rollout.vllm.device_transfer import DeviceLoad
from lit_g2rpo.rollout.vllm.push import Counted, chunks, exchange, named_weights
from lit_g2rpo.rollout.vllm.server.engine import VllmServerEngine

TIED = ("lm_head.weight", "model.language_model.embed_tokens.weight")


def adapted(folder: str, dtype: str = "float32", vision: bool = False) -> Policy:
    """A policy whose adapters do something."""
    policy = load_policy(PolicyConfig(path=folder, dtype=dtype, lora=LoraConfig(rank=4, alpha=8, vision=vision)))
    torch.manual_seed(0)
    for name, weight in policy.named_parameters():
        if ".lora_" in name:
            torch.nn.init.normal_(weight.data, std=0.05)
    return policy


def test_all_names_of_the_state_dict_are_pushed_with_its_values(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder))
    pushed, state = dict(named_weights(policy)), policy.base.state_dict()
    assert pushed.keys() == state.keys() > {*TIED}
    for name, weight in state.items():
        assert torch.equal(pushed[name], weight), name
    assert pushed[TIED[0]].data_ptr() == pushed[TIED[1]].data_ptr(), "nothing is copied"


def test_adapters_are_merged_as_peft_merges_them_and_stay_as_they_were(random_folder: str) -> None:
    policy = adapted(random_folder, vision=True)
    before = {name: weight.clone() for name, weight in policy.named_parameters()}
    pushed = {name: weight.clone() for name, weight in named_weights(policy)}
    for name, weight in policy.named_parameters():
        assert torch.equal(weight, before[name]), name
    merged = copy.deepcopy(policy.model).merge_and_unload().state_dict()
    assert pushed.keys() == merged.keys()
    plain = load_policy(PolicyConfig(path=random_folder)).base.state_dict()
    for name, weight in merged.items():
        assert torch.equal(pushed[name], weight), name
    below = dict(named_weights(policy, merged=False))
    assert below.keys() == plain.keys()
    assert all(torch.equal(below[name], weight) for name, weight in plain.items())
    changed = sum(not torch.equal(plain[name], weight) for name, weight in pushed.items())
    assert changed == sum(".lora_A." in name for name in before)


def test_one_merged_weight_exists_at_a_time(random_folder: str) -> None:
    policy = adapted(random_folder)
    own = {weight.data_ptr() for weight in policy.parameters()}
    made: list[weakref.ref[torch.Tensor]] = []
    for _, weight in named_weights(policy):
        if weight.data_ptr() not in own:
            made.append(weakref.ref(weight))
        assert sum(one() is not None for one in made) <= 1
        del weight
    assert len(made) > 10


def test_adapters_on_half_precision_are_rounded_once(random_folder: str) -> None:
    policy = adapted(random_folder, dtype="bfloat16")
    layers = {name: module for name, module in policy.base.named_modules() if hasattr(module, "get_delta_weight")}
    pushed = dict(named_weights(policy))
    for name, layer in layers.items():
        down, up = (getattr(layer, part)["default"].weight.double() for part in ("lora_A", "lora_B"))
        exact = layer.base_layer.weight.double() + 2 * up @ down
        # half a unit in the last place of bfloat16, plus what float32 may add
        assert ((pushed[f"{name}.weight"].double() - exact).abs() <= exact.abs() * (2**-8 + 2**-20)).all()


def test_parts_hold_all_weights_and_are_small(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder))
    read: dict[str, torch.Tensor] = {}
    parts = list(chunks(named_weights(policy), mib=0.5))
    for part in parts:
        assert sum(weight.nbytes for weight in part.values()) <= 2**19 or len(part) == 1
        assert not read.keys() & part.keys()
        read |= part
    assert len(parts) > 3
    state = policy.base.state_dict()
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], weight) for name, weight in state.items())


def test_a_tied_head_is_in_another_part_than_the_embedding() -> None:
    tied = torch.ones(2, 2)
    parts = list(chunks([("embed", tied), ("other", torch.zeros(2)), ("head", tied)]))
    assert [list(part) for part in parts] == [["embed", "other"], ["head"]]


def test_bytes_are_counted_as_they_are_read(random_folder: str) -> None:
    policy = load_policy(PolicyConfig(path=random_folder))
    counted = Counted(named_weights(policy))
    assert sum(weight.numel() for _, weight in counted) * 4 == counted.size > 10**6


def test_the_exchange_is_private_and_removed(tmp_path: Path) -> None:
    with exchange(str(tmp_path)) as folder:
        assert folder.parent == tmp_path
        assert folder.stat().st_mode & 0o777 == 0o700
        (folder / "left").write_text("by an interrupted push")
    assert not list(tmp_path.iterdir())


def test_adapters_are_written_as_peft_writes_them(random_folder: str, tmp_path: Path) -> None:
    policy = adapted(random_folder)
    size = write_adapters(policy, tmp_path / "ours")
    policy.model.save_pretrained(tmp_path / "theirs")
    ours, theirs = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("ours", "theirs"))
    assert ours.keys() == theirs.keys() == get_peft_model_state_dict(policy.model).keys()
    assert all(torch.equal(ours[name], weight) for name, weight in theirs.items())
    assert (tmp_path / "ours" / "adapter_config.json").is_file()
    assert size == sum(weight.nbytes for weight in theirs.values())


def test_adapters_that_vllm_does_not_take_are_refused(random_folder: str) -> None:
    with pytest.raises(UserError, match="the policy has none"):
        adapter_arguments(load_policy(PolicyConfig(path=random_folder)))
    policy = adapted(random_folder)
    assert adapter_arguments(policy)["max_lora_rank"] == 8
    policy.model.peft_config["default"].r = 513
    with pytest.raises(UserError, match="up to rank 512"):
        adapter_arguments(policy)


@pytest.mark.parametrize(
    ("device", "backend", "ranks", "reason"),
    [("cpu", "nccl", 1, "the policy is on cpu; give files"), ("cuda", "ipc", 2, "is for one rank, but the run has 2")],
)
def test_what_cannot_be_sent_from_gpu_to_gpu_is_refused(device: str, backend: Any, ranks: int, reason: str) -> None:
    policy: Any = SimpleNamespace(device=torch.device(device))
    with pytest.raises(UserError, match=f"engine_options.transfer is {backend}, .*{reason}"):
        DeviceLoad(backend, policy, ranks)
    with pytest.raises(UserError, match="transfer is 'rdma'; give files, nccl or ipc"):
        VllmServerEngine(["http://127.0.0.1:1"], transfer="rdma")  # type: ignore[arg-type]


class Versions(pl.Callback):
    """Record the version of the weights when each rollout was sampled, and save a checkpoint."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        self.seen.append(pl_module.policy.version)
        if len(self.seen) == 6:
            trainer.save_checkpoint("inside.ckpt")


def test_the_version_counts_optimizer_steps_also_in_a_resumed_run(random_folder: str, tmp_path: Path) -> None:
    versions, module = Versions(), build.module(random_folder)
    build.trainer(tmp_path, steps=4, callbacks=[versions]).fit(module, build.data())
    # callbacks are called before the module: two micro-batches per step, seen one batch late
    assert versions.seen == [0, 0, 1, 1, 2, 2, 3, 3]
    assert module.policy.version == 4
    resumed = build.module(random_folder)
    build.trainer(tmp_path, steps=4).fit(resumed, build.data(), ckpt_path="inside.ckpt")
    assert resumed.policy.version == 4


def test_a_loaded_checkpoint_is_announced_to_both_engines(random_folder: str, tmp_path: Path) -> None:
    versions, module = Versions(), build.module(random_folder)
    build.trainer(tmp_path, steps=3, callbacks=[versions]).fit(module, build.data())
    attached = []
    for engine in (module.engine, module.evaluation_engine):
        engine.attach = attached.append
    build.trainer(tmp_path, steps=3, limit_val_batches=1).validate(module, build.data(), ckpt_path="inside.ckpt")
    assert attached == [module.policy] * 2
    assert module.policy.version == 3


def test_an_engine_on_live_weights_pushes_nothing(random_folder: str, tmp_path: Path) -> None:
    module = build.module(random_folder)
    trainer = build.trainer(tmp_path, steps=2)
    trainer.fit(module, build.data())
    assert module.engine.pushed is None
    assert "perf/rollout_seconds" in trainer.callback_metrics
    assert not any("push" in name for name in trainer.callback_metrics)


class CopyingEngine(NativeEngine):
    """Pretends to have a copy, which it pushes before each draw; the second draw of a rollout needs no push."""

    def generate(self, *arguments: Any, **options: Any) -> list[Completion]:
        self.pushed = Pushed(2.0, 3 * 2**20)
        return super().generate(*arguments, **options)

    def rest(self) -> None:
        self.rests = getattr(self, "rests", 0) + 1


def test_a_push_is_logged_and_the_engine_rests_after_each_rollout(random_folder: str, tmp_path: Path) -> None:
    module = build.module(random_folder, rollout={"engine": f"{__name__}.CopyingEngine"})
    trainer = build.trainer(tmp_path, steps=4)
    trainer.fit(module, build.data())
    assert trainer.callback_metrics["perf/push_seconds"] == 2
    assert trainer.callback_metrics["perf/push_mib"] == 3
    assert module.engine.rests == 2
