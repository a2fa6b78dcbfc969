"""Output that may be lost: a run continues when its terminal or the pipe it prints to is closed."""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, TextIO

GONE = {errno.EPIPE, errno.EIO, errno.EBADF, errno.ENXIO}
"""Errors of a pipe, terminal or descriptor that is closed for good, unlike a full disk, which may have space again."""


class Lossy:
    """A stream that drops what cannot be written, and warns once on another stream.

    Args:
        stream: the stream to write to.
        name: its name, for the warning.
        other: stream for the warning; None for no warning.
    """

    def __init__(self, stream: TextIO, name: str, other: TextIO | None) -> None:
        self._stream, self._name, self._other = stream, name, other
        self.lost = 0

    def write(self, text: str) -> int:
        """Write a string, or drop it on failure."""
        try:
            self._stream.write(text)
        except UnicodeEncodeError:
            self.write(text.encode("ascii", "backslashreplace").decode())
        except (OSError, ValueError) as error:
            self._lose(error)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Write strings, or drop them on failure."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Flush the stream, or drop its content on failure."""
        try:
            self._stream.flush()
        except (OSError, ValueError) as error:
            self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def _lose(self, error: Exception) -> None:
        self.lost += 1
        if isinstance(error, OSError) and error.errno in GONE:
            # send the stream's buffer, and everything else that uses the descriptor, such as C code, nowhere
            with suppress(OSError, ValueError):
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self._stream.fileno())
                os.close(nowhere)
        if self.lost == 1 and self._other is not None:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            with suppress(OSError, ValueError):
                print(f"{self._name} cannot be written ({reason}); the run continues without it", file=self._other)


@contextmanager
def lossy_output() -> Iterator[None]:
    """Let standard output and standard error fail inside the block without ending the run."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        # a stream that was closed before the start is None
        stdout, stderr = (stream or nowhere for stream in before)
        out, errors = Lossy(stdout, "standard output", stderr), Lossy(stderr, "standard error", None)
        # they only need the methods of a stream that are used
        sys.stdout, sys.stderr = out, errors
        try:
            yield
        finally:
            out.flush()
            errors.flush()
            sys.stdout, sys.stderr = before
