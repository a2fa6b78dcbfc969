"""Two real gloo processes under DDP, DeepSpeed's three stages and FSDP2 learn what one process learns."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.paths import CONFIGS, HELPERS
from helpers.processes import Commands
from transformers import Qwen3VLForConditionalGeneration

from lit_g2rpo.__main__ import main
from lit_g2rpo.strategies.deepspeed_checkpoint import is_deepspeed, read_shards

RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml")]
STRATEGIES = ["ddp", "zero1", "zero2", "zero3", "fsdp2"]


@pytest.fixture(scope="module")
def untied_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random mini policy whose head is a weight of its own, as in the larger models."""
    from lit_g2rpo.mini.policy import build_processor, initial_policy, mini_config

    folder = tmp_path_factory.mktemp("untied")
    processor = build_processor()
    config = mini_config(processor.tokenizer)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False
    initial_policy(config, seed=3).save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)


class Runs:
    """Run each strategy once, when a test first asks for it."""

    def __init__(self, policy: str, folder: Path, commands: Commands) -> None:
        self.policy, self.folder, self.commands = policy, folder, commands
        self.done: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}

    def __call__(self, name: str) -> tuple[dict[str, Any], dict[str, Any]]:
        if name not in self.done:
            out = self.folder / name
            out.mkdir()
            devices = 1 if name == "single" else 2
            self.commands.python(HELPERS / "sharded_run.py", self.policy, out, devices, name)
            self.done[name] = json.loads((out / "result_rank0.json").read_text()), torch.load(out / "weights.pt")
        return self.done[name]


@pytest.fixture(scope="module")
def runs(untied_folder: str, tmp_path_factory: pytest.TempPathFactory, shared_commands: Commands) -> Runs:
    return Runs(untied_folder, tmp_path_factory.mktemp("runs"), shared_commands)


@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_learns_what_one_process_learns(runs: Runs, name: str) -> None:
    """With accumulation, clipping of some gradients, a reference and an untied head."""
    (one, weights), (other, others) = runs("single"), runs(name)
    norms = [step["train/grad_norm"] for step in one["steps"]]
    assert min(norms) < 2.5 < max(norms)
    for a, b in zip(one["steps"], other["steps"], strict=True):
        assert a == pytest.approx(b, rel=1e-5, abs=1e-6)
    start = Qwen3VLForConditionalGeneration.from_pretrained(runs.policy).state_dict()
    for which in ("saved", "learned"):
        for key, weight in weights[which].items():
            torch.testing.assert_close(others[which][key], weight, rtol=0, atol=1e-6)
            assert (weight - start[key.removeprefix("model.")]).abs().max() > 1e-5


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_goes_on_bit_for_bit_from_inside_a_rollout(runs: Runs, name: str) -> None:
    result, _ = runs(name)
    assert result["resume_difference"] == 0
    (last,) = result["resumed"]
    assert last.items() <= result["steps"][-1].items()


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_resumed_run_goes_on_with_the_settings_of_now(runs: Runs, name: str) -> None:
    """Optimizer options and schedule, which every strategy restores from the checkpoint in a way of its own."""
    (_, weights), (result, others) = runs("single"), runs(name)
    # the schedule is at the fourth step, as if it had been there from the start
    rate = 5e-4 * (0.5 + 0.5 * 4 / 8)
    assert result["changed"] == [{"lr": pytest.approx(rate), "weight_decay": 0.3, "betas": [0.8, 0.9]}] * 3
    for key, weight in weights["changed"].items():
        torch.testing.assert_close(others["changed"][key], weight, rtol=0, atol=1e-6)
    assert (
        max(float((weights["changed"][key] - weight).abs().max()) for key, weight in weights["learned"].items()) > 1e-5
    )
    assert "amsgrad" in result["refused"]


@pytest.mark.parametrize("name", STRATEGIES)
def test_validation_reads_the_checkpoint(runs: Runs, name: str) -> None:
    (one, _), (other, _) = runs("single"), runs(name)
    assert other["validated_difference"] < 1e-6
    assert one["validation"] == pytest.approx(other["validation"], abs=1e-6)


