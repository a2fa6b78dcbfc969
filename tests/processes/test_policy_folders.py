"""A policy folder whose files are missing, broken or of different models is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from helpers.paths import CONFIGS, WEIGHTS
from helpers.refused import refused

RECIPE = ["--config", str(CONFIGS / "g2rpo.yaml")]


def write_config(folder: Path, name: str, **changes: Any) -> None:
    content = json.loads((folder / name).read_text())
    (folder / name).write_text(json.dumps(content | changes))


def change_images(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / "processor_config.json").read_text())
    write_config(folder, "processor_config.json", image_processor=content["image_processor"] | changes)


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    file = folder / "model.safetensors"
    weights = safetensors.torch.load_file(file)
    change(weights)
    safetensors.torch.save_file(weights, file, metadata={"format": "pt"})


def lengthen_vocabulary(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    token = content["added_tokens"][0] | {"id": 5000, "content": "<|more|>"}
    write_config(folder, "tokenizer.json", added_tokens=[*content["added_tokens"], token])


def remove_tokenizer(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


QUERY = "model.language_model.layers.0.self_attn.q_proj.weight"
FOLDERS: dict[str, tuple[Callable[[Path], Any], str]] = {
    "no tokenizer": (remove_tokenizer, "the tokenizer or image processor cannot be loaded"),
    "no chat template": (lambda folder: (folder / "chat_template.jinja").unlink(), "has no chat template; add the"),
    "broken chat template": (
        lambda folder: (folder / "chat_template.jinja").write_text("{% for m in messages %}"),
        "its chat template cannot be read (TemplateSyntaxError",
    ),
    "chat template of a text model": (
        lambda folder: (folder / "chat_template.jinja").write_text("{{ messages[0].role }}"),
        "its chat template writes 0 x <|image_pad|> for an image; take the chat_template.jinja of the model",
    ),
    "Qwen2.5-VL": (
        lambda folder: write_config(folder, "config.json", model_type="qwen2_5_vl"),
        "holds a model of type 'qwen2_5_vl', which no family here loads; give a checkpoint of qwen3_vl",
    ),
    "truncated weights": (
        lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9000]),
        "Error while deserializing header: incomplete metadata, file not fully covered; give a folder",
    ),
    "no weights": (lambda folder: (folder / "model.safetensors").unlink(), "Error no file named model.safetensors"),
    "missing weights": (
        lambda folder: change_weights(folder, lambda w: w.pop(QUERY)), f"1 weights are missing, the first is {QUERY}"
    ),
    "weights of another shape": (
        lambda folder: change_weights(folder, lambda w: w.update({QUERY: torch.zeros(3, 3)})),
        f"1 weights have another shape than its config.json says, the first is {QUERY}",
    ),
    "weights too many": (
        lambda folder: change_weights(folder, lambda w: w.update({"model.more": torch.zeros(3)})),
        "1 weights have no place in the model, the first is model.more",
    ),
    "patches of another model": (
        lambda folder: change_images(folder, patch_size=14),
        "patch_size is 14 in the processor's files and 8 in config.json; take all files from one checkpoint",
    ),
    "image token of another model": (
        lambda folder: write_config(folder, "config.json", image_token_id=7),
        "the id of the image token is 5 in the processor's files and 7 in config.json",
    ),
    "vocabulary of another model": (lengthen_vocabulary, "its tokenizer has a token of id 437, but the model has 437"),
}  # fmt: skip


@pytest.mark.parametrize("name", FOLDERS)
def test_a_policy_folder_is_what_it_says(capsys: pytest.CaptureFixture[str], name: str) -> None:
    shutil.copytree(WEIGHTS, "policy")
    spoil, says = FOLDERS[name]
    spoil(Path("policy"))
    line = refused(capsys, "fit", *RECIPE, "--model.policy.path=./policy")
    assert line.startswith("model.policy.path './policy'")
    assert says in line


@pytest.mark.parametrize("path", ["rows.jsonl", "nowhere"])
def test_a_policy_is_a_folder_or_a_name_with_its_owner(capsys: pytest.CaptureFixture[str], path: str) -> None:
    Path("rows.jsonl").touch()
    line = refused(capsys, "fit", *RECIPE, f"--model.policy.path={path}")
    assert line.startswith(
        f"model.policy.path '{path}' is not a folder; give a Hugging Face checkpoint folder or a hub name"
    )


def test_the_reference_is_held_to_its_folder_too(capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(WEIGHTS, "policy")
    change_weights(Path("policy"), lambda weights: weights.pop(QUERY))
    words = ["--model.policy.path=./policy", "--model.objective.kl_coefficient=0.1"]
    assert f"the first is {QUERY}" in refused(capsys, "fit", *RECIPE, *words)
