"""The benchmarks' own machinery: clocks, turns, prompts, forced lengths, and that both sides do the same work."""

from pathlib import Path
from typing import Any

import common
import device_table
import gaps
import hardware
import longest
import ours
import pytest
import scaling
import step_memory
import step_vs_trl
import torch
import turns


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("bench")
    assert 6e6 < common.tiny_policy(path) < 7e6
    return path


@pytest.mark.parametrize("script", [step_vs_trl, step_memory, scaling, hardware, longest, gaps])
def test_help(script: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("sys.argv", [script.__file__, "--help"])
    with pytest.raises(SystemExit) as left:
        script.main()
    assert left.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_phases_exclude_the_phases_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0.0, 1.0, 3.0, 7.0])
    monkeypatch.setattr(turns.time, "thread_time", lambda: next(ticks))
    phases = turns.Phases()
    with phases.phase("outer"), phases.phase("inner"):
        pass
    assert phases.seconds == {"outer": 1.0 + 4.0, "inner": 2.0}


def test_peaks_belong_to_the_phase_that_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = step_memory.Peaks()
    readings = iter([10, 40, 90, 50, 20])
    monkeypatch.setattr(step_memory, "memory", lambda _: next(readings))
    monkeypatch.setattr(step_memory, "count_peak_anew", lambda: None)
    with peaks.phase("outer"), peaks.phase("inner"):
        pass
    peaks.charge()
    assert peaks.bytes == {"other": 20, "outer": 50, "inner": 90}


def test_turns_go_one_step_at_a_time_and_pass_errors_on() -> None:
    done: list[int] = []

    def run(pause: Any) -> None:
        for number in range(2):
            done.append(number)
            pause()
        raise ValueError("the end")

    turn = turns.Turn(run)
    for expected in ([0], [0, 1]):
        turn.step()
        assert done == expected
    with pytest.raises(ValueError, match="the end"):
        turn.step()


@pytest.mark.parametrize(("image_tokens", "images"), [(0, 1), (64, 1), (16, 3)])
def test_prompts_have_the_lengths_asked_for(image_tokens: int, images: int) -> None:
    prompt = common.bench_prompts(1, image_tokens, 30, images)[0]
    processor = common.bench_processor()
    text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    ids = processor(text=[text], images=prompt.images or None, return_tensors="pt")["input_ids"][0]
    shown = images if image_tokens else 0
    assert int((ids == processor.image_token_id).sum()) == shown * image_tokens
    assert len(ids) == 30 + shown * (image_tokens + 2)


def test_fits() -> None:
    assert scaling.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)
    assert scaling.slope([1, 2, 4], [3.0, 5.0, 9.0]) == pytest.approx(2)


def test_a_device_is_busy_where_any_of_its_work_lies() -> None:
    assert gaps.covered([(10, 20), (0, 4), (12, 15), (18, 30), (30, 31)]) == 4 + 21


def test_lengths_grow_by_a_quarter() -> None:
    assert longest.lengths_to_try(64, 125) == [64, 80, 100, 125]


def test_variable_lengths_have_the_mean_and_the_longest_they_are_said_to_have() -> None:
    drawn = step_vs_trl.completion_lengths(step_vs_trl.CASES["variable"], [str(n) for n in range(8)])
    flat = torch.tensor(list(drawn.values())).flatten().double()
    assert flat.max() == 128
    assert 32 < flat.mean() < 38


@pytest.mark.parametrize("engine", ["huggingface", "native"])
def test_our_side_writes_forced_lengths_and_counts_each_image_once(folder: Path, engine: str) -> None:
    prompts = common.bench_prompts(2, 4, 30)
    lengths = {prompts[0].id: [1, 4], prompts[1].id: [6, 2]}
    side = ours.Ours(folder, prompts, lengths, ours.Work(2, 6), 2, engine=engine)
    steps = turns.measure({"ours": side}, 1, cuda=False)["ours"]
    step_vs_trl.same_work({"ours": side}, lengths, 2, 1)
    counters = steps[0]["counters"]
    assert counters["images_preprocessed"] == counters["images_encoded"] == 2
    # The last token of a completion is predicted but predicts nothing.
    assert counters["train_completion_tokens"] == 13 - 4
    assert sum(steps[0]["phases"].values()) == pytest.approx(steps[0]["seconds"])
    lengths[prompts[0].id] = [2, 4]
    with pytest.raises(AssertionError, match="given lengths"):
        step_vs_trl.same_work({"ours": side}, lengths, 2, 1)


def test_the_longest_completion_is_found_by_training_on_each_length(folder: Path) -> None:
    case = {"side": "ours", "folder": str(folder), "dtype": "float32", "device": "cpu", "image_tokens": 4}
    result = longest.run(case | {"lora": False, "lengths": [4, 6], "limit_gib": None})
    assert list(result["peaks"]) == ["4", "6"]
    assert result["ended"] == "the longest that was tried fits"


def test_the_table_of_a_device_says_what_failed_and_what_is_beyond_its_limit(tmp_path: Path) -> None:
    base = {"strategy": "gpu", "device": "X100", "date": "2026-11-25", "planned_gib": None, "accuracy": [0.5, 0.6, 0.7]}
    good = base | {"seconds": 61.0, "peak_gib": 30.25, "mean_gap": 1e-3, "max_gap": 0.05}
    common.write_json(tmp_path / "default.json", good | {"planned_gib": 31.5})
    common.write_json(tmp_path / "gpu.json", good | {"max_gap": 0.2, "accuracy": []})
    common.write_json(tmp_path / "zero2.json", base | {"failed": "exit code 2, see its log"})
    _, _, default, gpu, zero2 = hardware.table(tmp_path).splitlines()
    assert default == "| default | gpu | X100 | 2026-11-25 | 61 | 30.25 | 31.5 | 1.0e-03 | 5.0e-02 | 0.500 to 0.700 |"
    assert gpu.endswith("| - | 1.0e-03 | 2.0e-01 (above the limit) | - |")
    assert "exit code 2" in zero2
    assert len({line.count("|") for line in (default, gpu, zero2)}) == 1


def test_the_table_of_goals_says_what_is_met(tmp_path: Path) -> None:
    rows = [
        {"share_of_bandwidth_floor": 0.6, "ratio": {"huggingface": 3.5, "static": 2.5}},
        {"share_of_bandwidth_floor": None, "ratio": {"huggingface": 12.5}},
    ]
    common.write_json(tmp_path / "decode_2b.json", {"rows": rows})
    peaks = {"peak_gib": {"ours": 20.0, "peer": 40.0}}
    phases = {"peer": {"forward": 3.0, "backward": 6.0, "rollout": 9.0}, "ours": {"forward": 1.5, "backward": 3.0}}
    common.write_json(tmp_path / "step_long_2b.json", peaks | {"phases": phases})
    lines = device_table.table(tmp_path, ["2b"]).splitlines()
    assert lines[2] == "| decode, share of bandwidth floor, B=64 | 2b | 50% | 70% | 60% | must |"
    assert lines[3] == "| decode vs HF `generate`, fixed T | 2b | 4x | 7x | 3.5x | below |"
    assert lines[4].endswith("| 8x | 12x | 12.5x | aim |")
    assert lines[8] == "| training vs TRL, T 1024 | 2b | 1.8x | 2.2x | 2x | must |"
    # A smaller share of memory is the better one.
    assert lines[10] == "| step peak memory vs TRL, T 1024 | 2b | 0.6x | 0.45x | 0.5x | must |"
    assert lines[6] == "| training, model FLOPs of product rate | 2b | 35% | 47% | - |  |"
    assert len({line.count("|") for line in lines}) == 1
