"""Checks of rows that are not repeated: what a restart trusts, and what makes it check again."""

import ast
import json
import multiprocessing
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from helpers.imports import imports, part_of
from helpers.processes import HANG_SECONDS
from PIL import Image

from lit_g2rpo.data.files import passed_checks, readers
from lit_g2rpo.data.files.json_rows import JsonRows
from lit_g2rpo.data.files.row_reader import RowReader
from lit_g2rpo.data.media.images import ImageError
from lit_g2rpo.errors import UserError
from lit_g2rpo.rewards.config import RewardConfig
from lit_g2rpo.tasks import TASKS, Task, with_bands

ROWS = 6
NAMES = ("math_reasoning", "ocr", "chart_figure_qa")
Start = Callable[..., int]


def written(path: Path, age: float = 60, **changes: Any) -> Path:
    rows = [
        {"problem": f"<image> {i}?", "problem_type": "numerical", "answer": str(i), "images": ["a.png"]}
        | {"task_type": NAMES[i % 3]}
        | changes
        for i in range(ROWS)
    ]
    path.write_text("\n".join(map(json.dumps, rows)) if path.suffix == ".jsonl" else json.dumps(rows))
    return aged(path, age)


def aged(path: Path, age: float = 60) -> Path:
    os.utime(path, (time.time() - age,) * 2)
    return path


def opened(path: Path, tasks: dict[str, Task] = TASKS, answered: bool = True, **options: Any) -> JsonRows:
    reward = options.pop("reward", RewardConfig())
    return JsonRows([path], RowReader(options.pop("image_root", path.parent), **options), tasks, reward, answered)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lit_g2rpo"


@pytest.fixture
def path(tmp_path: Path, cache: Path) -> Path:
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    return written(tmp_path / "rows.jsonl")


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Start:
    """Open rows as the start of a run does, and return how many of them were parsed."""
    count, parse = 0, readers.parse

    def counted(text: bytes, place: str) -> Any:
        nonlocal count
        count += 1
        return parse(text, place)

    def run(path: Path, **options: Any) -> int:
        before = count
        assert opened(path, **options).task_names() == [NAMES[i % 3] for i in range(ROWS)]
        return count - before

    monkeypatch.setattr(readers, "parse", counted)
    return run


@pytest.mark.parametrize("ending", ["jsonl", "json"])
def test_a_second_start_parses_no_row(path: Path, start: Start, ending: str) -> None:
    path = written(path.with_suffix(f".{ending}"))
    assert [start(path) for _ in range(3)] == [ROWS, 0, 0]
    rows = opened(path)
    assert (rows[4].sample["answer"], rows[4].images[0].size) == ("4", (8, 8))


