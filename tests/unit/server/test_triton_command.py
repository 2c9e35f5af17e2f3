"""How tritonserver is started."""

from pathlib import Path
from types import SimpleNamespace

from tritonlm.server import launcher
from tritonlm.server.settings import ServerSettings


def test_further_options_of_tritonserver_come_last_split_as_a_shell_does():
    settings = ServerSettings(triton_options="--grpc-use-ssl=1 --grpc-server-cert='my cert.pem'")
    runtime = SimpleNamespace(binary=Path("tritonserver"), backends=Path("b"), caches=Path("c"))
    plan = SimpleNamespace(settings=settings, runtime=runtime, store=None)
    command = launcher._command(plan, SimpleNamespace(shared_memory_prefix="run"), [Path("models")])
    assert command[:2] == ["tritonserver", "--model-repository=models"]
    assert command[-2:] == ["--grpc-use-ssl=1", "--grpc-server-cert=my cert.pem"]
