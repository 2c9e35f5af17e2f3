"""What is checked before the server is started: each check raises `StartFailure` with one line."""

from __future__ import annotations

import re
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
    """What the dynamic loader, asked not to run `binary`, says of its libraries."""
    listing = subprocess.run([binary], env=dict(environ) | {"LD_TRACE_LOADED_OBJECTS": "1"},
                             capture_output=True, text=True, check=False)
    return listing.stdout + listing.stderr


def _remedy(library: str) -> str:
    python = re.match(r"libpython(\d+\.\d+)", library)
    if python is None:
        return "install the package that has it"
    name = f"libpython{python[1]}"
    return f"apt-get install {name} (Debian, Ubuntu; elsewhere the package with {library})"
