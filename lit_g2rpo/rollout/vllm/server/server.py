"""One server, as a run sees it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Protocol
from urllib.parse import urlencode

import msgspec

from lit_g2rpo.rollout.vllm.server.gate import CLIENT, LEASE, STATE
from lit_g2rpo.rollout.vllm.server.protocol import Serves, State, parsed
from lit_g2rpo.rollout.vllm.server.wire import AwayError, Wire, ended

STATE_SECONDS = 10.0
"""Longest wait for a server's state; it answers between two tokens."""


Post = Callable[..., None]
"""Send a request to a path of a server, with content that JSON can carry."""


class Load(Protocol):
    """A way for weights to get into a server."""

    def __call__(self, server: "Server", post: Post) -> None:
        """Start an update of the server's weights, make it, and finish it."""


@dataclass(slots=True, frozen=True)
class Client:
    """A rank of a run, as its servers know it.

    Args:
        run: a name that no other run has.
        rank: the rank.
        name: how another run's message names it.
    """

    run: str
    rank: int
    name: str


class Server:
    """A server that this run has leased.

    Args:
        wire: the way to it.
        client: this rank.
        seconds: longest wait for a step of a push.
    """

    def __init__(self, wire: Wire, client: Client, seconds: float) -> None:
        self.wire, self.url = wire, wire.url
        self.lock = threading.Lock()
        self.ready = False
        """True if it has the newest weights, as far as is known."""
        self.trouble = ""
        """Why it was not ready when last tried; empty if it was."""
        self.serves: Serves | None = None
        """How it was started, once it is known."""
        self._client, self._seconds = client, seconds
        self._lease: HTTPConnection | None = None

    def lease(self) -> None:
        """Take the server for this run, or keep it.

        Raises:
            UserError: if another run has it, or it asks for another key.
        """
        if self._lease is not None and not ended(self._lease):
            return
        self.release()
        asked = {"run": self._client.run, "client": self._identity, "name": self._client.name}
        self._lease = self.wire.hold(f"{LEASE}?{urlencode(asked)}")

    def release(self) -> None:
        """Give the server back."""
        if self._lease is not None:
            self._lease.close()
            self._lease = None

    def state(self) -> State:
        """Ask for its state."""
        return parsed(self.wire.call("GET", STATE, seconds=STATE_SECONDS), State)

    def push(self, load: "Load", version: str, moved: Callable[[], None]) -> None:
        """Replace its weights, and forget what was computed with the old ones.

        The version is set last, so that whatever ends in between leaves a server that is known to be behind.

        Args:
            load: makes the update, from its start to its finish.
            version: version of the weights.
            moved: called after each part, since a push may take longer than a run waits for a token.
        """

        def post(path: str, content: object = None) -> None:
            self._post(path, content)
            moved()

        self._post("/pause?mode=wait")
        load(self, post)
        for cache in ("prefix", "encoder", "mm"):
            # only the first one says whether it could
            if b'"success":false' in self._post(f"/reset_{cache}_cache"):
                raise AwayError(f"/reset_{cache}_cache: the cache is in use")
        self._post("/update_weight_version", {"new_version": version})
        self._post("/resume")

    def sample(self, request: bytes) -> bytes:
        """Ask for a group of completions, and return the reply."""
        return self.wire.call("POST", "/inference/v1/generate", request)

    @property
    def _identity(self) -> str:
        return f"{self._client.run}/{self._client.rank}"

    def _post(self, path: str, content: object = None) -> bytes:
        body = b"" if content is None else msgspec.json.encode(content)
        try:
            return self.wire.call("POST", path, body, self._seconds, {CLIENT: self._identity})
        except AwayError as error:
            raise AwayError(f"{path.partition('?')[0]}: {error}") from error
