"""The model `complete`: a front end with one response a request, in Triton's default mode."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tritonlm.backend.generate import Generate
from tritonlm.contract import MODELS
from tritonlm.errors import InvalidArgument
from tritonlm.options import Options


class Complete(Generate):
    """As `generate` without streams: usable with /infer, and with Triton's response cache.

    A cache would keep for good what is sent, so nobody cancels others here.
    """

    model = MODELS["complete"]

    def initialize(self, args: Mapping[str, str]) -> None:
        """Return when the engines are ready."""
        config = json.loads(args["model_config"])
        self.is_cached = bool(config.get("response_cache", {}).get("enable", False))
        super().initialize(args)

    def check(self, options: Options) -> None:
        """Refuse streams, and requests to cancel others."""
        for name in ("stream", "cancel"):
            if getattr(options, name):
                raise InvalidArgument(name, True, "generate does that, for requests of both")
        if self.is_cached and not options.return_finish_reason:
            raise InvalidArgument("return_finish_reason", False, "allowed: true, since the cache "
                                  "of this model tells by it what is not to be kept")
