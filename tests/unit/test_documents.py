"""The documents name files, headings and packages that are there."""

import re
from pathlib import Path
from types import ModuleType

import pytest
from helpers.documents import DOCUMENTS, anchors, commands, links
from helpers.paths import ROOT

from lit_g2rpo import callbacks, objectives


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_tests_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"\btests/[\w/.]*\w", path.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, anchor in links(path):
        assert target.exists(), target
        assert not anchor or anchor in anchors(target.read_text()), f"{target.name}#{anchor}"


@pytest.mark.parametrize("path", [*DOCUMENTS, *ROOT.glob("configs/**/*.yaml")], ids=lambda path: path.name)
def test_documents_and_configs_that_are_named_exist(path: Path) -> None:
    named = re.findall(r"(?<![\w/.])(?:docs|configs|examples|benchmarks)/[\w/]*\w\.\w+", path.read_text())
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_is_in_the_navigation() -> None:
    menu = (ROOT / "mkdocs.yml").read_text()
    assert not [path for path in ROOT.glob("docs/**/*.md") if str(path.relative_to(ROOT / "docs")) not in menu]


@pytest.mark.parametrize("package", [callbacks, objectives], ids=lambda package: package.__name__)
def test_the_reference_has_every_public_class(package: ModuleType) -> None:
    page = (ROOT / "docs" / "api" / f"{package.__name__.rpartition('.')[2]}.md").read_text().splitlines()
    assert not [name for name in package.__all__ if f"::: {package.__name__}.{name}" not in page]


def test_commands_are_found_as_a_shell_would_split_them() -> None:
    text = """
Try `python -m a b`, not `python` or `a b`.
```bash
X=1 Y=2 python one.py "a b"  # a comment
pip install x && tests/xla.sh \\
    --flag; for n in 1 2; do python two.py $n; done
```
```python
pip = 1
```
"""
    assert commands(text) == [
        ["python", "one.py", "a b"],
        ["pip", "install", "x"],
        ["tests/xla.sh", "--flag"],
        ["for", "n", "in", "1", "2"],
        ["python", "two.py", "$n"],
        ["python", "-m", "a", "b"],
    ]


def test_anchors_are_those_of_the_sites() -> None:
    assert anchors("# A `b`, c\n## The [d](e.md)?\n```bash\n# no heading\n```\n") == {"a-b-c", "the-d"}
