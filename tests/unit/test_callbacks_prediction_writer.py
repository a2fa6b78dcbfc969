"""PredictionWriter on a real trainer, to the end and killed on the way."""

import json

import pytest
from helpers.prediction_run import Batches, Data, Evaluation, Module, lines, names, rows, trainer

from lit_g2rpo.errors import UserError


def run_test(tmp_path, module, data=None):
    trainer(tmp_path).test(module, datamodule=data or Data(), verbose=False)


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

    run_test(tmp_path, Module())
    tested = (tmp_path / "predictions.jsonl").read_bytes()
    trainer(tmp_path).predict(Predict(), datamodule=Data(3), return_predictions=False)
    assert lines(tmp_path / "predictions_predict.jsonl") == plain
    assert names(tmp_path) == ["metrics.json", "predictions.jsonl", "predictions_predict.jsonl"]
    assert f"predictions: {tmp_path}/predictions_predict.jsonl\n" in capsys.readouterr().out
    # what test wrote is still what its figures say
    assert (tmp_path / "predictions.jsonl").read_bytes() == tested
    assert json.loads((tmp_path / "metrics.json").read_text())["predictions"] == "predictions.jsonl"


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
