"""The folder of rollouts: what is written, what is kept, and how a group is described."""

import json
import shutil

import pytest
from PIL import Image

from lit_g2rpo.callbacks.rollouts import files as rollout_files
from lit_g2rpo.callbacks.rollouts.files import RolloutFiles
from lit_g2rpo.callbacks.rollouts.record import gold_answer, shapes, small_image
from lit_g2rpo.callbacks.rollouts.token_text import TokenText
from lit_g2rpo.rewards.config import DEFAULT, RewardConfig


def picture(shade, size=(30, 20)):
    return Image.new("RGB", size, (shade, 0, 0))


def opened(folder, keep=None, keep_mib=512.0, rollout=0):
    files = RolloutFiles(folder, "g2rpo/version_0", keep, keep_mib)
    files.open(rollout)
    return files


def listed(folder):
    text = (folder / "rollouts.js").read_text()
    assert text.startswith("const RUN = ")
    assert text.endswith(";\n")
    return json.loads(text[len("const RUN = ") : -2])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_opens_before_the_first_rollout(tmp_path):
    opened(tmp_path / "deep/rollouts")
    page = ["cards.js", "data.js", "images.js", "index.html", "page.css", "page.js"]
    assert names(tmp_path / "deep/rollouts") == sorted([*page, "images", "rollouts.js"])
    assert listed(tmp_path / "deep/rollouts") == {"title": "g2rpo/version_0", "rollouts": [], "validations": []}


def test_script_and_lines_hold_the_same(tmp_path):
    opened(tmp_path).write(12, [({"text": "</script>\u2028 \ud800 é"}, [picture(1)]), ({"text": "b"}, [])])
    lines = [json.loads(line) for line in (tmp_path / "rollout_000012.jsonl").read_text().splitlines()]
    assert [line["text"] for line in lines] == ["</script>\u2028 \ud800 é", "b"]
    assert [line["rollout"] for line in lines] == [12, 12]
    script = (tmp_path / "rollout_000012.js").read_text()
    assert script.isascii()
    head, tail = "addRollout(12, ", ");\n"
    assert script.startswith(head)
    assert json.loads(script[len(head) : -len(tail)]) == lines


def test_an_image_is_stored_once_and_small(tmp_path):
    files = opened(tmp_path)
    files.write(1, [({}, [picture(1, (2000, 1000)), picture(2)]), ({}, [picture(1, (2000, 1000))])])
    stored = {path.name: Image.open(path).size for path in (tmp_path / "images").iterdir()}
    assert sorted(stored.values()) == [(30, 20), (512, 256)]
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()}
    files.write(2, [({}, [picture(2)])])
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "images").iterdir()} == before


def test_the_oldest_rollouts_go_with_their_images(tmp_path):
    files = opened(tmp_path, keep=2)
    for rollout in range(1, 5):
        files.write(rollout, [({}, [picture(0), picture(50 * rollout)])])
    assert listed(tmp_path)["rollouts"] == [3, 4]
    assert [path.name for path in sorted(tmp_path.glob("rollout_*"))] == [
        "rollout_000003.js",
        "rollout_000003.jsonl",
        "rollout_000004.js",
        "rollout_000004.jsonl",
    ]
    lines = [json.loads(path.read_text()) for path in tmp_path.glob("*.jsonl")]
    shown = {image for line in lines for image in line["images"]}
    assert {f"images/{path.name}" for path in (tmp_path / "images").iterdir()} == shown
    assert len(shown) == 3


@pytest.mark.parametrize("resumed", [False, True])
def test_the_folder_stays_within_its_size(tmp_path, resumed):
    noise = [Image.effect_noise((300, 300), 100) for _ in range(6)]
    files = opened(tmp_path, keep_mib=0.2)
    for rollout, image in enumerate(noise, start=1):
        if resumed:
            files = opened(tmp_path, keep_mib=0.2, rollout=rollout - 1)
        files.write(rollout, [({"text": "a" * 10000}, [image])])
        data = [*tmp_path.glob("rollout_*"), *(tmp_path / "images").iterdir()]
        size = sum(path.stat().st_size for path in data)
        assert size <= 0.2 * 2**20
    kept = listed(tmp_path)["rollouts"]
    # not more is removed than must be
    one = size / len(kept)
    assert kept == list(range(7 - len(kept), 7))
    assert len(kept) < 6
    assert size + one > 0.2 * 2**20


def test_validations_go_last(tmp_path):
    files = opened(tmp_path, keep=2, keep_mib=0.05)
    for rollout in range(4):
        files.write(rollout, [({"text": "v" * 3000}, [])], "validation")
        files.write(rollout + 1, [({"text": "a" * 3000}, [])])
    # two rollouts are kept by number alone, and nothing is too large yet
    assert listed(tmp_path)["rollouts"] == [3, 4]
    assert listed(tmp_path)["validations"] == [0, 1, 2, 3]
    script = (tmp_path / "validation_000003.js").read_text()
    assert script.startswith("addValidation(3, [\n")
    files.write(5, [({"text": "a" * 15000}, [])])
    assert listed(tmp_path)["rollouts"] == [5]
    assert listed(tmp_path)["validations"] == [1, 2, 3]
    assert sorted(path.name for path in tmp_path.glob("*.jsonl")) == [
        "rollout_000005.jsonl",
        "validation_000001.jsonl",
        "validation_000002.jsonl",
        "validation_000003.jsonl",
    ]


