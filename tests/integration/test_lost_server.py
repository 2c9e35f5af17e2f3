"""A server that is lost while a client has requests there."""

import socket
import threading
from contextlib import suppress

from tests.integration.gateway import direct_text

from tritonlm_client import Client, Unavailable

PROMPT = "ROMEO:\nO, "
LONG = {"max_tokens": 800, "ignore_eos": True}


class Door:
    """A further port of a server, until it is shut: as if that server were lost then."""

    def __init__(self, url):
        self._url = url
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets = [self._listener]
        self._lets_answers_through = threading.Event()
        self._lets_answers_through.set()
        self.url = f"127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._url.split(":"))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pump, args=(source, sink, sink is near),
                                     daemon=True).start()

    def _pump(self, source, sink, is_answer):
        with suppress(OSError):
            while data := source.recv(65536):
                if is_answer:
                    self._lets_answers_through.wait()
                sink.sendall(data)

    def hold_answers(self):
        """From now on requests come in and nothing goes out."""
        self._lets_answers_through.clear()

    def shut(self):
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._lets_answers_through.set()


def test_what_a_lost_server_has_not_begun_another_one_answers(demo_server):
    url = demo_server.grpc_url
    door = Door(url)
    greedy = {"max_tokens": 12, "temperature": 0}
    expected = direct_text(demo_server, PROMPT, **greedy)
    with Client([door.url, url], policy="batch") as both:
        streams = [both.stream(PROMPT, **LONG) for _ in range(8)]
        begun = [iter(stream) for stream in streams]
        for chunks in begun:
            next(chunks)
        door.hold_answers()
        waiting = [both.stream(PROMPT, **greedy) for _ in range(8)]
        door.shut()
        assert ["".join(chunk.text for chunk in stream) for stream in waiting] == [expected] * 8
        assert [both.generate(PROMPT, **greedy).text for _ in range(8)] == [expected] * 8
        ends = []
        for chunks in begun:
            try:
                ends.append(list(chunks)[-1].finish_reason)
            except Unavailable:
                ends.append("lost")
        assert sorted(ends) == ["length"] * 4 + ["lost"] * 4
