"""Videos as frames with their times."""

import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.paths import WEIGHTS
from PIL import Image

from lit_g2rpo.cli.verbs.data import main
from lit_g2rpo.data.files.file_check import FileCheck
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.lengths import expanded_length
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.data.media.videos import Clip, VideoLimits, frame_plan, load_frames
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import Task

av = pytest.importorskip("av")
TASKS = {"video": Task("video")}
ROW = {
    "problem": "When does it turn light? <video>", "problem_type": "temporal grounding", "task_type": "video",
    "answer": '{"time": [1, 3]}', "videos": ["a.mp4"], "data_type": "video",
}  # fmt: skip


def film(seconds: int = 3, size: tuple[int, int] = (64, 32)) -> bytes:
    """Ten frames a second, frame n of grey 8 n."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
        for n in range(10 * seconds):
            image = Image.new("RGB", size, (8 * n % 256,) * 3)
            container.mux(stream.encode(av.VideoFrame.from_image(image)))
        container.mux(stream.encode())
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "a.mp4").write_bytes(film())
    return tmp_path


def written(root: Path, *rows: dict[str, Any]) -> str:
    (root / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(root / "rows.jsonl")


def grey(frames: list[Image.Image]) -> list[int]:
    return [frame.getpixel((5, 5))[0] for frame in frames]


@pytest.mark.parametrize("as_bytes", [False, True])
def test_frames_lie_at_even_steps_of_time(root: Path, as_bytes: bool) -> None:
    source = (root / "a.mp4").read_bytes() if as_bytes else root / "a.mp4"
    times, frames = load_frames(Clip(source), VideoLimits(fps=1, min_frames=1))
    assert times == pytest.approx([0, 1.45, 2.9])
    assert grey(frames) == pytest.approx([0, 8 * 14.5, 8 * 29], abs=8)
    times, frames = load_frames(Clip(source, 1.0, 2.0), VideoLimits(fps=2, min_frames=1, max_pixels=512))
    assert times == pytest.approx([1.0, 1.9])
    assert grey(frames) == pytest.approx([80, 152], abs=6)
    assert frame_plan(Clip(source, 1.0, 2.0), VideoLimits(fps=2, min_frames=1, max_pixels=512)) == (times, (32, 16))
    assert {frame.size for frame in frames} == {(32, 16)}
    assert len(load_frames(Clip(source), VideoLimits(fps=100, max_frames=64))[1]) == 30


def test_videos_that_cannot_be_used(root: Path) -> None:
    content = (root / "a.mp4").read_bytes()
    playlist = f"#EXTM3U\n#EXTINF:3,\n{root / 'a.mp4'}\n#EXT-X-ENDLIST\n".encode()
    still = io.BytesIO()
    Image.new("RGB", (4, 4)).save(still, "PNG")
    for source, message in {
        b"no video": "no video that can be read", b"": "no video that can be read", playlist: "no video that can be",
        content[: len(content) // 2]: "cut off at second|no video that can be read",
        still.getvalue(): "no video that can be read",
    }.items():  # fmt: skip
        with pytest.raises(ImageError, match=message) as caught:
            load_frames(Clip(source), VideoLimits())
        assert "\n" not in str(caught.value)
    with pytest.raises(ImageError, match=r"starts at second 9, but the video ends at 3\.0"):
        frame_plan(Clip(content, 9), VideoLimits())


def test_a_row_becomes_frames_behind_their_times(root: Path) -> None:
    from lit_g2rpo.policy.processor import ImageOnlyQwen3VLProcessor

    rows = JsonRows([written(root, ROW)], RowReader(root, video=VideoLimits(fps=1)), TASKS, RewardConfig())
    prompt = rows[0]
    assert len(prompt.images) == 4
    assert "<0.0 seconds>\n<1.0 seconds>" in prompt.text.replace("When does it turn light? ", "")
    kinds = [item["type"] for item in prompt.messages[0]["content"]]
    assert kinds == ["text", "image"] * 4 + ["text"]
    outline, sizes = rows.outline(0)
    assert outline.messages == prompt.messages
    processor = ImageOnlyQwen3VLProcessor.from_pretrained(WEIGHTS)
    encoded = processor(
        text=[processor.apply_chat_template(prompt.messages, tokenize=False, add_generation_prompt=True)],
        images=prompt.images,
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
