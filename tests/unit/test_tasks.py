"""The registry of tasks, bands from a config, and the prompt."""

import pytest

from lit_g2rpo.data.messages import answer_form, build_messages
from lit_g2rpo.errors import UserError
from lit_g2rpo.objectives.relative_bands import RelativeBand
from lit_g2rpo.objectives.shaping import EntropyBand, LengthBand
from lit_g2rpo.rewards import PROBLEM_TYPES, RewardConfig, score
from lit_g2rpo.tasks import TASKS, Task, paper_tasks, task, with_bands


def test_the_paper_has_six_tasks() -> None:
    assert list(TASKS) == [
        "spatial_grounding", "spatial_reasoning", "general_vqa_science_stem", "math_reasoning", "chart_figure_qa",
        "ocr",
    ]  # fmt: skip
    assert task("math_reasoning") == Task("math_reasoning", LengthBand(155, 750, 1560, 4096), EntropyBand(0.2, 0.6))


def test_a_task_is_a_copy() -> None:
    task("ocr").length = None
    assert task("ocr").length == LengthBand(10, 26, 62, 210)


def test_unknown_task_lists_the_known() -> None:
    with pytest.raises(UserError, match=r"unknown task 'ocrr'; known: spatial_grounding, .*, ocr"):
        task("ocrr")


def test_bands_from_a_config() -> None:
    tasks = with_bands(paper_tasks(), {"ocr": {"length": [1, 2, 3, 4], "entropy": None}, "mine": {"entropy": [0, 1]}})
    assert tasks["ocr"] == Task("ocr", LengthBand(1, 2, 3, 4), None)
    assert tasks["mine"] == Task("mine", None, EntropyBand(0, 1))
    assert tasks["math_reasoning"] == task("math_reasoning")
    assert "mine" not in TASKS


def test_a_relative_band_takes_the_place_of_one_in_tokens_and_back() -> None:
    tasks = with_bands(paper_tasks(), {"ocr": {"length": ["0ref", "4+1ref", "8+2ref", "40+4ref"]}})
    assert tasks["ocr"].length is None
    assert tasks["ocr"].relative_length == RelativeBand("reference", (0, 4, 8, 40), (0, 1, 2, 4))
    again = with_bands(tasks, {"ocr": {"length": [1, 2, 3, 4]}})["ocr"]
    assert (again.length, again.relative_length) == (LengthBand(1, 2, 3, 4), None)
    exempt = with_bands(tasks, {"ocr": {"length": None}})["ocr"]
    assert (exempt.length, exempt.relative_length) == (None, None)


@pytest.mark.parametrize(
    ("bands", "message"),
    [
        ({"lenght": [1, 2, 3, 4]}, "data.tasks.ocr.lenght: unknown key; known: length, entropy, reward"),
        ({"length": [1, 2, 3]}, "give 4 thresholds"),
        ({"length": [1, 3, 2, 4]}, "minimum <= low"),
        ({"length": [1, "2y", 3, 4]}, r"data.tasks.ocr.length is \[1, '2y', 3, 4\]: '2y' is no threshold"),
        ({"entropy": [0.6, 0.2]}, "low <= high"),
        ({"entropy": [0.6]}, r"data.tasks.ocr.entropy is \[0.6\]: give 2 bounds"),
        ({"entropy": ["1x", 2, 3]}, "give 2 bounds"),
        ({"reward": ["a.b"]}, r"data.tasks.ocr.reward is \['a.b'\]; give an import path"),
        ({"in_process": "yes"}, "data.tasks.ocr.in_process is 'yes'; give true or false"),
        ({"length": True}, "data.tasks.ocr.length is True; only in_process is true or false"),
        ({"reward": ""}, "give an import path: my_module.my_function"),
    ],
)
def test_wrong_bands(bands: dict[str, list[float] | None], message: str) -> None:
    with pytest.raises(UserError, match=message):
        with_bands(paper_tasks(), {"ocr": bands})


def test_a_reward_from_a_config() -> None:
    tasks = with_bands(paper_tasks(), {"ocr": {"reward": "mine.score"}, "programs": {"reward": "mine.run"}})
    assert tasks["ocr"] == Task("ocr", LengthBand(10, 26, 62, 210), EntropyBand(0.2, 0.6), "mine.score")
    assert tasks["programs"].reward == "mine.run"
    assert with_bands(tasks, {"ocr": {"in_process": True}})["ocr"].in_process is not tasks["ocr"].in_process
    assert tasks["math_reasoning"].reward is None
    assert with_bands(tasks, {"ocr": {"reward": None}})["ocr"] == task("ocr")


@pytest.mark.parametrize("problem_type", PROBLEM_TYPES)
def test_every_problem_type_has_an_instruction(problem_type: str) -> None:
    assert answer_form(problem_type).count("<answer>") == 1


@pytest.mark.parametrize("problem_type", [kind for kind in PROBLEM_TYPES if kind != "code"])
def test_the_example_of_an_instruction_has_the_form_of_its_type(problem_type: str) -> None:
    example = answer_form(problem_type).rpartition("<answer>")[2].partition("</answer>")[0]
    box_or_point = {"point grounding": "[0, 0, 1000, 1000]", "GUI grounding": "[0, 0, 1000, 1000]"}
    row = {"problem_type": problem_type, "answer": box_or_point.get(problem_type, example)}
    scored = score(f"<thinking>r</thinking><answer>{example}</answer>", row, RewardConfig(open_ended="rouge_l"))
    assert scored.total == 1.0


def test_tags_of_a_prompt_are_a_choice() -> None:
    given = ["<image> Keep <thinking>?", [], "math", 1]
    [turn] = build_messages(*given, thinking_tag="think", answer_tag="final")  # type: ignore[arg-type]
    [usual] = build_messages(*given)  # type: ignore[arg-type]
    text, own = turn["content"][1]["text"], usual["content"][1]["text"]
    assert text.startswith("Keep <thinking>?\n")
    assert text.count("<think>") == text.count("</think>") == 2
    assert text.count("<final>") == own.count("<answer>") == 3
    assert "answer>" not in text
    restored = text.replace("<think>", "<thinking>").replace("</think>", "</thinking>")
    assert restored.replace("<final>", "<answer>").replace("</final>", "</answer>") == own


def test_unknown_problem_type() -> None:
    with pytest.raises(UserError, match="unknown problem_type 'dance'; known: multiple choice"):
        answer_form("dance")


def test_messages_hold_images_in_their_places() -> None:
    [turn] = build_messages("<image> Which is left of <image>?", ["A. this", "B. that"], "multiple choice", 2)
    assert turn["role"] == "user"
    kinds = [item["type"] for item in turn["content"]]
    assert kinds == ["image", "text", "image", "text"]
    assert turn["content"][1]["text"] == "Which is left of"
    tail = turn["content"][3]["text"]
    assert tail.startswith("?\n")
    assert "Options:\nA. this\nB. that\n" in tail
    assert tail.count("<thinking>") == 2
    assert tail.index("Options:") < tail.index("Keep to this form") < tail.index("letter")


def test_messages_without_an_image() -> None:
    [turn] = build_messages("1 + 1?", [], "math", 0)
    assert [item["type"] for item in turn["content"]] == ["text"]
    assert "Options" not in turn["content"][0]["text"]
    with pytest.raises(UserError, match="0 <image> places for 1 images"):
        build_messages("1 + 1?", [], "math", 1)
