"""Passed row checks, kept in the cache folder so that a restart need not repeat them."""

import hashlib
import json
import logging
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lit_g2rpo.data.files.cache import cache_folder, identity
from lit_g2rpo.data.files.readers import Rows
from lit_g2rpo.files import write_text

log = logging.getLogger(__name__)

PACKAGE = Path(__file__).parents[2]
RULES = ("data/**/*.py", "evaluation/**/*.py", "rewards/**/*.py", "registry.py", "tasks.py")
"""Source files that the result of a check depends on."""

SETTLED = 2.0
"""Coarsest time resolution of file systems, seconds: a file younger than this may change unnoticed."""


class PassedCheck:
    """A check of files of rows, identified by everything that its result depends on except image files.

    Args:
        files: the opened files.
        settings: the other inputs of the check; their ``repr`` identifies them.
        began: time just before the files were opened, seconds since the epoch.
    """

    def __init__(self, files: Sequence[Rows], settings: Any, began: float) -> None:
        self._files, self._settings, self._began = files, settings, began
        self._key = self._now()

    def recalled(self) -> list[tuple[str, ...]] | None:
        """Return the tasks of each line of the files if this check has passed before."""
        if self._key is None:
            return None
        try:
            digest, text = _place(self._key).read_text().split("\n", 1)
            if digest != _hash(self._key + text):
                return None
            names, numbers = json.loads(text)
        except (OSError, ValueError, RuntimeError):  # an unknown home folder is a RuntimeError
            return None
        log.info("%s: all rows passed this check before", ", ".join(rows.name for rows in self._files))
        lines = [tuple(map(sys.intern, line)) for line in names]
        return [lines[number] for number in numbers]

    def keep(self, tasks: list[tuple[str, ...]]) -> None:
        """Save a check that has passed, unless a file changed meanwhile or the cache folder cannot be written.

        It must have used only rules of this package: the sources of others are not part of the key.

        Args:
            tasks: the tasks of each line: one, or one for each phrase of its box.
        """
        if self._key is None or self._key != self._now():
            return
        numbers = {name: number for number, name in enumerate(dict.fromkeys(tasks))}
        text = json.dumps([list(numbers), [numbers[task] for task in tasks]], separators=(",", ":"))
        try:
            write_text(_place(self._key), f"{_hash(self._key + text)}\n{text}")
        except (OSError, RuntimeError) as error:
            log.info("the next start checks all rows again, since the cache folder cannot be written: %s", error)

    def _now(self) -> str | None:
        """Hash the current state of everything the result depends on; None if it is unknown."""
        parts = [repr(self._settings), platform.python_version()]
        # the rules depend on other packages, whose folder names contain their versions
        parts += sorted({file.name for folder in sys.path for file in Path(folder).glob("*.dist-info")})
        for rule in RULES:
            for file in sorted(PACKAGE.glob(rule)):
                parts += [str(file.relative_to(PACKAGE)), file.read_text(encoding="utf-8")]
        for rows in self._files:
            parts.append(rows.fingerprint)
            if rows.source is not None:
                try:
                    state = rows.source.stat()
                except OSError:
                    return None
                if state.st_mtime > self._began - SETTLED:
                    return None
                parts.append(identity(rows.source, state))
        return _hash(json.dumps(parts))


def _place(key: str) -> Path:
    return cache_folder() / f"{key[:32]}.passed"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
