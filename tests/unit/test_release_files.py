"""What people and hosts read of the project names one version, the paper's authors and the same checks."""

import re
import tomllib
from typing import Any

import pytest
import yaml
from helpers.paths import ROOT

import lit_g2rpo

PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
WORKFLOWS = ROOT / ".github" / "workflows"


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text())


def test_the_files_that_a_release_compares_name_one_version() -> None:
    """As the workflow does, line by line."""
    version = lit_g2rpo.__version__
    assert f'__version__ = "{version}"' in (ROOT / "lit_g2rpo" / "__init__.py").read_text().splitlines()
    assert f"version: {version}" in (ROOT / "CITATION.cff").read_text().splitlines()
    assert re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d$", (ROOT / "CHANGELOG.md").read_text(), re.M)


def test_the_versions_of_the_changelog_are_dated_and_the_newest_comes_first() -> None:
    heads = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert heads[0] == "[Unreleased]"
    dates = [re.fullmatch(r"\[\d+\.\d+\.\d+\] - (\d{4}-\d\d-\d\d)", head) for head in heads[1:]]
    assert all(dates)
    found = [date[1] for date in dates if date]
    assert found == sorted(found, reverse=True)


def test_the_citation_names_the_paper() -> None:
    paper = read("CITATION.cff")["preferred-citation"]
    assert [author["family-names"] for author in paper["authors"]] == [
        "Hu",
        "Chen",
        "Gao-Tian",
        "Deng",
        "Peng",
        "Chang",
    ]
    assert paper["url"] == PROJECT["urls"]["Paper"] == "https://arxiv.org/abs/2604.08539"


def test_the_workflow_runs_the_checks_on_every_python_that_the_package_names() -> None:
    job = read(".github/workflows/ci.yml")["jobs"]["check"]
    assert {"run": ".ci/run"} in job["steps"]
    named = re.findall(r"Python :: (3\.\d+)$", "\n".join(PROJECT["classifiers"]), re.M)
    assert job["strategy"]["matrix"]["python"] == named
    assert PROJECT["requires-python"] == f">={named[0]}"


def test_only_publishing_may_ask_for_an_identity_and_no_workflow_holds_a_token() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    assert [name for name, job in jobs.items() if "id-token" in job.get("permissions", {})] == ["publish"]
    for path in WORKFLOWS.glob("*.yml"):
        assert "secrets." not in path.read_text()
        assert read(f".github/workflows/{path.name}")["permissions"] == {"contents": "read"}


@pytest.mark.parametrize(
    ("message", "passes"),
    [("a" * 72 + "\n\nwhy\n", True), ("a" * 73 + "\n\nwhy\n", False), ("short", True), ("short\n\n" + "b" * 99, True)],
)
def test_the_hook_takes_subjects_of_at_most_72_characters(message: str, passes: bool) -> None:
    [hook] = [hook for hook in read(".pre-commit-config.yaml")["repos"][0]["hooks"] if hook["id"] == "subject"]
    assert hook["args"] == ["--negate", "--multiline"]
    # how pygrep compiles with --multiline
    assert bool(re.search(hook["entry"], message, re.MULTILINE | re.DOTALL)) is passes
