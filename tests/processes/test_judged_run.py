"""``test`` on a benchmark that asks a judge: the run asks it, and its table and files have both readings."""

import json
from pathlib import Path

import pytest
from helpers.chat_server import chat_server
from helpers.paths import CONFIGS
from PIL import Image

from lit_g2rpo.__main__ import main


def test_a_run_asks_the_judge_and_shows_both_readings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCHMARKS", str(tmp_path))
    Image.new("RGB", (64, 64), "red").save(tmp_path / "a.png")
    questions = ["Which colour?", "How many?"]
    rows = [{"id": q, "problem": f"<image>{q}", "answer": "no such answer", "images": ["a.png"]} for q in questions]
    (tmp_path / "charxiv.jsonl").write_text("\n".join(map(json.dumps, rows)))
    with chat_server(lambda text: json.dumps({"score": int("Which colour?" in text)})) as (url, requests):
        words = ["--config", str(CONFIGS / "g2rpo.yaml"), "--data", str(CONFIGS / "data" / "charxiv.yaml")]
        judge = [f"--model.judge.url={url}", "--model.judge.model=a-judge", "--model.evaluation.reading=suite"]
        code = main(["test", *words, *judge, "--data.max_completion_tokens=24", "--model.reward.thinking_tag=x"])
        assert code == 0, capsys.readouterr().err
    (file,) = tmp_path.glob("runs/**/metrics.json")
    metrics = json.loads(file.read_text())
    charxiv = metrics["tasks"]["charxiv"]
    # what the policy wrote is text to the suite, and no well-formed answer to the strict reading
    assert (charxiv["score"], charxiv["suite"], charxiv["strict"], charxiv["judge_failures"]) == (0.5, 0.5, 0.0, 0)
    assert metrics["settings"]["judge"] == {"url": url, "model": "a-judge"}
    assert sorted(question in text for text in requests for question in questions) == [False, False, True, True]
    out = capsys.readouterr().out
    assert "accuracy (suite)" in out
    assert "only suite" in out
