"""Generates text: default mode, one response."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.complete import Complete as TritonPythonModel  # noqa: E402, F401
