"""Calls to an HTTP service that may be unavailable for a while: retry, and give up only after a limit."""

import http.client
import logging
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from lit_g2rpo.errors import ScoringStopError
from lit_g2rpo.rewards.running.outcome import Failure

log = logging.getLogger(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 120.0
"""Seconds before the first retry, which double with each retry, and their maximum."""
SAY_SECONDS = 30.0
"""Seconds between messages about an unavailable service."""
TRIES = 6
"""Failures of a request, while others are answered, after which the request itself is to blame."""
BUSY = (408, 425, 429, 503)
"""Status codes that always ask for a retry."""
REFUSED = (400, 413, 422)
"""Status codes that may concern only this request once others were answered."""
CURES = {
    401: "check model.judge.api_key_env",
    403: "check model.judge.api_key_env",
    404: "check model.judge.url and model.judge.model",
}


class Patience:
    """Retry calls, from any thread, until the service has been unavailable for too long.

    Args:
        name: how messages name the service: its key and its URL.
        seconds: how long it may be unavailable.
        clock: returns the time in seconds.
        sleep: waits for the given seconds.
    """

    def __init__(
        self,
        name: str,
        seconds: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self.seconds = name, seconds
        self._clock, self._sleep = clock, sleep
        self._lock = threading.Lock()
        self._answered = 0
        self._away_since: float | None = None
        self._said = 0.0
        self._stop: ScoringStopError | None = None

    def call(self, post: Callable[[], bytes]) -> bytes | Failure:
        """Return the body of the response, or why this request failed although the service answers others.

        Args:
            post: sends the request once.

        Raises:
            ScoringStopError: if the service has been unavailable for too long, or rejects every such request.
        """
        pause, tries, answered = FIRST_PAUSE, 0, self._answered
        while True:
            if self._stop is not None:
                raise self._stop
            try:
                body = post()
            except (OSError, http.client.HTTPException) as error:
                failure, asked = _failure(error), _retry_after(error)
                self._refuse_if_wrong(error, failure)
                code = error.code if isinstance(error, urllib.error.HTTPError) else 0
                tries += self._answered > answered and code not in BUSY
                if code in REFUSED or tries >= TRIES:
                    return failure
            else:
                with self._lock:
                    self._answered += 1
                    self._away_since = None
                return body
            self._wait(max(pause, asked), failure)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _wait(self, seconds: float, failure: Failure) -> None:
        end = self._clock() + seconds
        while True:
            with self._lock:
                now = self._clock()
                if self._away_since is None:
                    self._away_since = self._said = now
                away = now - self._away_since
                if self._stop is None and away >= self.seconds:
                    self._stop = ScoringStopError(
                        f"{self.name} has been away for {away:.0f} s ({failure.message}), longer than "
                        f"model.judge.patience {self.seconds:g}; start it again and continue"
                    )
                if self._stop is not None:
                    raise self._stop
                if now - self._said >= SAY_SECONDS:
                    self._said = now
                    log.warning("%s is away for %.0f s (%s); tried again", self.name, away, failure.message)
                left = min(end - now, self.seconds - away, SAY_SECONDS - (now - self._said))
            if end <= now:
                return
            self._sleep(left)

    def _refuse_if_wrong(self, error: Exception, failure: Failure) -> None:
        """Stop if a retry would fail in the same way."""
        reason = getattr(error, "reason", error)
        wrong = isinstance(reason, ssl.SSLCertVerificationError | http.client.InvalidURL)
        wrong |= isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME
        wrong &= not self._answered
        cure = "check model.judge.url"
        if isinstance(error, urllib.error.HTTPError):
            wrong = error.code < 500 and error.code not in BUSY and not (error.code in REFUSED and self._answered)
            cure = CURES.get(error.code, "check what model.judge sends" if error.code in REFUSED else cure)
        if wrong:
            with self._lock:
                self._stop = ScoringStopError(f"{self.name} cannot be asked ({failure.message}); {cure}")
            raise self._stop


def _failure(error: Exception) -> Failure:
    if isinstance(error, urllib.error.HTTPError):
        said = ""
        # the body of the response may not arrive
        with suppress(OSError, http.client.HTTPException), error:
            said = " ".join(error.read(300).decode(errors="replace").split())
        return Failure("judge", f"HTTP {error.code} {error.reason}{': ' if said else ''}{said}")
    reason = getattr(error, "reason", error)
    if isinstance(reason, TimeoutError):
        return Failure("timeout", "no reply in time")
    return Failure("judge", f"{type(reason).__name__}: {reason}" if isinstance(reason, Exception) else str(reason))


def _retry_after(error: Exception) -> float:
    """Read how many seconds a response asks to wait, given as seconds or a date."""
    value = error.headers.get("Retry-After", "") if isinstance(error, urllib.error.HTTPError) else ""
    if value.strip().isdecimal():
        return float(value)
    try:
        when = parsedate_to_datetime(value)
        return (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    except (ValueError, OverflowError):
        return 0.0
