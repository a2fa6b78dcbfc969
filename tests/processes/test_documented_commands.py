"""Every shell command of the documents: run where that is cheap, otherwise up to where its options are read."""

import argparse
import json
import re
import runpy
import subprocess
import sys
import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import jsonargparse
import pyarrow.parquet
import pytest
import torch
import yaml
from helpers.composed import Composed
from helpers.documents import DOCUMENTS, commands, shell_blocks
from helpers.paths import ROOT
from helpers.processes import Commands
from helpers.prompts import make_prompt

from lit_g2rpo.__main__ import VERBS, main
from lit_g2rpo.evaluation.rows import row
from lit_g2rpo.experience import Completion
from lit_g2rpo.rewards import RewardResult

ROW = {"problem": "Which?", "problem_type": "multiple choice", "options": ["A. cat", "B. dog"], "answer": "B"}
ROW |= {"task_type": "ocr"}
GOOD = "<thinking>r</thinking><answer>B</answer>"
TOKENS = torch.arange(3)

RUN = ("data", "reward", "score", "eval-export")
"""Verbs that run to their end, on the files of ``checkout``; all others stop once they have read their options."""
STOPPED = ("Qwen/Qwen3-VL-8B-Instruct", "lmms-lab/RefCOCO@val")
"""What would be downloaded: with one of these words they stop there too."""
PARSED = {
    "for": "the commands in its body are checked",
    "export": "sets variables",
    "echo": "prints",
    "mkdir": "makes a folder",
    "sudo": "changes the machine",
    ".": "reads a file of the shell's",
    "docker": "needs an engine",
    "neuron-ls": "needs the device",
    "git": "changes the checkout",
    "pre-commit": "changes the checkout",
    "tensorboard": "serves until it is stopped",
    "mypy": "is a check of its own",
    "hadolint": "is a check of its own",
    "ruff": "is a check of its own",
    "mkdocs": "is a check of its own",
}
"""Programs whose commands the shell parses, and no more, and why."""
# a changelog is about what was
CURRENT = [path for path in DOCUMENTS if path.name != "CHANGELOG.md"]
COMMANDS = sorted({tuple(words) for path in CURRENT for words in commands(path.read_text())})
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


class StopError(BaseException):
    """The options were read without a mistake."""


@pytest.fixture(scope="module")
def recorded() -> str:
    """Compose the recipe of the documents' runs, as a run records it."""
    cli = Composed("fit", ["--config", str(ROOT / "configs" / "g2rpo.yaml")])
    return yaml.safe_dump(cli.save_config_kwargs["recipe"])


@pytest.fixture
def checkout(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: str) -> None:
    """Work in a checkout that also has the files of a user that documents name: rows, a reward, runs."""
    for path in ROOT.iterdir():
        if path.name not in ("runs", "site"):
            (tmp_path / path.name).symlink_to(path)
    (tmp_path / "images").mkdir()
    line = json.dumps(ROW)
    files = {
        "rows.jsonl": line,
        "rows.json": f"[{line}]",
        "my_rewards.py": "def captions(completion, sample): return 1.0\n",
    }
    files["completions.jsonl"] = json.dumps({**ROW, "completion": GOOD})
    files["bands.yaml"] = "# fills data: bands\ntasks: {ocr: {length: [1, 2, 3, 4]}}\n"
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW]), tmp_path / "train.parquet")
    prompt = make_prompt("row-0", 0)
    prompt.sample = {**ROW, "images": [], "id": "0", "data_source": ""}
    completion = Completion(TOKENS, TOKENS * 0.0, TOKENS * 0.0, GOOD, False)
    predicted = row(0, 0, prompt, completion, RewardResult(1.0, 1.0, 1.0, 0.0, {}, None, 0.0))
    data = tmp_path / "data" / "onethinker"
    data.mkdir(parents=True)
    for name in ("train", "val"):
        (data / f"{name}.json").write_text(f"[{line}]")
    for name in ("g2rpo", "base", "openvlthinker_v2"):
        saved = tmp_path / "runs" / name / "version_0" / "checkpoints"
        saved.mkdir(parents=True)
        torch.save({"g2rpo": {"rollout_index": 1}}, saved / "rollout=00001-step=000002.ckpt")
        (saved / "last.ckpt").symlink_to("rollout=00001-step=000002.ckpt")
        (saved.parent / "config.yaml").write_text(recorded)
        (saved.parent / "predictions.jsonl").write_text(json.dumps(predicted) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)


