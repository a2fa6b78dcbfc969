"""Side work of a run, whose failure does not stop training."""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any

from lit_g2rpo.errors import NonFiniteError, RankError, UserError
from lit_g2rpo.registry import one_line


def system_error(error: BaseException) -> OSError | None:
    """Find the system's error behind an error, which libraries wrap in their own."""
    found: BaseException | None = error
    while found is not None and not (isinstance(found, OSError) and found.errno):
        found = found.__cause__ or found.__context__
    return found


class Aside:
    """Run work that only observes: warn about its first failure, and count all of them.

    Not for work that ranks do together, where a failing rank would leave the others waiting.

    Args:
        what: name of the work, for the warning.
    """

    def __init__(self, what: str) -> None:
        self.what, self.failures = what, 0

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Run a block; errors that end a run on purpose still do."""
        try:
            yield
        except (UserError, NonFiniteError, RankError):
            raise
        except Exception as error:
            self.failures += 1
            if self.failures == 1:
                reason = one_line(system_error(error) or error)
                warnings.warn(f"{self.what}: {reason}; the run continues without it", stacklevel=4)

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Guard every call of a function, which then returns None on failure."""

        @wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            with self.guard():
                return function(*args, **kwargs)
            return None

        return guarded

    def report(self) -> None:
        """Report how often it failed, if more than once."""
        if self.failures > 1:
            warnings.warn(f"{self.what}: failed {self.failures} times in this run", stacklevel=2)
        self.failures = 0
