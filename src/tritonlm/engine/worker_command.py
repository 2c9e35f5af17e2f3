"""How the engine's process is started."""

from __future__ import annotations

import dataclasses
import json

from tritonlm.config import ModelConfig
from tritonlm.engine.endpoint import Endpoint

MODULE = "tritonlm.engine.worker"


def command(endpoint: Endpoint, config: ModelConfig, python: str) -> list[str]:
    """The command line of `MODULE` with these settings."""
    settings = json.dumps(dataclasses.asdict(config))
    return [python, "-m", MODULE, str(endpoint.folder), settings]
