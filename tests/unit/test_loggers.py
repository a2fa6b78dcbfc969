"""The loggers that write into the folder of a run: what TensorBoard opens on, and a table that a run goes on with."""

import csv
import shlex
from copy import deepcopy
from fnmatch import filter as filter_names
from pathlib import Path
from typing import Any

import pytest
from helpers.composed import compose
from helpers.cut_run import curves, cut_and_resume
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.context import RequestContext
from tensorboard.plugins.base_plugin import TBContext
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.plugins.hparams.backend_context import Context

from lit_g2rpo.callbacks.run_folder import resume_command
from lit_g2rpo.loggers import CSV, TensorBoard
from lit_g2rpo.loggers.run_logger import flat
from lit_g2rpo.loggers.tensorboard import OVERVIEW, SETTINGS, settings_of, tag_of


def read(folder: Path) -> EventAccumulator:
    sizes = {"scalars": 0, "images": 0, "histograms": 0, "tensors": 0}
    return EventAccumulator(str(folder), size_guidance=sizes).Reload()


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    at = tmp_path_factory.mktemp("tensorboard")
    return cut_and_resume(at, lambda: TensorBoard(str(at), "toy", 0))


def test_tensorboard_opens_on_the_overview_and_ends_with_alarms(resumed: Path) -> None:
    tags = read(resumed).Tags()["scalars"]
    assert set(tags) == {tag_of(name) for name in curves(resumed)}
    # TensorBoard sorts sections by characters, digits before letters
    sections = sorted({tag.split("/")[0] for tag in tags})
    assert sections[:2] == ["1 overview", "2 validation by task"]
    assert sections[-1] == "⚠ alarm"


def test_no_two_metrics_share_a_chart(resumed: Path) -> None:
    names = curves(resumed)
    assert len({tag_of(name) for name in names}) == len(names) > 30
    assert tag_of("rollout/reward/a") == "3 reward by task/a"
    assert tag_of("rollout/format/a") == "rollout/format/a"
    assert tag_of("topology/pull") == "topology/pull"


def test_every_kind_of_event_counts_rollouts_and_none_is_drawn_twice(resumed: Path) -> None:
    found = read(resumed)
    tags = found.Tags()
    expected = curves(resumed)
    for name, points in expected.items():
        drawn = [(event.step, event.value) for event in found.Scalars(tag_of(name))]
        assert drawn == [(rollout, pytest.approx(value)) for rollout, value in points], name
    # shown after rollouts 1, 3 and 5, or 2, 4 and 6; an optimizer step would be up to 12
    images = {tag: [event.step for event in found.Images(tag)] for tag in tags["images"]}
    assert images["groups/a/image"] == images["topology/pull"] == [1, 3, 5]
    assert images["bands/length"] == [2, 4, 6]
    assert [event.step for event in found.Histograms("topology/rewards/a")] == [1, 3, 5]
    assert [event.step for event in found.Tensors("groups/a/text_summary")] == [1, 3, 5]


RECIPE: dict[str, Any] = {
    "name": "mine",
    "seed_everything": 3,
    "model": {
        "objective": {"class_path": "lit_g2rpo.objectives.G2RPO", "init_args": {"scope": "task", "clip_low": 0.2}},
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-3, "betas": [0.9, 0.99]}},
        "update": {"epochs": 2},
    },
    "trainer": {"devices": 1},
}


def test_the_hparams_tab_has_the_settings(tmp_path: Path) -> None:
    logger = TensorBoard(str(tmp_path), "toy", 0)
    logger.log_hyperparams(RECIPE)
    logger.save()
    metadata = EventAccumulator(logger.log_dir).Reload().summary_metadata
    content = metadata["_hparams_/session_start_info"].plugin_data.content
    shown = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info.hparams
    assert {key: value.WhichOneof("kind") for key, value in shown.items()} == {
        "name": "string_value",
        "seed_everything": "number_value",
        "objective": "string_value",
        "objective.scope": "string_value",
        "objective.clip_low": "number_value",
        "optimizer": "string_value",
        "optimizer.lr": "number_value",
        "update.epochs": "number_value",
    }
    assert (shown["objective"].string_value, shown["optimizer.lr"].number_value) == ("G2RPO", 1e-3)


def test_the_hparams_tab_opens_on_what_differs_and_on_the_overview(tmp_path: Path) -> None:
    other = deepcopy(RECIPE)
    other["model"]["objective"] = {"class_path": "lit_g2rpo.objectives.GRPO", "init_args": {"clip_low": 0.2}}
    runs = EventMultiplexer()
    for name, recipe in (("a", other), ("b", RECIPE)):
        logger = TensorBoard(str(tmp_path), name, 0)
        logger.log_hyperparams(recipe)
        logger.log_metrics(dict.fromkeys((*OVERVIEW, "data/rows", "alarm/truncated", "zeta"), 0.5), 1)
        logger.save()
        runs.AddRun(logger.log_dir, name)
    backend = Context(TBContext(data_provider=MultiplexerDataProvider(runs.Reload(), str(tmp_path))))
    request = RequestContext()
    found = backend.experiment_from_metadata(
        request, "", True, backend.hparams_metadata(request, ""), [], hparams_limit=1000
    )
    assert found.hparam_infos[0].name == "objective"
    # only the second run has one
    assert "objective.scope" in [info.name for info in found.hparam_infos]
    shown = [info.name.tag for info in found.metric_infos]
    assert shown[: len(OVERVIEW)] == sorted(map(tag_of, OVERVIEW))


def test_the_settings_of_the_default_run_are_all_there() -> None:
    recipe = compose("--config", "@g2rpo.yaml").as_dict()
    shown = settings_of(recipe)
    for key in ("name", "seed_everything", "objective", "objective.scope", "optimizer.lr", "rollout.group_size"):
        assert key in shown
    assert "rollout.max_rows" not in shown


def test_every_setting_of_the_hparams_tab_is_a_key_of_recipes() -> None:
    recipe = compose("--config", "@g2rpo.yaml", "--model.policy", "@model/qwen3_vl_2b_lora.yaml").as_dict()
    keys = [key for key, _ in flat(recipe)]
    assert [pattern for pattern in SETTINGS if not filter_names(keys, pattern)] == []


def test_a_table_holds_each_point_once_however_often_the_run_was_cut(tmp_path: Path) -> None:
    folder = cut_and_resume(tmp_path, lambda: CSV(str(tmp_path), "toy", 0))
    found: dict[str, list[tuple[int, float]]] = {}
    with (folder / "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for name, value in row.items():
                if name != "step" and value:
                    found.setdefault(name, []).append((int(row["step"]), float(value)))
    assert found == curves(folder)


def test_a_second_logger_lies_in_the_folder_of_the_first(tmp_path: Path) -> None:
    first, second = TensorBoard(str(tmp_path), "toy"), CSV("elsewhere", "other", 7)
    second.lie_in(Path(first.log_dir))
    assert second.log_dir == first.log_dir == str(tmp_path / "toy/version_0")


def test_commands_can_be_copied_for_a_folder_with_spaces(tmp_path: Path) -> None:
    folder = tmp_path / "my runs #1" / "it's"
    folder.mkdir(parents=True)
    (folder / "config.yaml").touch()
    opens = TensorBoard(str(tmp_path)).how_to_open(folder)
    for command in (opens, resume_command(folder, str(folder / "checkpoints/last.ckpt"))):
        assert shlex.split(command)[-1] == str(folder)
