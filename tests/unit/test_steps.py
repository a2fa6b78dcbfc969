"""How far a step has come: on a terminal, in a log, on other ranks."""

import io
import os
import re
import threading

import pytest
import rich
from helpers.processes import eventually
from helpers.terminal import Terminal
from rich.console import Console

from lit_g2rpo.hardware import steps
from lit_g2rpo.hardware.steps import Bar, Step, clock, counted, each


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show steps from their first moment, and again and again."""
    for name, value in {"SOON": 0.0, "PAUSES": (), "PAUSE": 0.01}.items():
        monkeypatch.setattr(steps, name, value)


def test_a_quick_step_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Step("reading", 3, "rows") as step:
        step.advance(3)
    assert list(each([1, 2], "counting")) == [1, 2]
    assert capsys.readouterr().out == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "step"]


@pytest.mark.usefixtures("at_once")
def test_a_log_gets_lines_with_count_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    seen = ""

    def told(pattern: str) -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return re.search(pattern, seen, re.MULTILINE) is not None

    with Step("checking rows.jsonl", 4000, "rows", after=0.0) as step:
        eventually(lambda: told(r"^checking rows.jsonl: 0/4,000 rows, \d+:\d\d elapsed$"))
        step.advance(1000)
        eventually(lambda: told(r"^checking rows.jsonl: 1,000/4,000 rows, \d+:\d\d elapsed, \d+:\d\d left$"))
    assert told(r"^checking rows.jsonl: done in \d+:\d\d\n\Z")
    assert "\r" not in seen
    assert "\x1b" not in seen


def test_the_time_left_follows_from_the_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(steps.time, "monotonic", lambda: now)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with Step("sampling", 12, "groups") as step:
        step.advance(3)
        now += 60
        assert step.line() == "sampling: 3/12 groups, 1:00 elapsed, 3:00 left"


@pytest.mark.usefixtures("at_once")
def test_a_step_that_is_cut_short_is_not_said_to_be_done(capsys: pytest.CaptureFixture[str]) -> None:
    seen = ""

    def told() -> bool:
        nonlocal seen
        seen += capsys.readouterr().out
        return "loading: 0:0" in seen

    def failing() -> None:
        with Step("loading", after=0.0):
            eventually(told)
            raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        failing()
    assert "done" not in seen + capsys.readouterr().out


@pytest.mark.usefixtures("at_once")
def test_a_terminal_gets_bars_that_go_with_their_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    # as another package may have
    monkeypatch.setattr(rich, "_console", Console(file=io.StringIO()))
    terminal = Terminal(monkeypatch)
    with Step("training", 2) as outer:
        eventually(lambda: "training 0/2" in terminal.text)
        with Step("validation", 6, "batches") as inner:
            inner.advance(2)
            eventually(lambda: "validation 2/6 batches" in terminal.text)
            print("a line of [its own]")
        outer.advance()
        eventually(lambda: re.search(r"training 1/2 .* elapsed 0:0\d left", terminal.text) is not None)
    assert Bar._screen is None
    assert "a line of [its own]\n" in terminal.text
    assert "done" not in terminal.text
    # a process that is killed must leave a terminal with a cursor
    hidden, visible = (terminal.getvalue().rfind(code) for code in ("\x1b[?25l", "\x1b[?25h"))
    assert visible > hidden


@pytest.mark.parametrize("name", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
@pytest.mark.usefixtures("at_once")
def test_later_ranks_are_silent(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    assert steps.first_rank() == (not any(os.environ.get(rank, "0") != "0" for rank in steps.RANKS))
    monkeypatch.setenv(name, "0")
    assert steps.first_rank()
    monkeypatch.setenv(name, "3")
    assert not steps.first_rank()
    with Step("loading"):
        assert not [thread for thread in threading.enumerate() if thread.name == "step"]


@pytest.mark.parametrize(("seconds", "text"), [(5.4, "0:05"), (125, "2:05"), (3725, "1:02:05")])
def test_durations_have_hours_only_from_one_on(seconds: float, text: str) -> None:
    assert clock(seconds) == text


def test_counts_are_shown_with_their_unit() -> None:
    assert counted(0, None, "rows") == ""
    assert counted(3, 12, "") == "3/12"
    assert counted(1200, 5000, "rows") == "1,200/5,000 rows"
