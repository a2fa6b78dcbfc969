"""The documents, and their shell commands and links."""

import re
import shlex
from pathlib import Path

from helpers.paths import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`([^`\n]+)`")
PROGRAMS = [
    "python",
    "python3",
    "pip",
    "docker",
    "bash",
    "torchrun",
    "srun",
    "mkdocs",
    "tensorboard",
    "mypy",
    "ruff",
    "pre-commit",
    "hadolint",
    "neuron-ls",
    "sudo",
    "echo",
    "mkdir",
    "export",
    "git",
    ".",
    "for",
    "tests/xla.sh",
    ".ci/run",
]
"""First words of commands; inline code that starts with none of them is not a command."""


def shell_blocks(text: str) -> list[str]:
    """Return the blocks of shell code in a document."""
    return [body for language, body in FENCE.findall(text) if language == "bash"]


def commands(text: str) -> list[list[str]]:
    """Split the shell code of a document into commands, each as words without leading assignments."""
    lines = [line for block in shell_blocks(text) for line in block.replace("\\\n", " ").splitlines()]
    for span in INLINE.findall(FENCE.sub("", text)):
        program = next((word for word in span.split() if not re.match(r"\w+=", word)), "")
        # a program without arguments is just a name
        if program in PROGRAMS and (" " in span or "/" in span):
            lines.append(span)
    return [command for line in lines for command in _split(line)]


def _split(line: str) -> list[list[str]]:
    reader = shlex.shlex(line, posix=True, punctuation_chars=";&|")
    reader.whitespace_split = True
    found: list[list[str]] = [[]]
    for word in reader:
        if set(word) <= set(";&|"):
            found.append([])
        elif word == "do" or (not found[-1] and (word == "done" or re.match(r"\w+=", word))):
            continue
        else:
            found[-1].append(word)
    return [words for words in found if words]


def anchors(text: str) -> set[str]:
    """Return the anchors of a document's headings, as created by GitHub and mkdocs."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", FENCE.sub("", text), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        found.add(re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower()))
    return found


def links(path: Path) -> list[tuple[Path, str]]:
    """Return a document's links to local files, each with its anchor, if any."""
    found = []
    for target in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text())):
        if not re.match(r"\w+:", target):
            name, _, anchor = target.partition("#")
            found.append(((path.parent / name).resolve() if name else path, anchor))
    return found
