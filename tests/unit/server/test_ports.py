import socket

import pytest

from tritonlm.errors import StartFailure
from tritonlm.server import ports


@pytest.fixture
def used_port():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_zero_becomes_a_free_port_of_its_own():
    chosen = ports.choose("127.0.0.1", {"--http-port": 0, "--grpc-port": 0})
    assert len(set(chosen.values())) == 2
    for port in chosen.values():
        socket.create_server(("127.0.0.1", port)).close()


def test_a_free_port_is_taken_as_given():
    free = ports.choose("127.0.0.1", {"--http-port": 0})["--http-port"]
    assert ports.choose("127.0.0.1", {"--http-port": free}) == {"--http-port": free}


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_a_port_in_use_is_named_with_its_option(address, used_port):
    with pytest.raises(StartFailure, match=rf"^port {used_port} .* in use.* --grpc-port"):
        ports.choose(address, {"--http-port": 0, "--grpc-port": used_port})


def test_a_port_given_twice_is_named():
    free = ports.choose("127.0.0.1", {"--http-port": 0})["--http-port"]
    with pytest.raises(StartFailure, match=f"^--http-port and --grpc-port are both {free}$"):
        ports.choose("127.0.0.1", {"--http-port": free, "--grpc-port": free})


def test_an_address_of_another_machine_is_named():
    with pytest.raises(StartFailure, match=r"^--http-port 0 on --host 192\.0\.2\.1: Cannot assign"):
        ports.choose("192.0.2.1", {"--http-port": 0})
