"""HTTP requests to one server."""

import http.client
import json
import select
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, NoReturn
from urllib.parse import urlsplit

from lit_g2rpo.errors import UserError
from lit_g2rpo.rollout.vllm.server.gate import LEASED

CONNECT_SECONDS = 5.0


class AwayError(Exception):
    """A server that does not answer, or not as it should; worth another try."""


class Wire:
    """Requests to a server, each over its own connection, since a server closes those that are idle for 5 seconds.

    Args:
        url: address of the server, without a path.
        key: its API key; empty for none.

    Raises:
        UserError: if the address is not one.
    """

    def __init__(self, url: str, key: str = "") -> None:
        self.url = url.rstrip("/")
        self._place, self._secure = _place(self.url)
        self._key = {"Authorization": f"Bearer {key}"} if key else {}
        self._lock = threading.Lock()
        self._waiting: set[socket.socket] = set()

    def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        seconds: float | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Send a request and return the body of the response.

        Args:
            path: path and query.
            body: JSON; None for none.
            seconds: longest wait for data; None to wait until `abort`.
            headers: more headers.

        Raises:
            AwayError: if there is no response, or one that says to try again.
            UserError: if the server refuses the request.
        """
        connection = self._connect()
        waiting: socket.socket = connection.sock
        with self._lock:
            self._waiting.add(waiting)
        try:
            waiting.settimeout(seconds)
            kind = {} if body is None else {"Content-Type": "application/json"}
            connection.request(method, path, body, {"Connection": "close", **kind, **self._key, **(headers or {})})
            response = connection.getresponse()
            content = response.read()
        except TimeoutError as error:
            raise AwayError(f"no answer to {path.partition('?')[0]} for {seconds:g} s") from error
        except (OSError, http.client.HTTPException) as error:
            raise AwayError(_reason(error)) from error
        finally:
            with self._lock:
                self._waiting.discard(waiting)
            connection.close()
        if response.status >= 300:
            self._refuse(response.status, path, content)
        return content

    def hold(self, path: str) -> http.client.HTTPConnection:
        """Send a request whose response does not end, and return its connection; errors are those of `call`."""
        connection = self._connect()
        try:
            connection.request("GET", path, headers=self._key)
            response = connection.getresponse()
            content = response.readline() if response.status < 300 else response.read()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise AwayError(_reason(error)) from error
        if response.status >= 300:
            connection.close()
            self._refuse(response.status, path, content)
        return connection

    def abort(self) -> None:
        """End all requests of `call` that wait for an answer, with an `AwayError`."""
        with self._lock:
            for waiting in self._waiting:
                with suppress(OSError):
                    waiting.shutdown(socket.SHUT_RDWR)

    def _connect(self) -> http.client.HTTPConnection:
        kind = http.client.HTTPSConnection if self._secure else http.client.HTTPConnection
        connection = kind(self._place, timeout=CONNECT_SECONDS)
        try:
            connection.connect()
        except OSError as error:
            raise AwayError(f"cannot connect ({error.strerror or error})") from error
        return connection

    def _refuse(self, status: int, path: str, content: bytes) -> NoReturn:
        said = _said(content)
        if status in (401, 403):
            raise UserError(
                f"{self.url} refuses the key; model.rollout.engine_options.api_key_env names the variable with the "
                "key that the server was started with"
            )
        if status == 404:
            raise UserError(
                f"{self.url} has no {path.partition('?')[0]}; start the server with python -m lit_g2rpo serve"
            )
        if status in (400, 413, 422):
            raise UserError(f"{self.url} refuses {path.partition('?')[0]}: {said}")
        if status == LEASED:
            raise UserError(f"{self.url} is used by another run: {said}; end that one, or start another server")
        raise AwayError(f"HTTP {status}: {said}" if said else f"HTTP {status}")


def ended(connection: http.client.HTTPConnection) -> bool:
    """Return whether the other end of a held connection is gone."""
    return connection.sock is None or bool(select.select([connection.sock], [], [], 0)[0])


def _place(url: str) -> tuple[str, bool]:
    where = "model.rollout.engine_options.urls"
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise UserError(f"{where} has {url!r}; give an address such as http://127.0.0.1:8000") from None
    if "@" in parts.netloc:
        raise UserError(f"{where} has a user name or key; name the key's variable in api_key_env")
    if not known or parts.path or parts.query or not url.isascii():
        raise UserError(f"{where} has {url!r}; give an address such as http://127.0.0.1:8000, without a path")
    return parts.netloc, parts.scheme == "https"


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _said(content: bytes) -> str:
    """Return what the body of an error says, in one line."""
    try:
        found: Any = json.loads(content)
        error = found.get("error", found.get("detail", ""))
        text = error.get("message", "") if isinstance(error, dict) else error
    except (ValueError, AttributeError):
        text = content[:300].decode(errors="replace")
    return " ".join(str(text).split())[:300]
