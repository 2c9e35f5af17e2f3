"""How a client connects to a server."""

from __future__ import annotations

from typing import Any

CALL_TIMEOUT_S = 10.0
"""How long a server may take to say anything but the answer to a prompt."""

CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),
    # A server that is back is found again at once, not after gRPC's two minutes.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2_000),
    # A host that is lost without a word is noticed; a ping more often is refused by tritonserver.
    ("grpc.keepalive_time_ms", 330_000),
    ("grpc.keepalive_timeout_ms", 20_000),
)


def channel_options(num_connections: int) -> tuple[tuple[str, Any], ...]:
    """Of channels of which so many lead to a server: each has a connection of its own."""
    if num_connections == 1:
        return CHANNEL_OPTIONS
    return (*CHANNEL_OPTIONS, ("grpc.use_local_subchannel_pool", 1))
