import os
import socket
import subprocess
import sys

import psutil
import pytest
from tests.drills.processes import has_ended
from tests.drills.waiting import until

from tritonlm.errors import InvalidArgument, StartFailure
from tritonlm.server import gateway_process
from tritonlm.server.gateway_process import GatewayStart
from tritonlm.server.ports import choose
from tritonlm.server.settings import ServerSettings


@pytest.fixture
def server():
    """Settings with free ports."""
    names = ("http_port", "grpc_port", "metrics_port")
    return ServerSettings(**dict(zip(names, choose("127.0.0.1", dict.fromkeys(names, 0)).values(),
                                     strict=True)))


def test_a_free_port_is_chosen_that_is_not_the_servers(server):
    port = GatewayStart(0).choose_port(server)
    assert port not in {0, server.http_port, server.grpc_port, server.metrics_port}
    assert GatewayStart(port).choose_port(server) == port


def test_without_a_port_there_is_no_gateway(server):
    assert GatewayStart().choose_port(server) is None


def test_a_port_of_the_server_is_refused_by_name(server):
    with pytest.raises(StartFailure, match=r"--http-port|--gateway-port.* are both"):
        GatewayStart(server.http_port).choose_port(server)


async def test_one_that_is_killed_is_started_again(server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(gateway_process, "_wait_until_ready", lambda *_: None)
    monkeypatch.setattr(gateway_process, "FIRST_PAUSE_S", 0.1)
    port, said = GatewayStart(0).choose_port(server), []
    with gateway_process.running(port, server, "x", report=said.append):
        for number in (1, 2):
            await until(lambda: is_listening(port), "it does not listen")
            for gateway in gateways():
                gateway.kill()
            await until(lambda number=number: len(said) == number, "it is not told")
        await until(lambda: is_listening(port), "it was not started again")
    assert said == [f"tritonlm: the gateway ended with exit code -9; starting it again in {pause} s"
                    for pause in ("0.1", "0.2")]
    assert gateways() == []
    assert not list(tmp_path.glob("*/*"))


def gateways():
    """Those of this process."""
    return [process for process in psutil.process_iter(["ppid", "cmdline"])
            if process.info["ppid"] == os.getpid()
            and "tritonlm.gateway" in process.info["cmdline"]]


async def test_it_does_not_outlive_who_started_it_and_leaves_nothing(server, tmp_path):
    port = GatewayStart(0).choose_port(server)
    code = ("import os, signal, sys\n"
            "from tritonlm.server import gateway_process\n"
            "from tritonlm.server.settings import ServerSettings\n"
            "gateway_process._wait_until_ready = lambda *_: None\n"
            f"with gateway_process.running({port}, ServerSettings(), 'x'):\n"
            "    print(flush=True); sys.stdin.read()")
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE,
                          env=os.environ | {"TMPDIR": str(tmp_path)}) as starter:
        starter.stdout.readline()
        await until(lambda: is_listening(port), "it does not listen")
        [gateway] = [process for process in psutil.process_iter(["ppid"])
                     if process.info["ppid"] == starter.pid]
        assert list(tmp_path.glob("*/gateway-*"))
        starter.kill()
    await until(lambda: has_ended(gateway), "it outlives who started it")
    assert not list(tmp_path.glob("*/*"))


def is_listening(port):
    with socket.socket() as attempt:
        return attempt.connect_ex(("127.0.0.1", port)) == 0


def test_a_port_that_does_not_exist_is_refused():
    with pytest.raises(InvalidArgument, match="gateway_port: 70000"):
        GatewayStart(70000)
