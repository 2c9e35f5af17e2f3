"""The processes of a server that drills strike."""

from __future__ import annotations

import psutil


def echo_engines(server_pid: int) -> dict[int, psutil.Process]:
    """The engines below a server, by their number."""
    found = [process for process in psutil.Process(server_pid).children(recursive=True)
             if "tests.fakes.echo_engine" in process.cmdline()]
    return {int(process.cmdline()[-1]): process for process in found}
