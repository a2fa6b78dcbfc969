"""An export goes to the Hub by the Hub's own client."""

import os
from pathlib import Path

import helpers.build as build
import torch
import yaml
from helpers.hub_server import TOKEN, hub_server
from helpers.paths import CONFIGS
from helpers.processes import Commands
from transformers import AutoModelForImageTextToText


def test_a_push_puts_the_folder_on_the_hub(random_folder: str, tmp_path: Path, commands: Commands) -> None:
    checkpoint = tmp_path / "one.ckpt"
    trainer = build.trainer(tmp_path, steps=1)
    trainer.fit(build.module(random_folder), build.data())
    trainer.save_checkpoint(checkpoint)
    words = ["--config", CONFIGS / "g2rpo.yaml", "--model.policy.path", random_folder, "--ckpt_path", checkpoint]
    words += ["--output", "out", "--dtype", "bfloat16", "--push", "lab/mine", "--private", "true"]
    with hub_server() as hub:
        # far from any token of this machine
        settings = {"HF_ENDPOINT": hub.address, "HF_HOME": str(Path.cwd() / "hf"), "HF_TOKEN": TOKEN}
        environment = {**os.environ, **settings, "HF_HUB_DISABLE_XET": "1"}
        out = commands.python("-m", "lit_g2rpo", "export", *words, env=environment)
    assert out.splitlines()[-1] == f"pushed: {hub.address}/lab/mine"
    assert hub.repositories["lab/mine"]["visibility"] == "private"
    assert hub.commits == 1
    pushed = hub.files["lab/mine"]
    assert pushed == {path.name: path.read_bytes() for path in Path("out").iterdir()}
    card = pushed["README.md"].decode()
    assert yaml.safe_load(card.split("---")[1])["pipeline_tag"] == "image-text-to-text"
    assert 'AutoProcessor.from_pretrained("lab/mine")' in card
    for name, content in pushed.items():
        Path("downloaded").mkdir(exist_ok=True)
        Path("downloaded", name).write_bytes(content)
    model = AutoModelForImageTextToText.from_pretrained("downloaded")
    trained = torch.load(checkpoint, weights_only=True)["state_dict"]["policy.model.lm_head.weight"]
    assert torch.equal(model.lm_head.weight, trained.bfloat16())
