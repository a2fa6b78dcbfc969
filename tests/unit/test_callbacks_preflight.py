"""The pre-flight check finds what would end a run, and changes no result."""

import copy
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from helpers.build import data, module, trainer

from lit_g2rpo.callbacks import Preflight, RolloutCheckpoint
from lit_g2rpo.callbacks.preflight.checkpoint import bytes_of
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.hardware.collectives import Ranks
from lit_g2rpo.objectives import G2RPO
from lit_g2rpo.planning.largest_prompts import extreme_prompts, spread
from lit_g2rpo.policy.policy import Policy
from lit_g2rpo.rollout.native.engine import NativeEngine
from lit_g2rpo.training.memory_trial import largest_microbatch, missing_optimizer_bytes

POLICY = "package:lit_g2rpo.mini/weights"


def fit(
    folder: Path, *callbacks: Any, source: Any = None, run: Any = None, steps: int = 2, path: Any = None, **options: Any
) -> Any:
    """A short run with checkpoints."""
    torch.manual_seed(5)
    run = run or module(POLICY)
    keeper = RolloutCheckpoint(every_rollouts=1, monitor=None, keep_last=options.pop("keep_last", 2))
    fitting = trainer(folder, steps, callbacks=[keeper, *callbacks], enable_checkpointing=True, **options)
    fitting.fit(run, source or data(), ckpt_path=path)
    return run


