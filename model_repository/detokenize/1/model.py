"""Decodes the chunks of a stream."""

from tritonlm.backend.detokenize import Detokenize as TritonPythonModel  # noqa: F401
