"""What is printed when a server is ready: its addresses, and three ways to try it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from tritonlm.server.repository import FRONT_END
from tritonlm.server.tritonserver import TritonServer

PROMPT = "Once upon a time"
MAX_TOKENS = 32


def gateway_lines(url: str | None) -> str:
    """The addresses of a gateway, each on a line after those before; nothing without one."""
    return f"\n  OpenAI   {url}/v1\n  chat     {url}/" if url else ""


def text(server: TritonServer, model: str, gateway_url: str | None = None) -> str:
    """The announcement of `server`, which serves `model`: several lines."""
    curl, python, command = (shlex.join(words) for words in commands(server))
    return f"""
ready: {model}
  HTTP     {server.http_url}
  gRPC     {server.grpc_url}
  metrics  {server.metrics_url}{gateway_lines(gateway_url)}

Try it from another terminal:
  {curl}
  {python}
  {command}

Ctrl-C stops the server.
"""


def commands(server: TritonServer) -> tuple[list[str], list[str], list[str]]:
    """Three commands that generate text: with curl, the Python client, and `tritonlm`."""
    folder = Path(sys.executable).parent
    body = {"text_input": PROMPT, "max_tokens": MAX_TOKENS, "stream": True}
    answer = f'Client("{server.grpc_url}").generate("{PROMPT}", max_tokens={MAX_TOKENS})'
    snippet = f"from tritonlm_client import Client; print({answer}.text)"
    return (
        ["curl", "-N", f"{server.http_url}/v2/models/{FRONT_END}/generate_stream",
         "-d", json.dumps(body)],
        [str(folder / "python"), "-c", snippet],
        [str(folder / "tritonlm"), "generate", "--url", server.grpc_url, PROMPT],
    )
