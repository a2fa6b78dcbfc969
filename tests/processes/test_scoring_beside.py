"""Rewards of the user's beside decoding, in a process of their own: they hide behind it and change nothing."""

from pathlib import Path
from typing import Any

import pytest
from helpers.build import data, module, trainer
from helpers.processes import eventually
from lightning.pytorch import Callback

from lit_g2rpo.experience import Completion, Prompt
from lit_g2rpo.mini.tasks import TASKS
from lit_g2rpo.rewards.running.limits import Limits
from lit_g2rpo.rollout.engine import Finished, Sampling
from lit_g2rpo.rollout.native.engine import NativeEngine

RATE = """
import threading
from pathlib import Path

def rate(completions, **columns):
    main = threading.current_thread() is threading.main_thread()
    with Path({calls!r}).open("a") as file:
        file.write(repr((main, completions)) + chr(10))
    return ["no number" if len(text) % 7 == 0 else len(text) % 5 / 4 for text in completions]
"""


class Notes(Callback):
    """Keep what each rollout came to."""

    def __init__(self) -> None:
        self.rollouts: list[Any] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if batch[1] == 1:
            metrics = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith(("rollout/", "train/"))}
            values = [(one.total, one.error, one.failure) for one in pl_module.experience.rewards]
            self.rollouts.append((values, pl_module.experience.advantages.tolist(), metrics))


class Patient(NativeEngine):
    """Sample on only when the group that it handed over has been scored."""

    def __init__(self, calls: Path) -> None:
        super().__init__(max_rows=8)
        self.calls, self.waits = calls, 0

    def generate(
        self, prompts: list[Prompt], group_size: int, sampling: Sampling, finished: Finished | None = None
    ) -> list[Completion]:
        assert finished is not None

        def wait(index: int, completions: list[Completion]) -> None:
            finished(index, completions)
            self.waits += 1
            eventually(lambda: self.calls.exists() and self.calls.read_text().count("\n") >= self.waits)

        return super().generate(prompts, group_size, sampling, wait)


def fit(folder: str, out: Path, calls: Path, in_process: bool, engine: NativeEngine) -> list[Any]:
    (out / "rating.py").write_text(RATE.format(calls=str(calls)))
    tasks = {name: {"reward": f"{out / 'rating.py'}:rate", "in_process": in_process} for name in TASKS}
    notes, run = Notes(), module(folder)
    run.reward_limits, run.engine = Limits(failure_budget=1.0), engine
    trainer(out, 4, callbacks=[notes]).fit(run, data(tasks=tasks))
    return notes.rollouts


def test_rewards_are_computed_while_completions_are_sampled_and_change_nothing(
    random_folder: str, tmp_path: Path
) -> None:
    engine = Patient(tmp_path / "beside")
    beside = fit(random_folder, tmp_path, tmp_path / "beside", False, engine)
    assert engine.waits == 2 * 12
    after = fit(random_folder, tmp_path, tmp_path / "after", True, NativeEngine(max_rows=8))
    calls = [sorted((tmp_path / name).read_text().splitlines()) for name in ("beside", "after")]
    assert calls[0] == calls[1]
    assert all(call.startswith("(True, ") and call.count("', '") == 3 for call in calls[0]), "groups, in a main thread"
    assert beside == after
    values, advantages, metrics = beside[0]
    failed = [i for i, (_, _, failure) in enumerate(values) if failure]
    assert len(failed) == metrics["rollout/reward_failures"] > 0
    assert metrics["rollout/unscored"] == pytest.approx(len(failed) / len(values))
    assert not any(advantages[i] for i in failed)
    assert any(advantages)
