"""A local chat endpoint with OpenAI's interface, whose replies come from the test."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def chat_server(reply: Callable[[str], str | int]) -> Iterator[tuple[str, list[str]]]:
    """Serve until the block ends.

    Args:
        reply: returns the text of the reply to a request's text, or the HTTP status of a failure.

    Yields:
        The endpoint's URL, and the texts of the requests so far.
    """
    requests: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][0]["content"]
            requests.append(text)
            made = reply(text)
            content = {"choices": [{"message": {"content": made}}]} if isinstance(made, str) else {}
            data = json.dumps(content).encode()
            self.send_response(200 if isinstance(made, str) else made)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1", requests
    finally:
        server.shutdown()
        server.server_close()
