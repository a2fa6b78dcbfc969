"""Weights & Biases and MLflow without a network: the same names, rollouts as steps, and no point twice."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.cut_run import curves, cut_and_resume
from helpers.processes import eventually

from lit_g2rpo.errors import UserError
from lit_g2rpo.loggers import MLflow, Wandb
from lit_g2rpo.loggers import service as service_module

BLOCK, MAGIC = 32768, 7


def records(path: Path) -> Iterator[bytes]:
    """Read the records of an offline run. Source: LevelDB's log format, in blocks of 32 KiB behind a magic number."""
    data, place, record = path.read_bytes(), MAGIC, b""
    while place + 7 <= len(data):
        if BLOCK - place % BLOCK < 7:
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack_from("<HB", data, place + 4)
        if place + 7 + length > len(data):  # still being written
            return
        record += data[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield record
            record = b""


def finished(path: Path) -> list[Any]:
    """Read an offline run once the process that writes it, which ends after the run, has written its last record."""
    from wandb.proto.wandb_internal_pb2 import Record

    found: list[Any] = []

    def ended() -> bool:
        found[:] = [Record.FromString(content) for content in records(path)]
        return bool(found) and found[-1].HasField("exit")

    eventually(ended)
    return found


def history(folder: Path) -> list[dict[str, Any]]:
    rows = []
    for path in sorted(folder.glob("wandb/offline-run-*/*.wandb")):
        for record in finished(path):
            if record.HasField("history"):
                row: dict[str, Any] = {}
                for item in record.history.item:
                    name, *inside = item.nested_key or [item.key]
                    value = json.loads(item.value_json)
                    # what is no number comes in parts
                    row[name] = {**row.get(name, {}), inside[0]: value} if inside else value
                rows.append(row)
    return rows


def test_weights_and_biases_gets_every_point_once_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("wandb")
    folder = cut_and_resume(tmp_path, lambda: Wandb(str(tmp_path), "toy", 0, offline=True))
    rows = history(folder)
    found: dict[str, list[tuple[int, float]]] = {}
    for row in rows:
        for name, value in row.items():
            if isinstance(value, float | int) and name != "rollout" and not name.startswith("_"):
                found.setdefault(name, []).append((row["rollout"], value))
    assert found.keys() == curves(folder).keys()
    for name, points in curves(folder).items():
        assert found[name] == [(rollout, pytest.approx(value)) for rollout, value in points], name
    tables = {row["rollout"]: row["groups"] for row in rows if "groups" in row}
    assert [(rollout, table["_type"], table["nrows"]) for rollout, table in tables.items()] == [
        (rollout, "table-file", 4) for rollout in (1, 3, 5)
    ]
    assert {row["rollout"] for row in rows if "bands/length" in row} == {2, 4, 6}
    assert {row["rollout"] for row in rows if "topology/rewards/a" in row} == {1, 3, 5}
    # both parts are one run, whose files and checkpoints lie where those of any other run do
    [name] = {path.name for path in folder.glob("wandb/offline-run-*/*.wandb")}
    assert name == f"run-{json.loads((folder / 'wandb.json').read_text())['id']}.wandb"
    assert (folder / "checkpoints/last.ckpt").exists()
    assert all((part / "files/curves.jsonl").exists() for part in folder.glob("wandb/offline-run-*"))
    said = capsys.readouterr().out
    assert f"W&B:         wandb sync --append {folder}/wandb/offline-run-" in said
    assert "tensorboard" not in said


def test_mlflow_gets_every_point_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = cut_and_resume(tmp_path, lambda: MLflow(str(tmp_path), "toy", 0))
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    [experiment] = [found for found in client.search_experiments() if found.name == "lit_g2rpo"]
    [run] = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("toy/version_0", "FINISHED")
    expected = curves(folder)
    assert run.data.metrics.keys() == expected.keys()
    for name, points in expected.items():
        drawn = [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, name)]
        assert sorted(drawn) == points, name
    files = Path(run.info.artifact_uri.removeprefix("file://"))
    assert {"curves.jsonl", "rollouts", "groups", "images"} <= {path.name for path in files.iterdir()}
    for rollout in (1, 3, 5):
        table = json.loads((files / f"groups/rollout_{rollout:06d}.json").read_text())
        assert len(table["data"]) == 4
        assert {"prompt", "completion", "reward", "advantage"} <= set(table["columns"])
    assert (files / "rollouts/index.html").exists()
    assert (folder / "checkpoints/last.ckpt").exists()
    said = capsys.readouterr().out
    assert f"MLflow:      mlflow ui --backend-store-uri sqlite:///{tmp_path}/mlflow.db" in said
    assert "tensorboard" not in said
    # what MLflow does not let change stays as it was, and what is new is added
    logger = MLflow(str(tmp_path), "toy", 0)
    logger.log_hyperparams({"model": {"lr": 1}})
    logger.log_hyperparams({"model": {"lr": 2, "seed": 3}})
    assert client.get_run(run.info.run_id).data.params == {"model.lr": "1", "model.seed": "3"}


@pytest.mark.parametrize("name", ["runs #1", "50%20", "what?"])
def test_a_folder_that_mlflow_would_misread_is_one_line(tmp_path: Path, name: str) -> None:
    pytest.importorskip("mlflow")
    logger = MLflow(str(tmp_path / name), "toy", 0)
    with pytest.raises(UserError, match=r"MLflow cannot keep its database in .* save_dir"):
        logger.log_metrics({"rollout/reward": 0.5}, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_password_in_an_address_is_neither_kept_nor_shown(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    logger = MLflow(str(tmp_path), "toy", 0, tracking_uri="http://me:secret@localhost:1")
    assert logger.how_to_open(tmp_path) == "MLflow:      http://localhost:1"


@pytest.mark.parametrize(("make", "package"), [(Wandb, "wandb"), (MLflow, "mlflow")])
def test_a_package_that_is_missing_is_one_line(make: Any, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError) as caught:
        make()
    said = str(caught.value)
    assert said.startswith(f"trainer.logger is {make.__name__}, which needs the package {package}: pip install")
    assert "\n" not in said
