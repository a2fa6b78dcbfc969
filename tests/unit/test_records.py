"""A run's folder keeps every record, and the newest is found."""

from pathlib import Path

import pytest

from lit_g2rpo.errors import UserError
from lit_g2rpo.training.records import add_record, recorded_config, records


def test_each_resume_adds_a_record_and_overwrites_none(tmp_path: Path) -> None:
    made = [add_record(tmp_path, "config.yaml", rollout, text) for rollout, text in
            ((0, "a"), (25, "a"), (25, "a"), (25, "b"), (25, "c"), (150, "a"), (123456, "a"))]  # fmt: skip
    names = [path.name for path in made]
    assert names == [
        "config.yaml", "config-00025.yaml", "config-00025.yaml", "config-00025-2.yaml", "config-00025-3.yaml",
        "config-00150.yaml", "config-123456.yaml",
    ]  # fmt: skip
    assert [path.read_text() for path in records(tmp_path)] == ["a", "a", "b", "c", "a", "a"]
    assert recorded_config(tmp_path).name == "config-123456.yaml"


def test_a_run_that_begins_again_at_nothing_keeps_the_first_record(tmp_path: Path) -> None:
    assert add_record(tmp_path, "config.yaml", 0, "a").name == "config.yaml"
    assert add_record(tmp_path, "config.yaml", 0, "a").name == "config.yaml"
    assert add_record(tmp_path, "config.yaml", 0, "b").name == "config-00000.yaml"


def test_other_files_are_no_records(tmp_path: Path) -> None:
    for name in ("config-mine.yaml", "config-12.yaml", "config.yaml.bak", "test.yaml"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match="is not the folder of a run"):
        recorded_config(tmp_path)


def test_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        recorded_config(tmp_path / "nope")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        recorded_config(tmp_path / "file")
    (tmp_path / "version_3").mkdir()
    (tmp_path / "version_3" / "config.yaml").touch()
    with pytest.raises(UserError, match=r"give one, such as .*version_3"):
        recorded_config(tmp_path)
