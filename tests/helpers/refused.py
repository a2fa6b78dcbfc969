"""A command line that must fail at once, run in this process."""

from pathlib import Path

import pytest

from lit_g2rpo.__main__ import main


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """Return the one line that a command line is refused with, before it writes or shows anything else."""
    assert main(words) == 2
    shown = capsys.readouterr()
    lines = shown.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert not [line for line in shown.out.splitlines() if ": loading " not in line]
    assert lines[0].startswith("error: ")
    assert not Path("runs").exists(), "nothing half-written"
    return lines[0].removeprefix("error: ")