@pytest.mark.parametrize("name", STRATEGIES)
def test_adapters_on_half_precision_learn_what_they_learn_on_one_process(runs: Runs, name: str) -> None:
    """Frozen weights in bfloat16 under float32 adapters, which DeepSpeed rounds to bfloat16 where they compute."""
    (one, _), (other, _) = runs("single"), runs(name)
    assert other["frozen_types"] == ["torch.bfloat16"]
    tolerance = 0.03 if name.startswith("zero") else 1e-4
    for a, b in zip(one["adapters"], other["adapters"], strict=True):
        assert a == pytest.approx(b, rel=tolerance, abs=tolerance / 10)
        assert a["train/grad_norm"] > 0.01


@pytest.mark.parametrize("name", ["ddp", "zero1"])
def test_gradients_are_synchronised_once_per_optimizer_step(runs: Runs, name: str) -> None:
    counts = [calls["gradients"] for calls in runs(name)[0]["calls"]]
    assert not any(counts[0::2])
    assert all(counts[1::2])


def test_weights_are_gathered_once_per_rollout_and_pass(runs: Runs) -> None:
    result, _ = runs("zero3")
    large = result["large"]
    assert result["native"] == [[large, 0, 0]] * 2
    # forward and backward of a micro-batch that does not sample; the head may be in flight for both
    assert all(calls["weights"] <= 2 * large + 2 for i, calls in enumerate(result["calls"]) if i % 4)
    assert result["calls"][1]["weights"] >= 2 * large


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_ranks_sample_different_numbers_of_tokens(runs: Runs, name: str) -> None:
    """By the model's own ``generate``, whose modules would gather at every token; rank 1 stops after half of them."""
    result, _ = runs(name)
    assert [counts[1:] for counts in result["huggingface"]] == [[0, 0]]
    assert 4 < result["uneven"][0]["rollout/length"] < 6.1
    assert all(step["train/loss"] > 0 for step in result["uneven"])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_gradient_that_is_not_finite_ends_the_run(runs: Runs, name: str) -> None:
    result, _ = runs(name)
    assert result["not_finite"].startswith("the loss or its gradient is not finite in rollout 1 (optimizer step 1)")
    assert result["still_finite"]
    assert "not_finite" in json.loads((runs.folder / name / "result_rank1.json").read_text())


@pytest.mark.parametrize("name", STRATEGIES)
def test_export_on_one_process(runs: Runs, name: str) -> None:
    _, weights = runs(name)
    path = runs.folder / name / "inside.ckpt"
    assert is_deepspeed(path) == name.startswith("zero")
    words = ["export", *RECIPE, "--model.policy.path", runs.policy, "--ckpt_path", str(path), "--output", name]
    assert main(words) == 0
    model = Qwen3VLForConditionalGeneration.from_pretrained(name)
    for key, weight in weights["saved"].items():
        assert torch.equal(model.get_parameter(key.removeprefix("model.")), weight), key


@pytest.mark.parametrize("name", ["zero3", "fsdp2"])
def test_what_is_frozen_is_in_no_checkpoint(runs: Runs, name: str) -> None:
    runs(name)
    path = runs.folder / name / "frozen.ckpt"
    names = read_shards(path).shapes if name == "zero3" else torch.load(path, weights_only=True)["state_dict"]
    assert names
    assert all(key.startswith("policy.model.") and "visual" not in key for key in names)
    words = ["export", *RECIPE, "--model.policy.path", runs.policy, "--model.policy.freeze", "[vision, merger]"]
    assert main([*words, "--ckpt_path", str(path), "--output", "whole"]) == 0
    model = Qwen3VLForConditionalGeneration.from_pretrained("whole")
    for key, weight in torch.load(runs.folder / name / "frozen_rank0.pt").items():
        assert torch.equal(model.get_parameter(key.removeprefix("model.")), weight), key


def test_another_stage_cannot_go_on(runs: Runs) -> None:
    message = runs("zero2")[0]["other_stage"]
    assert "was written by 2 processes with ZeRO stage 2; this run has 2 with stage 1" in message


def test_an_incomplete_checkpoint_is_refused(runs: Runs, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs("zero2")
    shutil.copytree(runs.folder / "zero2" / "inside.ckpt", tmp_path / "cut.ckpt")
    min((tmp_path / "cut.ckpt" / "checkpoint").glob("*_optim_states.pt")).unlink()
    words = ["export", *RECIPE, "--model.policy.path", runs.policy, "--ckpt_path", "cut.ckpt", "--output", "out"]
    assert main(words) == 2
    assert "is incomplete: 2 processes wrote it, but it has files of 1" in capsys.readouterr().err
    assert not Path("out").exists()
