"""The part of the Hugging Face Hub's API that an upload asks, on this machine."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_good"


@dataclass(slots=True)
class Hub:
    """What was pushed.

    Args:
        address: of the server.
        repositories: what was asked for with each repository, by name.
        files: content by repository and path.
        commits: requests to commit that were answered.
        full: refuses to commit.
    """

    address: str = ""
    repositories: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    commits: int = 0
    full: bool = False


@contextmanager
def hub_server() -> Iterator[Hub]:
    """Serve until the block ends; weights come by LFS, everything else inside the commit."""
    hub = Hub()
    stored: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def _answer(self, content: Any, status: int = 200) -> None:
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def _refused(self) -> bool:
            if self.headers.get("Authorization") == f"Bearer {TOKEN}":
                return False
            self._answer({"error": "Invalid user token."}, 401)
            return True

        def do_GET(self) -> None:
            if self._refused():
                return
            if self.path == "/api/whoami-v2":
                self._answer({"type": "user", "name": "me", "orgs": [{"name": "lab"}]})
            else:
                self._answer({"error": f"GET {self.path}"}, 404)

        def do_PUT(self) -> None:
            stored[self.path.rpartition("/")[2]] = self._body()
            self._answer({})

        def do_POST(self) -> None:
            body = self._body()
            if self._refused():
                return
            path = self.path.partition("?")[0]
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.repositories[name] = asked
                self._answer({"url": f"{hub.address}/{name}", "name": name, "id": name})
            elif path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif path.endswith("/preupload/main"):
                files = [
                    {
                        "path": file["path"],
                        "uploadMode": "lfs" if file["path"].endswith(".safetensors") else "regular",
                        "shouldIgnore": False,
                    }
                    for file in json.loads(body)["files"]
                ]
                self._answer({"files": files})
            elif path.endswith("/info/lfs/objects/batch"):
                objects = [
                    part | {"actions": {"upload": {"href": f"{hub.address}/lfs/{part['oid']}"}}}
                    for part in json.loads(body)["objects"]
                ]
                self._answer({"transfer": "basic", "objects": objects})
            elif path.endswith("/commit/main") and not hub.full:
                self._commit(path, [json.loads(line) for line in body.splitlines() if line.strip()])
            else:
                self._answer({"error": "no room"}, 413)

        def _commit(self, path: str, operations: list[dict[str, Any]]) -> None:
            name = "/".join(path.split("/")[3:5])
            files = hub.files.setdefault(name, {})
            for operation in operations:
                value = operation["value"]
                if operation["key"] == "file":
                    assert value["encoding"] == "base64"
                    files[value["path"]] = base64.b64decode(value["content"])
                elif operation["key"] == "lfsFile":
                    content = stored[value["oid"]]
                    assert hashlib.sha256(content).hexdigest() == value["oid"]
                    files[value["path"]] = content
            hub.commits += 1
            address = f"{hub.address}/{name}/commit/{'0' * 40}"
            self._answer({"success": True, "commitOid": "0" * 40, "commitUrl": address})

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
