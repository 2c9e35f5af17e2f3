"""Encodes prompts."""

from tritonlm.backend.tokenize import Tokenize as TritonPythonModel  # noqa: F401
