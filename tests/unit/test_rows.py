"""Rows of every accepted format, brought to one shape."""

import base64
import json
import time
from typing import Any

import pytest
from helpers.paths import RELEASED
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_g2rpo.rewards import score
from lit_g2rpo.rewards.rows.canonical import canonical
from lit_g2rpo.rewards.rows.scales import SizeNeeded

SHAPE = {"id", "problem", "problem_type", "task_type", "options", "images", "data_source"}
PNG = b"\x89PNG\r\n\x1a\n..."
PIL = Image.new("RGB", (2, 2))

BOX = {"boxes": [100.0, 100.0, 500.0, 500.0]}
MATHS = {"problem_type": "math", "task_type": "math_reasoning"}

# format: a row as its makers write it, and what must come out of it
FORMATS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "OpenVLThinkerV2": (
        {
            "problem_id": 7, "problem": "<image> What is it?", "data_type": "image", "problem_type": "multiple choice",
            "options": ["A. cat", "B. dog"], "data_source": "A-OKVQA", "answer": "<answer>B</answer>",
            "images": ["./a.jpg"], "problem_reserved_text": "What is it?", "task_type": "chart_figure_qa",
        },
        {
            "id": "7", "problem": "<image> What is it?", "options": ["A. cat", "B. dog"], "images": ["./a.jpg"],
            "answer": "<answer>B</answer>", "task_type": "chart_figure_qa", "problem_reserved_text": "What is it?",
        },
    ),
    "OneThinker has no task": (
        {"problem": "<image> x", "problem_type": "multiple choice", "data_source": "A-OKVQA", "answer": "B",
         "images": ["a.jpg"], "options": []},
        {"task_type": "general_vqa_science_stem", "data_source": "A-OKVQA"},
    ),
    "OneThinker evaluation": (
        {"problem": "How long?", "problem_type": "regression", "data_type": "image", "path": "a.jpg",
         "additional_path": ["b.jpg"], "solution": "<answer>2.5</answer>", "options": []},
        {"problem": "<image><image>How long?", "images": ["a.jpg", "b.jpg"], "answer": "<answer>2.5</answer>",
         "task_type": "spatial_reasoning"},
    ),
    "nulls of a table": (
        {"problem": "x", "problem_type": "math", "answer": "2", "options": None, "images": None, "task_type": None,
         "score": float("nan"), "videos": None},
        {"options": [], "images": [], **MATHS},
    ),
    "EasyR1": (
        {"problem": "<image>Find x.", "answer": "48", "images": [{"bytes": PNG, "path": None}]},
        {"problem": "<image>Find x.", "answer": "48", "images": [PNG], **MATHS},
    ),
    "EasyR1, a letter": (
        {"problem": "Which? (A) cat (B) dog", "answer": "B", "images": []},
        {"problem_type": "multiple choice", "options": [], "task_type": None},
    ),
    "TRL, text": ({"prompt": "What is 1+1?", "answer": "2"}, {"problem": "What is 1+1?", **MATHS}),
    "TRL, turns": (
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Find x."}], "image": PIL,
         "solution": "<think>so</think> <answer>$2$</answer>", "level": 3},
        {"problem": "<image>Find x.", "images": [PIL], "answer": "$2$", "level": 3, **MATHS},
    ),
    "TRL, blocks": (
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "Look: "}, {"type": "image"},
                                                 {"type": "text", "text": " Well?", "image": None}]}],
         "images": (PIL,), "solution": "It is \\boxed{\\frac{1}{2}}."},
        {"problem": "Look: <image> Well?", "images": [PIL], "answer": "\\frac{1}{2}"},
    ),
    "TRL, images in blocks": (
        {"prompt": [{"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64," + base64.b64encode(PNG).decode()}},
            {"type": "image", "image": "b.png"}, {"type": "text", "text": "Which?"}]}], "answer": 3},
        {"problem": "<image><image>Which?", "images": [PNG, "b.png"], "answer": "3"},
    ),
    "TRL, demo data": (
        {"image": PIL, "problem": "Find x.", "solution": "<think>a</think>\n<answer>7</answer>"},
        {"problem": "<image>Find x.", "answer": "7"},
    ),
    "verl": (
        {"data_source": "hiyouga/geometry3k", "prompt": [{"role": "user", "content": "<image>Find x."}],
         "images": [{"bytes": PNG}], "ability": "math", "reward_model": {"style": "rule", "ground_truth": "3"},
         "extra_info": {"index": 4}},
        {"problem": "<image>Find x.", "images": [PNG], "answer": "3", "extra_info": {"index": 4},
         "reward_model": {"style": "rule", "ground_truth": "3"}, "data_source": "hiyouga/geometry3k", **MATHS},
    ),
    "ms-swift": (
        {"messages": [{"role": "user", "content": "<image>How many?"}], "images": ["a.jpg"], "solution": 4,
         "task": "chart_figure_qa"},
        {"problem": "<image>How many?", "answer": "4", "task_type": "chart_figure_qa", "problem_type": "math"},
    ),
    "ms-swift, query": (
        {"query": "How many?", "images": ["a.jpg"], "solution": "4"},
        {"problem": "<image>How many?", "answer": "4"},
    ),
    "ms-swift, boxes in pixels": (
        {"messages": [{"role": "user", "content": "<image>Find <ref-object>."}, {"role": "assistant",
                                                                                  "content": "<bbox>"}],
         "images": ["a.jpg"], "width": 640, "height": 480,
         "objects": {"ref": ["the cat"], "bbox": [[64, 48, 320, 240]]}},
        {"problem": "<image>Find the cat.", "answer": json.dumps(BOX), "problem_type": "spatial grounding",
         "task_type": "spatial_grounding"},
    ),
    "ms-swift, boxes from 0 to 1": (
        {"query": "<image>Find all.", "images": ["a.jpg"],
         "objects": {"ref": ["cat", "dog"], "bbox": [[0.1, 0.1, 0.5, 0.5], [0, 0, 1, 1]], "bbox_type": "norm1"}},
        {"problem_type": "detection", "answer": json.dumps(
            [{"bbox_2d": BOX["boxes"], "label": "cat"}, {"bbox_2d": [0, 0, 1000, 1000], "label": "dog"}])},
    ),
    "VLM-R1": (
        {"id": 1, "image": ["a.jpg", "b.jpg"], "accu_reward_method": "mcq", "conversations": [
            {"from": "human", "value": "<image><image>Which? A. cat B. dog"}, {"from": "gpt", "value": "B"}]},
        {"id": "1", "images": ["a.jpg", "b.jpg"], "problem_type": "multiple choice", "answer": "B"},
    ),
    "VLM-R1, a number": (
        {"image": "a.jpg", "conversations": [{"from": "human", "value": "<image>How many?"},
                                             {"from": "gpt", "value": 3}]},
        {"answer": "3", "images": ["a.jpg"]},
    ),
    "VLM-R1, referring expression": (
        {"image": "a.jpg", "problem": "Find the cat.", "solution": [64, 48, 320, 240], "normal_caption": "the cat",
         "width": 640, "height": 480},
        {"problem": "<image>Find the cat.", "answer": json.dumps(BOX), "problem_type": "spatial grounding",
         "normal_caption": "the cat"},
    ),
    "options by letter": (
        {"question": "Which?", "options": {"A": "cat", "B": "dog", "C": None}, "answer": "A", "data_source": "AI2D"},
        {"problem": "Which?", "options": ["A. cat", "B. dog"], "task_type": "chart_figure_qa"},
    ),
    "options without letters": (
        {"problem": "Which?", "choices": ["E. coli", "H. pylori"], "answer": "H. pylori"},
        {"options": ["A. E. coli", "B. H. pylori"], "problem_type": "multiple choice"},
    ),
    "a box on the grid": (
        {"problem": "<image> Where?", "images": ["a.jpg"], "problem_type": "spatial grounding",
         "answer": [100, 100, 500, 500]},
        {"answer": json.dumps({"boxes": [100, 100, 500, 500]})},
    ),
    "a reply to imitate": (
        {"messages": [{"role": "user", "content": "1+1?"},
                      {"role": "assistant", "content": "<thinking>1+1</thinking><answer>2</answer>"}]},
        {"answer": "2", "demonstration": "<thinking>1+1</thinking><answer>2</answer>"},
    ),
    "a row to predict": ({"problem": "What?", "problem_type": "OCR"}, {"problem": "What?", "task_type": "ocr"}),
    "what a reward needs, and nothing else": (
        {"problem_type": "math", "answer": "5"}, {"problem": "", "answer": "5", "images": []}),
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_formats(name: str) -> None:
    row, expected = FORMATS[name]
    before = str(row)
    found = canonical(row)
    assert {key: found.get(key) for key in expected} == expected
    assert found.keys() >= SHAPE
    assert str(row) == before, "the row that came in is left alone"
    assert canonical(found) is found


