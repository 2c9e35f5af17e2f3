"""Generates text: decoupled, streams tokens as they come."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.generate import Generate as TritonPythonModel  # noqa: E402, F401
