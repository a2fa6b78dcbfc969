"""The parser of the verbs that parse their own command line."""

import argparse
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from lit_g2rpo.errors import UserError


class VerbParser(argparse.ArgumentParser):
    """A parser that raises a one-line `UserError` where the stock parser prints its usage and exits."""

    @override
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists the options")


def new_file(text: str) -> Path:
    """Read the path of an output file, and check that its folder exists before the work starts."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it, or give another name")
    return path


def positive(text: str) -> int:
    """Read a positive whole number."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
