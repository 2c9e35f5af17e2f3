"""A hub of one model, `me/model`, that the real hub client can fetch from."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

NAME = "me/model"
COMMIT = "c" * 40


@contextmanager
def model_hub(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Serve the files of `folder`; gives the hub's address, and the names of files fetched."""
    fetched: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, _, rest = self.path.partition("?")[0].strip("/").partition(f"{NAME}/")
            file = folder / rest.rpartition("/")[2]
            if kind == "api/models/" and rest.startswith("revision/"):
                self._answer(json.dumps({"id": NAME, "sha": COMMIT, "siblings": [
                    {"rfilename": path.name} for path in folder.iterdir()]}).encode())
            elif kind == "api/models/" and rest.startswith("tree/"):
                self._answer(json.dumps([
                    {"type": "file", "path": path.name, "oid": "0" * 40,
                     "size": path.stat().st_size} for path in folder.iterdir()]).encode())
            elif kind == "" and rest.startswith("resolve/") and file.exists():
                if self.command == "GET":
                    fetched.append(file.name)
                self._answer(file.read_bytes())
            else:
                self._answer(b"", 404)

        do_HEAD = do_GET

        def _answer(self, body: bytes, status: int = 200) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("ETag", f'"{hashlib.sha1(body).hexdigest()}"')
            self.send_header("X-Repo-Commit", COMMIT)
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", fetched
        finally:
            server.shutdown()
