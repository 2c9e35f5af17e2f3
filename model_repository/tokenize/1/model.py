"""Encodes prompts."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.tokenize import Tokenize as TritonPythonModel  # noqa: E402, F401
