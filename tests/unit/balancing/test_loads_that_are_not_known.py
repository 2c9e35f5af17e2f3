"""Servers that do not tell their load are not taken for idle ones."""

from __future__ import annotations

from tests.drills.waiting import until
from tests.fakes.page_server import serve_page

from tritonlm_client.address import Address
from tritonlm_client.balancing.load import Load
from tritonlm_client.load_watch import LoadWatch
from tritonlm_client.servers import Servers


def test_a_server_whose_load_is_not_known_has_the_mean_of_the_others():
    known, unknown, busy = (Address.parse(f"{name}:1") for name in ("known", "unknown", "busy"))
    servers = Servers([known, unknown, busy], lambda address: None, "batch")
    servers.set_load(known, Load(num_running=1))
    servers.set_load(busy, Load(num_running=9))
    servers.set_load(unknown, None)
    assert [next(servers.round("m")).name for _ in range(8)] == ["known:1"] * 8
    servers.set_load(known, Load(num_running=99))
    assert [next(servers.round("m")).name for _ in range(8)] == ["busy:1"] * 8


async def test_a_metrics_page_of_an_error_tells_no_load():
    with serve_page('tritonlm_requests_running{engine="0"} 1\n', status=503) as page:
        servers = Servers([Address.parse(f"localhost:1:{page.server_port}")],
                          lambda address: None, "batch")
        watch = LoadWatch(servers)
        await until(lambda: len(page.paths) > 1, "nobody reads")  # the first is taken in by then
        watch.close()
    assert [server.load for server in servers.of("m")] == [None]
