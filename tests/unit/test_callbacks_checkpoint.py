"""RolloutCheckpoint on a real trainer."""

import errno
import os
import tempfile

import lightning.pytorch as L
import pytest
import torch
from helpers.toy import ToyModule, fit

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.callbacks import checkpoint as checkpoint_module
from lit_g2rpo.errors import UserError
from lit_g2rpo.loggers import TensorBoard
from lit_g2rpo.training.checkpoint_files import verify


def accuracy(rollout):
    return {0: 0.1, 2: 0.5, 4: 0.3, 6: 0.4, 8: 0.2}[rollout]


def names(folder):
    return sorted(path.name for path in (folder / "toy/version_0/checkpoints").iterdir())


def weights(module):
    return module.policy.weight.detach().clone()


def test_keeps_the_last_the_best_and_a_link(tmp_path):
    keeper = RolloutCheckpoint(every_rollouts=2, keep_last=2)
    fit(ToyModule(validation=accuracy), tmp_path, [keeper], rollouts=8)
    assert names(tmp_path) == [
        "best-rollout=00002.ckpt",
        "last.ckpt",
        "rollout=00006-step=000012.ckpt",
        "rollout=00008-step=000016.ckpt",
    ]
    folder = tmp_path / "toy/version_0/checkpoints"
    assert os.path.realpath(folder / "last.ckpt") == str(folder / "rollout=00008-step=000016.ckpt")
    assert keeper.best_model_path == str(folder / "best-rollout=00002.ckpt")
    assert float(keeper.best_model_score) == pytest.approx(0.5)


def test_smaller_may_be_better(tmp_path):
    keeper = RolloutCheckpoint(monitor="val/accuracy", mode="min")
    fit(ToyModule(validation=lambda r: {4: 0.2, 6: 0.1}.get(r, 0.3)), tmp_path, [keeper], rollouts=8)
    assert keeper.best_model_path.endswith("best-rollout=00006.ckpt")


def test_without_a_metric_there_is_no_best(tmp_path):
    fit(ToyModule(), tmp_path, [RolloutCheckpoint(every_rollouts=3, keep_last=1, monitor=None)], rollouts=4)
    # training ends between two intervals, and that is saved too
    assert names(tmp_path) == ["last.ckpt", "rollout=00004-step=000008.ckpt"]


def test_a_metric_that_is_not_logged_is_named(tmp_path):
    with pytest.raises(UserError, match=r"'val/acuracy'.*val/accuracy/a"):
        fit(ToyModule(), tmp_path, [RolloutCheckpoint(monitor="val/acuracy")])


def test_an_error_before_a_resumed_run_begins_names_the_step_that_it_resumes_from(tmp_path):
    class Fails(L.Callback):
        def on_fit_start(self, trainer, pl_module):
            raise UserError("no more")

    fit(ToyModule(), tmp_path, [RolloutCheckpoint(every_rollouts=1)], rollouts=3)
    newest = str(tmp_path / "toy/version_0/checkpoints/last.ckpt")
    with pytest.raises(UserError, match="no more") as caught:
        fit(ToyModule(), tmp_path, [RolloutCheckpoint(every_rollouts=1), Fails()], rollouts=4, checkpoint=newest)
    [note] = caught.value.__notes__
    assert note.endswith("continues from the checkpoint of step 6")


def test_a_moved_run_keeps_its_lists(tmp_path):
    fit(ToyModule(validation=accuracy), tmp_path, [RolloutCheckpoint(every_rollouts=2)], rollouts=4)
    (tmp_path / "toy").rename(tmp_path / "moved")
    folder = tmp_path / "moved/version_0/checkpoints"
    keeper = RolloutCheckpoint(every_rollouts=2)
    logger = TensorBoard(str(tmp_path), name="moved", version=0)
    module = ToyModule(validation=accuracy)
    fit(module, tmp_path, [keeper], rollouts=8, checkpoint=str(folder / "last.ckpt"), logger=logger)
    assert keeper.best_model_path == str(folder / "best-rollout=00002.ckpt")
    assert sorted(path.name for path in folder.iterdir()) == [
        "best-rollout=00002.ckpt",
        "last.ckpt",
        "rollout=00006-step=000012.ckpt",
        "rollout=00008-step=000016.ckpt",
    ]


def test_an_error_says_how_to_go_on(tmp_path):
    def fails(rollout):
        if rollout == 3:
            raise UserError("the reward fails")
        return 5.0

    with pytest.raises(UserError, match="the reward fails") as caught:
        fit(ToyModule(length=fails), tmp_path, [RolloutCheckpoint(every_rollouts=1)], rollouts=4)
    [note] = caught.value.__notes__
    assert note.startswith("to resume after a fix, trainer.fit(module, datamodule=data, ckpt_path=")
    assert note.endswith("continues from the checkpoint of step 4")
    with pytest.raises(UserError) as caught:
        fit(ToyModule(length=fails), tmp_path / "none", [RolloutCheckpoint(every_rollouts=9)], rollouts=4)
    assert not hasattr(caught.value, "__notes__")