def test_columns_that_say_the_question_and_its_media_are_not_kept_twice() -> None:
    for row, _ in FORMATS.values():
        assert not {"image", "prompt", "messages", "conversations", "query"} & canonical(row).keys()
    assert "answer" not in canonical(FORMATS["a row to predict"][0])


@pytest.mark.parametrize("name", ["TRL, turns", "verl", "ms-swift, boxes in pixels", "VLM-R1", "EasyR1"])
def test_a_reward_reads_any_format(name: str) -> None:
    row, expected = FORMATS[name]
    answer = expected["answer"]
    right = score(f"<thinking>.</thinking><answer>{answer}</answer>", row)
    assert (right.accuracy, right.error) == (1.0, None)
    assert score("<thinking>.</thinking><answer>C</answer>", row).accuracy == 0.0


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "What?"}, "no question: none of the columns problem, question, query, instr"),
        ({"problem": ["What?"], "answer": "2"}, r"'problem' is \['What\?'\]; it must be a text"),
        ({"prompt": 5, "answer": "2"}, "'prompt' is 5; it must be a text or a list of turns"),
        (
            {"prompt": [{"role": "user", "content": "a"}] * 2, "answer": "2"},
            "'prompt' holds user, user; it must hold user and assistant in turn",
        ),
        ({"prompt": [], "answer": "2"}, "'prompt' holds nothing; it must hold user and assistant in turn"),
        ({"prompt": [{"role": "user"}]}, "the content of a turn is None; it must be a text or a list of blocks"),
        ({"prompt": [{"role": "user", "content": [{"type": "audio"}]}]}, "a turn holds {'type': 'audio'}; its blocks"),
        ({"problem": "a", "answer": True}, "'answer' is True; it must be a text, a number or JSON"),
        ({"problem": "a", "answer": {"a": PIL}}, "'answer' is .* it must be a text, a number or JSON"),
        ({"problem": "a", "options": "A. cat"}, "'options' is 'A. cat'; it must be a list of texts"),
        ({"problem": "a", "options": [1]}, r"'options' is \[1\]; it must be a list of texts"),
        ({"problem": "a", "options": ["x"] * 27}, "'options' has 27 texts; letters reach to 26"),
        ({"problem": "a", "images": [3]}, "'images' holds 3; give paths, bytes or PIL images"),
        ({"problem": "a", "images": ["data:image/png;base64,@@"]}, "base64 that cannot be decoded"),
        ({"problem": "a", "solution": [1, 2, 3, 4], "width": 2, "height": 2}, r"box \[1, 2, 3, 4\] in pixels lies out"),
        ({"query": "a", "objects": {"bbox": [[1, 2, 3]]}}, "each must be .x1, y1, x2, y2."),
        (
            {"query": "a", "objects": {"bbox": [[1, 2, 3, 4]], "bbox_type": "x"}},
            "bbox_type 'x'; it must be one of real",
        ),
        ({"query": "a", "objects": 3}, "'objects' is 3; it must be an object"),
        ({"problem": "a", "reward_model": "rule"}, "'reward_model' is 'rule'; it must be an object"),
    ],
)
def test_rows_that_cannot_be_understood(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        canonical(row)
    assert "\n" not in str(caught.value)


def test_video_rows_keep_their_columns_so_that_they_can_be_scored() -> None:
    row = {
        "problem": "When? <video>",
        "problem_type": "temporal grounding",
        "answer": '{"time": [1, 2]}',
        "videos": ["a"],
    }
    read = canonical(row)
    assert read["videos"] == ["a"]
    assert canonical(read) is read
    done = "<thinking>x</thinking><answer>%s</answer>"
    assert score(done % '{"time": [1, 2]}', row).accuracy == 1.0
    assert score(done % '{"time": [1, 3]}', row).accuracy == 0.5


@pytest.mark.parametrize("kind", ["OCR", "open-ended", "document", "code"])
def test_a_text_that_is_the_answer_is_not_cut_to_its_box(kind: str) -> None:
    assert (
        canonical({"problem": "Read it.", "problem_type": kind, "answer": "so \\boxed{7}"})["answer"] == "so \\boxed{7}"
    )


def test_pixels_need_the_size_of_the_image() -> None:
    row = {"problem": "Find it.", "image": "a.jpg", "solution": [64, 48, 320, 240]}
    with pytest.raises(SizeNeeded, match="'width' and 'height'"):
        canonical(row)
    assert canonical(row | {"width": 640, "height": 480})["answer"] == json.dumps(BOX)
    edge = canonical(row | {"solution": [0, 0, 641, 480], "width": 640, "height": 480})
    assert json.loads(edge["answer"]) == {"boxes": [0.0, 0.0, 1000.0, 1000.0]}


WORDS = [
    "boxes", "bbox", "bbox_2d", "point_2d", "points", "time", "label", "ref", "role", "content", "type", "text",
    "image", "user", "assistant", "image_id", "bbox_type", "ground_truth", "path", "coordinate", "arguments", "sent",
]  # fmt: skip
TEXTS = [
    "[1, 20, 300, 400]", "<box>(1,2),(300,400)</box>", '{"boxes": [1, 2, 300, 400]}', "[", "[1]", "{}", "<bbox>",
    "<ref-object>", "<image 1>", "<|im_start|>user\na<|im_end|>", "[[1, 2, 3], 4]", "7", "user", "real",
    "index", "a.png",
]  # fmt: skip
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.binary(max_size=4)
    | st.sampled_from(TEXTS),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6) | st.sampled_from(WORDS), inner, max_size=3)
    ),
    max_leaves=8,
)
keys = st.sampled_from([
    "problem", "question", "query", "prompt", "messages", "conversations", "answer", "solution", "options", "choices",
    "images", "image", "videos", "objects", "reward_model", "path", "problem_type", "task_type", "task", "data_source",
    "id", "data_type", "width", "height", "accu_reward_method", "ground_truth", "demonstration", "other", "bbox_2d",
    "bbox_type", "answer_as", "earlier_turns", "sentences", "bbox", "instruction", "input", "output", "history",
    "system", "image_1", "img", "message", "A", "B",
])  # fmt: skip


