"""Questions in turns: as text, through a chat template, of several formats, behind earlier turns and system turns."""

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from lit_g2rpo.data import JsonPrompts
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.rows.canonical import canonical

FIRST = [{"role": "user", "content": "<image>How many shapes?"}, {"role": "assistant", "content": "2"}]
SECOND = [{"role": "user", "content": "Which colour is <image>?"}, {"role": "assistant", "content": "red"}]
SYSTEM = {"role": "system", "content": "Be brief."}
TURNS = [{"role": "user", "content": "<image>How many bars?"}, {"role": "assistant", "content": "4"}]
TEMPLATE = (
    "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>How many bars?<|im_end|>\n<|im_start|>assistant\n"
)
BLOCKS = [
    {"role": "user", "content": [{"type": "image", "image": "a.png"}, {"type": "text", "text": "How many bars?"}]}
]


@pytest.mark.parametrize(
    "row",
    [
        {"messages": TURNS},
        {"messages": json.dumps(TURNS)},
        {"conversations": str([{"from": "human", "value": "<image>How many bars?"}, {"from": "gpt", "value": "4"}])},
        {"conversations": [{"from": "user", "text": "<image>How many bars?"}, {"from": "model", "text": "4"}]},
        {"prompt": json.dumps(TURNS[:1]), "answer": "4"},
        {"prompt": "[{'role': 'user', 'content': 'How many bars?'}]", "answer": "4"},
        {"problem": json.dumps(TURNS[:1]), "answer": "4"},
        {"message": json.dumps(BLOCKS), "images": None, "answer": "4"},
        {"message": BLOCKS, "images": None, "reward_model": '{"ground_truth": "4", "style": "rule"}'},
        {"prompt": [{"role": "user", "content": [{"image": "a.png"}, {"text": "How many bars?"}]}], "images": None,
         "answer": "4"},
        {"anything": TURNS},
        {"texts": [{"user": "How many bars?", "assistant": "4", "source": "x"}]},
        {"prompt": TEMPLATE, "answer": "4"},
        {"prompt": TEMPLATE.replace("<|vision_start|><|image_pad|><|vision_end|>", ""), "answer": "4"},
        {"prompt": TEMPLATE + "<think>\n", "answer": "4"},
        {"instruction": "<image>How many bars?", "input": "", "output": "4"},
        {"instruction": "How many", "input": "bars?", "output": "4"},
        {"query": "How many bars?", "response": "4"},
        {"problem": "<image>How many bars?", "images": '["a.png"]', "answer": "4"},
    ],
)  # fmt: skip
def test_one_question_in_many_forms(row: dict[str, Any]) -> None:
    found = canonical({"images": ["a.png"]} | row)
    assert found["problem"].replace("\n", " ") == "<image>How many bars?"
    assert (found["answer"], found["images"]) == ("4", ["a.png"])
    assert "earlier_turns" not in found
    assert canonical(found) is found


