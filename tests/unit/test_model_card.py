"""A card says what was trained on what, with which result."""

from dataclasses import replace
from typing import Any

import yaml
from helpers.composed import Composed
from helpers.paths import CONFIGS

from lit_g2rpo.cli.model_card import Facts, model_card

HISTORY = [
    {"rollout": 0.0, "val/accuracy": 0.25, "val/accuracy/ocr": 0.5, "val/accuracy/math": 0.0},
    {"rollout": 25.0, "val/accuracy": 0.9, "val/accuracy/ocr": 0.9, "val/accuracy/math": 0.9},
    {"rollout": 50.0, "val/accuracy": 0.75, "val/accuracy/ocr": 1.0, "val/accuracy/math": 0.5},
]
BASE = "Qwen/Qwen3-VL-2B-Instruct"
FACTS = Facts(
    name="me/mine",
    base=BASE,
    license="apache-2.0",
    objective="GRPO",
    weights="2,127.5 M in bfloat16",
    rollouts=50,
    history=HISTORY,
    recipe=None,
    max_tokens=40,
    versions={"torch": "2.13.0"},
)


def front_matter(card: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return found


def test_the_front_matter_is_what_the_hub_reads() -> None:
    assert front_matter(model_card(FACTS)) == {
        "base_model": BASE,
        "library_name": "transformers",
        "license": "apache-2.0",
        "pipeline_tag": "image-text-to-text",
        "tags": ["reinforcement-learning", "lit_g2rpo", "grpo"],
    }


def test_what_is_not_known_is_not_claimed() -> None:
    card = model_card(replace(FACTS, base="/home/me/private/policy-7", license=None, history=[]))
    assert not {"license", "base_model"} & front_matter(card).keys()
    assert "not stated next to the base's weights" in card
    assert "`policy-7`" in card
    assert "private" not in card
    assert "The run has no validation." in card


def test_the_results_are_those_of_the_first_and_the_last_validation() -> None:
    card = model_card(FACTS)
    assert "| accuracy on validation prompts | after 0 rollouts | after 50 |" in card
    assert "| math | 0.000 | 0.500 |\n| ocr | 0.500 | 1.000 |\n| **mean** | 0.250 | 0.750 |" in card
    assert "0.900" not in card


def test_the_training_is_that_of_the_recipe() -> None:
    cli = Composed("fit", ["--config", str(CONFIGS / "grpo.yaml"), "--seed_everything", "3"])
    recipe = cli.save_config_kwargs["recipe"]
    card = model_card(replace(FACTS, recipe=recipe))
    for row in (
        f"| base policy | [{BASE}](https://huggingface.co/{BASE}) |",
        "| objective | `GRPO` |",
        "| each rollout | 18 prompts x 8 completions |",
        "| data | `lit_g2rpo.mini.MiniPrompts` |",
        "| optimizer | `torch.optim.AdamW`, learning rate 6e-05 |",
        "| seed | 3 |",
        "| rollouts | 50 |",
    ):
        assert row in card
    assert yaml.safe_load(card.split("```yaml\n")[1].split("```")[0]) == recipe


def test_the_code_that_loads_it_is_code() -> None:
    code = model_card(FACTS).split("```python\n")[1].split("```")[0]
    compile(code, "card", "exec")
    assert 'AutoProcessor.from_pretrained("me/mine")' in code
    assert "max_new_tokens=40" in code
