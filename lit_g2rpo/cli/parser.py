"""The command-line parser, whose errors are one line with the key and what would be right."""

from pathlib import Path
from typing import Any, NoReturn

import yaml
from lightning.pytorch.cli import LightningArgumentParser
from typing_extensions import override

from lit_g2rpo.cli.explain import COMPLETION, explain
from lit_g2rpo.errors import UserError


class ConfigParser(LightningArgumentParser):
    """A parser that raises a one-line `UserError` where the stock parser prints its usage and exits."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.start = Path.cwd()
        self.unresolved = ""
        """The composed config as YAML, with unresolved references."""

    @override
    def dump(self, *args: Any, **kwargs: Any) -> str:
        # the parser dumps the composed config to resolve references
        text: str = super().dump(*args, **kwargs)
        if "${" in text:
            self.unresolved = text
        return text

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the root cause of a parse failure.

        Raises:
            UserError: always, except from an inner parser, whose caller may interpret the value differently.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        cause: BaseException | None = ex
        while cause is not None:
            if isinstance(cause, UserError):
                raise cause
            cause = cause.__cause__ or cause.__context__
        where = self.broken_file() if message.startswith(("Problems parsing config", "Unexpected config")) else ""
        raise UserError(where + explain(message, self.known_keys())) from ex

    def known_keys(self) -> list[str]:
        """List the dotted keys that a config may have, except those inside classes named by the config."""
        keys: list[str] = []
        for action in self._actions:
            for parser in (getattr(action, "_name_parser_map", None) or {}).values():
                keys += parser.known_keys()
            if action.option_strings and action.dest not in ("help", "config", "print_config", COMPLETION):
                keys.append(action.dest)
        return keys

    def broken_file(self) -> str:
        """Return the config on the command line that is not YAML or has no keys, followed by a colon; empty if none."""
        words = " ".join(self.args).replace("=", " ").split()
        for word in (word for word in words if word.endswith((".yaml", ".yml"))):
            try:
                # the parser changes to the folder of the file it reads
                if isinstance(yaml.safe_load((self.start / word).read_text()), dict):
                    continue
            except OSError:
                continue
            except (yaml.YAMLError, UnicodeDecodeError):
                pass
            return f"{word}: "
        return ""
