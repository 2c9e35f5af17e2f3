"""Where compiled code is kept, so that only the first start takes long."""

from __future__ import annotations

import os
from pathlib import Path

VARIABLES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}


def keep_compiled() -> Path:
    """Have torch and Triton keep what they compile in the user's cache, if not told where.

    Returns the folder of torch.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for variable, name in VARIABLES.items():
        os.environ.setdefault(variable, str(cache / "tritonlm" / name))
    return Path(os.environ["TORCHINDUCTOR_CACHE_DIR"])
