"""GracefulInterrupt in real processes that get real signals."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from helpers.paths import HELPERS
from helpers.processes import children_seconds, finished, read_until
from helpers.signals import Raise
from helpers.toy import ToyModule, fit

from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1]


class Interrupted(NamedTuple):
    """Runs in one process: one after a signal each, and the last after two Ctrl-C."""

    folder: Path
    said: dict[signal.Signals, tuple[str, str]]
    aborted: int
    seconds: float


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory, shared_commands):
    folder, used, said = tmp_path_factory.mktemp("interrupted"), children_seconds(), {}
    folders = [folder / name for name in (*(number.name for number in SIGNALS), "aborted")]
    process = shared_commands.start(sys.executable, HELPERS / "toy.py", *folders, stdin=subprocess.PIPE)
    for number in SIGNALS:
        read_until(process.stdout, "waiting")
        process.send_signal(number)
        errors = read_until(process.stderr, f"{number.name}: saving at the next optimizer step")
        process.stdin.write("\n")
        process.stdin.flush()
        said[number] = read_until(process.stdout, "left"), errors
    read_until(process.stdout, "waiting")
    process.send_signal(signal.SIGINT)
    errors = read_until(process.stderr, "SIGINT: saving")
    assert "Traceback" not in errors
    process.send_signal(signal.SIGINT)
    return Interrupted(folder, said, finished(process).returncode, children_seconds() - used)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_saves_leaves_and_resumes(tmp_path, interrupted, number):
    output, errors = interrupted.said[number]
    assert "Traceback" not in errors
    # the signal came in the first half of rollout 3, so its first optimizer step is the last
    last = interrupted.folder / number.name / "toy/version_0/checkpoints/last.ckpt"
    assert "Stopped after optimizer step 5 (rollout 3)" in output
    assert f'ckpt_path="{last}"' in output
    assert last.resolve().name == "rollout=00003-step=000005.ckpt"
    assert torch.load(last, weights_only=False)["global_step"] == 5
    assert "validation" not in output
    # not what the other 997 rollouts would take
    assert interrupted.seconds < 60

    resumed, whole = ToyModule(), ToyModule()
    fit(resumed, tmp_path / "resumed", [], rollouts=6, checkpoint=str(last))
    fit(whole, tmp_path / "whole", [], rollouts=6)
    assert torch.equal(resumed.policy.weight, whole.policy.weight)


def test_a_second_ctrl_c_aborts_at_once(interrupted):
    assert interrupted.aborted != 0
    checkpoints = interrupted.folder / "aborted" / "toy/version_0/checkpoints"
    assert not (checkpoints / "last.ckpt").exists()


def test_no_validation_is_begun_and_the_trainer_is_left_as_it_was(tmp_path, capfd):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    module, guard = ToyModule(), Raise(at=(1, 3))
    trainer = fit(module, tmp_path, [guard, RolloutCheckpoint()], rollouts=8)
    assert guard.interrupted
    # the optimizer step ends rollout 2, which would be followed by a validation
    assert trainer.global_step == 4
    assert [values["rollout"] for values in module.validation_history] == [0]
    assert trainer.limit_val_batches == 1.0
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers
    assert "Stopped after optimizer step 4 (rollout 2)" in capfd.readouterr().out


def test_a_signal_during_a_validation_stops_after_it(tmp_path):
    module, keeper = ToyModule(), RolloutCheckpoint()
    trainer = fit(module, tmp_path, [Raise(at="validation"), keeper], rollouts=8)
    assert trainer.global_step == 4
    assert [values["rollout"] for values in module.validation_history] == [0, 2]
    saved = torch.load(keeper.last_model_path, weights_only=False)
    assert len(saved["toy"]["validation_history"]) == 2


def test_before_the_training_a_signal_ends_the_run_at_once(tmp_path):
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    module = ToyModule()
    with pytest.raises(SystemExit) as left:
        fit(module, tmp_path, [Raise(at="sanity check"), RolloutCheckpoint()])
    assert left.value.code == 1
    assert not module.validation_history
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_it_saves_itself_where_nothing_else_does(tmp_path):
    trainer = fit(ToyModule(), tmp_path, [Raise(at=(1, 0))], rollouts=8, logger=False, min_steps=10)
    assert trainer.global_step == 3
    assert torch.load(tmp_path / "checkpoints/last.ckpt", weights_only=False)["global_step"] == 3


@pytest.mark.parametrize(
    ("first", "second", "later", "ends"),
    [
        (signal.SIGTERM, signal.SIGTERM, 1.0, True),
        (signal.SIGUSR1, signal.SIGTERM, 1.0, True),
        (signal.SIGHUP, signal.SIGINT, 0.0, True),
        (signal.SIGUSR1, signal.SIGUSR1, 1.0, True),
        # one signal, sent to the process and to its group
        (signal.SIGTERM, signal.SIGTERM, 0.01, False),
        # a terminal that closes
        (signal.SIGHUP, signal.SIGHUP, 1.0, False),
    ],
)
def test_a_second_signal(tmp_path, monkeypatch, first, second, later, ends):
    now = [0.0]
    monkeypatch.setattr("lit_g2rpo.callbacks.interrupt.time.monotonic", lambda: now[0])
    guard = GracefulInterrupt()
    guard._on_signal(first, None)
    now[0] = later
    if ends:
        with pytest.raises(KeyboardInterrupt):
            guard._on_signal(second, None)
    else:
        guard._on_signal(second, None)


def test_what_nohup_starts_outlives_its_terminal(tmp_path, monkeypatch):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen = []
    module = ToyModule(length=lambda rollout: seen.append(signal.getsignal(signal.SIGHUP)) or 5.0)
    try:
        fit(module, tmp_path, [GracefulInterrupt()], rollouts=1)
    finally:
        signal.signal(signal.SIGHUP, before)
    assert set(seen) == {signal.SIG_IGN}
