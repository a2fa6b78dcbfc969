"""Files and folders appear whole or not at all."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lit_g2rpo.files import remove_scratch, whole, write_text


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.bin"
    with whole(path) as part:
        part.write_bytes(b"half")
        assert not path.exists()
        assert part.suffix == path.suffix
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["a.bin"]
    # as any file of this user, unlike what tempfile makes
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("kind", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_what_was_there(tmp_path: Path, kind: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "é\n")

    def fail() -> None:
        with whole(path) as part:
            part.write_text("half")
            raise kind

    with pytest.raises(kind):
        fail()
    assert path.read_text(encoding="utf-8") == "é\n"
    assert names(tmp_path) == ["a.txt"]


def test_what_is_not_made_is_not_replaced(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with whole(tmp_path / "a.txt"), whole(tmp_path / "none"):
        pass
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_a_folder_takes_the_place_of_none_or_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("new", "empty"):
        with whole(tmp_path / name) as part:
            part.mkdir()
            (part / "a").write_text("a")
        assert names(tmp_path / name) == ["a"]
    assert names(tmp_path) == ["empty", "new"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "a.txt")
    write_text(tmp_path / "link", "text")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "far" / "a.txt").read_text() == "text"


def test_of_several_writers_one_is_seen_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "[]")
    texts = [json.dumps([number] * 5000) for number in range(8)]

    def write(text: str) -> bool:
        for _ in range(20):
            write_text(path, text)
            assert path.read_text() in texts
        return True

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(write, texts))
    assert names(tmp_path) == ["a.json"]


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with whole(tmp_path / "a.jpg") as part:
        left = part.parent
        kept = tmp_path / "kept"
        shutil.copytree(left, kept)
    # as if this process had been killed inside
    kept.rename(left)
    others = [tmp_path / ".fit.lock", tmp_path / ".cache-of-mine", tmp_path / ".a.jpg-notes.txt"]
    for path in others:
        path.write_text("mine")
    (tmp_path / ".my-projects" / "mine").mkdir(parents=True)
    remove_scratch(tmp_path)
    assert not left.exists()
    assert sorted(tmp_path.iterdir()) == sorted([*others, tmp_path / ".my-projects"])
