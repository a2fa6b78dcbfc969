"""GracefulInterrupt in real processes that get real signals."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from helpers.toy import ToyModule, fit

from lit_g2rpo.callbacks import GracefulInterrupt, RolloutCheckpoint

ROOT = Path(__file__).resolve().parents[2]
TOY = Path(__file__).parents[1] / "helpers" / "toy.py"


def start(folder):
    return subprocess.Popen(
        [sys.executable, str(TOY), str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


def wait_for(process, line):
    for output in process.stdout:
        if output.strip() == line:
            return
    raise AssertionError(process.stderr.read())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_leaves_and_resumes(tmp_path, number):
    process = start(
        tmp_path,
    )
    wait_for(process, "batch 2 0")
    process.send_signal(number)
    begun = time.monotonic()
    output, errors = process.communicate(timeout=30)
    assert time.monotonic() - begun < 25
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
    assert f"{number.name}: saving at the next optimizer step" in errors
    # the signal came in the first half of rollout 3, so its first optimizer step is the last
    last = tmp_path / "toy/version_0/checkpoints/last.ckpt"
    assert "Stopped after optimizer step 5 (rollout 3)" in output
    assert f"--ckpt_path {last}" in output
    assert last.resolve().name == "rollout=00003-step=000005.ckpt"
    assert torch.load(last, weights_only=False)["global_step"] == 5
    assert "validation" not in output

    resumed, whole = ToyModule(), ToyModule()
    fit(resumed, tmp_path / "resumed", [], rollouts=6, checkpoint=str(last))
    fit(whole, tmp_path / "whole", [], rollouts=6)
    assert torch.equal(resumed.policy.weight, whole.policy.weight)


def test_a_second_ctrl_c_aborts_at_once(tmp_path):
    process = start(tmp_path)
    wait_for(process, "batch 1 0")
    process.send_signal(signal.SIGINT)
    process.stderr.readline()
    time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode != 0
    assert not (tmp_path / "toy/version_0/checkpoints/last.ckpt").exists()


class Raise(GracefulInterrupt):
    """Send itself a signal at a given batch, or while a validation runs, or the one before the training."""

    def __init__(self, at):
        super().__init__()
        self.at = at

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if batch == self.at:
            os.kill(os.getpid(), signal.SIGTERM)

    def on_validation_start(self, trainer, pl_module):
        if self.at == ("sanity check" if trainer.sanity_checking else "validation"):
            os.kill(os.getpid(), signal.SIGTERM)


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


@pytest.mark.slow
def test_a_signal_to_one_rank_stops_all_at_the_same_step(tmp_path):
    code = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
import helpers.toy as toy
from lit_g2rpo.callbacks import RolloutCheckpoint
from test_callbacks_interrupt import Raise
rank = int(os.environ.get("LOCAL_RANK", 0))
callbacks = [Raise(at=(1, 0) if rank else None), RolloutCheckpoint()]
trainer = toy.fit(toy.ToyModule(), Path(sys.argv[1]), callbacks, devices=2, strategy="ddp")
Path(sys.argv[1], f"rank{rank}").write_text(str(trainer.global_step))
"""
    script = tmp_path / "two.py"
    script.write_text(code)
    command = [sys.executable, str(script), str(tmp_path), str(TOY.parent)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert [(tmp_path / f"rank{rank}").read_text() for rank in range(2)] == ["3", "3"]
    assert (tmp_path / "toy/version_0/checkpoints/last.ckpt").exists()


STRATEGIES = {
    "fsdp2": """
strategy: {class_path: lit_g2rpo.strategies.FSDP2Strategy, init_args: {process_group_backend: gloo}}
""",
    "zero2": """
strategy: {class_path: cpu_deepspeed.CPUDeepSpeedStrategy, init_args: {stage: 2}}
""",
}


class TwoRanks:
    """A run of two ranks from the command line, in a process group of its own, as a terminal makes one."""

    def __init__(self, folder, *words):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lit_g2rpo", "fit", *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=folder,
            env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )

    def wait_for(self, start):
        seen = ""
        for line in self.process.stdout:
            seen += line
            if line.startswith(start):
                return
        raise AssertionError(seen)

    def end(self):
        """What else it says, once both ranks have closed what they say it to."""
        try:
            return self.process.communicate(timeout=60)[0]
        finally:
            if self.process.returncode is None:
                os.killpg(self.process.pid, signal.SIGKILL)

    @property
    def last(self):
        return (self.folder / "runs/g2rpo/version_0/checkpoints/last.ckpt").resolve().name


def two_ranks(folder, strategy):
    fragment = folder / "strategy.yaml"
    fragment.write_text(STRATEGIES[strategy] + "accelerator: cpu\ndevices: 2\n")
    sizes = "--model.rollout.prompts 8 --model.rollout.group_size 2 --data.max_completion_tokens 8"
    recipe = ["--config", str(ROOT / "configs" / "g2rpo.yaml"), "--trainer", str(fragment)]
    return TwoRanks(folder, *recipe, *sizes.split(), "--data.val_per_task", "2", "--schedule.rollouts", "60")


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "number"), [("fsdp2", signal.SIGINT), ("zero2", signal.SIGTERM)])
def test_two_ranks_that_share_state_save_leave_and_resume(tmp_path, strategy, number):
    """Ctrl-C reaches every process of a terminal's group; SIGTERM is sent to the one that was started."""
    run = two_ranks(tmp_path, strategy)
    run.wait_for("rollout 1/60")
    (os.killpg if number == signal.SIGINT else os.kill)(run.process.pid, number)
    said = run.end()
    assert run.process.returncode == 0, said
    assert "Traceback" not in said
    config = tmp_path / "runs/g2rpo/version_0/config.yaml"
    stopped = re.search(r"Stopped after optimizer step (\d+) \(rollout (\d+)\)", said)
    assert f"fit --config {config.relative_to(tmp_path)} --ckpt_path last" in said
    step, rollout = map(int, stopped.groups())
    assert run.last == f"rollout={rollout:05d}-step={step:06d}.ckpt"

    words = ["--config", str(config), "--ckpt_path", "last", "--schedule.rollouts", str(rollout + 1)]
    resumed = TwoRanks(tmp_path, *words)
    said = resumed.end()
    assert resumed.process.returncode == 0, said
    assert resumed.last == f"rollout={rollout + 1:05d}-step={2 * rollout + 2:06d}.ckpt"


@pytest.mark.slow
def test_two_ranks_end_at_once_before_the_training(tmp_path):
    """Here ranks are at different places of their collectives."""
    run = two_ranks(tmp_path, "fsdp2")
    run.wait_for("pre-flight check, largest")
    run.process.terminate()
    said = run.end()
    assert run.process.returncode == 1, said
    assert "validation after" not in said
    assert "Traceback" not in said
