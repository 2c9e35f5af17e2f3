"""Connections whose other end may vanish without a word, as a machine without power does."""

from __future__ import annotations

import asyncio
import socket

IDLE_S, INTERVAL_S, NUM_PROBES = 10, 5, 3
"""After so many seconds of silence the other end is asked, that often, before it is given up."""


def keep_alive(writer: asyncio.StreamWriter) -> None:
    """Have the kernel end the connection within half a minute once nobody is there."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, IDLE_S), (socket.TCP_KEEPINTVL, INTERVAL_S),
                          (socket.TCP_KEEPCNT, NUM_PROBES),
                          (socket.TCP_USER_TIMEOUT, 1000 * (IDLE_S + NUM_PROBES * INTERVAL_S))):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)
