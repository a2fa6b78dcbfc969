"""A terminal in memory."""

import io
import re
import sys

import pytest

from lit_g2rpo.hardware.steps import Bar

CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


class Terminal(io.StringIO):
    """Replace standard output with a terminal of 120 columns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        for name, value in {"TERM": "xterm-256color", "COLUMNS": "120", "LINES": "40"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(sys, "stdout", self)
        # those of earlier tests
        Bar.clear()

    def isatty(self) -> bool:
        return True

    @property
    def text(self) -> str:
        """All output so far, without colors and cursor movements."""
        return CONTROL.sub("", self.getvalue()).replace("\r", "")
