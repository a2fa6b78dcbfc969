"""score: predictions get the figures that the present rules give them."""

import json

import pytest
import torch
from helpers.prompts import make_prompt

from lit_g2rpo.cli.verbs.score import main
from lit_g2rpo.errors import UserError
from lit_g2rpo.evaluation.rows import row
from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards import RewardResult

WRONG = RewardResult(0.1, 0.0, 1.0, 0.0, {}, "unparsed", 0.0)


def prediction(index, reply, tags="thinking", **sample):
    prompt = make_prompt(f"row-{index}", 0)
    prompt.sample = {"problem": "?", "problem_type": "chart", "task_type": "ocr", "images": []} | sample
    prompt.sample |= {"id": str(index), "options": sample.get("options", []), "data_source": ""}
    tokens = torch.arange(3)
    text = f"<{tags}>a</{tags}><answer>{reply}</answer>"
    return row(index, 0, prompt, Completion(tokens, tokens * 0.0, tokens * 0.0, text, False), WRONG)


def written(path, rows):
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def scored(tmp_path, *words):
    main([*words, "--json", str(tmp_path / "out.json")])
    return json.loads((tmp_path / "out.json").read_text())


def test_old_scores_do_not_count(tmp_path, capsys):
    rows = [prediction(0, "21", answer="20"), prediction(1, "9", answer="20")]
    file = written(tmp_path / "predictions.jsonl", rows)
    metrics = scored(tmp_path, file, "--output", str(tmp_path / "new.jsonl"))
    assert (metrics["n"], metrics["score"], metrics["unparsed"]) == (2, 0.5, 0)
    assert [json.loads(line)["score"] for line in (tmp_path / "new.jsonl").read_text().splitlines()] == [1.0, 0.0]
    assert "reward accuracy" in capsys.readouterr().out


def test_a_benchmarks_rule_is_used_where_a_row_or_the_user_names_it(tmp_path):
    # 1950 is no reading of 2010 for the reward, and one for the official rule
    rows = [prediction(0, "1950", answer="2010", type="human"), prediction(1, "a", answer="b", type="augmented")]
    file = written(tmp_path / "predictions.jsonl", rows)
    assert scored(tmp_path, file)["score"] == 0.0
    chartqa = scored(tmp_path, file, "--benchmark", "chartqa")["tasks"]["chartqa"]
    assert (chartqa["score"], chartqa["details"]["human"], chartqa["rule"]) == (0.5, 1.0, "strict")
    named = [prediction(0, "1950", answer="2010", type="human", benchmark="chartqa")]
    assert scored(tmp_path, written(tmp_path / "named.jsonl", named))["score"] == 1.0


def test_the_settings_beside_the_predictions_are_kept(tmp_path):
    file = written(tmp_path / "run" / "predictions.jsonl", [prediction(0, "20", tags="think", answer="20")])
    assert scored(tmp_path, file)["tasks"]["ocr"]["format"] == 0.0
    settings = {"reward": {"thinking_tag": "think"}, "reward_functions": {}}
    (tmp_path / "run" / "metrics.json").write_text(json.dumps({"settings": settings}))
    metrics = scored(tmp_path, file)
    assert metrics["tasks"]["ocr"]["format"] == 1.0
    assert metrics["settings"] == settings
    (tmp_path / "run" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match="has no settings"):
        main([file])


def test_a_baseline_is_compared(tmp_path):
    ours = written(tmp_path / "a.jsonl", [prediction(i, "20", answer="20") for i in range(4)])
    theirs = written(tmp_path / "b.jsonl", [prediction(i, "20", answer="20") for i in range(4)])
    metrics = scored(tmp_path, ours, "--baseline", theirs)
    # scores of the baseline's file are taken as they are
    assert metrics["tasks"]["ocr"]["baseline"] == {"score": 0.0, "n": 4, "difference": 1.0, "interval": [1.0, 1.0]}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.jsonl"], "No such file"),
        (["predictions.jsonl", "--benchmark", "chart"], "unknown benchmark 'chart'"),
        (["predictions.jsonl", "--benchmark", "chartqa"], r"prediction 1 \(row-0\): .*missing: type"),
        (["predictions.jsonl", "--bench"], "expected one argument"),
        ([], "required: predictions"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, words, message):
    written(tmp_path / "predictions.jsonl", [prediction(0, "20", answer="20")])
    with pytest.raises(UserError, match=message):
        main(words)
