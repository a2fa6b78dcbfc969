"""Rows with videos: which frames are read, how they are shown in the prompt, and what is refused."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.films import RATE, film
from helpers.paths import WEIGHTS
from PIL import Image
from torch import Tensor

from lit_g2rpo.cli.verbs.data import main
from lit_g2rpo.data.evaluation_batches import ShardedBatches
from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.lengths import expanded_length
from lit_g2rpo.data.loader import RolloutLoader
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.data.media.videos import Clip
from lit_g2rpo.errors import UserError
from lit_g2rpo.experience import Prompt, VideoHeader, VideoLimits
from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import Task

pytest.importorskip("av")
TASKS = {"video": Task("video")}
ROW = {
    "problem": "When does it turn light? <video>", "problem_type": "temporal grounding", "task_type": "video",
    "answer": '{"time": [1, 3]}', "videos": ["a.mp4"], "data_type": "video",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.mp4").write_bytes(film())
    return tmp_path


def written(root: Path, *rows: dict[str, Any]) -> str:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root / "rows.jsonl")


def whole(frame: Tensor) -> Tensor:
    return frame


@pytest.mark.parametrize("kind", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_frames_are_those_of_their_numbers(root: Path, as_bytes: bool, kind: str) -> None:
    (root / "a").write_bytes(film(kind=kind))
    clip = Clip((root / "a").read_bytes() if as_bytes else root / "a")
    assert clip.header() == VideoHeader(0, 30, RATE, 64, 32)
    numbers = [0, 3, 14, 15, 29]
    frames = clip.read(numbers, whole)
    assert frames.shape == (5, 3, 32, 64)
    assert frames[:, 0, 5, 5].tolist() == pytest.approx([8 * number for number in numbers], abs=4)


@pytest.mark.parametrize(
    ("start", "end", "first", "last"),
    [(1.0, 2.0, 10, 20), (0.95, 1.05, 10, 10), (0.41, 99.0, 5, 29), (2.0, None, 20, 29)],
)
def test_a_clip_keeps_the_numbers_of_the_file(start: float, end: float | None, first: int, last: int) -> None:
    clip = Clip(film(), start, end)
    if first == last:
        with pytest.raises(ImageError, match=r"has one frame from 0\.95 to 1\.05 seconds; a video"):
            clip.header()
        return
    header = clip.header()
    assert (header.first, header.first + header.count - 1) == (first, last)
    assert clip.read([last], whole)[0, 0, 5, 5] == pytest.approx(8 * last, abs=4)


def test_frames_are_rotated_as_the_file_says() -> None:
    def corner(image: Image.Image, _: int) -> None:
        image.paste((255, 0, 0), (0, 0, 16, 16))

    # counterclockwise, the top left corner becomes the bottom left, the bottom right, and the top right one
    for rotation, (row, column) in {0: (8, 8), 90: (56, 8), 180: (24, 56), -90: (8, 24)}.items():
        clip = Clip(film(0.4, (64, 32), corner, rotation=rotation))
        height, width = (64, 32) if abs(rotation) == 90 else (32, 64)
        assert (clip.header().height, clip.header().width) == (height, width)
        [frame] = clip.read([2], whole)
        assert frame.shape == (3, height, width)
        red = (frame[0].int() - frame[1] > 128).nonzero().float().mean(0)
        assert red.tolist() == pytest.approx([row, column], abs=2), rotation


def test_a_few_frames_are_kept_to_be_shown() -> None:
    clip = Clip(film())
    clip.read(range(30), whole)
    assert [image.getpixel((5, 5))[0] for image in clip.shown] == pytest.approx(
        [8 * number for number in (0, 4, 8, 12, 17, 21, 25, 29)], abs=4
    )


@pytest.mark.parametrize(
    ("limits", "message"),
    [
        ({"fps": 0}, "data.video.fps is 0; it must be more than 0"),
        ({"max_pixels": -1}, "data.video.max_pixels is -1; it must be more than 0"),
        ({"max_frames": 1}, "data.video.max_frames is 1; it must be 2 or more"),
        ({"min_frames": 9, "max_frames": 8}, "data.video.min_frames 9 is more than max_frames 8"),
    ],
)
def test_wrong_limits_are_named(limits: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        VideoLimits(**limits)


def test_videos_that_cannot_be_used(root: Path) -> None:
    content = (root / "a.mp4").read_bytes()
    playlist = f"#EXTM3U\n#EXTINF:3,\n{root / 'a.mp4'}\n#EXT-X-ENDLIST\n".encode()
    still, mkv = io.BytesIO(), film(kind="matroska")
    Image.new("RGB", (4, 4)).save(still, "PNG")
    for source, message in {
        b"no video": "no video that can be read", b"": "no video that can be read", playlist: "no video that can be",
        content[: len(content) // 2]: "cut off at second|no video that can be read",
        mkv[: len(mkv) // 2]: r"cut off at second 1\.\d; a frame at 2\.9 is needed",
        still.getvalue(): "no video that can be read",
    }.items():  # fmt: skip
        with pytest.raises(ImageError, match=message) as caught:
            Clip(source).read_all()
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=r"starts at second 9, but the video ends at 3\.0"):
        Clip(content, 9).header()


def test_a_row_becomes_a_prompt_with_the_video_in_its_place(root: Path) -> None:
    both = ROW | {"problem": "<image> Look. <video> When?", "images": ["i.png"]}
    Image.new("RGB", (64, 64)).save(root / "i.png")
    rows = JsonRows([written(root, both)], RowReader(root, video=VideoLimits(fps=1)), TASKS, RewardConfig())
    prompt = rows[0]
    assert len(prompt.images) == len(prompt.videos) == 1
    kinds = [item["type"] for item in prompt.messages[0]["content"]]
    assert kinds == ["image", "text", "video", "text"]
    outline, sizes = rows.outline(0)
    assert (outline.messages, sizes, outline.images) == (prompt.messages, [(64, 64)], [])
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    text = processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)
    frames, metadata = processor.frames(prompt.videos[0])
    encoded = processor(
        text=[text],
        images=prompt.images,
        videos=[frames],
        videos_kwargs={"video_metadata": [metadata], "do_sample_frames": False, "do_resize": False},
    )
    assert expanded_length(processor, outline, sizes) == len(encoded["input_ids"][0])


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        ({"videos": ["../a.mp4"]}, "image", "video '../a.mp4' lies outside data.image_root"),
        ({"videos": ["b.mp4"]}, "image", "no video file .*b.mp4; check 'videos'"),
        ({"videos": [3]}, "row", "'videos' holds 3; give paths or bytes"),
        ({"videos": [{"video": "a.mp4", "video_start": 2, "video_end": 1}]}, "image", "a video from 2 to 1; give"),
        ({"videos": ["cut.mp4"]}, "image", "no video that can be read|cut off"),
        ({"problem": "When?"}, "column", "0 <video> in 'problem' but 1 videos"),
    ],
)  # fmt: skip
def test_data_check_names_what_is_wrong(root: Path, changes: dict[str, Any], kind: str, message: str) -> None:
    (root / "cut.mp4").write_bytes((root / "a.mp4").read_bytes()[:400])
    report = FileCheck(RowReader(root), TASKS).run([written(root, ROW, ROW | changes)])
    assert [found for found, _ in report.errors] == [kind]
    assert re.search(message, report.errors[0][1])
    assert "rows.jsonl, line 2" in report.errors[0][1]


def test_convert_saves_videos_that_have_no_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    datasets = pytest.importorskip("datasets")
    content = film()
    whole, part = {"bytes": content}, {"bytes": content, "video_start": 1.0, "video_end": 2.0}
    rows = [ROW | {"videos": [video]} for video in (whole, part)]
    datasets.Dataset.from_list(rows).to_parquet(root / "in.parquet")
    main(["convert", str(root / "in.parquet"), str(root / "out.jsonl")])
    assert "2 rows, 1 videos; data.image_root: " in capsys.readouterr().out
    [saved] = (root / "out_videos").iterdir()
    assert (saved.suffix, saved.read_bytes()) == (".mp4", content)
    assert not (root / "out_images").exists()
    name = str(saved.relative_to(root))
    parts = [json.loads(line)["videos"] for line in (root / "out.jsonl").read_text().splitlines()]
    assert parts == [[name], [{"video": name, "video_start": 1.0, "video_end": 2.0}]]
    main(["check", str(root / "out.jsonl"), "--image_root", str(root), "--task", "video"])
    datasets.Dataset.from_list([ROW | {"videos": [b"no video"]}]).to_parquet(root / "bad.parquet")
    with pytest.raises(UserError, match=r"bad.parquet, row 1: video of 8 bytes: no video that can be read"):
        main(["convert", str(root / "bad.parquet"), str(root / "new.jsonl")])
    assert not list(root.glob("*new*"))


def test_without_the_extra_there_is_one_line(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    monkeypatch.setattr("lit_g2rpo.data.media.videos.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"rows.jsonl, line 1: is a video row, which needs the extra video: pip"):
        JsonRows([written(root, ROW)], RowReader(root), TASKS, RewardConfig())


@pytest.mark.parametrize("evaluated", [False, True])
def test_a_row_whose_video_is_cut_off_is_replaced_when_it_is_encoded(root: Path, evaluated: bool) -> None:
    whole, processor = film(kind="matroska"), ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    (root / "whole.mkv").write_bytes(whole)
    (root / "cut.mkv").write_bytes(whole[: len(whole) // 2])
    names = ["cut.mkv", "whole.mkv"]
    file = written(root, *(ROW | {"problem": f"{name} <video>", "videos": [name]} for name in names))
    rows = JsonRows([file], RowReader(root), TASKS, RewardConfig())

    def prepare(prompt: Prompt) -> None:
        processor.frames(prompt.videos[0])

    if evaluated:
        batches = ShardedBatches(rows, 2, prepare=prepare)
        [(prompts, numbers)] = batches
        assert (numbers, batches.failures) == ([None, 1], 1)
    else:
        loader = RolloutLoader(rows, prompts=2, microbatches=1, rollouts_per_epoch=1, seed=0, prepare=prepare)
        [(prompts, _)] = loader
        assert loader.failures == 1
    assert all("whole.mkv" in prompt.text for prompt in prompts)
