"""PredictionWriter on a real trainer, with one rank and with two."""

import json
import os
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as L
import pytest
from toy import ToyModule

from lit_g2rpo.callbacks import PredictionWriter

ROOT = Path(__file__).resolve().parents[1]


def rows(indices):
    return [
        {
            "index": index,
            "id": f"row-{index}",
            "task": "ab"[index % 2],
            "prompt": "?",
            "completion": "<answer>ü</answer>",
            "answer": "ü",
            "gold": "ü",
            "accuracy": float(index % 4 == 0),
            "format": 1.0,
            "length": 10 + index,
            "truncated": False,
        }
        for index in indices
    ]


class Batches:
    """A loader of batches that are lists of rows."""

    def __init__(self, *batches):
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        return iter(self.batches)


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


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_test_writes_rows_in_order_and_figures(tmp_path, capsys):
    # the last row comes twice, as from a sampler that fills up
    trainer(tmp_path).test(ToyModule(), Batches(rows([4, 2, 0]), rows([1, 3, 5]), rows([5])), verbose=False)
    assert lines(tmp_path / "predictions.jsonl") == rows(range(6))
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["n"] == 6
    assert metrics["tasks"]["a"] == {"n": 3, "accuracy": 2 / 3, "format": 1.0, "length": 12.0, "truncated": 0.0}
    assert metrics["accuracy"] == pytest.approx((2 / 3 + 0) / 2)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["a", "3", "0.667", "1.000", "12.0", "0.000"] in table
    assert ["mean", "6", "0.333", "1.000", "12.5", "0.000"] in table
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.jsonl"]


def test_predict_takes_rows_without_gold(tmp_path, capsys):
    plain = [{**row, "gold": None, "accuracy": None, "format": None} for row in rows(range(3))]
    trainer(tmp_path).predict(ToyModule(), Batches(plain[1:], plain[:1]), return_predictions=False)
    assert lines(tmp_path / "predictions.jsonl") == plain
    assert not (tmp_path / "metrics.json").exists()
    assert f"predictions: {tmp_path}/predictions.jsonl\n" in capsys.readouterr().out


def test_validate_prints_the_table_and_writes_nothing(tmp_path, capsys):
    module = ToyModule(validation=lambda rollout: 0.5)
    trainer(tmp_path).validate(module, [0], verbose=False)
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["b", "4", "0.600"] in table
    assert ["mean", "7", "0.500"] in table
    assert not list(tmp_path.iterdir())


class Broken(ToyModule):
    def test_step(self, batch, batch_idx):
        raise RuntimeError("no")


def test_a_failure_leaves_nothing_half_written(tmp_path):
    with pytest.raises(RuntimeError, match="no"):
        trainer(tmp_path).test(Broken(), Batches(rows([0])), verbose=False)
    assert not list(tmp_path.iterdir())


def two_ranks(folder):
    """Test on two ranks, each of which gets its share and one row that the other has too."""
    rank = int(os.environ.get("LOCAL_RANK", 0))
    batches = Batches(rows(range(rank, 6, 2)), rows([0]))
    trainer(Path(folder), devices=2, strategy="ddp", use_distributed_sampler=False).test(
        ToyModule(), batches, verbose=False
    )


@pytest.mark.slow
def test_two_ranks_write_one_file(tmp_path):
    command = [sys.executable, __file__, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stderr
    assert lines(tmp_path / "predictions.jsonl") == rows(range(6))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.json", "predictions.jsonl"]


if __name__ == "__main__":
    two_ranks(sys.argv[1])