def stop_where_options_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stop a program once its parser has found no mistake, or where it would start another without having looked."""

    def stopping(read: Any) -> Any:
        def parse(*given: Any, **options: Any) -> None:
            read(*given, **options)
            raise StopError

        return parse

    for parser in (argparse.ArgumentParser, jsonargparse.ArgumentParser):
        monkeypatch.setattr(parser, "parse_args", stopping(parser.parse_args))
    monkeypatch.setattr(subprocess.Popen, "__init__", stopping(lambda *_, **__: None))
    # what a process settles once
    monkeypatch.setattr("lit_g2rpo.cli.quiet.apply", lambda: None)
    monkeypatch.setattr("lit_g2rpo.hardware.parent.end_with_first_rank", lambda: None)


def check(words: list[str], patch: pytest.MonkeyPatch) -> None:
    """Run a command, or read its options."""
    program, rest = words[0], words[1:]
    if program in ("python", "python3"):
        check_python(rest, patch)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        options, unread = get_args_parser().parse_known_args(rest)
        assert options.module
        assert not unread
        check_python(["-m", options.training_script, *options.training_script_args], patch)
    elif program == "srun":
        check([word for word in rest if not word.startswith("--kill")], patch)
    elif program == "pip":
        assert rest[0] == "install"
        for extras in re.findall(r"(?:\.|lit_g2rpo)\[(.*)\]", " ".join(rest)):
            assert set(extras.split(",")) <= EXTRAS.keys()
    elif program == "bash" or "/" in program:
        assert Path(rest[0] if program == "bash" else program).is_file()
    else:
        assert program in PARSED


def check_python(words: list[str], patch: pytest.MonkeyPatch) -> None:
    if words[0] == "-c":
        compile(words[1], words[1], "exec")
    elif words[:2] == ["-m", "lit_g2rpo"]:
        check_verb([word.replace("$seed", "1") for word in words[2:]], patch)
    elif words[:2] == ["-m", "pytest"]:
        assert all(Path(word).exists() for word in words if word.startswith("tests/"))
    elif words[:2] != ["-m", "venv"]:
        stop_where_options_are_read(patch)
        module = words[1:] if words[0] == "-m" else words
        patch.setattr(sys, "argv", module)
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        with pytest.raises(StopError):
            (runpy.run_module if words[0] == "-m" else runpy.run_path)(module[0], run_name="__main__")


def check_verb(words: list[str], patch: pytest.MonkeyPatch) -> None:
    if words[0] not in RUN or set(words) & set(STOPPED):
        stop_where_options_are_read(patch)
    if "..." in words:
        # the rest is the reader's
        assert words[0] in VERBS
        return
    code: Any = 0
    with suppress(StopError):
        try:
            code = main(words)
        except SystemExit as left:
            # --print_config
            code = left.code
    assert not code


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_commands_are_ones_that_there_are(words: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    check(list(words), monkeypatch)


@pytest.mark.usefixtures("checkout")
@pytest.mark.parametrize(
    "line",
    [
        "fit --config configs/g2rpo.yaml --model.rollout.groupsize 4",
        "fit --config configs/none.yaml",
        "fit --run runs/g2rpo/version_7",
        "data check none.jsonl",
        "score --predictions",
        "fits",
    ],
)
def test_a_mistake_is_seen(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AssertionError):
        check(["python", "-m", "lit_g2rpo", *line.split()], monkeypatch)


def test_shell_blocks_have_no_syntax_error(commands: Commands) -> None:
    for path in DOCUMENTS:
        for block in shell_blocks(path.read_text()):
            done = commands.run("bash", "-n", input=block)
            assert not done.stderr, f"{path.name}: {done.stderr}"
