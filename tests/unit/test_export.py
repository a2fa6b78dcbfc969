"""A checkpoint becomes a Hugging Face folder with equal logits, or nothing at all."""

from pathlib import Path
from types import SimpleNamespace

import helpers.build as build
import pytest
import torch
from helpers.hub_server import TOKEN, hub_server
from helpers.paths import ROOT, WEIGHTS
from helpers.prompts import make_prompt
from huggingface_hub import constants
from transformers import AutoModelForImageTextToText, Qwen3VLForConditionalGeneration

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.hub import push
from lit_g2rpo.cli.verbs import export
from lit_g2rpo.cli.verbs.export import cast, license_of, merged, save
from lit_g2rpo.errors import UserError
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
    save(merged(policy), policy, random_folder, tmp_path / "merged")
    found = load_policy(PolicyConfig(path=str(tmp_path / "merged")))
    torch.testing.assert_close(logprobs(found), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(expected, without)


def test_weights_take_the_type_that_is_asked_for_and_their_sizes_are_said(
    random_folder: str, checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["export", *RECIPE, "--model.policy.path", random_folder, "--ckpt_path", str(checkpoint)]
    assert main([*words, "--output", "out", "--dtype", "bfloat16"]) == 0
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    model = AutoModelForImageTextToText.from_pretrained("out")
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    for name, weight in model.named_parameters():
        assert torch.equal(weight, weights[f"policy.model.{name}"].bfloat16())
    before, after = [line for line in capsys.readouterr().out.splitlines() if " MB" in line]
    count = sum(weight.numel() for weight in model.parameters())
    assert f"{4 * count / 1e6:.1f} MB of weights in float32, written as {2 * count / 1e6:.1f} MB in bfloat16" in before
    size = sum(path.stat().st_size for path in Path("out").iterdir()) / 1e6
    assert after.startswith(f"{Path('out').absolute()}: {size:.1f} MB")
    assert size < 2.2 * count / 1e6


def test_an_export_has_the_type_of_its_base_unless_asked() -> None:
    assert export.base_dtype(str(WEIGHTS)) == "float16"


def test_weights_beyond_the_range_of_a_type_are_refused() -> None:
    model = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(model.weight, 7e4)
    cast(model, torch.bfloat16)
    assert model.weight.dtype == torch.bfloat16
    with pytest.raises(UserError, match=r"--dtype float16 has a maximum of 65504, but weight reaches 70144; use bf"):
        cast(model, torch.float16)


def test_a_disk_without_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export.shutil, "disk_usage", lambda folder: SimpleNamespace(free=10**9))
    export.check_room(tmp_path / "a" / "b", 10**9)
    with pytest.raises(UserError, match=r"needs 35.1 GB, but 1.0 GB are free; give a folder on a larger disk"):
        export.check_room(tmp_path / "a" / "b", 35_100_000_000)


def test_the_license_is_what_the_card_beside_the_base_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    assert license_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n# A model\n")
    assert license_of(str(tmp_path)) == "apache-2.0"


@pytest.mark.parametrize(
    ("name", "token", "said"),
    [
        ("lab/mine", None, "--push lab/mine needs a token: run hf auth login, or set HF_TOKEN"),
        ("lab/mine", "hf_bad", "--push lab/mine: cannot log in to the Hub ("),
        ("other/mine", TOKEN, "--push other/mine: the token is of me; it can push to me, lab"),
        ("mine", TOKEN, "--push is 'mine'; give owner/name, such as me/my-policy"),
    ],
)
def test_a_push_that_cannot_be_is_refused_in_one_line_before_the_export(
    name: str, token: str | None, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("any.ckpt").write_text("not read before the push is checked")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", "none")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with hub_server() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        code = main(["export", *RECIPE, "--ckpt_path", "any.ckpt", "--output", "out", "--push", name])
    assert code == 2
    shown = capsys.readouterr()
    assert shown.err.splitlines()[-1].startswith(f"error: {said}")
    assert (hub.repositories, Path("out").exists()) == ({}, False)


def test_an_upload_that_fails_leaves_the_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with hub_server() as hub:
        hub.full = True
        monkeypatch.setattr(constants, "ENDPOINT", hub.address)
        with pytest.raises(
            UserError, match=rf"^--push me/mine failed .*; {tmp_path} is complete, try again: hf upload me/"
        ):
            push(tmp_path, "me/mine", None)
    assert (tmp_path / "config.json").exists()
