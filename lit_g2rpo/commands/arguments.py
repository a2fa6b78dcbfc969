"""The parser of the verbs that read a command line of their own."""

import argparse
from typing import NoReturn

from lit_g2rpo.errors import UserError


class Parser(argparse.ArgumentParser):
    """Raises a `UserError` of one line where the stock parser prints its usage and exits."""

    def error(self, message: str) -> NoReturn:
        """Raise the message."""
        raise UserError(f"{self.prog}: {message}; --help lists the options")
