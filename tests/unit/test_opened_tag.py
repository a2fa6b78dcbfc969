"""A chat template that opens the reasoning: the tag counts as written, and another name than the configured is said."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer
from helpers.paths import WEIGHTS
from helpers.prompts import make_prompt

from lit_g2rpo.callbacks import Preflight
from lit_g2rpo.errors import UserError
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rewards import RewardConfig, score
from lit_g2rpo.rollout.demonstrations import DemonstrationEngine
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.tags import tags_error

THINK = RewardConfig(thinking_tag="think")


def folder(tmp_path: Path, opening: str) -> str:
    """The mini policy, its template ending with ``opening``."""
    copy = tmp_path / "policy"
    shutil.copytree(WEIGHTS, copy)
    template = copy / "chat_template.jinja"
    text = template.read_text()
    assert text.count("assistant\n") == 1
    template.write_text(text.replace("assistant\n", f"assistant\n{opening}"))
    return str(copy)


def opening_policy(tmp_path: Path, opening: str) -> Policy:
    return load_policy(PolicyConfig(path=folder(tmp_path, opening)))


@pytest.mark.parametrize(
    ("opening", "opened"),
    [
        ("<think>\n", "<think>\n"), ("<think>", "<think>"), ("<thinking>\n\n", "<thinking>\n\n"),
        ("<think>\n\n</think>\n\n", ""), ("", ""), ("<|im_start|>", ""), ("a < b", ""), ("x<seed:think>", ""),
    ],
)  # fmt: skip
def test_what_a_template_opens(tmp_path: Path, opening: str, opened: str) -> None:
    assert opening_policy(tmp_path, opening).opened == opened


def test_the_opened_tag_counts_as_written(tmp_path: Path) -> None:
    policy = opening_policy(tmp_path, "<think>\n")
    whole = "<think>\nit is so</think>\n<answer>7</answer>"
    assert policy.left_to_write(whole) == whole.removeprefix("<think>\n")
    ids = policy.processor.tokenizer(policy.left_to_write(whole), return_tensors="pt")["input_ids"][0]
    row = {"problem_type": "numerical", "answer": "7"}
    assert policy.decode(ids) == whole
    assert score(policy.decode(ids), row, THINK).total == pytest.approx(1)
    again = policy.processor.tokenizer(whole, return_tensors="pt")["input_ids"][0]
    assert score(policy.decode(again), row, THINK).format == 0, "opened twice"
    assert policy.left_to_write("it is so") == "it is so"


@pytest.mark.parametrize("engine", [NativeEngine, HuggingFaceEngine])
def test_every_engine_writes_behind_it(tmp_path: Path, engine: Any) -> None:
    policy, sampler = opening_policy(tmp_path, "<think>\n").eval(), engine()
    sampler.attach(policy)
    with torch.no_grad():
        [completion] = sampler.generate([make_prompt("one", 1)], 1, Sampling(4))
    assert completion.text.startswith("<think>\n")
    assert len(completion.token_ids) <= 4
    assert policy.decode(completion.token_ids) == completion.text


def test_a_demonstration_is_taught_without_it(tmp_path: Path) -> None:
    policy, engine = opening_policy(tmp_path, "<think>\n"), DemonstrationEngine()
    engine.attach(policy)
    prompt = make_prompt("one", 1)
    prompt.demonstration = "<think>two dogs</think><answer>2</answer>"
    [completion] = engine.generate([prompt], 1, Sampling(200))
    taught = policy.processor.tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert taught == "two dogs</think><answer>2</answer>"


def test_tags_that_cannot_come_back_are_named(tmp_path: Path) -> None:
    policy = opening_policy(tmp_path, "<think>\n")
    assert tags_error(policy, THINK) == ""
    assert "give model.reward.thinking_tag: think" in tags_error(policy, RewardConfig())
    assert "take it out" in tags_error(policy, RewardConfig(thinking_tag="reason", answer_tag="think"))
    policy.processor.tokenizer.add_special_tokens({"additional_special_tokens": ["</reason>"]})
    policy.opened = ""
    assert tags_error(policy, RewardConfig()) == ""
    assert "does not keep <reason>" in tags_error(policy, RewardConfig(thinking_tag="reason"))


def test_preflight_says_it_and_training_counts_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder(tmp_path, "<thinking>\n")
    run = module(path)
    check = Preflight(memory=False, parity=False, checkpoint=False)
    trainer(tmp_path, 2, callbacks=[check]).fit(run, data())
    said = capsys.readouterr().out
    assert "pre-flight check, tags: the chat template opens <thinking> at the end of each prompt" in said
    assert all(completion.text.startswith("<thinking>\n") for completion in run.experience.completions)

    other = module(path)
    other.reward = THINK
    with pytest.raises(UserError, match=r"check, tags: .*<thinking>.* give model\.reward\.thinking_tag: think"):
        trainer(tmp_path, 2, callbacks=[check]).fit(other, data())
    with pytest.warns(UserWarning, match="format is always 0"):
        trainer(tmp_path, 2, limit_val_batches=1).validate(other, data(), verbose=False)
