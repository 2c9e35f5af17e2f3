"""A web server whose answers come in pieces, when a test's script sends them."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EVENT = {"chunk_index": 0, "finish_reason": "", "logprobs": [], "num_input_tokens": 1,
         "num_output_tokens": 1, "output_ids": [1], "sequence_index": 0, "text_output": "x"}


def event(**values):
    """An event of Triton's `generate_stream`, which escapes no character that JSON allows."""
    return f"data: {json.dumps(EVENT | values, ensure_ascii=False)}\n\n"


@contextmanager
def serve_events(script):
    """The server: for each request, `script(send)` sends the pieces of the body."""
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            server.bodies.append(json.loads(body))
            with suppress(OSError):  # who asked has hung up
                script(self.send)

        def send(self, text):
            if not self.is_begun:
                self.is_begun = True
                self.send_response(200)
                self.end_headers()
            self.wfile.write(text.encode())

        is_begun = False

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.block_on_close = False
        server.bodies = []
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
