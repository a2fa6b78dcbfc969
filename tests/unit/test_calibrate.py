"""``calibrate`` from the command line: a fragment that the next fit takes, or nothing at all."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from helpers.paths import ROOT

from lit_g2rpo.__main__ import main
from lit_g2rpo.cli.verbs.calibrate import OWN_KEYS, fragment
from lit_g2rpo.cli.verbs.calibrate_report import Proposal, spread
from lit_g2rpo.cli.words import without
from lit_g2rpo.objectives.calibration import Measured
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand

RECIPE = ["--config", str(ROOT / "configs" / "g2rpo.yaml")]


def calibrate(policy, *words):
    return main(["calibrate", *RECIPE, "--model.policy.path", policy, "--prompts_per_task", "3", *words])


def test_what_is_measured_and_written(random_folder, capsys):
    words = ["--data.max_completion_tokens", "8", "--model.rollout.max_rows", "7", "--output", "new/mine.yaml"]
    tasks = "{ocr: {length: null}, math_reasoning: {length: [1, 2, 3, 4]}}"
    assert calibrate(random_folder, *words, "--data.tasks", tasks, "--styles.ocr", "hybrid") == 0
    out = capsys.readouterr().out
    assert sorted(path.name for path in Path("new").iterdir()) == ["mine.png", "mine.yaml"]
    assert Path("new/mine.png").read_bytes().startswith(b"\x89PNG")
    filled = yaml.safe_load(Path("new/mine.yaml").read_text())
    tasks = filled["init_args"]["tasks"]
    assert filled["class_path"] == "lit_g2rpo.mini.MiniPrompts"
    assert len(tasks) == 6
    assert tasks["ocr"]["length"] is None, "what is exempt stays exempt"
    # a random policy writes on until the limit; none is right, so only the ratios count: low is 1.2 times, cut to 8
    assert tasks["math_reasoning"]["length"] == [2, 8, 8, 8]
    low, high = tasks["ocr"]["entropy"]
    assert 0 < low < high
    assert high == pytest.approx(3 * low, abs=0.002)
    assert "note: 100% of the completions of ocr hit the limit of 8 tokens" in out
    assert "--output" not in out.splitlines()[-1]
    assert out.splitlines()[-1].endswith("--data new/mine.yaml")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--output", "bands.txt"], "--output bands.txt is not a YAML file; give a name such as bands.yaml"),
        (["--output", "old.yaml"], "--output old.yaml: old.png exists; give a new name"),
        (["--prompts_per_task", "0"], "--prompts_per_task is 0; it must be at least 1"),
        (["--styles.orc", "vision"], "--styles.orc: no such task"),
        (["--styles.ocr", "long"], "--styles.ocr is 'long'; it must be reasoning, hybrid or vision"),
    ],
)
def test_mistakes_are_found_before_the_rollout(random_folder, capsys, words, message):
    Path("old.png").write_text("mine")
    assert calibrate(random_folder, *words) == 2
    captured = capsys.readouterr()
    assert captured.err.strip().splitlines()[-1].startswith(f"error: {message}")
    assert "completions" not in captured.out
    assert [path.name for path in Path.cwd().iterdir()] == ["old.png"]


def test_nothing_is_written_if_the_rollout_fails(random_folder):
    assert calibrate(random_folder, "--data.max_prompt_tokens", "5") == 2
    assert not list(Path.cwd().iterdir())


def test_a_fragment_keeps_what_is_no_band():
    tasks = {
        "ocr": {"length": ["1x", "1x", "2x", "3x"], "reward": "mine.score", "entropy": [1.0, 2.0]},
        "other": {"length": [1.0, 2.0, 3.0, 4.0]},
    }
    data = SimpleNamespace(class_path="some.Data", init_args={"tasks": tasks})
    found = Proposal("ocr", "vision", Measured(), LengthBand(1, 2, 3, 4), EntropyBand(0.1, 0.5))
    text = fragment(data, [found], "3 prompts")
    assert text.startswith("# fills data")
    assert yaml.safe_load(text)["init_args"]["tasks"] == {
        "ocr": {"length": ["1x", "1x", "2x", "3x"], "reward": "mine.score", "entropy": [0.1, 0.5]},
        "other": {"length": [1.0, 2.0, 3.0, 4.0]},
    }
    assert tasks["ocr"]["entropy"] == [1.0, 2.0], "the configuration is left alone"


def test_the_words_that_fit_does_not_know_are_left_out():
    words = "--config a.yaml --prompts_per_task 8 --styles.ocr=vision --seed_everything 1 --output b.yaml --styles {}"
    assert without(OWN_KEYS, words.split()) == ["--config", "a.yaml", "--seed_everything", "1"]


def test_quantiles_in_words():
    assert spread([0.0, 1.0], 2) == "0.10 0.50 0.90"
    assert spread([], 2) == "-"
