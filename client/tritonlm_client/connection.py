"""How a client connects to a server."""

from __future__ import annotations

from typing import Any

import grpc

from tritonlm_client.address import Address

CALL_TIMEOUT_S = 10.0
"""How long a server may take to say anything but the answer to a prompt."""
HANG_UP_TIMEOUT_S = 1.0
"""How long who hangs up waits for a server to hear of it."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # A server that is back is found again at once, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A host that is lost without a word is noticed; a ping more often is refused by tritonserver.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def open_channels(module: Any, address: Address, num_connections: int) -> list[Any]:
    """Channels of `module`, grpc or grpc.aio, each with a connection of its own."""
    options = (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", int(num_connections > 1)))
    if address.is_secure:
        return [module.secure_channel(address.target, grpc.ssl_channel_credentials(), options)
                for _ in range(num_connections)]
    return [module.insecure_channel(address.target, options) for _ in range(num_connections)]
