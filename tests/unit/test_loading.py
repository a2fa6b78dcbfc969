"""A policy folder is what it says, or it is refused in one line."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy

Damage = Callable[[Path], None]


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    def apply(folder: Path) -> None:
        file = folder / "model.safetensors"
        save_file(change(load_file(file)), file, metadata={"format": "pt"})

    return apply


def config(**changes: object) -> Damage:
    def apply(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def truncate(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def remove(pattern: str) -> Damage:
    def apply(folder: Path) -> None:
        for file in folder.glob(pattern):
            file.unlink()

    return apply


def without_template(folder: Path) -> None:
    remove("chat_template*")(folder)
    for file in ("tokenizer_config.json", "processor_config.json"):
        if (folder / file).exists():
            held = json.loads((folder / file).read_text())
            held.pop("chat_template", None)
            (folder / file).write_text(json.dumps(held))


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (
            weights(lambda held: {name: w for name, w in held.items() if ".language_model.layers.1." not in name}),
            "weights are missing, the first is model.language_model.layers.1.",
        ),
        (weights(lambda held: held | {"extra.weight": torch.ones(2)}), "1 weights have no place in the model"),
        (
            weights(lambda held: {n: w[:-1].clone() if n.endswith("q_norm.weight") else w for n, w in held.items()}),
            "weights have another shape than its config.json says",
        ),
        (truncate, "cannot be loaded"),
        (remove("*.safetensors"), "cannot be loaded"),
        (remove("tokenizer*"), "its tokenizer has no token <|image_pad|>"),
        (without_template, "has no chat template"),
        (config(model_type="qwen2_5_vl"), "holds a model of type 'qwen2_5_vl', which no family here loads"),
    ],
)
def test_a_damaged_folder_is_refused(random_folder: str, tmp_path: Path, damage: Damage, said: str) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(random_folder, folder)
    damage(folder)
    with pytest.raises(UserError, match=r"model\.policy\.path") as refused:
        load_policy(PolicyConfig(path=str(folder)))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_family_refuses_a_checkpoint_of_another(random_folder: str, tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    shutil.copytree(random_folder, folder)
    config(model_type="qwen2_5_vl")(folder)
    with pytest.raises(UserError, match=r"type 'qwen2_5_vl', but model\.policy\.family qwen3_vl loads 'qwen3_vl'"):
        load_policy(PolicyConfig(path=str(folder), family="qwen3_vl"))


def test_a_head_tied_to_the_embedding_is_not_missing(random_folder: str) -> None:
    assert "lm_head.weight" not in load_file(Path(random_folder) / "model.safetensors")
    assert load_policy(PolicyConfig(path=random_folder)).backbone.head is not None
