"""How an engine's process is started."""

from __future__ import annotations

import dataclasses
import json

from tritonlm.config import ModelConfig
from tritonlm.engine.endpoint import Endpoint

MODULE = "tritonlm.engine.worker"


def command(endpoint: Endpoint, config: ModelConfig, python: str, index: int) -> list[str]:
    """The command line of `MODULE` with these settings, for engine number `index`."""
    settings = json.dumps(dataclasses.asdict(config))
    return [python, "-m", MODULE, str(endpoint.folder), settings, str(index)]
