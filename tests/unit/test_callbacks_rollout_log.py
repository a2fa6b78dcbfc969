"""RolloutLog, read back from TensorBoard's event files and from its folder."""

import io
import json

import pytest
import torch
from helpers.toy import ToyModule, fit, prompt
from helpers.validation_run import run
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import RolloutCheckpoint, RolloutLog
from lit_g2rpo.callbacks.rollouts.rollout_log import choose
from lit_g2rpo.callbacks.rollouts.text import fenced
from lit_g2rpo.callbacks.rollouts.validation_groups import first_rows
from lit_g2rpo.errors import UserError


def events(tmp_path):
    return EventAccumulator(str(tmp_path / "toy/version_0"), size_guidance={"tensors": 0, "images": 0}).Reload()


def texts(accumulator, tag):
    return {
        event.step: event.tensor_proto.string_val[0].decode() for event in accumulator.Tensors(f"{tag}/text_summary")
    }


def test_groups_are_shown_every_few_rollouts(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog(every_rollouts=2, groups=2)], rollouts=4)
    found = events(tmp_path)
    shown = texts(found, "groups/a")
    # rollouts 1 and 3
    assert list(shown) == [1, 3]
    assert "`0-a`" in shown[1]
    assert "`2-a`" in shown[3]
    assert "[image]\nWhat is <0-a>?" in shown[1]
    assert "| 1 | 0.250 | 0.250 | 1.000 | -0.333 | 5 | truncated |" in shown[1]
    # a fence that the backticks of the completion cannot close keeps its tags visible
    assert "````text\n<thinking>``` 1</thinking><answer>1</answer>\n````" in shown[1]
    text_only = texts(found, "groups/b")[1]
    assert "[image]" not in text_only
    assert "| 1 | 0.750 | 0.750 | 1.000 | +1.000 | 5 | dropped |" in text_only
    image = Image.open(io.BytesIO(found.Images("groups/a/image")[0].encoded_image_string))
    assert image.size == (40, 20)
    assert "groups/b/image" not in found.Tags()["images"]


def test_several_images_get_a_tag_each(tmp_path):
    fit(ToyModule(images=2), tmp_path, [RolloutLog()], rollouts=1)
    tags = events(tmp_path).Tags()["images"]
    assert {"groups/a/image_0", "groups/a/image_1"} <= set(tags)


def test_every_task_has_its_turn():
    prompts = [prompt(f"{task}{number}", task, 0) for number in range(2) for task in "bca"]

    def chosen(groups, turn):
        return [prompts[index].id for index in choose(prompts, groups, turn)]

    assert [chosen(1, turn) for turn in range(4)] == [["a0"], ["b0"], ["c0"], ["a0"]]
    assert chosen(2, 1) == ["c0", "a0"]
    assert chosen(5, 0) == ["a0", "b0", "c0", "a1", "b1"]
    assert len(chosen(99, 3)) == 6
    assert choose([], 4, 1) == []


def test_fence_is_longer_than_any_inside():
    assert fenced("a `````b") == "``````text\na `````b\n``````"


def lines(tmp_path, rollout):
    path = tmp_path / f"toy/version_0/rollouts/rollout_{rollout:06d}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def listed(tmp_path):
    """What the page is told that there is."""
    return json.loads((tmp_path / "toy/version_0/rollouts/rollouts.js").read_text()[len("const RUN = ") : -2])


def saved_after_two(tmp_path):
    return str(next((tmp_path / "toy/version_0/checkpoints").glob("rollout=00002*")))


# by hand from the toy: five tokens, with the entropies 0, 0.1, .. 0.4
TOKENS = {
    "error": None,
    "length": 5,
    "entropy": 0.2,
    "logprobs": {"mean": -0.2, "min": -0.4},
    "boxes": [],
    "points": [],
    "opened": "",
    "tokens": ["<0>", "<1>", "<2>", "<3>", "<4>"],
    "token_entropy": [0.0, 0.1, 0.2, 0.3, 0.4],
}


def test_rollouts_are_written_group_by_group(tmp_path):
    fit(ToyModule(images=2), tmp_path, [RolloutLog()], rollouts=3)
    folder = tmp_path / "toy/version_0/rollouts"
    assert sorted(path.name for path in folder.glob("rollout_*")) == sorted(
        f"rollout_00000{number}.{suffix}" for number in (1, 2, 3) for suffix in ("js", "jsonl")
    )
    first, second = lines(tmp_path, 3)
    assert (first["rollout"], first["step"], first["id"], first["task"]) == (3, 5, "2-a", "a")
    assert first["prompt"] == "[image]\n[image]\nWhat is <2-a>?"
    assert [Image.open(folder / path).size for path in first["images"]] == [(40, 20), (40, 20)]
    assert second["images"] == []
    # by hand from the toy: rewards row / 4, its own total 0.5
    assert first["completions"][1] == TOKENS | {
        "text": "<thinking>``` 1</thinking><answer>1</answer>",
        "reward": 0.25,
        "parts": {"accuracy": 0.25, "format": 1.0, "shaping": -0.25},
        "advantage": -0.3333,
        "valid": True,
        "truncated": True,
    }
    assert [c["valid"] for c in second["completions"]] == [True, False]


def test_interval_and_number_of_groups_are_kept(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog(write_every=2, write_groups=1)], rollouts=5)
    folder = tmp_path / "toy/version_0/rollouts"
    assert sorted(path.name for path in folder.glob("*.jsonl")) == [
        "rollout_000001.jsonl",
        "rollout_000003.jsonl",
        "rollout_000005.jsonl",
    ]
    # the tasks take turns
    assert [[group["task"] for group in lines(tmp_path, number)] for number in (1, 3, 5)] == [["a"], ["b"], ["a"]]