def test_a_table_too(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", path.parent / "tables")
    checked: list[str] = []
    check = JsonRows._check
    monkeypatch.setattr(JsonRows, "_check", lambda rows, *given: checked.append("") or check(rows, *given))
    table, rows = path.with_suffix(".parquet"), [json.loads(line) for line in path.read_text().splitlines()]
    for other in (rows, rows, [row | {"task_type": "ocr"} for row in rows]):
        datasets.Dataset.from_list(other).to_parquet(table)
        aged(table, 60 + len(checked))
        names = [opened(table).task_names() for _ in range(2)]
        assert names == [[row["task_type"] for row in other]] * 2
    assert len(checked) == 3


def test_a_changed_byte_is_checked(path: Path, start: Start) -> None:
    state = path.stat()
    assert start(path) == ROWS
    path.write_bytes(path.read_bytes().replace(b'"answer": "5"', b'"answer": "x"'))
    assert path.stat().st_size == state.st_size
    with pytest.raises(UserError, match=r"line 6: answer 'x' cannot be scored"):
        opened(path)
    # the same content as before under another time is another file
    written(path, age=50)
    assert [start(path), start(path)] == [ROWS, 0]
    # put in its place, with size and time as they were
    other = written(path.with_name("other.jsonl"))
    os.utime(other, ns=(path.stat().st_atime_ns, path.stat().st_mtime_ns))
    other.replace(path)
    assert [start(path), start(path)] == [ROWS, 0]


@pytest.mark.parametrize(
    "options",
    [
        {"answered": False},
        {"reward": RewardConfig(style="onethinker")},
        {"tasks": with_bands(TASKS, {"mine": None})},
        {"tasks": with_bands(TASKS, {"ocr": {"reward": "mine.ocr"}})},
        {"defaults": {"problem_type": "math"}},
        {"columns": {"answer": "answer"}},
        {"exif_rotation": True},
        {"image_root": Path("other")},
    ],
    ids=lambda options: next(iter(options)),
)
def test_a_changed_setting_is_checked(path: Path, start: Start, options: dict[str, Any]) -> None:
    Path("other").mkdir()
    shutil.copy(path.parent / "a.png", "other")
    assert [start(path), start(path, **options), start(path, **options), start(path)] == [ROWS, ROWS, 0, 0]


def test_bands_are_no_setting_of_the_check(path: Path, start: Start) -> None:
    assert [start(path), start(path, tasks=with_bands(TASKS, {"ocr": {"length": None}}))] == [ROWS, 0]


@pytest.mark.parametrize(
    "source", ["data/files/row_errors.py", "evaluation/rules.py", "rewards/rules/math.py", "tasks.py"]
)
def test_a_changed_rule_is_checked(path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    package = Path("package")
    for rule in passed_checks.RULES:
        for file in passed_checks.PACKAGE.glob(rule):
            copy = package / file.relative_to(passed_checks.PACKAGE)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, copy)
    assert start(path) == ROWS
    monkeypatch.setattr(passed_checks, "PACKAGE", package.absolute())
    assert start(path) == 0
    with (package / source).open("a") as file:
        file.write("#")
    assert [start(path), start(path)] == [ROWS, 0]


def test_another_version_of_a_package_is_checked(path: Path, start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert start(path) == ROWS
    Path("site/math_verify-99.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend("site")
    assert start(path) == ROWS


def test_every_source_that_a_check_runs_is_a_rule() -> None:
    package = passed_checks.PACKAGE
    rules = {file for rule in passed_checks.RULES for file in package.glob(rule)}
    seen, ahead = set(), [package / "data" / "files" / "json_rows.py"]
    while ahead:
        if (file := ahead.pop()) not in seen and file.is_file():
            seen.add(file)
            for name, _ in imports(ast.parse(file.read_text())):
                module = package.parent / name.replace(".", "/")
                ahead += [module.with_suffix(".py"), module / "__init__.py"]
    others = {part_of(file) for file in seen - rules if package in file.parents}
    # errors, files and the progress of hardware say nothing of rows, experience holds them, objectives has the bands
    assert others <= {"__init__", "errors", "experience", "files", "hardware", "objectives"}
    assert package / "rewards" / "rules" / "math.py" in seen


@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"\xff\n" + content,
        lambda content: content.replace(b"0,1,2", b"0,1,1", 1),
        lambda content: b"0" * 64 + content[64:],
    ],
    ids=["truncated", "empty", "binary", "changed", "another's"],
)
def test_a_spoilt_cache_is_checked(path: Path, cache: Path, start: Start, spoil: Callable[[bytes], bytes]) -> None:
    assert start(path) == ROWS
    (file,) = cache.iterdir()
    content = file.read_bytes()
    file.write_bytes(spoil(content))
    assert file.read_bytes() != content
    assert [start(path), start(path)] == [ROWS, 0]
    assert file.read_bytes() == content


def test_a_file_of_another_check_is_not_believed(path: Path, cache: Path, start: Start) -> None:
    assert start(path) == ROWS
    (file,) = cache.iterdir()
    content = file.read_bytes()
    written(path, task_type="ocr")
    assert opened(path).task_names() == ["ocr"] * ROWS
    (other,) = set(cache.iterdir()) - {file}
    other.write_bytes(content)
    assert opened(path).task_names() == ["ocr"] * ROWS


@pytest.mark.parametrize("age", [0.5, -3600])
def test_a_file_that_may_still_change_is_checked(path: Path, start: Start, age: float) -> None:
    assert [start(written(path, age)), start(aged(path, age))] == [ROWS, ROWS]


def test_a_file_that_changes_during_the_check_is_checked_again(
    path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = JsonRows._check
    monkeypatch.setattr(JsonRows, "_check", lambda rows, *given: (check(rows, *given), written(path, age=30))[0])
    opened(path)
    assert not cache.exists()


def test_a_check_that_fails_leaves_nothing(path: Path, cache: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match="no image file"):
            opened(written(path, images=["b.png"]))
    assert not cache.exists()


@pytest.mark.parametrize("home", ["file", "read-only", "unknown"])
def test_without_a_cache_folder_every_start_checks(
    path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, home: str
) -> None:
    if home == "unknown":
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    else:
        monkeypatch.setenv("XDG_CACHE_HOME", str(path) if home == "file" else "/proc")
    assert [start(path), start(path)] == [ROWS, ROWS]


def test_an_image_that_is_gone_since_is_found_when_it_is_opened(path: Path, start: Start) -> None:
    assert start(path) == ROWS
    (path.parent / "a.png").unlink()
    assert start(path) == 0
    rows = opened(path)
    for use in (rows.__getitem__, rows.outline):
        with pytest.raises(ImageError, match=f"^{path}, line 3: no image file {path.parent}/a.png; check 'images'"):
            use(2)


def _races(path: Path, barrier: Any, found: Any) -> None:
    for seed in range(20):
        barrier.wait(HANG_SECONDS)
        found.put((seed, opened(path, defaults={"seed": str(seed)}).task_names()))


def test_processes_that_start_at_once_agree(path: Path, cache: Path, start: Start) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, found = spawn.Barrier(2), spawn.Queue()
    processes = [spawn.Process(target=_races, args=(path, barrier, found)) for _ in range(2)]
    try:
        for process in processes:
            process.start()
        assert sorted(found.get(timeout=HANG_SECONDS) for _ in range(40)) == sorted(
            (seed, [NAMES[i % 3] for i in range(ROWS)]) for seed in range(20) for _ in range(2)
        )
        for process in processes:
            process.join(HANG_SECONDS)
            assert process.exitcode == 0
    finally:
        for process in processes:
            process.kill()
    assert [file.suffix for file in cache.iterdir()] == [".passed"] * 20
    assert [start(path, defaults={"seed": str(seed)}) for seed in range(20)] == [0] * 20
