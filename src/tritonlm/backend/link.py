"""A front end's connection to an engine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from tritonlm.engine import messages


class EngineLink:
    """One connection at a time; whoever is told of its loss calls `connect` again.

    Belongs to one thread, which waits with `poller`.
    """

    def __init__(self, address: str, poller: zmq.Poller) -> None:
        self._address = address
        self._poller = poller
        self._socket: zmq.Socket[bytes] | None = None
        self._monitor: zmq.Socket[bytes] | None = None

    def connect(self) -> None:
        """Say hello to the engine that listens at the address now, or once one does."""
        self.close()
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, 20)
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._address)
        self._poller.register(self._socket, zmq.POLLIN)
        self._poller.register(self._monitor, zmq.POLLIN)
        self.send([messages.Hello()])

    def close(self) -> None:
        """Drop the connection with all that is under way on it."""
        for socket in (self._socket, self._monitor):
            if socket is not None:
                self._poller.unregister(socket)
        if self._socket is not None:
            self._socket.disable_monitor()
            self._socket.close(linger=0)
        self._socket = self._monitor = None

    def send(self, batch: Sequence[messages.ToEngine]) -> None:
        """Send `batch` as one message."""
        if self._socket is not None and batch:
            self._socket.send(messages.encode(list(batch)))

    def receive(self) -> Iterator[messages.ToFrontEnd]:
        """All messages that have arrived; raises ConnectionError after the last one."""
        assert self._socket is not None
        try:
            while True:
                yield messages.decode_to_front_end(self._socket.recv(zmq.NOBLOCK))
        except zmq.Again:
            pass
        assert self._monitor is not None
        if self._monitor.poll(0):
            recv_monitor_message(self._monitor)
            raise ConnectionError("the engine is gone")
