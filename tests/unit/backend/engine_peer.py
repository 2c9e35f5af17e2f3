"""An engine that is a socket here, and says what a test has it say."""

from __future__ import annotations

import msgspec
import zmq

from tritonlm.engine import messages

TIMEOUT_S = 30
decode = msgspec.msgpack.Decoder(list[messages.ToEngine]).decode


class Peer:
    """An engine's end of the connection."""

    def __init__(self, address):
        self._socket = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.bind(address)
        self._identity = b""

    def heard(self):
        """What the front end has said in its next message."""
        assert self._socket.poll(1000 * TIMEOUT_S)
        self._identity, payload = self._socket.recv_multipart()
        return decode(payload)

    def has_heard(self):
        return bool(self._socket.poll(200))

    def say(self, *said):
        for message in said:
            self._socket.send_multipart((self._identity, messages.encode(message)))

    def close(self):
        self._socket.close(linger=0)