@settings(max_examples=1000, deadline=None)
@given(
    st.dictionaries(keys, values, max_size=5),
    st.sampled_from([{}, {"problem": "a"}, {"query": "a"}, {"prompt": [{"role": "user", "content": "a"}]}]),
)
def test_any_row_is_understood_or_refused_in_one_line(row: dict[str, Any], question: dict[str, Any]) -> None:
    try:
        found = canonical(row | question)
    except ValueError:
        return
    assert found.keys() >= SHAPE
    again = canonical(found)
    assert all(again[key] == found[key] for key in SHAPE | ({"answer"} & found.keys()))


@pytest.mark.skipif(not RELEASED.exists(), reason="the released sample is not on this machine")
def test_the_released_rows_keep_everything() -> None:
    for row in json.loads(RELEASED.read_text()):
        assert canonical(row) == row | {"id": str(row["problem_id"])}
        bare = {key: value for key, value in row.items() if key != "task_type"}
        if row["data_source"] != "EXAMS-V-train/History":
            assert canonical(bare)["task_type"] == row["task_type"]


def test_a_row_in_shape_costs_next_to_nothing() -> None:
    row = canonical(FORMATS["OpenVLThinkerV2"][0])
    start = time.process_time()
    for _ in range(10_000):
        canonical(row)
    assert time.process_time() - start < 0.5
