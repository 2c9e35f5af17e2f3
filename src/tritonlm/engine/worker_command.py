"""How the engine's process is started."""

from __future__ import annotations

import dataclasses
import json

from tritonlm.config import ModelConfig
from tritonlm.engine.endpoint import Endpoint


def command(endpoint: Endpoint, config: ModelConfig, python: str) -> list[str]:
    """The command line of `tritonlm.engine.worker` with these settings."""
    settings = json.dumps(dataclasses.asdict(config))
    return [python, "-m", "tritonlm.engine.worker", str(endpoint.folder), settings]