@pytest.mark.parametrize("cut", [3, 4, 5])
def test_a_resumed_run_is_the_same_run(tmp_path, cut):
    whole = ToyModule(validation=accuracy)
    fit(whole, tmp_path / "whole", [RolloutCheckpoint(every_rollouts=1, keep_last=2)], rollouts=8)
    first = ToyModule(validation=accuracy)
    fit(first, tmp_path / "cut", [RolloutCheckpoint(every_rollouts=1, keep_last=2)], rollouts=cut)
    second, keeper = ToyModule(validation=accuracy), RolloutCheckpoint(every_rollouts=1, keep_last=2)
    last = str(tmp_path / "cut/toy/version_0/checkpoints/last.ckpt")
    fit(second, tmp_path / "cut", [keeper], rollouts=8, checkpoint=last)
    assert torch.equal(weights(second), weights(whole))
    assert second.validation_history == whole.validation_history
    assert names(tmp_path / "cut") == names(tmp_path / "whole")
    assert float(keeper.best_model_score) == pytest.approx(0.5)


def test_another_folder_starts_its_own_list(tmp_path, recwarn):
    fit(ToyModule(validation=accuracy), tmp_path / "one", [RolloutCheckpoint(every_rollouts=2)], rollouts=4)
    last = str(tmp_path / "one/toy/version_0/checkpoints/last.ckpt")
    keeper = RolloutCheckpoint(every_rollouts=2, keep_last=1)
    fit(ToyModule(validation=accuracy), tmp_path / "two", [keeper], rollouts=8, checkpoint=last)
    assert names(tmp_path / "two") == ["best-rollout=00006.ckpt", "last.ckpt", "rollout=00008-step=000016.ckpt"]
    assert "rollout=00004-step=000008.ckpt" in names(tmp_path / "one")
    assert not [w for w in recwarn if "dirpath has changed" in str(w.message)]


def test_arguments_are_checked():
    for arguments in ({"every_rollouts": 0}, {"keep_last": 0}, {"mode": "maximum"}):
        with pytest.raises(UserError, match=next(iter(arguments))):
            RolloutCheckpoint(**arguments)


class Disk:
    """A disk that is full for the checkpoints of some steps."""

    def __init__(self, monkeypatch, full, times=99):
        self.full, self.times, self.asked = full, times, []
        self.save = torch.save
        monkeypatch.setattr("torch.save", self)

    def __call__(self, content, file):
        step = content["global_step"]
        self.asked.append((step, os.path.basename(file.name)))
        if step in self.full and self.times > 0:
            self.times -= 1
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        self.save(content, file)


def test_a_full_disk_ends_nothing_and_the_next_rollout_tries_again(tmp_path, monkeypatch):
    straight = ToyModule(validation=accuracy)
    fit(straight, tmp_path / "straight", [RolloutCheckpoint(every_rollouts=3, monitor=None)], rollouts=8)
    disk, logged = Disk(monkeypatch, {6, 8}), []
    monkeypatch.setattr(
        "lit_g2rpo.loggers.TensorBoard.log_metrics",
        lambda self, metrics, step=None: logged.append((step, metrics.get("alarm/checkpoint"))),
    )
    module, keeper = ToyModule(validation=accuracy), RolloutCheckpoint(every_rollouts=3, monitor=None, keep_last=1)
    with pytest.warns(UserWarning, match="could not be written: No space left on device") as found:
        fit(module, tmp_path, [keeper], rollouts=8)
    # due after rollout 3, tried again after 4, written after 5, and then again when due
    assert [step for step, _ in disk.asked] == [6, 8, 10, 12, 16]
    assert torch.equal(weights(module), weights(straight))
    assert names(tmp_path) == ["last.ckpt", "rollout=00008-step=000016.ckpt"]
    said = [str(warning.message) for warning in found if "could not be written" in str(warning.message)]
    assert len(said) == 2
    assert "the newest is that of the start. Training goes on" in said[0]
    assert [pair for pair in logged if pair[1] is not None] == [(3, 1.0), (4, 1.0), (5, 0.0)]


def test_what_cannot_be_written_leaves_the_older_ones(tmp_path, monkeypatch):
    Disk(monkeypatch, {4, 6})
    keeper, seen = RolloutCheckpoint(every_rollouts=1, monitor=None, keep_last=1), []
    folder = tmp_path / "toy/version_0/checkpoints"
    module = ToyModule(length=lambda rollout: seen.extend(folder.glob("*")) or 5.0)
    monkeypatch.setattr(checkpoint_module, "PAUSE", 0.0)
    with (
        pytest.warns(UserWarning, match="trial 5 of 5"),
        pytest.raises(UserError, match=r"step=000006.ckpt could not .*No space left.*since step 2 is lost") as caught,
    ):
        fit(module, tmp_path, [keeper], rollouts=3)
    assert names(tmp_path) == ["last.ckpt", "rollout=00001-step=000002.ckpt"]
    assert verify(tmp_path / "toy/version_0/checkpoints/last.ckpt") == ""
    assert caught.value.__notes__[0].endswith("continues from the checkpoint of step 2")
    # nor does a part of it take room meanwhile
    assert seen
    assert not [path for path in seen if path.name.startswith(".")]


