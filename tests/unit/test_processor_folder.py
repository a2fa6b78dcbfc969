"""The stock processor of transformers reads the embedded policy's folder, and every folder that ours saves."""

import json
from pathlib import Path

import pytest
import torch
from helpers.paths import WEIGHTS
from PIL import Image
from transformers import AutoProcessor, Qwen3VLProcessor
from transformers.video_processing_utils import BaseVideoProcessor

from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor


@pytest.fixture(params=["embedded", "saved"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if request.param == "embedded":
        return WEIGHTS
    ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS).save_pretrained(tmp_path)
    return tmp_path


def test_the_folder_names_the_stock_classes(folder: Path) -> None:
    for name in ("processor_config.json", "tokenizer_config.json"):
        assert json.loads((folder / name).read_text())["processor_class"] == "Qwen3VLProcessor"
    settings = BaseVideoProcessor.get_video_processor_dict(folder)[0]
    assert settings["video_processor_type"] == "Qwen3VLVideoProcessor"
    images = json.loads((folder / "processor_config.json").read_text())["image_processor"]
    for name in ("patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std"):
        assert settings[name] == images[name]
    # of all frames together
    assert settings["size"]["longest_edge"] == settings["max_frames"] * images["size"]["longest_edge"]


@pytest.mark.parametrize("nested", [False, True])
def test_the_settings_for_videos_of_the_base_are_kept(nested: bool, tmp_path: Path) -> None:
    """In a file of their own, as the Hub's checkpoints have them, or where transformers 5 saves them."""
    ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS).save_pretrained(tmp_path / "base")
    file, config = tmp_path / "base" / "video_preprocessor_config.json", tmp_path / "base" / "processor_config.json"
    settings = json.loads(file.read_text()) | {"fps": 7}
    if nested:
        file.unlink()
        config.write_text(json.dumps(json.loads(config.read_text()) | {"video_processor": settings}))
    else:
        file.write_text(json.dumps(settings))
    ImageOnlyQwen3VLProcessor.from_pretrained(tmp_path / "base").save_pretrained(tmp_path / "again")
    assert BaseVideoProcessor.get_video_processor_dict(tmp_path / "again")[0] == settings


def test_the_stock_processor_makes_the_same_inputs(folder: Path) -> None:
    try:
        import torchvision  # noqa: F401
    # beside a torch of another build it cannot be imported
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"torchvision: {error}")
    stock, ours = AutoProcessor.from_pretrained(folder), ImageOnlyQwen3VLProcessor.from_pretrained(folder)
    assert type(stock) is Qwen3VLProcessor
    content = [{"type": "image", "image": Image.new("RGB", (64, 64), (200, 30, 30))}, {"type": "text", "text": "What?"}]
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True, "return_tensors": "pt"}
    found, expected = (
        processor.apply_chat_template([{"role": "user", "content": content}], **options) for processor in (stock, ours)
    )
    assert torch.equal(found["input_ids"], expected["input_ids"])
    torch.testing.assert_close(found["pixel_values"], expected["pixel_values"], atol=0.02, rtol=0)