def test_the_newest_rollout_stays_even_if_it_is_too_large(tmp_path):
    files = opened(tmp_path, keep_mib=0.001)
    files.write(1, [({"text": "a" * 10000}, [])])
    files.write(2, [({"text": "b" * 10000}, [])])
    assert listed(tmp_path)["rollouts"] == [2]


def test_a_killed_run_leaves_a_page_that_opens(tmp_path, monkeypatch):
    opened(tmp_path).write(1, [({}, [picture(1)])])

    def killed(path, text):
        if path.suffix == ".js":
            raise KeyboardInterrupt
        write_text(path, text)

    write_text = rollout_files.write_text
    with monkeypatch.context() as patch:
        patch.setattr(rollout_files, "write_text", killed)
        files = RolloutFiles(tmp_path, "", None, 512)
        with pytest.raises(KeyboardInterrupt):
            files.write(2, [({}, [picture(2)])])
    # rollout 2 has lines but no script yet: the page must not name it
    assert (tmp_path / "rollout_000002.jsonl").exists()
    assert listed(tmp_path)["rollouts"] == [1]
    opened(tmp_path, rollout=2)
    assert listed(tmp_path)["rollouts"] == [1]
    assert not (tmp_path / "rollout_000002.jsonl").exists()
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_files_of_others_stay(tmp_path):
    (tmp_path / "images").mkdir()
    others = [tmp_path / "rollout_notes.jsonl", tmp_path / "images" / "cat.jpg", tmp_path / "images" / "dog.png"]
    for path in others:
        path.write_text("mine")
    files = opened(tmp_path, keep=1)
    files.write(1, [])
    files.write(2, [])
    assert [path.read_text() for path in others] == ["mine"] * 3


def test_a_copied_folder_is_taken_up(tmp_path):
    opened(tmp_path / "a", keep=2).write(1, [({}, [picture(1)])])
    shutil.copytree(tmp_path / "a", tmp_path / "b", copy_function=shutil.copyfile)
    opened(tmp_path / "b", keep=2, rollout=1).write(2, [({}, [picture(1), picture(99)])])
    assert listed(tmp_path / "b")["rollouts"] == [1, 2]
    assert len(list((tmp_path / "b/images").iterdir())) == 2


def test_token_pieces_join_to_the_text(random_folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(random_folder)
    spell = TokenText(tokenizer)
    for text in ("<thinking>3 digits</thinking><answer>7</answer>", "naïve 日本 👩‍🚀!", "a\n\n b  c"):
        ids = tokenizer.encode(text)
        pieces = spell.pieces([*ids, tokenizer.eos_token_id])
        assert len(pieces) == len(ids) + 1
        assert "".join(pieces) == text + "<|im_end|>"
    # a completion may end inside a character, or never finish one
    half = tokenizer.encode("日")[:-1]
    assert spell.pieces(half)[-1] == "\ufffd"
    endless = spell.pieces([half[0]] * 30)
    assert len(endless) == 30
    assert "".join(endless).count("\ufffd") == 30


def test_shapes_are_read_as_the_reward_reads_them():
    one = '{"boxes": [10, 20, 30, 40]}'
    assert shapes("spatial grounding", one) == {"boxes": [(10, 20, 30, 40)], "points": []}
    two = '[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}, {"bbox_2d": [5, 6, 7, 8], "label": "dog"}]'
    assert shapes("detection", two)["boxes"] == [(1, 2, 3, 4), (5, 6, 7, 8)]
    assert shapes("GUI grounding", '{"point_2d": [412, 603]}') == {"boxes": [], "points": [(412, 603)]}
    segment = '{"boxes": [1, 2, 3, 4], "positive_points": [[1, 2], [2, 3], [3, 3]], "negative_points": %s}'
    assert shapes("segmentation", segment % "[[9, 9], [8, 8], [7, 7]]") == {
        "boxes": [(1, 2, 3, 4)],
        "points": [(1, 2), (2, 3), (3, 3)],
    }
    # a list of two numbers is a point only where points are asked for
    assert shapes("math", "[3, 4]") == {"boxes": [], "points": []}
    assert shapes("spatial grounding", "no box") == {"boxes": [], "points": []}
    assert shapes("spatial grounding", "") == {"boxes": [], "points": []}


def test_gold_is_read_from_rows_of_any_format():
    row = {"problem_type": "OCR", "answer": "<answer>12</answer>"}
    assert gold_answer(row, DEFAULT) == "12"
    assert gold_answer({"problem_type": "OCR", "answer": "<final>12</final>"}, RewardConfig(answer_tag="final")) == "12"
    assert gold_answer({"question": "?", "solution": "12", "problem_type": "math"}, DEFAULT) == "12"
    assert gold_answer({}, DEFAULT) == ""


def test_small_image_keeps_what_is_small():
    assert small_image(picture(1)).size == (30, 20)
    assert small_image(Image.new("L", (1024, 256))).size == (512, 128)
    assert small_image(Image.new("L", (4, 4))).mode == "RGB"
