"""PredictionWriter on a real trainer: one rank and two, to the end and killed on the way."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import lightning.pytorch as L
import pytest
from helpers.toy import ToyModule

from lit_g2rpo.callbacks import PredictionWriter
from lit_g2rpo.data.datamodule import PromptData
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import Task

ROOT = Path(__file__).resolve().parents[2]
SIZE = 6


def rows(indices, repeats=1):
    return [
        {
            "index": index,
            "repeat": repeat,
            "id": f"row-{index}",
            "task": "ab"[index % 2],
            "benchmark": None,
            "prompt": "?",
            "completion": "<answer>ü\u2028</answer>",
            "answer": "ü",
            "gold": "ü",
            "value": None,
            "score": float(index % 4 == 0),
            "error": None,
            "accuracy": float(index % 4 == 0),
            "format": 1.0,
            "length": 10 + index,
            "truncated": False,
            "sample": {},
        }
        for index in indices
        for repeat in range(repeats)
    ]


@dataclass
class Evaluation:
    temperature: float = 0.0
    repeats: int = 1
    baseline: str | None = None


class Module(ToyModule):
    """A toy whose batches are lists of row numbers."""

    def __init__(self, evaluation=None, dies_at=None, **options):
        super().__init__(**options)
        self.evaluation = evaluation or Evaluation()
        self.rollout, self.reward, self.max_tokens = SimpleNamespace(seed=0), RewardConfig(), 8
        self.tasks = {"a": Task("a"), "b": Task("b")}
        self.dies_at = dies_at
        self.made = []

    def test_step(self, batch, batch_idx):
        if self.dies_at in batch:
            raise RuntimeError("no")
        self.made += batch
        return rows(batch, self.evaluation.repeats)

    predict_step = test_step


class Batches:
    """A loader of batches that are lists."""

    def __init__(self, batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


class Data(PromptData):
    """Row numbers in batches of two, but those that are done."""

    def __init__(self, size=SIZE):
        super().__init__()
        self.size = size

    def setup(self, stage): ...

    def test_dataset(self):
        return SimpleNamespace(task_names=lambda: ["ab"[index % 2] for index in range(self.size)])

    predict_dataset = test_dataset

    def test_dataloader(self):
        trainer = self.trainer
        left = [index for index in range(self.size) if index not in self.done]
        mine = left[trainer.global_rank :: trainer.world_size]
        share = -(-len(left) // trainer.world_size)
        return Batches([mine[i : i + 2] for i in range(0, share, 2)])

    predict_dataloader = test_dataloader


def trainer(tmp_path, **options):
    return L.Trainer(
        accelerator="cpu",
        devices=options.pop("devices", 1),
        logger=False,
        default_root_dir=tmp_path,
        callbacks=[PredictionWriter()],
        enable_progress_bar=False,
        enable_model_summary=False,
        **options,
    )


def run_test(tmp_path, module, data=None):
    trainer(tmp_path).test(module, datamodule=data or Data(), verbose=False)


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_test_writes_rows_in_order_and_figures(tmp_path, capsys):
    class Repeated(Data):
        def test_dataloader(self):
            # the last row comes twice, as from a sampler that fills up
            return Batches([[4, 2, 0], [1, 3, 5], [5]])

    run_test(tmp_path, Module(), Repeated())
    assert lines(tmp_path / "predictions.jsonl") == rows(range(6))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n"] == 6
    a = metrics["tasks"]["a"]
    assert (a["n"], a["score"], a["accuracy"], a["length"], a["truncated"]) == (3, 2 / 3, 2 / 3, 12.0, 0.0)
    assert metrics["score"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["settings"]["verb"] == "test"
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "3", "reward", "accuracy", "0.667", "0.000..1.000", "1.000", "0", "0.000", "0", "12.0"] in table
    assert names(tmp_path) == ["metrics.json", "predictions.jsonl"]


def test_predict_takes_rows_without_gold(tmp_path, capsys):
    plain = [{**row, "gold": None, "score": None, "accuracy": None} for row in rows(range(3))]

    class Predict(Module):
        def predict_step(self, batch, batch_idx):
            return [plain[index] for index in batch]

    trainer(tmp_path).predict(Predict(), datamodule=Data(3), return_predictions=False)
    assert lines(tmp_path / "predictions.jsonl") == plain
    assert names(tmp_path) == ["predictions.jsonl"]
    assert f"predictions: {tmp_path}/predictions.jsonl\n" in capsys.readouterr().out


def test_validate_prints_the_table_and_writes_nothing(tmp_path, capsys):
    trainer(tmp_path).validate(Module(validation=lambda rollout: 0.5), [0], verbose=False)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["b", "4", "0.600"] in table
    assert ["mean", "7", "0.500"] in table
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("repeats", [1, 2])
def test_a_killed_run_is_continued_where_it_was(tmp_path, capsys, repeats):
    evaluation = Evaluation(repeats=repeats)
    with pytest.raises(RuntimeError, match="no"):
        run_test(tmp_path, Module(evaluation, dies_at=4))
    # what was flushed is there, and the line that was being written when the machine went is torn
    file = tmp_path / "predictions.jsonl"
    assert lines(file) == rows(range(4), repeats)
    file.write_bytes(file.read_bytes()[:-7])
    again = Module(evaluation)
    run_test(tmp_path, again)
    assert again.made == [3, 4, 5]
    assert lines(file) == rows(range(6), repeats)
    assert f"continuing: {3 * repeats} predictions" in capsys.readouterr().out
    assert names(tmp_path) == ["metrics.json", "predictions.jsonl"]


def test_rows_are_on_disk_before_the_next_batch(tmp_path):
    class Watching(Module):
        def test_step(self, batch, batch_idx):
            assert lines(tmp_path / "predictions.jsonl") == rows(range(2 * batch_idx))
            return super().test_step(batch, batch_idx)

    run_test(tmp_path, Watching())


def test_a_run_that_ended_is_done_anew(tmp_path):
    run_test(tmp_path, Module())
    again = Module(Evaluation(temperature=0.7))
    run_test(tmp_path, again)
    assert again.made == list(range(6))


def test_a_run_killed_after_its_last_row_still_ends(tmp_path):
    run_test(tmp_path, Module())
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    (tmp_path / "metrics.json").unlink()
    (tmp_path / ".predictions.settings.json").write_text(json.dumps(metrics["settings"]))
    again = Module()
    run_test(tmp_path, again)
    assert again.made == [5]
    assert json.loads((tmp_path / "metrics.json").read_text()) == metrics


def test_other_settings_or_data_do_not_mix(tmp_path):
    with pytest.raises(RuntimeError, match="no"):
        run_test(tmp_path, Module(dies_at=4))
    with pytest.raises(UserError, match=r"was begun with evaluation .*0\.0.*this run has .*0\.7.*delete that file"):
        run_test(tmp_path, Module(Evaluation(temperature=0.7)))
    with pytest.raises(UserError, match="was begun on other data"):
        run_test(tmp_path, Module(), Data(3))
    run_test(tmp_path, Module(Evaluation(baseline=None)))


def test_a_baseline_gives_a_column(tmp_path, capsys):
    run_test(tmp_path / "base", Module())
    capsys.readouterr()
    run_test(tmp_path / "run", Module(Evaluation(baseline=str(tmp_path / "base"))))
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    compared = metrics["tasks"]["a"]["baseline"]
    assert (compared["n"], compared["difference"], compared["interval"]) == (3, 0.0, [0.0, 0.0])
    assert "+0.000..+0.000" in capsys.readouterr().out
    with pytest.raises(UserError, match="No such file"):
        run_test(tmp_path / "other", Module(Evaluation(baseline="none.jsonl")))
    assert not (tmp_path / "other").exists()


def two_ranks(folder, dies_at):
    """Test on two ranks, the second of which may die on the way."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    module = Module(dies_at=int(dies_at) if rank else None)
    runner = trainer(Path(folder), devices=2, strategy="ddp", use_distributed_sampler=False)
    runner.test(module, datamodule=Data(7), verbose=False)
    print(f"rank {rank} made {module.made}")


@pytest.mark.slow
def test_two_ranks_write_one_file_and_continue_it(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    file = tmp_path / "predictions.jsonl"

    def run(dies_at):
        command = [sys.executable, __file__, str(tmp_path), str(dies_at)]
        return subprocess.run(command, capture_output=True, text=True, timeout=600, env=environment)

    # rank 1 has rows 1, 3 and 5, and gets an empty batch or a row of rank 0's number besides
    assert run(5).returncode != 0
    assert [row["index"] for row in lines(file)] == [0, 2, 1, 3]
    result = run(-1)
    assert result.returncode == 0, result.stderr
    assert "rank 0 made [4, 6]" in result.stdout
    assert "rank 1 made [5]" in result.stdout
    assert lines(file) == rows(range(7))
    assert names(tmp_path) == ["metrics.json", "predictions.jsonl"]


if __name__ == "__main__":
    two_ranks(*sys.argv[1:])
