"""The `gateway` command: its options are the fields of the settings, their defaults and texts."""

from __future__ import annotations

import inspect
import os
from typing import Any

from tritonlm.gateway.serving import prepare, run
from tritonlm.gateway.settings import GATEWAY_ENV_PREFIX, GatewaySettings, check_environment
from tritonlm.logs import json_line
from tritonlm.server.flags import options_of, settings_of

GATEWAY_CONTEXT = {"auto_envvar_prefix": GATEWAY_ENV_PREFIX.rstrip("_")}


def gateway(**values: Any) -> None:
    """Serve OpenAI's API over one or more Triton servers, until Ctrl-C.

    An option may also be set in the environment: --max-body-bytes as
    TRITONLM_GATEWAY_MAX_BODY_BYTES.
    """
    check_environment(os.environ)
    settings = settings_of(GatewaySettings, values)
    listener = prepare(settings)
    host, port = listener.getsockname()[:2]
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(json_line("gateway", "listening", url=url) if settings.log_format == "json"
          else f"gateway: {url}", flush=True)
    run(settings, listener)


gateway.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
    options_of(GatewaySettings))
