"""One of each open part from outside the package, in one run: all are found by path, and two rollouts learn."""

import json
from pathlib import Path

import pytest
import torch
from helpers.paths import CONFIGS
from PIL import Image

from lit_g2rpo.__main__ import main

PARTS = '''
from lit_g2rpo.evaluation import Benchmark
from lit_g2rpo.objectives import Objective
from lit_g2rpo.objectives.advantages import centered
from lit_g2rpo.policy.families.qwen3_vl import Qwen3VL
from lit_g2rpo.rewards import ProblemType, compared
from lit_g2rpo.rollout.engine import RolloutEngine
from lit_g2rpo.rollout.native.engine import NativeEngine


def digits(text):
    return text.strip() or None


LENGTH = ProblemType(
    rule=compared(digits, digits, lambda answer, gold: 1 / (1 + abs(len(answer) - len(gold)))),
    answer_form="Give only digits, for example <answer>12</answer>.",
    gold_form="digits",
)
SAME = Benchmark(
    title="Same", metric="accuracy", rule=lambda answer, row: float(answer == row["answer"]), words="the same digits",
    source="nowhere",
)
used = set()


def squared(logprobs, old_logprobs, advantages, *, clip_high, strength):
    used.add(f"loss {clip_high:g} {strength:g}")
    gap = (logprobs - old_logprobs).clamp(max=clip_high)
    return -advantages * logprobs + strength * gap**2, {"gap": gap.detach()}


class Centered(Objective):
    """An objective of its own."""

    def advantages(self, batch):
        used.add("objective")
        return centered(batch.rewards, batch.group_ids, valid=batch.valid)


class Halved(NativeEngine):
    """An engine that writes answers half as long as it may."""

    def __init__(self, max_rows, *, part):
        super().__init__(max_rows)
        self.part = part

    def generate(self, prompts, group_size, sampling, finished=None):
        from dataclasses import replace

        used.add("engine")
        shorter = replace(sampling, max_tokens=int(sampling.max_tokens * self.part))
        return super().generate(prompts, group_size, shorter, finished)


def by_name(*, logprobs, old_logprobs, advantages):
    return -advantages * logprobs, {}


class Unfinished(RolloutEngine):
    """An engine that cannot generate."""

    def __init__(self, *, part):
        self.part = part


class Failing(Qwen3VL):
    """A family that fails."""

    def __init__(self):
        raise KeyError("no such part")


class Family(Qwen3VL):
    """A family of its own."""

    def image_features(self, *arguments):
        used.add("family")
        return super().image_features(*arguments)
'''


@pytest.fixture
def words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a run on rows of its own, with every part from a module in the working directory."""
    (tmp_path / "outside_parts.py").write_text(PARTS)
    monkeypatch.syspath_prepend(tmp_path)
    for i in range(4):
        Image.new("RGB", (64, 64), (60 * i, 90, 120)).save(tmp_path / f"{i}.png")
    rows = [
        {"id": str(i), "problem": "<image> How many?", "answer": str(10**i), "images": [f"{i}.png"], "task_type": "ocr"}
        | {"problem_type": "outside_parts.LENGTH", "benchmark": "outside_parts.SAME"}
        for i in range(4)
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = {
        "objective.class_path": "outside_parts.Centered", "objective.init_args.loss": "outside_parts.squared",
        "objective.init_args.loss_options": {"strength": 0.5}, "objective.init_args.filtering": "off",
        "policy.family": "outside_parts.Family", "policy.freeze": ["vision"],
        "rollout.engine": "outside_parts.Halved", "rollout.engine_options": {"part": 0.5},
        "rollout.prompts": 4, "rollout.group_size": 2,
    }  # fmt: skip
    data = {"train": "rows.jsonl", "val": "rows.jsonl", "image_root": ".", "max_completion_tokens": 24}
    settings = {
        "schedule": {"rollouts": 2, "validate_every": 2, "checkpoint_every": 2},
        "data": {"class_path": "lit_g2rpo.data.JsonPrompts", "init_args": data},
    }
    (tmp_path / "own.yaml").write_text(json.dumps(settings))
    options = [
        f"--model.{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in model.items()
    ]
    return ["--config", str(CONFIGS / "g2rpo.yaml"), "--config", "own.yaml", *options]


def test_a_run_of_parts_from_outside_learns(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *words]) == 0, capsys.readouterr().err
    import outside_parts  # type: ignore[import-not-found]

    assert outside_parts.used == {"loss 0.3 0.5", "objective", "engine", "family"}
    checkpoint = torch.load(tmp_path / "runs/g2rpo/version_0/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["g2rpo"]["rollout_index"] == 2
    capsys.readouterr()
    assert main(["test", *words, "--ckpt_path", "last"]) == 0, capsys.readouterr().err
    (metrics,) = tmp_path.glob("runs/**/metrics.json")
    assert json.loads(metrics.read_text())["tasks"]["outside_parts.SAME"]["n"] == 4
    predictions = [json.loads(line) for line in metrics.with_name("predictions.jsonl").read_text().splitlines()]
    assert {row["problem_type"] for row in predictions} == {"outside_parts.LENGTH"}
    assert max(row["length"] for row in predictions) <= 12


@pytest.mark.parametrize(
    ("option", "known"),
    [
        ("model.objective.init_args.loss=pppo", "did you mean ppo? Known: ppo, cispo, sapo, gspo, gspo_token"),
        ("model.rollout.engine=nativ", "did you mean native? Known: native, huggingface, demonstrations"),
        ("model.policy.family=qwen3", "did you mean qwen3_vl? Known: qwen3_vl"),
        ("model.objective.init_args.loss=outside_parts.by_name", "which is no function of logprobs, old_logprobs and"),
        (
            "model.rollout.engine=outside_parts.Unfinished",
            "which cannot be built (TypeError: Can't instantiate",
        ),
        ("model.policy.family=outside_parts.Failing", "which cannot be built (KeyError: 'no such part')"),
    ],
)
def test_a_wrong_name_or_part_is_one_line(
    words: list[str], option: str, known: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["fit", *words, f"--{option}"]) == 2
    [line] = capsys.readouterr().err.strip().splitlines()
    assert known in line
