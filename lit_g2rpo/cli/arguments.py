"""The parser of the verbs that read a command line of their own."""

import argparse
from pathlib import Path
from typing import NoReturn

from lit_g2rpo.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raise a `UserError` of one line where the stock parser prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UserError(f"{self.prog}: {message}; --help lists the options")


def new_file(text: str) -> Path:
    """Read the path of a file that will be written, before the work that fills it.

    Args:
        text: the word of the command line.

    Returns:
        The path.

    Raises:
        ArgumentTypeError: if it is a folder, or lies in none.
    """
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a folder; give the name of a file")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}; make it, or give another name")
    return path


def positive(text: str) -> int:
    """Read a whole number above 0.

    Args:
        text: the word of the command line.

    Returns:
        The number.

    Raises:
        ArgumentTypeError: if it is none.
    """
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number above 0")
    return int(text)
