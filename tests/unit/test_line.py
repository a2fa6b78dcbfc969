"""What ``--run`` is spelled out as, and the folder in which a run goes on."""

from pathlib import Path

import pytest
import torch
from jsonargparse import Namespace

from lit_g2rpo.cli.line import read_line
from lit_g2rpo.cli.place import Place
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.checkpoint_files import verify


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Make a run whose newest checkpoint is not whole."""
    folder = tmp_path / "moved"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "config.yaml").write_text("name: g2rpo\n")
    for rollout in (1, 2):
        state = {"g2rpo": {"rollout_index": rollout}, "weights": torch.ones(1000)}
        torch.save(state, folder / "checkpoints" / f"rollout={rollout:05d}-step={rollout:06d}.ckpt")
    newest = folder / "checkpoints" / "rollout=00002-step=000002.ckpt"
    newest.write_bytes(newest.read_bytes()[:-300])
    assert verify(newest)
    (folder / "checkpoints" / "last.ckpt").symlink_to(newest.name)
    return folder


@pytest.mark.filterwarnings("ignore:.*trying the previous one")
def test_a_training_goes_on_from_the_last_whole_checkpoint_in_its_own_folder(run: Path) -> None:
    """A path to any but ``last.ckpt`` would begin another run."""
    line = read_line("fit", ["--run", str(run), "--more", "5"])
    assert line.run == run
    assert line.words[2:] == ["--ckpt_path", "last", "--schedule.rollouts", "6"]
    whole = str(run / "checkpoints" / "rollout=00001-step=000001.ckpt")
    assert read_line("test", ["--run", str(run)]).words[2:] == ["--ckpt_path", whole]


@pytest.mark.filterwarnings("ignore:.*trying the previous one")
@pytest.mark.parametrize("key", ["name", "trainer.logger.save_dir", "trainer.logger.init_args.version"])
def test_a_run_that_goes_on_takes_no_other_folder(run: Path, key: str) -> None:
    words, other = ["--run", str(run), f"--{key}=other"], str(run / "checkpoints" / "rollout=00001-step=000001.ckpt")
    for verb in ("fit", "test"):
        with pytest.raises(UserError, match=rf"--{key} asks for another folder, but --run continues in {run}"):
            read_line(verb, words)
    # a run of its own, and verbs that write nowhere there
    assert f"--{key}=other" in read_line("fit", [*words, "--ckpt_path", other]).words
    assert f"--{key}=other" in read_line("plan", words).words


def test_every_logger_without_a_name_takes_the_experiments() -> None:
    loggers = [Namespace(class_path="a.B", init_args=Namespace(save_dir="runs", name=name)) for name in (None, "own")]
    place = Place(Namespace(logger=loggers))
    place.fill_names("g2rpo")
    assert [logger.init_args.name for logger in loggers] == ["g2rpo", "own"]
    assert place.experiment == Path("runs/g2rpo")


@pytest.mark.parametrize("logger", [False, True, Namespace(class_path="a.Logger", init_args=Namespace(project="a"))])
def test_a_run_without_a_logger_that_has_versions_goes_on_in_its_folder(run: Path, logger: object) -> None:
    trainer = Namespace(logger=logger, default_root_dir=None)
    Place(trainer).go_on(run / "checkpoints" / "last.ckpt", run)
    assert trainer.default_root_dir == str(run)
