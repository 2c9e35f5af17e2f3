"""Generates text: decoupled, streams tokens as they come."""

from tritonlm.backend.generate import Generate as TritonPythonModel  # noqa: F401
