"""The documents name files that are there."""

import re
from pathlib import Path

import pytest
from helpers.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"\btests/[\w/.]*\w", path.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]
