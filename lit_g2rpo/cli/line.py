"""Preparation of a command line before heavy imports: ``--run`` and related options become plain keys."""

import re
from dataclasses import dataclass
from pathlib import Path

from lit_g2rpo.cli.checkpoints import check_exists, find_checkpoint, read_state
from lit_g2rpo.cli.fragments import check_files
from lit_g2rpo.cli.packaged import located_words
from lit_g2rpo.cli.words import pairs, take
from lit_g2rpo.errors import UserError
from lit_g2rpo.training.records import LAST, recorded_config

READS_CHECKPOINT = ("fit", "validate", "test", "predict", "export")
PLACE = re.compile(r"--(name|trainer\.logger\.(init_args\.)?(save_dir|name|version))")
"""Keys that determine the folder of a run."""


@dataclass(slots=True, frozen=True)
class Line:
    """The words of a command line, and options that are not keys of the config.

    Args:
        words: keys and values for the parser.
        run: folder of the run given with ``--run``; None if not given.
        change: keys that a resumed run may change even though that makes it a different run.
    """

    words: list[str]
    run: Path | None = None
    change: tuple[str, ...] = ()


def read_line(verb: str, words: list[str]) -> Line:
    """Expand a command line and check the files that it names.

    Args:
        verb: the verb.
        words: the words after it.

    Raises:
        UserError: if a file is missing or under the wrong key, or the folder is not a run's folder.
    """
    folder, words = take("--run", words)
    more, change = None, None
    if verb == "fit":
        more, words = take("--more", words)
        change, words = take("--change", words)
    else:
        for key, _ in pairs(words):
            if key in ("--more", "--change"):
                raise UserError(f"{key} is an option of fit, not of {verb}")
    if more is not None and folder is None:
        raise UserError("--more continues a run; name it with --run FOLDER")
    run = None if folder is None else Path(folder)
    if run is not None:
        words = _spelt_out(verb, words, run, more)
    _check_recipe(verb, words)
    check_files(words)
    for key, value in pairs(words):
        if key == "--ckpt_path" and value not in (None, "null"):
            check_exists(value)
    return Line(located_words(words), run, tuple(filter(None, (change or "").split(","))))


def _check_recipe(verb: str, words: list[str]) -> None:
    """Refuse a command line without a recipe or any of a recipe's keys, before heavy imports."""
    if not any(
        "help" in word or word.startswith(("--config", "--model", "--data", "--print_config")) for word in words
    ):
        raise UserError(
            f"{verb} needs a recipe: give --config configs/g2rpo.yaml, or an existing run, --run "
            f"runs/g2rpo/version_0; {verb} --help lists the keys"
        )


def _spelt_out(verb: str, words: list[str], run: Path, more: str | None) -> list[str]:
    """Add a run's config before the words, and its newest checkpoint and length after them."""
    own, words = words, ["--config", str(recorded_config(run)), *words]
    if verb not in READS_CHECKPOINT:
        return words
    if more is not None:
        if not more.isdecimal() or not int(more):
            raise UserError(f"--more is {more}; give the number of rollouts to add, a whole number above 0")
        if any(key == "--schedule.rollouts" for key, _ in pairs(words)):
            raise UserError("--more and --schedule.rollouts both say how long the run is; give one of them")
    asked, words = take("--ckpt_path", words)
    # training from any checkpoint but the newest is a new run, and an export is written to --output
    newest = asked in (None, "last")
    if verb in ("validate", "test", "predict") or (verb == "fit" and (newest or Path(str(asked)).name == LAST)):
        for key in (key for key, _ in pairs(own) if PLACE.fullmatch(key)):
            raise UserError(f"{key} asks for another folder, but --run continues in {run}; give one of them")
    path = find_checkpoint(asked or "last", run.parent, run)
    # fit continues in the folder from the newest checkpoint, whatever its name
    words += ["--ckpt_path", "last" if verb == "fit" and newest else str(path)]
    if more is not None:
        words += ["--schedule.rollouts", str(read_state(path)["g2rpo"]["rollout_index"] + int(more))]
    return words
