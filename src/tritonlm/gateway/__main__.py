"""A gateway that ends with its parent: `python -m tritonlm.gateway SETTINGS PID`.

SETTINGS are a JSON object, PID is the parent. Others use the command `tritonlm gateway`.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys

from tritonlm.gateway.serving import prepare, run
from tritonlm.gateway.settings import GatewaySettings

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Serve until told to stop, or alone."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv[2]):  # it was too late for that
        return
    settings = GatewaySettings(**json.loads(sys.argv[1]))
    run(settings, prepare(settings))


if __name__ == "__main__":
    main()
