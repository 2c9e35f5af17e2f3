"""What is checked before the server is started: each check raises `StartFailure` with one line."""

from __future__ import annotations

import errno
import re
import socket
import subprocess
import sys
from collections.abc import Mapping
from importlib.metadata import version as installed_version
from pathlib import Path

from tritonlm.errors import StartFailure
from tritonlm.server.runtime import Runtime

FIRST_SERVER_WITH_NUMPY_2 = (2, 52)
"""The Python backend before it sends empty tensors with numpy 2, and says nothing."""
MISSING_LIBRARY = re.compile(r"`?([^\s`']+)'? (?:=> )?not found")
"""A library, or a version of one."""
LINKED_PYTHON = re.compile(r"libpython3(?:-\w+)?\.(\d+)")
"""In the wheel the name of 3.13's, which it brings along, has a hash in it."""


def check_numpy(runtime: Runtime, numpy_version: str | None = None) -> None:
    """The models' numpy is one that the server's Python backend can read."""
    numpy_version = numpy_version or installed_version("numpy")
    is_old_server = runtime.version is not None and runtime.version < FIRST_SERVER_WITH_NUMPY_2
    if is_old_server and int(numpy_version.split(".")[0]) >= 2:
        raise StartFailure(f"numpy {numpy_version} does not work with this tritonserver, whose "
                           f"tensors would arrive empty: {sys.executable} -m pip install 'numpy<2'")


def check_libraries(runtime: Runtime) -> None:
    """The dynamic loader finds all that the server and its Python stub are linked to."""
    if not runtime.stub.exists():
        raise StartFailure(f"tritonserver has no Python backend: {runtime.stub} is missing")
    for binary in (runtime.binary, runtime.stub):
        listing = _list_libraries(binary, runtime.environment())
        missing = MISSING_LIBRARY.search(listing)
        if missing:
            raise StartFailure(f"{binary.name} needs {missing[1]}: {_remedy(missing[1])}")
        python = LINKED_PYTHON.search(listing)
        if python and int(python[1]) != sys.version_info.minor:
            raise StartFailure(f"{binary} runs models with Python 3.{python[1]}, not with this "
                               f"3.{sys.version_info.minor}: install tritonlm for that one")


def _list_libraries(binary: Path, environ: Mapping[str, str]) -> str:
    """What the dynamic loader says instead of running `binary`: its libraries, those missing too."""
    listing = subprocess.run([binary], env=dict(environ) | {"LD_TRACE_LOADED_OBJECTS": "1"},
                             capture_output=True, text=True, check=False)
    return listing.stdout + listing.stderr


def check_ports(address: str, ports: Mapping[str, int]) -> None:
    """Every port of `ports`, each under its option's name, is free on `address` and given once."""
    options: dict[int, str] = {}
    for option, port in ports.items():
        if port in options:
            raise StartFailure(f"{options[port]} and {option} are both {port}")
        options[port] = option
        _check_port(address, option, port)


def _check_port(address: str, option: str, port: int) -> None:
    try:
        with socket.create_server((address, port)):
            pass
    except socket.gaierror as error:
        raise StartFailure(f"--host {address}: {error.strerror}") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise StartFailure(f"port {port} of {address} is in use: choose another with {option}, "
                               "or stop what listens there") from None
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise StartFailure(f"{option} {port} on --host {address}: {reason}") from None


def _remedy(library: str) -> str:
    python = re.match(r"libpython(\d+\.\d+)", library)
    if python is None:
        return "install the package that has it"
    name = f"libpython{python[1]}"
    return f"apt-get install {name} (Debian, Ubuntu; elsewhere the package with {library})"
