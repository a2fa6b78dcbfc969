"""RolloutCheckpoint on a real trainer."""

import os

import lightning.pytorch as L
import pytest
import torch
from helpers.toy import ToyModule, fit
from lightning.pytorch.loggers import TensorBoardLogger

from lit_g2rpo.callbacks import RolloutCheckpoint
from lit_g2rpo.errors import UserError


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
    fit(ToyModule(validation=accuracy), tmp_path, [keeper], rollouts=8)
    assert keeper.best_model_path.endswith("best-rollout=00008.ckpt")


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
    logger = TensorBoardLogger(tmp_path, name="moved", version=0)
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
    assert note.startswith("once mended, python -m lit_g2rpo fit ")
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
