"""The parser of the verbs that read a command line of their own."""

import argparse
from pathlib import Path
from typing import NoReturn

from typing_extensions import override

from lit_g2rpo.errors import UserError


class VerbParser(argparse.ArgumentParser):
    """Raise a `UserError` of one line where the stock parser prints its usage and exits."""

    @override
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; --help lists the options")


def new_file(text: str) -> Path:
    """Read the path of a file that will be written, in a folder that exists, before the work that fills it."""
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it, or give another name")
    return path


def positive(text: str) -> int:
    """Read a whole number above 0."""
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
