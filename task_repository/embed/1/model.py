"""Embeds texts."""

from tritonlm.backend.embed import Embed as TritonPythonModel  # noqa: F401
