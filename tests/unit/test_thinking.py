"""A thinking checkpoint trains: its template opens the reasoning, and one setting names the tag everywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers.build import module, trainer
from helpers.paths import CONFIGS, WEIGHTS
from PIL import Image
from tokenizers import AddedToken

from lit_g2rpo.callbacks import LengthCurriculum, Preflight, RolloutLog
from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.errors import UserError
from lit_g2rpo.mini.policy import initial_policy, mini_config
from lit_g2rpo.objectives import G2RPO, Supervised
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor
from lit_g2rpo.rewards import RewardConfig

TEMPLATE = Path(__file__).parent.parent / "helpers" / "thinking_template.jinja"
FRAGMENT = yaml.safe_load((CONFIGS / "data" / "onethinker_thinking.yaml").read_text())["init_args"]


@pytest.fixture(scope="module")
def thinker(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A random policy with what a thinking checkpoint has: tags that are tokens but not special, and its template.

    It ends a completion with any of several tokens, so that lengths differ.
    """
    folder = tmp_path_factory.mktemp("thinker")
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    processor.tokenizer.add_tokens([AddedToken(tag, special=False) for tag in ("<think>", "</think>")])
    processor.chat_template = processor.tokenizer.chat_template = TEMPLATE.read_text()
    processor.save_pretrained(folder)
    model = initial_policy(mini_config(processor.tokenizer), seed=3)
    model.generation_config.eos_token_id = [processor.tokenizer.eos_token_id, *range(100, len(processor.tokenizer), 12)]
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def rows(tmp_path: Path) -> dict[str, Any]:
    """Rows of two tasks with demonstrations, and the settings of the fragment."""
    Image.new("RGB", (32, 32), (9, 90, 200)).save(tmp_path / "blue.png")
    made = [
        {
            "id": str(number),
            "problem": "<image>Read the number.",
            "problem_type": "OCR",
            "task_type": ("ocr", "chart_figure_qa")[number % 2],
            "images": ["blue.png"],
            "answer": str(number),
            "demonstration": f"<think>\nit is {number}\n</think>\n\n<answer>{number}</answer>",
        }
        for number in range(40)
    ]
    (tmp_path / "rows.json").write_text(json.dumps(made))
    file = str(tmp_path / "rows.json")
    tasks = {name: FRAGMENT["tasks"][name] for name in ("ocr", "chart_figure_qa")}
    return {"train": file, "val": file, "image_root": str(tmp_path), "tasks": tasks, "max_completion_tokens": 24}


def fit(run: Any, rows: dict[str, Any], folder: Path, *callbacks: Any) -> Any:
    run.reward = RewardConfig(thinking_tag="think")
    check = Preflight(memory=False, parity=False, checkpoint=False)
    trainer(folder, 4, callbacks=[check, *callbacks], enable_checkpointing=False).fit(run, JsonPrompts(**rows))
    return run.experience


def test_the_template_has_the_form_of_the_real_one(thinker: str) -> None:
    policy = load_policy(PolicyConfig(path=thinker))
    assert policy.opened == "<think>\n"
    talk = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "<think>\nhm\n</think>\n\nhello"},
        {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "and?"}]},
    ]
    assert policy.processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nhello<|im_end|>\n<|im_start|>user\n"
        "<|vision_start|><|image_pad|><|vision_end|>and?<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )


def test_two_rollouts_with_bands_of_its_own_lengths(thinker: str, rows: dict[str, Any], tmp_path: Path) -> None:
    objective = G2RPO(filtering="off", length_weight=0.5, entropy_coefficient=0.02, overlong_weight=0.5)
    run = module(thinker, objective, rollout={"prompts": 4})
    log = RolloutLog(every_rollouts=1)
    experience = fit(run, rows, tmp_path, LengthCurriculum(), log)
    assert run.rollout_index == 2
    assert all(completion.text.startswith("<think>\n") for completion in experience.completions)
    assert all("between <think> and </think>" in prompt.text for prompt in experience.prompts)
    # nothing is right, so what is learned in the second rollout is the length, by the bands of the first
    assert len({len(completion.token_ids) for completion in experience.completions}) > 4
    assert set(experience.advantages.sign().tolist()) == {-1.0, 1.0}
    [line, *_] = next(tmp_path.glob("**/rollout_000001.jsonl")).read_text().splitlines()
    for completion in json.loads(line)["completions"]:
        assert completion["opened"] == "<think>\n"
        written = "".join(piece for piece in completion["tokens"] if not piece.startswith("<|"))
        assert completion["opened"] + written == completion["text"]


def test_two_rollouts_of_demonstrations(thinker: str, rows: dict[str, Any], tmp_path: Path) -> None:
    run = module(thinker, Supervised(), rollout={"prompts": 4, "group_size": 1, "engine": "demonstrations"})
    experience = fit(run, rows, tmp_path)
    assert run.rollout_index == 2
    assert [reward.format for reward in experience.rewards] == [1.0] * 4
    assert [reward.accuracy for reward in experience.rewards] == [1.0] * 4
    written = run.tokenizer.decode(experience.completions[0].token_ids)
    assert written.startswith("it is")


def test_another_tag_is_refused_before_training(thinker: str, rows: dict[str, Any], tmp_path: Path) -> None:
    run = module(thinker, rollout={"prompts": 4})
    check = Preflight(memory=False, parity=False, checkpoint=False)
    with pytest.raises(UserError, match=r"opens <think> .* give model\.reward\.thinking_tag: think"):
        trainer(tmp_path, 4, callbacks=[check]).fit(run, JsonPrompts(**rows))
