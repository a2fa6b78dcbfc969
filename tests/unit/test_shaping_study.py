"""The studies of shaping: how runs are judged, and what the wordy policy is taught."""

from pathlib import Path

import pytest
import shaping
import wordy
from helpers.paths import ROOT
from transformers import AutoTokenizer

from lit_g2rpo.mini.data import MiniDataset


def test_running_means_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "WINDOW", 2)
    assert shaping.running_mean([1.0, 3.0, 5.0]) == [2.0, 4.0]


def test_entropy_is_judged_against_the_band(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shaping, "WINDOW", 2)

    # rollout, length, four thresholds, entropy, low, high
    def judge(*entropies: float) -> dict[str, float]:
        curve = [[i, 0, 0, 0, 0, 0, entropy, 0.2, 0.6] for i, entropy in enumerate(entropies)]
        return shaping.judge_entropy(curve, shaping.STUDIES["entropy"])

    # running means 0.8, 0.55, 0.25, 0.2
    assert judge(0.9, 0.7, 0.4, 0.1, 0.3) == {"rollouts": 3 / 5, "means": 1 / 4, "last": 2}
    assert judge(0.3, 0.3, 0.3) == {"rollouts": 0, "means": 0, "last": 0}


def test_lengths_are_judged_by_both_ends() -> None:
    curve = [[float(i), float(i)] for i in range(20)]
    found = shaping.judge_length(curve, shaping.STUDIES["length"])
    assert found == {"start": 2.0, "end": 14.5}


@pytest.mark.parametrize("name", list(shaping.STUDIES))
def test_the_default_trainer_has_what_a_study_changes(name: str, tmp_path: Path) -> None:
    shaping.trainer_fragment(shaping.STUDIES[name], tmp_path / "trainer.yaml")
    written = (tmp_path / "trainer.yaml").read_text()
    assert all(new in written for new in shaping.STUDIES[name].callbacks.values())


def test_repeats_leave_the_answer_alone() -> None:
    text = "<thinking>left bar</thinking><answer>12</answer>"
    assert wordy.repeated(text, 1) == text
    assert wordy.repeated(text, 0) == "<thinking></thinking><answer>12</answer>"
    assert wordy.repeated(text, 3) == "<thinking>left bar;left bar;left bar</thinking><answer>12</answer>"


def test_wordy_rows_are_those_of_the_tasks_said_more_or_less_often() -> None:
    rows, plain = wordy.WordyRows("train", 20, seed=100), MiniDataset("train", 20, seed=100)
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "lit_g2rpo" / "mini" / "weights")
    found = set()
    for i in range(len(plain)):
        demonstration, usual = rows[i].demonstration, plain[i].demonstration
        (times,) = (n for n in range(wordy.MOST + 1) if wordy.repeated(usual, n) == demonstration)
        found.add(times)
        # with the end token
        assert len(tokenizer(demonstration)["input_ids"]) < wordy.LONGEST
    assert found == set(range(wordy.MOST + 1))