def test_turns_before_the_question_and_system_turns_are_kept() -> None:
    row = canonical({"messages": [SYSTEM, *FIRST, *SECOND], "images": ["a.png", "b.png"]})
    assert (row["problem"], row["answer"]) == ("Which colour is <image>?", "red")
    assert row["earlier_turns"] == [SYSTEM, *FIRST]
    assert canonical(row) is row
    alpaca = {
        "instruction": "Which?", "input": "", "output": "red", "system": "Be brief.", "history": [["<image>A?", "B."]],
        "images": ["a.png"],
    }  # fmt: skip
    assert canonical(alpaca)["earlier_turns"] == [
        SYSTEM, {"role": "user", "content": "<image>A?"}, {"role": "assistant", "content": "B."}
    ]  # fmt: skip
    chat = {"messages": FIRST, "system": "Be brief.", "images": ["a.png"]}
    assert canonical(chat)["earlier_turns"] == [SYSTEM]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"messages": [FIRST[0], {"role": "tool", "content": "x"}]}, "'messages' holds user, tool; it must hold user"),
        ({"messages": [FIRST[1], FIRST[0]]}, "holds assistant, user; it must hold user and assistant in turn"),
        ({"messages": [FIRST[0], SYSTEM]}, "a system turn only in front"),
        ({"problem": '{"text": "How many?"}'}, "must be a text, or name a key of it: --column problem=problem.text"),
        ({"problem": "a", "earlier_turns": "b"}, "'earlier_turns' is 'b'; it must be a list of turns"),
        ({"a": TURNS, "b": TURNS}, "no question: none of the columns problem"),
    ],
)
def test_conversations_that_are_none(row: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        canonical(row | {"answer": "4"})


def test_a_question_that_looks_like_a_list_stays_a_question() -> None:
    assert canonical({"problem": "[1, 2, 3]", "answer": "6"})["problem"] == "[1, 2, 3]"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for number, name in enumerate(("a.png", "b.png"), 1):
        Image.new("RGB", (8 * number, 8)).save(tmp_path / name)
    return tmp_path


def write(folder: Path, *rows: dict[str, Any]) -> str:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(folder / "rows.jsonl")


def prompt(folder: Path, row: dict[str, Any], **options: Any) -> Any:
    data = JsonPrompts(train=write(folder, row), image_root=str(folder), **options)
    data.setup("fit")
    return data.train_dataset()[0]


def test_the_prompt_has_the_turns_of_the_row_and_its_images_in_order(folder: Path) -> None:
    row = {"messages": [SYSTEM, *FIRST, *SECOND], "images": ["a.png", "b.png"]}
    found = prompt(folder, row)
    assert [turn["role"] for turn in found.messages] == ["system", "user", "assistant", "user"]
    assert found.messages[0]["content"] == [{"type": "text", "text": "Be brief."}]
    assert found.messages[1]["content"] == [{"type": "image"}, {"type": "text", "text": "How many shapes?"}]
    asked = found.messages[3]["content"]
    assert [item["type"] for item in asked] == ["text", "image", "text"]
    assert asked[0]["text"] == "Which colour is"
    assert [image.width for image in found.images] == [8, 16]
    assert found.text.startswith("Be brief.\nHow many shapes?\n2\nWhich colour is")


def test_the_switch_leaves_the_question_alone_and_keeps_its_images(folder: Path) -> None:
    row = {"messages": [SYSTEM, *FIRST, *SECOND], "images": ["a.png", "b.png"]}
    found = prompt(folder, row, turns="question")
    [turn] = found.messages
    assert [item["type"] for item in turn["content"]] == ["image", "text", "image", "text"]
    assert [image.width for image in found.images] == [8, 16]
    assert "Be brief" not in found.text
    assert "earlier_turns" not in found.sample


def test_images_are_counted_over_all_turns(folder: Path) -> None:
    with pytest.raises(UserError, match="2 <image> in 'problem' but 1 images"):
        prompt(folder, {"messages": [*FIRST, *SECOND], "images": ["a.png"]})


@pytest.mark.parametrize(
    "problem",
    [
        "How many<|endoftext|> bars?", "<|vision_start|>How many?<|vision_end|>", "<|im_end|>\n<|im_start|>system\nYou",
        "<s>[INST] How many? [/INST]", "<|user|>\nhi<|end|>", "<start_of_turn>user\nhi<end_of_turn>",
        "<|start_header_id|>user<|end_header_id|>hi<|eot_id|>", "What is at <bbox>?", "Find the <ref-object>",
        "<image 1> how many?",
    ],
)  # fmt: skip
def test_marks_of_chat_templates_are_refused(folder: Path, problem: str) -> None:
    for row in ({"problem": problem}, {"problem": "Which?", "options": [problem, "b"]}):
        shape = {"id": "", "options": [], "images": [], "data_source": "", "problem_type": "math", "answer": "B"}
        with pytest.raises(UserError, match=r"line 1: .* is a mark of another format or a chat template; leave it out"):
            prompt(folder, shape | {"task_type": "ocr"} | row)


def test_absolute_values_and_tags_are_no_marks(folder: Path) -> None:
    for problem in ("What is |x|?", "Solve <|a|>.", "What does <b> do?", "Is 1 <|> 2?"):
        assert prompt(folder, {"problem": problem, "answer": "1"}).sample["problem"] == problem


def test_a_row_reader_reads_again_what_it_wrote(folder: Path) -> None:
    row = canonical({"prompt": [SYSTEM, FIRST[0]], "images": ["a.png"], "answer": "2"})
    assert row["conversational"] is True
    data = JsonPrompts(train=write(folder, row), image_root=str(folder))
    data.setup("fit")
    assert data.train_dataset()[0].sample == row
    alone = RowReader(folder, turns="question")
    assert alone.turns == "question"
