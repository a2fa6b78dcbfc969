"""The build of the embedded policy: a stage that was cut off continues, and one that is done is left alone."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from lit_g2rpo.callbacks import RolloutProgress
from lit_g2rpo.mini import build
from lit_g2rpo.mini.lessons import MiniLessons
from lit_g2rpo.mini.vision import train_vision
from lit_g2rpo.policy.config import PolicyConfig
from lit_g2rpo.policy.loading import load_policy


def supervise(start: str, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    data = MiniLessons(demonstrations=4, lessons=100)
    data.val_batch_size = 240
    build.supervised(Path(start), folder, data=data, steps=4, validate=4)


def test_a_supervised_stage_continues_where_it_was_cut(
    random_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "BATCH", 6)
    monkeypatch.setattr(build, "CHECKPOINT_EVERY", 2)
    monkeypatch.setattr(build.MiniLessons, "val_dataset", lambda self: self.train_dataset().shown)
    supervise(random_folder, tmp_path / "straight")

    class Cut(Exception):
        pass

    def cut(self: Any, trainer: Any, *_: Any) -> None:
        if trainer.global_step == 3:
            raise Cut

    with monkeypatch.context() as patch:
        patch.setattr(RolloutProgress, "on_train_batch_end", cut)
        with pytest.raises(Cut):
            supervise(random_folder, tmp_path / "cut")
    assert (tmp_path / "cut" / "checkpoints" / "last.ckpt").exists()
    supervise(random_folder, tmp_path / "cut")
    straight, resumed = (load_file(tmp_path / name / "model.safetensors") for name in ("straight", "cut"))
    started = load_file(Path(random_folder) / "model.safetensors")
    assert all((straight[name] == resumed[name]).all() for name in straight)
    assert any((straight[name] != started[name]).any() for name in straight)
    assert "val/accuracy" in build.best_metrics(tmp_path / "cut")


def test_a_stage_that_is_done_is_not_run_again(tmp_path: Path) -> None:
    runs: list[Path] = []
    for _ in range(2):
        assert build.stage(tmp_path / "1-first", runs.append) == tmp_path / "1-first"
    assert len(runs) == 1


def test_the_vision_stage_continues_where_it_was_cut(random_folder: str, tmp_path: Path) -> None:
    policies = [load_policy(PolicyConfig(path=random_folder)).base for _ in range(3)]
    train_vision(policies[0], tmp_path / "straight.pt", steps=2, batch=4, save_every=1)
    before = {name: weight.clone() for name, weight in policies[1].state_dict().items()}
    # the schedule depends on the number of steps, so the cut run must ask for all of them
    with pytest.MonkeyPatch.context() as patch:
        from lit_g2rpo.mini import vision

        drawn = vision.draw_batch

        def once(step: int, *rest: Any) -> Any:
            if step == 1:
                raise KeyboardInterrupt
            return drawn(step, *rest)

        patch.setattr(vision, "draw_batch", once)
        with pytest.raises(KeyboardInterrupt):
            train_vision(policies[1], tmp_path / "cut.pt", steps=2, batch=4, save_every=1)
    train_vision(policies[2], tmp_path / "cut.pt", steps=2, batch=4, save_every=1)
    for name, weight in policies[0].state_dict().items():
        assert (weight == policies[2].state_dict()[name]).all(), name
    assert any((weight != before[name]).any() for name, weight in policies[0].state_dict().items())
