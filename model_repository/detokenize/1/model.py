"""Decodes the chunks of a stream."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.detokenize import Detokenize as TritonPythonModel  # noqa: E402, F401