def test_the_trainers_logprobs_are_compared_with_the_engines(tmp_path):
    class Recomputing(ToyModule):
        def collect(self):
            experience = super().collect()
            engine = [completion.logprobs for completion in experience.completions]
            shift = torch.tensor([0.0, 0.0, 0.5, 0.0, -0.1])
            # nothing was computed for the last group
            experience.old_logprobs = [engine[0] + shift, engine[1], *engine[2:]]
            return experience

    fit(Recomputing(), tmp_path, [RolloutLog()], rollouts=1)
    first, second = lines(tmp_path, 1)
    # -0.2 + (0.5 - 0.1) / 5
    assert first["completions"][0]["trainer_logprobs"] == {"mean": -0.12, "min": -0.5, "gap": 0.5}
    assert not any("trainer_logprobs" in c for c in (first["completions"][1], *second["completions"]))


def test_a_resumed_run_goes_on_where_its_checkpoint_is(tmp_path):
    folder = tmp_path / "toy/version_0/rollouts"
    fit(ToyModule(), tmp_path, [RolloutLog(), RolloutCheckpoint(every_rollouts=2, monitor=None)], rollouts=2)
    checkpoint = saved_after_two(tmp_path)
    before = (folder / "rollout_000002.jsonl").read_bytes()
    # an earlier attempt got further and was killed before it saved
    (folder / "rollout_000007.jsonl").write_text("")
    (folder / "rollout_000007.js").write_text("")
    again = [RolloutLog(), RolloutCheckpoint(every_rollouts=2, monitor=None)]
    fit(ToyModule(), tmp_path, again, rollouts=4, checkpoint=checkpoint)
    numbers = [int(path.stem[-6:]) for path in sorted(folder.glob("*.jsonl"))]
    assert numbers == [1, 2, 3, 4]
    assert (folder / "rollout_000002.jsonl").read_bytes() == before
    assert listed(tmp_path)["rollouts"] == numbers


def test_without_tensorboard_the_files_are_written_all_the_same(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog()], rollouts=1, logger=False)
    assert not list(tmp_path.rglob("events*"))
    assert (tmp_path / "rollouts/index.html").exists()
    assert len(list(tmp_path.glob("rollouts/*.jsonl"))) == 1


def test_zero_writes_no_folder(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog(write_every=0)], rollouts=1)
    assert not list(tmp_path.rglob("rollouts"))
    assert "`0-a`" in texts(events(tmp_path), "groups/a")[1]


def validated(folder):
    """The ids in each file of validation groups, by rollout."""
    files = sorted(folder.glob("validation_*.jsonl"))
    return {int(path.stem[-6:]): [json.loads(line)["id"] for line in path.read_text().splitlines()] for path in files}


CHOSEN = ["row-0", "row-1", "row-2", "row-3"]


def test_the_same_validation_prompts_are_written_after_every_validation(tmp_path):
    run(tmp_path, rollouts=4)
    folder = tmp_path / "toy/version_0/rollouts"
    # before the first rollout, and every two rollouts
    assert validated(folder) == {0: CHOSEN, 2: CHOSEN, 4: CHOSEN}
    first, second, *_ = map(json.loads, (folder / "validation_000002.jsonl").read_text().splitlines())
    assert (first["rollout"], first["step"], first["task"], second["task"]) == (2, 4, "a", "b")
    assert (folder / first["images"][0]).exists()
    # by hand from the toy: an accuracy of rollout / 100, and nothing that only training has
    assert first["completions"] == [
        TOKENS | {"text": "to row-0", "reward": 0.02, "parts": {"accuracy": 0.02, "format": 1.0}, "truncated": False}
    ]
    assert (listed(tmp_path)["rollouts"], listed(tmp_path)["validations"]) == ([1, 2, 3, 4], [0, 2, 4])


def test_a_resumed_run_keeps_the_validations_before_its_checkpoint_and_no_later_one(tmp_path):
    folder = tmp_path / "toy/version_0/rollouts"
    run(tmp_path, 2, [RolloutCheckpoint(every_rollouts=2, monitor=None)])
    checkpoint = saved_after_two(tmp_path)
    before = (folder / "validation_000000.jsonl").read_bytes()
    # an earlier attempt got further and was killed before it saved
    for suffix in ("jsonl", "js"):
        (folder / f"validation_000007.{suffix}").write_text("")
    run(tmp_path, 4, [RolloutCheckpoint(every_rollouts=2, monitor=None)], checkpoint=checkpoint)
    assert validated(folder) == {0: CHOSEN, 2: CHOSEN, 4: CHOSEN}
    assert (folder / "validation_000000.jsonl").read_bytes() == before


def test_a_validation_that_cannot_be_described_ends_no_run(tmp_path, monkeypatch):
    def failing(*_):
        raise OSError("no")

    monkeypatch.setattr("lit_g2rpo.callbacks.rollouts.validation_groups.group_record", failing)
    with pytest.warns(match="RolloutLog: OSError: no; the run continues without it"):
        run(tmp_path, rollouts=2)
    assert len(lines(tmp_path, 2)) == 2
    assert validated(tmp_path / "toy/version_0/rollouts") == {}


def test_first_rows_of_each_task_are_chosen_among_those_that_are_evaluated():
    assert first_rows(["a", "a", "b", "a", "b"], [1, 2, 3, 4], 1) == [1, 2]
    assert first_rows(["a", "a", "b", "a", "b"], [0, 1, 2, 3], 2) == [0, 1, 2]


@pytest.mark.parametrize(
    "arguments",
    [{"groups": 0}, {"write_every": -1}, {"write_groups": 0}, {"keep": 0}, {"keep_mib": 0}, {"validation_prompts": -1}],
)
def test_arguments_are_checked(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        RolloutLog(**arguments)
