"""A Hugging Face Hub on this machine: what huggingface_hub asks for when it uploads a folder."""

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any


class Hub:
    """`commits` has (message, {path: content}) of each; `failing` of the next ones are refused."""

    def __init__(self) -> None:
        self.created: list[dict[str, Any]] = []
        self.commits: list[tuple[str, dict[str, bytes]]] = []
        self.tokens: set[str | None] = set()
        self.failing = 0
        self.open = Event()
        """Commits wait for it."""
        self.open.set()
        self.url = ""

    def answer(self, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
        if path == "/api/repos/create":
            self.created.append(json.loads(body))
            return 200, {"url": f"{self.url}/me/brief", "id": "me/brief"}
        if "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [{"path": each["path"], "uploadMode": "regular"} for each in files]
            return 200, {"files": [each | {"shouldIgnore": False} for each in modes]}
        if "/commit/" in path:
            self.open.wait(60)
            if self.failing:
                self.failing -= 1
                return 403, {"error": "no space left for hf_0123456789abcdefghij"}
            header, *rest = (json.loads(line) for line in body.splitlines())
            files = {
                each["value"]["path"]: base64.b64decode(each["value"]["content"]) for each in rest
            }
            self.commits.append((header["value"]["summary"], files))
            return 200, {"commitUrl": f"{self.url}/me/brief/commit/0", "commitOid": "0" * 40}
        return 200, {"errors": [], "warnings": []}  # of the card's metadata


@contextmanager
def served(hub: Hub) -> Iterator[Hub]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            hub.tokens.add(self.headers["Authorization"])
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = hub.answer(self.path, body)
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        hub.open.set()
        server.shutdown()
        server.server_close()