@contextmanager
def limited(kind: int, value: int) -> Iterator[None]:
    """A limit of the operating system on this process."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def state_of(run: Any) -> dict[str, Any]:
    weights = {name: weight.detach().clone() for name, weight in run.policy.state_dict().items()}
    moments = list(run.trainer.optimizers[0].state.values())
    return {
        "weights": weights,
        "moments": moments,
        "rng": torch.get_rng_state(),
        "counters": run.policy.backbone.counters,
    }


def test_a_run_is_bit_for_bit_the_same_with_and_without(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = state_of(fit(tmp_path / "plain", steps=4))
    checked = state_of(fit(tmp_path / "checked", Preflight(), steps=4, num_sanity_val_steps=1, limit_val_batches=1))
    said = capsys.readouterr().out
    for name in ("largest micro-batch", "log-probabilities", "rewards", "checkpoint"):
        assert said.count(f"pre-flight check, {name}: ") == 1
    assert torch.equal(plain["rng"], checked["rng"])
    assert plain["counters"] != checked["counters"], "the validation before training counts"
    for name, weight in plain["weights"].items():
        assert torch.equal(weight, checked["weights"][name]), name
    for a, b in zip(plain["moments"], checked["moments"], strict=True):
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert not list(tmp_path.glob("**/preflight*"))


def test_a_resumed_run_is_checked_and_stays_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    objective = G2RPO(filtering="off", entropy_coefficient=0.02, kl_coefficient=0.01)
    straight = state_of(fit(tmp_path, run=module(POLICY, objective), steps=4))
    [first] = tmp_path.glob("**/rollout=00001-*.ckpt")
    resumed = state_of(fit(tmp_path / "resumed", Preflight(), run=module(POLICY, objective), steps=4, path=first))
    assert capsys.readouterr().out.count("pre-flight check") == 4
    assert straight["counters"].train_passes == 2 * resumed["counters"].train_passes
    for name, weight in straight["weights"].items():
        assert torch.equal(weight, resumed["weights"][name]), name


def test_the_largest_micro_batch_is_as_large_as_any_that_training_meets(tmp_path: Path) -> None:
    class Largest(Preflight):
        def _try_all(self, trainer: Any, run: Any) -> None:
            rows = trainer.datamodule.train_dataset()
            [prompt, *_] = extreme_prompts(run.policy.processor, rows, 10_000)
            self.microbatch = largest_microbatch(run, prompt, run.max_tokens)
            self.missing = missing_optimizer_bytes(run)

    check = Largest()
    run = fit(tmp_path, check)
    sizes = [sum(len(tokens) for tokens in microbatch.token_ids) for microbatch in run.experience.microbatches]
    # 12 prompts x 4 completions in 4 micro-batches
    assert [len(tokens) for tokens in check.microbatch.token_ids] == [8] * 12
    assert sum(map(len, check.microbatch.token_ids)) >= max(sizes)
    assert len({id(prompt) for prompt in check.microbatch.prompts}) == 3
    state = run.trainer.optimizers[0].state
    moments = sum(value.nbytes for values in state.values() for value in values.values() if value.dim())
    assert check.missing == pytest.approx(moments, rel=1e-3)
    assert missing_optimizer_bytes(run) == 0


def test_too_little_memory_is_said_before_the_first_rollout(tmp_path: Path) -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2**27
    source = data(max_completion_tokens=20_000)
    with (
        limited(resource.RLIMIT_AS, limit),
        pytest.raises(UserError, match="pre-flight check, largest micro-batch: out of memory with 12 completions of"),
    ):
        fit(tmp_path, Preflight(), source=source)


def test_a_checkpoint_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with (
        limited(resource.RLIMIT_FSIZE, 2**20),
        pytest.raises(UserError, match=r"pre-flight check, checkpoint: cannot write .*File too large"),
    ):
        fit(tmp_path, Preflight(memory=False, parity=False, rewards=False))
    assert not list(tmp_path.glob("**/preflight*"))


def test_checkpoints_that_will_not_fit_are_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the run needs 100000001 checkpoints of .* MiB, but .* make room, keep fewer"):
        fit(tmp_path, Preflight(memory=False, parity=False, rewards=False), keep_last=10**8)


def test_the_size_of_later_checkpoints_is_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = fit(tmp_path, Preflight(memory=False, parity=False, rewards=False), steps=4)
    [newest] = tmp_path.glob("**/rollout=00002-*.ckpt")
    weights = sum(parameter.nbytes for parameter in run.policy.parameters())
    assert bytes_of(newest) == pytest.approx(3 * weights, rel=0.05)
    assert "3 checkpoints of" in capsys.readouterr().out


def test_the_optimizer_is_counted_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = module(POLICY)

    def usage(folder: Path) -> Any:
        # room for the weights, and not for the two moments of Adam
        weights = sum(parameter.nbytes for parameter in run.policy.parameters())
        return SimpleNamespace(free=2 * weights)

    monkeypatch.setattr("lit_g2rpo.callbacks.preflight.checkpoint.shutil.disk_usage", usage)
    with pytest.raises(UserError, match=r"needs .* MiB, and .* MiB for the optimizer, but .*checkpoints has"):
        fit(tmp_path, Preflight(memory=False, parity=False, rewards=False), run=run)


@pytest.mark.parametrize("place", ["checkpoints", "elsewhere"])
def test_the_folder_that_is_written_is_the_one_that_is_tried(tmp_path: Path, place: str) -> None:
    (tmp_path / place).write_text("a file")
    keeper = RolloutCheckpoint(monitor=None, dirpath=str(tmp_path / place))
    torch.manual_seed(5)
    check = Preflight(memory=False, parity=False, rewards=False)
    fitting = trainer(tmp_path, 2, callbacks=[RolloutCheckpoint(), keeper, check], enable_checkpointing=True)
    if place == "checkpoints":
        fitting = trainer(tmp_path, 2, callbacks=[keeper, check], enable_checkpointing=True)
    with pytest.raises(UserError, match=rf"checkpoint: cannot write .*{place}/preflight.ckpt: (File exists|Not a dir)"):
        fitting.fit(module(POLICY), data())
    assert (tmp_path / place).read_text() == "a file"


def test_an_engine_with_other_weights_is_found(tmp_path: Path) -> None:
    class Stale(NativeEngine):
        def attach(self, policy: Policy) -> None:
            other = copy.deepcopy(policy)
            with torch.no_grad():
                for weight in other.parameters():
                    weight.mul_(1.02)
            super().attach(other)

    run = module(POLICY)
    run.engine = Stale()
    with pytest.raises(UserError, match=r"log-probabilities: engine native and trainer differ .* the engine does not"):
        fit(tmp_path, Preflight(memory=False, rewards=False, checkpoint=False), run=run)


def test_a_reward_that_raises_is_found(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def score(completion, sample):\n    raise ValueError('no licence')\n")
    source = data(tasks={"ocr": {"reward": f"{tmp_path / 'mine.py'}:score", "in_process": True}})
    with pytest.raises(UserError, match=r"rewards: task ocr: its reward fails on row .*ValueError.*no licence"):
        fit(tmp_path, Preflight(memory=False, parity=False, checkpoint=False), source=source)


def test_a_reward_is_called_once_a_text_and_leaves_no_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(
        "from pathlib import Path\n"
        "def score(completion, sample):\n"
        f"    with Path({str(tmp_path / 'calls')!r}).open('a') as file:\n"
        "        file.write(completion + chr(10))\n"
        "    return None if '<answer>' in completion else 0.5\n"
    )
    scorers, sums = [], []
    add_up = Ranks.sum
    monkeypatch.setattr(Ranks, "sum", lambda ranks, values: (sums.append(values.tolist()), add_up(ranks, values))[1])

    class Watched(Preflight):
        def _try_all(self, trainer: Any, run: Any) -> None:
            super()._try_all(trainer, run)
            # asks the ranks for failures, completions among the newest, and whether one has to stop
            run.scorer.count([])
            scorers.append((sums[-1], run.scorer.seconds, (tmp_path / "calls").read_text().splitlines()))

    source = data(tasks={"ocr": {"reward": f"{tmp_path / 'mine.py'}:score", "in_process": True}})
    fit(tmp_path, Watched(memory=False, parity=False, checkpoint=False), source=source)
    [(recent, seconds, calls)] = scorers
    assert (recent, seconds) == ([0, 0, 0], 0)
    assert calls[0].startswith("<thinking></thinking><answer>")
    assert len(calls) == 2


def test_a_gold_answer_that_cannot_be_scored_is_found(tmp_path: Path) -> None:
    source = data()
    rows = source.train_dataset()

    class Broken:
        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> Any:
            prompt = rows[index]
            if prompt.task == "chart_figure_qa":
                prompt.sample["answer"] = ""
            return prompt

        def task_names(self) -> Any:
            return rows.task_names()

    source.train_dataset = Broken
    with pytest.raises(
        UserError, match="task chart_figure_qa: no gold answer of 8 rows scores 1; the first reason: row"
    ):
        fit(tmp_path, Preflight(memory=False, parity=False, checkpoint=False), source=source)


def test_rows_that_cannot_be_opened_are_said(tmp_path: Path) -> None:
    class Lost:
        def __len__(self) -> int:
            return 600

        def __getitem__(self, index: int) -> Any:
            raise ImageError(f"row {index}: no such file a.png")

        def task_names(self) -> list[str]:
            return ["ocr"] * len(self)

    source = data(image_errors="raise")
    source.train_dataset = Lost
    with pytest.raises(UserError, match=r"training rows: none of the rows .* the last reason: row \d+: no such file"):
        fit(tmp_path, Preflight(), source=source)


def test_rows_are_spread_without_falling_in_step_with_tasks_in_turn() -> None:
    assert spread(5, 8) == [0, 1, 2, 3, 4]
    found = spread(120_000, 32)
    assert len(found) == 32
    assert found[0] < 4000
    assert found[-1] > 116_000
    assert {index % 6 for index in found} == set(range(6))
