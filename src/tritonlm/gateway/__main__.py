"""A gateway that ends with its parent: `python -m tritonlm.gateway SETTINGS PID`.

SETTINGS are a JSON object, PID is the parent. Others use the command `tritonlm gateway`.
"""

from __future__ import annotations

import json
import signal
import sys

from tritonlm.gateway.serving import prepare, run
from tritonlm.gateway.settings import GatewaySettings
from tritonlm.parent import end_with_parent


def main() -> None:
    """Serve until told to stop, or alone."""
    end_with_parent(signal.SIGTERM, int(sys.argv[2]))
    settings = GatewaySettings(**json.loads(sys.argv[1]))
    run(settings, prepare(settings))


if __name__ == "__main__":
    main()
