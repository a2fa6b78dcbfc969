"""A command line before anything heavy is imported: ``--run`` and what goes with it, spelt out in plain words."""

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
"""Keys that say where a run lies."""


@dataclass(slots=True, frozen=True)
class Line:
    """The words of a command line, and what is not said in words of the configuration.

    Args:
        words: keys and values for the parser.
        run: folder of the run that is meant; None if the words name none.
        change: keys that a resumed run may change although that makes it another run.
    """

    words: list[str]
    run: Path | None = None
    change: tuple[str, ...] = ()


def read_line(verb: str, words: list[str]) -> Line:
    """Spell a command line out and check the files that it names.

    Args:
        verb: the verb.
        words: the words after it.

    Raises:
        UserError: if a file is missing or belongs elsewhere, or the folder is not that of a run.
    """
    folder, words = take("--run", words)
    more, change = None, None
    if verb == "fit":
        more, words = take("--more", words)
        change, words = take("--change", words)
    else:
        for key, _ in pairs(words):
            if key in ("--more", "--change"):
                raise UserError(f"{key} belongs to fit; {verb} goes on with no run")
    if more is not None and folder is None:
        raise UserError("--more goes on with a run: say which, --run FOLDER")
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
    """Refuse words that name no recipe and set nothing a recipe would, before anything heavy is imported."""
    if not any(
        "help" in word or word.startswith(("--config", "--model", "--data", "--print_config")) for word in words
    ):
        raise UserError(
            f"{verb} needs a recipe: give --config configs/g2rpo.yaml, or a run to go on with, --run "
            f"runs/g2rpo/version_0; {verb} --help lists the keys"
        )


def _spelt_out(verb: str, words: list[str], run: Path, more: str | None) -> list[str]:
    """Put config and newest checkpoint of a run in front of the words, and the length of the run behind them."""
    own, words = words, ["--config", str(recorded_config(run)), *words]
    if verb not in READS_CHECKPOINT:
        return words
    if more is not None:
        if not more.isdecimal() or not int(more):
            raise UserError(f"--more is {more}; give the rollouts to go on for, a whole number above 0")
        if any(key == "--schedule.rollouts" for key, _ in pairs(words)):
            raise UserError("--more and --schedule.rollouts both say how long the run is; give one of them")
    asked, words = take("--ckpt_path", words)
    # a training from any but the newest checkpoint is a new run, and an export goes where --output says
    newest = asked in (None, "last")
    if verb in ("validate", "test", "predict") or (verb == "fit" and (newest or Path(str(asked)).name == LAST)):
        for key in (key for key, _ in pairs(own) if PLACE.fullmatch(key)):
            raise UserError(f"{key} asks for another folder, but --run goes on in {run}; give one of them")
    path = find_checkpoint(asked or "last", run.parent, run)
    # fit goes on in the folder from what is the newest, whatever its name
    words += ["--ckpt_path", "last" if verb == "fit" and newest else str(path)]
    if more is not None:
        words += ["--schedule.rollouts", str(read_state(path)["g2rpo"]["rollout_index"] + int(more))]
    return words
