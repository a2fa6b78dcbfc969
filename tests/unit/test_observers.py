"""What is not training never ends training: disks, folders, streams and loggers that fail."""

import errno
import io
import json
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import pytest
from helpers.toy import ToyModule, fit
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_g2rpo.callbacks import (
    AdvantageTopology,
    BandPlots,
    RolloutCheckpoint,
    RolloutLog,
    RolloutProgress,
    RunRecord,
    RunSummary,
)
from lit_g2rpo.callbacks.observer import Observer
from lit_g2rpo.callbacks.rollouts.files import RolloutFiles
from lit_g2rpo.callbacks.run_folder import RunFolder
from lit_g2rpo.errors import NonFiniteError, UserError
from lit_g2rpo.hardware.aside import Aside
from lit_g2rpo.hardware.output import lossy_output
from lit_g2rpo.loggers import TensorBoard

FULL = OSError(errno.ENOSPC, "No space left on device")


class At(L.Callback):
    """Do something at the start of some rollouts."""

    def __init__(self, **work: Callable[[], Any]) -> None:
        self.work = {int(key.removeprefix("r")): value for key, value in work.items()}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 0 and batch[0] in self.work:
            self.work[batch[0]]()


def fails(*_: Any, **__: Any) -> None:
    raise FULL


def weights(module: ToyModule) -> list[float]:
    return [float(value) for value in module.policy.weight.detach().flatten()]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    module = ToyModule()
    fit(module, tmp_path_factory.mktemp("straight"), [])
    return weights(module)


def said(found: Any, name: str) -> list[str]:
    return [str(warning.message) for warning in found if str(warning.message).startswith(name)]


def steps(folder: Path) -> set[int]:
    """The steps of a run's curve of the loss, in all of its event files."""
    found: set[int] = set()
    for path in folder.glob("events*"):
        events = EventAccumulator(str(path)).Reload()
        if "train/loss" in events.Tags()["scalars"]:
            found |= {event.step for event in events.Scalars("train/loss")}
    return found


def test_a_failure_is_said_once_and_counted() -> None:
    aside = Aside("the page")
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        for _ in range(5):
            with aside.guard():
                raise FULL
        aside.report()
    assert [str(warning.message) for warning in found] == [
        "the page: OSError: [Errno 28] No space left on device; the run continues without it",
        "the page: failed 5 times in this run",
    ]


@pytest.mark.parametrize("error", [UserError("a mistake"), NonFiniteError("nan"), KeyboardInterrupt()])
def test_what_ends_a_run_on_purpose_still_does(error: BaseException) -> None:
    with pytest.raises(type(error)), Aside("the page").guard():
        raise error


def test_every_hook_of_an_observer_is_guarded() -> None:
    class Broken(Observer):
        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            raise FULL

        on_fit_end = on_train_batch_start = on_train_start

    broken = Broken()
    with pytest.warns(UserWarning, match="Broken: OSError"):
        broken.on_train_start(None, None)
    broken.on_fit_end(None, None)
    broken.on_train_batch_start(None, None)
    assert broken.aside.failures == 3
    for kind in (RolloutLog, RolloutProgress, BandPlots, RunRecord, RunSummary):
        assert all(hasattr(vars(kind)[name], "__wrapped__") for name in vars(kind) if name.startswith("on_")), kind


@pytest.mark.parametrize("place", ["rollouts", "rollouts/images"])
def test_a_page_that_cannot_be_made_is_made_later(tmp_path: Path, straight: list[float], place: str) -> None:
    folder = tmp_path / "toy/version_0"
    (folder / place).parent.mkdir(parents=True, exist_ok=True)
    # a file stands where a folder is to be
    (folder / place).write_text("")
    module = ToyModule()
    with pytest.warns(UserWarning, match="RolloutLog: FileExistsError|RolloutLog: NotADirectoryError") as found:
        fit(module, tmp_path, [RolloutLog(), At(r3=(folder / place).unlink)])
    assert weights(module) == straight
    assert len(said(found, "RolloutLog: F")) + len(said(found, "RolloutLog: N")) == 1
    assert (folder / "rollouts/index.html").exists()
    assert (folder / "rollouts/rollout_000006.jsonl").exists()


def test_a_page_that_is_removed_is_made_again(tmp_path: Path, straight: list[float]) -> None:
    module, folder = ToyModule(), tmp_path / "toy/version_0/rollouts"
    fit(module, tmp_path, [RolloutLog(), At(r3=lambda: shutil.rmtree(folder))])
    assert weights(module) == straight
    [line, *_] = (folder / "rollout_000006.jsonl").read_text().splitlines()
    assert all((folder / image).exists() for image in json.loads(line)["images"])
    assert (folder / "index.html").exists()


@pytest.mark.parametrize("left", [0.0, 0.6])
@pytest.mark.parametrize("ending", ["jsonl", "js"])
def test_a_torn_rollout_is_removed_at_resume(tmp_path: Path, left: float, ending: str) -> None:
    fit(ToyModule(), tmp_path, [RolloutLog(), RolloutCheckpoint()], rollouts=3)
    folder = tmp_path / "toy/version_0"
    torn = folder / f"rollouts/rollout_000002.{ending}"
    os.truncate(torn, int(left * torn.stat().st_size))
    last = str(folder / "checkpoints/last.ckpt")
    fit(ToyModule(), tmp_path, [RolloutLog(), RolloutCheckpoint()], rollouts=5, checkpoint=last)
    found = sorted(path.name for path in (folder / "rollouts").glob("*.jsonl"))
    assert found == [f"rollout_{number:06d}.jsonl" for number in (1, 3, 4, 5)]
    assert '"rollouts": [1, 3, 4, 5]' in (folder / "rollouts/rollouts.js").read_text()


