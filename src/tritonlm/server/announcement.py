"""What is printed when a server is ready: its addresses, and three ways to try it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tritonlm.server.launcher import Launch
from tritonlm.server.repository import FRONT_END
from tritonlm.server.tritonserver import TritonServer

PROMPT = "Once upon a time"
MAX_TOKENS = 32


def text(server: TritonServer, plan: Launch) -> str:
    """The announcement of `server`, several lines."""
    folder = Path(sys.executable).parent
    body = f'{{"text_input": "{PROMPT}", "max_tokens": {MAX_TOKENS}, "stream": true}}'
    return f"""
ready: {plan.config.model}
  HTTP     {server.http_url}
  gRPC     {server.grpc_url}
  metrics  {server.metrics_url}

Try it from another terminal:
  curl -N {server.http_url}/v2/models/{FRONT_END}/generate_stream -d {shlex.quote(body)}
  {folder / 'tritonlm'} generate {shlex.quote(PROMPT)}

Ctrl-C stops the server.
"""
