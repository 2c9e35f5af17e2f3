"""An engine's process: `python -m tritonlm.engine.worker ENDPOINT_DIR SETTINGS_JSON INDEX`.

It serves any number of front ends on one socket, one message a step and front end each way, and
ends when it is told to, or when the process that started it is gone.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import zmq

from tritonlm.config import ModelConfig
from tritonlm.engine import messages
from tritonlm.engine.backlog import QueueFull
from tritonlm.engine.build import BuiltEngine, build_engine
from tritonlm.engine.device import is_out_of_memory, lost_device, take_share
from tritonlm.engine.endpoint import Endpoint
from tritonlm.engine.engine import News
from tritonlm.engine.heartbeat import Heartbeat
from tritonlm.engine.resources import ResourceWatch
from tritonlm.engine.tensor_parallel.leader import build_with_followers
from tritonlm.errors import EngineFailure, ServingError, first_line
from tritonlm.logs import configure, fields
from tritonlm.parent import end_with_parent
from tritonlm.process_memory import settle

IDLE_POLL_MS = 500
COMPILING_POLL_MS = 1
STATS_INTERVAL_MS = 100
DEVICE_LOST = 70
"""Exit code of a worker whose device is of no more use to it."""
NO_MEMORY = "there is not enough memory for the model and its KV cache, kv_cache_gib"
LOG = logging.getLogger("tritonlm.engine.worker")  # `__name__` is `__main__` in its own process
Report = Callable[[str], None]


class Worker:
    """Moves messages between front ends and an engine."""

    def __init__(
        self, built: BuiltEngine, endpoint: Endpoint, logs_requests: bool = False
    ) -> None:
        self._engine, self._limits = built.engine, built.limits
        self._logs_requests = logs_requests
        self._socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)  # a vanished front end raises
        self._socket.setsockopt(zmq.SNDHWM, 0)
        self._socket.setsockopt(zmq.RCVHWM, 0)
        self._socket.bind(endpoint.address)
        self._identities: dict[int, bytes] = {}
        self._owners: dict[bytes, int] = {}
        self._num_owners = 0
        self._heartbeat = Heartbeat(endpoint.heartbeat)
        self._is_stopping = False
        self._stats = self._engine.stats()
        self._stats_due_s = 0.0
        self._resource_watch = ResourceWatch()
        self._resources = self._resource_watch.latest

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._is_stopping:
            self._receive()
            self._step()
            self._publish_stats()
            self._publish_resources()
        for owner in list(self._identities):
            self._send(owner, messages.Goodbye())
        self._socket.close(linger=200)

    def stop(self) -> None:
        """Let `run` return; may be called from a signal handler."""
        self._is_stopping = True

    def _step(self) -> None:
        """One step; a sign of life unless there is work and nothing was done."""
        is_busy = self._engine.has_work
        all_news = self._engine.step()
        is_at_work = self._engine.is_under_way or self._engine.is_compiling
        if not is_busy or all_news or is_at_work:
            self._heartbeat.beat()
        if any(news.failure and news.failure_code == EngineFailure.code for news in all_news):
            _end_with_device()
        for news in all_news:
            self._publish(news)

    def _receive(self) -> None:
        """Take in what has arrived; wait for it when there is nothing else to do."""
        if not self._engine.has_work:
            is_settled = self._engine.stats() == self._stats
            self._socket.poll(IDLE_POLL_MS if is_settled else STATS_INTERVAL_MS)
        elif self._engine.is_compiling:
            self._socket.poll(COMPILING_POLL_MS)
        while True:
            try:
                identity, payload = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            if identity not in self._owners:
                owner = self._num_owners
                self._num_owners += 1
                self._owners[identity], self._identities[owner] = owner, identity
            owner = self._owners[identity]
            for message in messages.decode_to_engine(payload):
                if owner in self._identities:  # the answer to the one before may have shown it gone
                    self._handle(owner, message)

    def _handle(self, owner: int, message: messages.ToEngine) -> None:
        if isinstance(message, messages.Submit):
            if self._logs_requests:
                LOG.info("request queued", extra=fields(
                    request_id=message.request_id, input_tokens=message.num_prompt_tokens))
            try:
                self._engine.submit(owner, message)
            except QueueFull as error:
                self._send(owner, messages.Refused(message.key, str(error)))
            except ValueError as error:
                key = message.key.to_bytes(8, sys.byteorder)
                self._send(owner, messages.Failed(key, str(error)))
        elif isinstance(message, messages.Cancel):
            self._engine.cancel(owner, message.key)
        elif isinstance(message, messages.CancelById):
            news = self._engine.cancel_by_id(message.request_id)
            self._publish(news)
            self._send(owner, messages.CancelReply(message.key, news.keys.size))
        else:
            self._send(owner, self._limits)
            self._send(owner, self._stats)
            self._send(owner, self._resources)

    def _publish(self, news: News) -> None:
        for owner, message in news.by_owner():
            self._send(owner, message)

    def _publish_stats(self) -> None:
        now_s = time.monotonic()
        if now_s < self._stats_due_s:
            return
        stats = self._engine.stats()
        if stats == self._stats:
            return
        self._stats, self._stats_due_s = stats, now_s + STATS_INTERVAL_MS / 1000
        for owner in list(self._identities):
            self._send(owner, stats)

    def _publish_resources(self) -> None:
        latest = self._resource_watch.latest
        if latest == self._resources:
            return
        self._resources = latest
        for owner in list(self._identities):
            self._send(owner, latest)

    def _send(self, owner: int, message: messages.ToFrontEnd) -> None:
        """Send, or end the requests of a front end that is gone."""
        if owner not in self._identities:
            return
        try:
            self._socket.send_multipart((self._identities[owner], messages.encode(message)))
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            del self._owners[self._identities.pop(owner)]
            self._engine.cancel_all(owner)


def _end_with_device() -> None:
    """End this process if its device has failed for good: another can use it again.

    At once, for what Python and CUDA do at an orderly end may never return then.
    """
    reason = lost_device()
    if reason:
        LOG.error("the device is lost: %s", reason)
        os._exit(DEVICE_LOST)


def report(line: str) -> None:
    """Show a line of progress in the server's log."""
    LOG.info(line)


def main(build: Callable[[ModelConfig, Report], BuiltEngine] = build_engine) -> int:
    """Load the model, then serve; the reason of a failed load is left beside the socket."""
    endpoint = Endpoint(Path(sys.argv[1]))
    end_with_parent(signal.SIGKILL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        config = ModelConfig(**json.loads(sys.argv[2]))
        configure(f"engine {sys.argv[3]}", config.log_format)
        place = int(sys.argv[3]) * config.tensor_parallel
        take_share(config, place)
        if config.tensor_parallel > 1:
            build = partial(build_with_followers, place=place)
        built = build(config, report)
    except ServingError as error:
        endpoint.write_failure(error.message)
        return 1
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        endpoint.write_failure(f"{NO_MEMORY}: {first_line(error)}" if is_out_of_memory(error)
                               else reason)
        raise
    settle()
    worker = Worker(built, endpoint, config.request_log)
    signal.signal(signal.SIGTERM, lambda *_: worker.stop())
    worker.run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
