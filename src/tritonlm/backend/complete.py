"""The model `complete`: a front end with one response a request, in Triton's default mode."""

from __future__ import annotations

from tritonlm.backend.generate import Generate
from tritonlm.contract import MODELS
from tritonlm.errors import InvalidArgument
from tritonlm.options import Options


class Complete(Generate):
    """As `generate` without streams: usable with /infer, and with Triton's response cache."""

    model = MODELS["complete"]

    def check(self, options: Options) -> None:
        """Refuse streams."""
        if options.stream:
            raise InvalidArgument("stream", True, "this model has one response; generate streams")
