"""The command beside a server in this process."""

from __future__ import annotations

import subprocess
import sys
from contextlib import contextmanager

from tritonclient.grpc.service_pb2 import ModelConfigResponse
from typer.testing import CliRunner

from tritonlm.cli import app
from tritonlm.contract import PROMPT


def run(triton, *args, stdin=""):
    return CliRunner().invoke(app, [*args, "--url", triton.url], input=stdin)


@contextmanager
def started(triton, *args):
    process = subprocess.Popen(
        [sys.executable, "-c", "from tritonlm.cli import app; app()", *args, "--url", triton.url],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def loaded(*names):
    """Models that stream texts; of them `generate` takes all kinds of prompts."""
    config = ModelConfigResponse()
    config.config.model_transaction_policy.decoupled = True
    config.config.input.add(name="text_input", data_type="TYPE_STRING", dims=[1], optional=True)
    config.config.input.add(name="seed", data_type="TYPE_UINT64", dims=[1], optional=True)
    whole = ModelConfigResponse()
    whole.CopyFrom(config)
    for tensor in PROMPT[1:]:
        whole.config.input.add(name=tensor.name, dims=[1], optional=True)
    return {(name, "READY"): whole if name == "generate" else config for name in names}