def test_an_old_one_that_cannot_be_removed_ends_nothing(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(path))

    monkeypatch.setattr(checkpoint_module, "discard", refuse)
    with pytest.warns(UserWarning, match=r"old checkpoint .*rollout=00001-.* could not be removed: Operation not"):
        fit(ToyModule(), tmp_path, [RolloutCheckpoint(every_rollouts=1, keep_last=1, monitor=None)], rollouts=3)
    assert os.path.realpath(tmp_path / "toy/version_0/checkpoints/last.ckpt").endswith("rollout=00003-step=000006.ckpt")


def test_the_last_checkpoint_waits_for_room(tmp_path, monkeypatch):
    disk = Disk(monkeypatch, {4}, times=3)
    monkeypatch.setattr(checkpoint_module, "PAUSE", 0.0)
    with pytest.warns(UserWarning, match="trial 3 of 5"):
        fit(ToyModule(), tmp_path, [RolloutCheckpoint(monitor=None)], rollouts=2)
    assert len(disk.asked) == 4
    assert names(tmp_path) == ["last.ckpt", "rollout=00002-step=000004.ckpt"]


def test_a_best_one_that_cannot_be_written_leaves_the_best_one_before(tmp_path, monkeypatch):
    scores = {0: 0.0, 2: 0.1, 4: 0.5, 6: 0.4}
    Disk(monkeypatch, {8}, times=1)
    keeper = RolloutCheckpoint(every_rollouts=9)
    with pytest.warns(UserWarning, match="the best checkpoint so far could not be written .*No space left"):
        fit(ToyModule(validation=lambda rollout: scores[rollout]), tmp_path, [keeper], rollouts=6)
    # the best was lost; the next one is measured against what there is
    assert keeper.best_model_path.endswith("best-rollout=00006.ckpt")
    assert names(tmp_path) == ["best-rollout=00006.ckpt", "last.ckpt", "rollout=00006-step=000012.ckpt"]


def test_nothing_goes_through_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    fit(ToyModule(validation=accuracy), tmp_path, [RolloutCheckpoint(every_rollouts=2)], rollouts=2)
    assert len(names(tmp_path)) == 3


def test_a_checkpoint_is_on_the_disk_before_it_has_its_name(tmp_path, monkeypatch):
    """Every name is given to a file that was flushed, and the folder is flushed after it."""
    events, fsync, replace = [], os.fsync, os.replace

    def flushed(file):
        events.append(("fsync", os.readlink(f"/proc/self/fd/{file}")))
        fsync(file)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", lambda a, b: (events.append(("replace", str(b), str(a))), replace(a, b)))
    fit(ToyModule(), tmp_path, [RolloutCheckpoint(monitor=None)], rollouts=1)
    folder = tmp_path / "toy/version_0/checkpoints"
    part, path = folder / ".rollout=00001-step=000002.ckpt.part", folder / "rollout=00001-step=000002.ckpt"
    assert events == [
        ("fsync", str(part)),
        ("replace", str(path), str(part)),
        ("fsync", str(folder)),
        ("replace", str(folder / "last.ckpt"), str(folder / ".last.ckpt.part")),
        ("fsync", str(folder)),
    ]


@pytest.mark.parametrize(("mode", "sign"), [("max", 1), ("min", -1)])
def test_the_start_counts_among_the_best(tmp_path, mode, sign):
    keeper = RolloutCheckpoint(every_rollouts=2, mode=mode)
    fit(ToyModule(validation=lambda rollout: 0.5 - sign * rollout / 100), tmp_path, [keeper], rollouts=4)
    assert keeper.start == pytest.approx(0.5)
    assert not keeper.best_model_path
    assert not list((tmp_path / "toy/version_0/checkpoints").glob("best*"))
    # after a resume too
    again = RolloutCheckpoint(every_rollouts=2, mode=mode)
    last = str(tmp_path / "toy/version_0/checkpoints/last.ckpt")
    better = ToyModule(validation=lambda rollout: 0.5 + sign * (rollout - 7) / 100)
    fit(better, tmp_path, [again], rollouts=10, checkpoint=last)
    # rollouts 6 and 8: only what beats the start is kept
    assert [path.name for path in (tmp_path / "toy/version_0/checkpoints").glob("best*")] == ["best-rollout=00010.ckpt"]
    assert again.start == pytest.approx(0.5)
