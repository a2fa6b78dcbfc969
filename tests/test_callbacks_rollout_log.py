"""RolloutLog, read back from TensorBoard's event files."""

import io
import re

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from toy import ToyModule, fit, prompt

from lit_g2rpo.callbacks import EntropyBounds, LengthCurriculum, RolloutLog
from lit_g2rpo.callbacks.rollout_log import choose, fenced
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
    # rollouts 1 and 3, at their first optimizer steps
    assert list(shown) == [1, 5]
    assert "`0-a`" in shown[1]
    assert "`2-a`" in shown[5]
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


def test_every_chart_of_the_dashboard_finds_its_curves(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog(), EntropyBounds(), LengthCurriculum()], rollouts=2)
    found = events(tmp_path)
    layout = layout_pb2.Layout()
    layout.ParseFromString(found.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0])
    assert [category.title for category in layout.category] == [
        "accuracy",
        "reward",
        "length",
        "entropy",
        "task a",
        "task b",
    ]
    patterns = {
        (category.title, chart.title): list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }
    scalars = found.Tags()["scalars"]

    def curves(category, chart):
        return {tag for tag in scalars if any(re.match(pattern, tag) for pattern in patterns[category, chart])}

    assert curves("accuracy", "val/accuracy") == {"val/accuracy", "val/accuracy/a", "val/accuracy/b"}
    assert curves("task a", "accuracy") == {"val/accuracy/a"}
    assert curves("task a", "length band") == {"length_band/low/a", "length_band/high/a"}
    assert curves("task a", "entropy") == {"rollout/entropy/a", "entropy_bounds/a"}


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


def test_without_tensorboard_nothing_happens(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutLog()], rollouts=1, logger=False)
    assert not list(tmp_path.rglob("events*"))


def test_arguments_are_checked():
    with pytest.raises(UserError, match="groups"):
        RolloutLog(groups=0)
