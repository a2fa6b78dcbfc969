"""A checkpoint becomes a Hugging Face folder with equal logits, or nothing at all."""

from pathlib import Path

import helpers.build as build
import pytest
import torch
from helpers.paths import ROOT
from helpers.prompts import make_prompt
from transformers import Qwen3VLForConditionalGeneration

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.verbs.export import save
from lit_g2rpo.policy.config import LoraConfig, PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy

RECIPE = ["--config", str(ROOT / "configs" / "g2rpo.yaml")]


def logprobs(policy: Policy) -> torch.Tensor:
    """Log-probabilities of a row with an image and of one without."""
    tokens = [torch.tensor([60, 61]), torch.tensor([62])]
    with torch.no_grad():
        return policy.eval().token_stats([make_prompt("a", 1), make_prompt("b", 0)], tokens)[0]


@pytest.fixture
def checkpoint(random_folder: str, tmp_path: Path) -> Path:
    """One optimizer step away from the random policy."""
    trainer = build.trainer(tmp_path, steps=1)
    trainer.fit(build.module(random_folder), build.data())
    trainer.save_checkpoint(tmp_path / "one.ckpt")
    return tmp_path / "one.ckpt"


def test_the_folder_holds_the_checkpoints_policy(random_folder: str, checkpoint: Path) -> None:
    words = ["export", *RECIPE, "--model.policy.path", random_folder, "--ckpt_path", str(checkpoint)]
    assert main([*words, "--output", "out/policy"]) == 0
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    policy = load_policy(PolicyConfig(path=random_folder))
    policy.load_state_dict({name.removeprefix("policy."): w for name, w in weights.items()})
    expected = logprobs(policy)
    assert torch.equal(logprobs(load_policy(PolicyConfig(path="out/policy"))), expected)
    assert not torch.equal(logprobs(load_policy(PolicyConfig(path=random_folder))), expected)
    stock = Qwen3VLForConditionalGeneration.from_pretrained("out/policy")
    assert torch.equal(stock.lm_head.weight, policy.base.lm_head.weight)
    assert (Path("out/policy") / "chat_template.jinja").is_file()
    assert (Path("out/policy") / "generation_config.json").is_file()
    assert "ImageOnly" not in (Path("out/policy") / "processor_config.json").read_text()
    assert [path.name for path in Path("out").iterdir()] == ["policy"], "no scratch folder stays"


def test_a_full_folder_is_left_alone(random_folder: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("out").mkdir()
    Path("out/mine.txt").write_text("mine")
    words = ["export", *RECIPE, "--model.policy.path", random_folder, "--ckpt_path", str(checkpoint)]
    assert main([*words, "--output", "out"]) == 2
    assert capsys.readouterr().err.strip() == "error: --output out exists and is not empty; give a new folder"
    assert [path.name for path in Path("out").iterdir()] == ["mine.txt"]


def test_a_checkpoint_of_another_model_is_refused(
    random_folder: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content = torch.load(checkpoint, weights_only=True)
    name = next(iter(content["state_dict"]))
    content["state_dict"][name] = torch.zeros(3)
    torch.save(content, "other.ckpt")
    words = ["export", *RECIPE, "--model.policy.path", random_folder, "--ckpt_path", "other.ckpt"]
    assert main([*words, "--output", "out"]) == 2
    assert "checkpoint of another model" in capsys.readouterr().err.strip().splitlines()[-1]
    assert not Path("out").exists()


def test_adapters_are_merged(random_folder: str, tmp_path: Path) -> None:
    pytest.importorskip("peft")
    policy = load_policy(PolicyConfig(path=random_folder, lora=LoraConfig(rank=2, alpha=4))).eval()
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    expected = logprobs(policy)
    with policy.reference():
        without = logprobs(policy)
    save(policy, random_folder, tmp_path / "merged")
    merged = load_policy(PolicyConfig(path=str(tmp_path / "merged")))
    torch.testing.assert_close(logprobs(merged), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, without)
