"""TLS to the servers, with certificates on both sides, and the header that restricted APIs need."""

import aiohttp
import grpc
import pytest
from tests.certificates import needs_openssl, write_certificate
from tests.fakes.many_requests_triton import serve
from tests.fakes.triton_service import chunk
from tests.unit.gateway.conftest import running

from tritonlm.gateway.settings import GatewaySettings

pytestmark = needs_openssl
HEADER = "triton-grpc-protocol-infer-key=secret=1"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """Files of a certificate for localhost and of its key; it is its own authority."""
    return write_certificate(tmp_path_factory.mktemp("certificate"))


async def answer(request, send):
    send(chunk("a", finish_reason="stop", is_final=True))


async def status_of(url):
    async with aiohttp.ClientSession() as session, session.post(
            f"{url}/v1/completions", json={"model": "generate", "prompt": "Hi"}) as response:
        return response.status


async def test_both_sides_show_certificates_and_calls_have_the_header(certificate, tmp_path):
    cert, key = certificate
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())],
                                              cert.read_bytes(), require_client_auth=True)
    async with serve(answer, credentials=credentials) as server:
        settings = GatewaySettings(servers=server.url, tls=True, tls_ca=cert, tls_cert=cert,
                                   tls_key=key, server_header=HEADER)
        async with running(settings, tmp_path) as url:
            assert await status_of(url) == 200
        assert server.metadata["triton-grpc-protocol-infer-key"] == "secret=1"
        for other in (GatewaySettings(servers=server.url, tls=True, tls_ca=cert),
                      GatewaySettings(servers=server.url)):
            async with running(other, tmp_path) as url:
                assert await status_of(url) == 503
