"""The ports of a server: checked before it starts, for it would load its models first."""

from __future__ import annotations

import errno
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from tritonlm.errors import StartFailure


def choose(address: str, ports: Mapping[str, int]) -> dict[str, int]:
    """`ports`, each under its option's name, with a free one for 0.

    Raises `StartFailure` for one that is in use, given twice or not allowed on `address`.
    """
    chosen: dict[str, int] = {}
    with ExitStack() as held:
        for option, port in sorted(ports.items(), key=lambda item: -item[1]):  # given ones first
            twin = next((name for name, other in chosen.items() if other == port), None)
            if twin is not None:
                raise StartFailure(f"{twin} and {option} are both {port}")
            listener = held.enter_context(_listen(address, option, port))
            chosen[option] = listener.getsockname()[1]
    return chosen


def _listen(address: str, option: str, port: int) -> socket.socket:
    try:
        return socket.create_server((address, port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailure(f"port {port} of {address} is in use: choose another with {option}, "
                               "or stop what listens there") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise StartFailure(f"{option} {port} on --host {address}: {reason}") from None
