"""Running the gateway: one process, or several that share the port."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from uvicorn.supervisors import Multiprocess

from tritonlm import locked_folder
from tritonlm.errors import StartFailure
from tritonlm.gateway import logs
from tritonlm.gateway.app import create_app
from tritonlm.gateway.http_protocol import HttpProtocol
from tritonlm.gateway.keys import KeyRing
from tritonlm.gateway.metrics import FOLDER_VARIABLE
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.parent import end_with_parent

BACKLOG = 4096
KEEP_ALIVE_S = 75
"""Longer than clients and proxies keep idle connections: who closes first sees no request lost."""
PROBES = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1), (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10), (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3))
"""All connections inherit them: a client whose machine is gone without a word is noticed, too."""
FOLDER_PREFIX = "gateway-"


def prepare(settings: GatewaySettings) -> socket.socket:
    """The socket that all workers accept from.

    Raises `StartFailure` if the port is taken or a cache cannot be had, and `InvalidArgument` for
    a bad file of keys.
    """
    settings.cache.check()
    if settings.keys_file is not None:
        KeyRing.load(settings.keys_file)
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listener = socket.create_server((settings.host, settings.port), family=family,
                                        backlog=BACKLOG)
        for level, option, value in PROBES:
            listener.setsockopt(level, option, value)
        return listener
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailure(f"port {settings.port} of {settings.host} is in use: choose another "
                               "with --port, or stop what listens there") from None
        raise StartFailure(f"--port {settings.port} on --host {settings.host}: "
                           f"{error.strerror}") from None


def run(settings: GatewaySettings, listener: socket.socket) -> None:
    """Serve until SIGINT or SIGTERM; then let running requests finish, for a time."""
    logs.configure(settings.log_format)
    # uvicorn hands a signal on when it has stopped; the folder is to be deleted all the same.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with _shared_folder() as folder:
        config = uvicorn.Config(
            partial(_create_app, settings, folder), factory=True, workers=settings.workers,
            loop="uvloop", http=HttpProtocol, ws="websockets-sansio", lifespan="on",
            ws_max_size=settings.max_body_bytes, ws_per_message_deflate=False,
            log_config=None, log_level="warning", access_log=False, server_header=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=settings.drain_timeout_s,
        )
        if settings.workers == 1:
            uvicorn.Server(config).run(sockets=[listener])
        else:
            os.environ[FOLDER_VARIABLE] = str(folder)
            Multiprocess(config, sockets=[listener]).run()


@contextmanager
def _shared_folder() -> Iterator[Path]:
    """A folder for all workers, after sweeping those of gateways that were killed.

    Workers that are left alone hold it until the last of them has ended.
    """
    with locked_folder.base_folder() as base:
        for path in locked_folder.abandoned(base, FOLDER_PREFIX):
            shutil.rmtree(path, ignore_errors=True)
        path, lock = locked_folder.create(base, FOLDER_PREFIX)
    try:
        yield path
    finally:
        locked_folder.leave(path, lock)


def _create_app(settings: GatewaySettings, folder: Path) -> Starlette:
    """The application of one process, which ends with the supervisor if it is one of several."""
    supervisor = multiprocessing.parent_process()
    if supervisor is not None:
        end_with_parent(signal.SIGTERM, supervisor.pid)
    return create_app(settings, folder)
