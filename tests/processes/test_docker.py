"""What a linter cannot know of the images: that they hold what they run, and run what the README says."""

import fnmatch
import json
import re
from pathlib import Path

import pytest
from helpers.paths import ROOT
from helpers.processes import Commands

IMAGES = ["Dockerfile", "Dockerfile.neuron"]


def instructions(name: str) -> list[tuple[str, str]]:
    text = re.sub(r"\\\n", " ", re.sub(r"^#.*\n", "", (ROOT / name).read_text(), flags=re.MULTILINE))
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in text.splitlines() if line]


@pytest.mark.parametrize("name", IMAGES)
def test_an_image_runs_the_default_run_as_a_user_who_is_not_root(name: str) -> None:
    found = instructions(name)
    [command] = [json.loads(rest) for kind, rest in found if kind == "CMD"]
    assert " ".join(command[:6]) == "python -m lit_g2rpo fit --config configs/g2rpo.yaml"
    assert all((ROOT / word).is_file() for word in command if word.endswith(".yaml"))
    kinds = [kind for kind, _ in found]
    [user] = [rest for kind, rest in found if kind == "USER"]
    assert int(user) > 0
    assert kinds.index("USER") < kinds.index("COPY") < kinds.index("CMD")
    # a rebuild after a change of the code keeps the layer with torch
    torch = next(i for i, (_, rest) in enumerate(found) if "torch==" in rest)
    assert torch < kinds.index("COPY")


@pytest.mark.parametrize("name", [*IMAGES, ".ci/run", "README.md", "CONTRIBUTING.md"])
def test_torch_is_pinned_alike_everywhere(name: str) -> None:
    pins = set(re.findall(r"torch==([\d.]+\d)", (ROOT / name).read_text()))
    assert pins == {"2.13.0"}


def left_out_by(pattern: str, parts: tuple[str, ...]) -> bool:
    """Match any part of a path, or without ``**/`` the first one, as Docker does."""
    anywhere = pattern.startswith("**/")
    return any(fnmatch.fnmatch(part, pattern.removeprefix("**/")) for part in (parts if anywhere else parts[:1]))


def test_the_context_leaves_out_nothing_that_is_tracked_but_what_belongs_to_git(commands: Commands) -> None:
    patterns = (ROOT / ".dockerignore").read_text().split()
    tracked = commands.run("git", "ls-files", cwd=ROOT)
    if tracked.returncode:
        pytest.skip("no git checkout")
    left_out = [
        path
        for path in tracked.stdout.splitlines()
        if any(left_out_by(pattern, Path(path).parts) for pattern in patterns)
    ]
    assert left_out == []
    # a link in the context is copied as a link
    assert (ROOT / "lit_g2rpo" / "callbacks").readlink() == Path("../callbacks")