def test_images_that_cannot_be_drawn_end_nothing(
    tmp_path: Path, straight: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_g2rpo.callbacks.rollouts.files.small_image", fails)
    monkeypatch.setattr("lit_g2rpo.callbacks.plots.band_plots.pixels", fails)
    monkeypatch.setattr("lit_g2rpo.callbacks.plots.advantage_topology.pixels", fails)
    module = ToyModule()
    callbacks = [RolloutLog(), BandPlots(every_rollouts=1), AdvantageTopology(every_rollouts=1, gradients_every=0)]
    with pytest.warns(UserWarning) as found:  # noqa: PT030 three of them, looked at below
        fit(module, tmp_path, callbacks)
    assert weights(module) == straight
    for callback in callbacks:
        name = type(callback).__name__
        assert len(said(found, f"{name}: OSError")) == 1
        [count] = said(found, f"{name}: failed")
        assert count == f"{name}: failed 6 times in this run"


def test_tensorboard_on_a_full_disk_goes_on_when_there_is_room(
    tmp_path: Path, straight: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    write = RecordWriter.write
    room = At(
        r1=lambda: monkeypatch.setattr(RecordWriter, "write", fails),
        r4=lambda: monkeypatch.setattr(RecordWriter, "write", write),
    )
    module = ToyModule()
    # the writer's thread says so too, before it ends
    monkeypatch.setattr("threading.excepthook", lambda _: None)
    with pytest.warns(UserWarning, match="TensorBoard: OSError") as found:
        fit(module, tmp_path, [RunFolder(), room, RolloutLog(write_every=0), BandPlots()])
    assert weights(module) == straight
    assert len(said(found, "TensorBoard: OSError")) == 1
    found_steps = steps(tmp_path / "toy/version_0")
    assert 1 in found_steps
    assert max(found_steps) == 6


def test_a_logger_whose_folder_is_gone_ends_nothing(tmp_path: Path, straight: list[float]) -> None:
    module = ToyModule()
    gone = At(r2=lambda: shutil.rmtree(tmp_path / "toy/version_0"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit(module, tmp_path, [RunFolder(), gone, RolloutLog(), RolloutCheckpoint(every_rollouts=1)])
    assert weights(module) == straight
    assert (tmp_path / "toy/version_0/checkpoints/last.ckpt").exists()


class Closed(io.StringIO):
    """A stream whose other end is gone."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, errno.errorcode[self.number])

    def isatty(self) -> bool:
        return self.number == errno.EIO


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_progress_on_a_stream_that_is_gone(
    tmp_path: Path, straight: list[float], monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(sys, "stdout", Closed(number))
    module = ToyModule()
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit(module, tmp_path, [RolloutProgress(every_rollouts=1)])
    monkeypatch.undo()
    assert weights(module) == straight
    assert len(said(found, "RolloutProgress: ")) >= (number != errno.EIO)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC])
def test_output_that_is_lost_is_said_once(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    errors = io.StringIO()
    monkeypatch.setattr(sys, "stdout", Closed(number))
    monkeypatch.setattr(sys, "stderr", errors)
    handler = logging.StreamHandler(sys.stdout)
    with lossy_output():
        for _ in range(3):
            print("a line", flush=True)
        handler.setStream(sys.stdout)
        handler.emit(logging.makeLogRecord({"msg": "a line"}))
    [line] = errors.getvalue().splitlines()
    assert line.startswith("standard output cannot be written (")
    assert isinstance(sys.stdout, Closed)


def test_a_stream_that_was_never_there_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)
    with lossy_output():
        print("a line", flush=True)
        assert not sys.stdout.isatty()
    assert sys.stdout is None


def test_what_a_stream_cannot_spell_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with lossy_output():
        print("reward ü")
    assert raw.getvalue() == b"reward \\xfc\n"


def test_the_run_folder_stays_where_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "here")
    callbacks = [
        RunFolder(),
        At(r1=lambda: monkeypatch.chdir(tmp_path / "there")),
        RolloutLog(),
        RolloutCheckpoint(every_rollouts=1),
    ]
    trainer = fit(ToyModule(), Path(), callbacks, logger=TensorBoard("runs", name="toy", version=0))
    assert not list((tmp_path / "there").iterdir())
    folder = tmp_path / "here/runs/toy/version_0"
    assert {"checkpoints", "rollouts", "hparams.yaml"} <= {path.name for path in folder.iterdir()}
    assert Path(trainer.log_dir or "") == folder
    assert steps(folder) == set(range(1, 7))


def test_the_files_of_a_page_that_is_whole_are_kept(tmp_path: Path) -> None:
    RolloutFiles(tmp_path, "toy", None, 1).write(1, [])
    files = RolloutFiles(tmp_path, "toy", None, 1)
    files.open(1)
    # a rollout without a group is no use to the page
    assert not list(tmp_path.glob("*.jsonl"))
