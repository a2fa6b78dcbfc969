"""What the thread that watches the ranks does where the machine fails as well."""

import errno
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lit_g2rpo.callbacks import rescue as rescue_module
from lit_g2rpo.callbacks.checkpoint import RolloutCheckpoint
from lit_g2rpo.callbacks.rescue import rescue
from lit_g2rpo.hardware.rank_watch import _say


def test_a_line_to_a_terminal_that_is_gone_ends_no_thread() -> None:
    before = os.dup(2)
    ours, theirs = os.pipe()
    os.close(ours)
    os.dup2(theirs, 2)
    try:
        with pytest.raises(BrokenPipeError):
            os.write(2, b"what Python would raise")
        _say("rank 1 waits")
    finally:
        os.dup2(before, 2)
        os.close(before)
        os.close(theirs)


@pytest.mark.parametrize("full", ["save", "seal", "point"])
def test_a_rescue_on_a_full_disk_is_a_line(full: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def save(content: Any, path: Path) -> None:
        no_room() if full == "save" else torch.save(content, path)

    keeper = RolloutCheckpoint(dirpath=str(tmp_path))
    strategy = SimpleNamespace(root_device=torch.device("cpu"), checkpoint_io=SimpleNamespace(save_checkpoint=save))
    trainer: Any = SimpleNamespace(checkpoint_callbacks=[keeper], global_step=4, strategy=strategy)
    module: Any = SimpleNamespace(rollout_index=2)
    monkeypatch.setattr(rescue_module, "DDPStrategy", SimpleNamespace)
    monkeypatch.setattr(rescue_module, "handles", lambda module: module)
    monkeypatch.setattr(rescue_module, "_whole", lambda *_: {"weight": torch.ones(1)})
    if full != "save":
        monkeypatch.setattr(rescue_module, full, no_room)
    assert "could be saved (OSError: [Errno 28] No space left" in rescue(trainer, module, sampling=True)
    monkeypatch.undo()
