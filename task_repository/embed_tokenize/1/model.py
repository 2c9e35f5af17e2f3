"""Encodes the texts of `embed`."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.task_tokenize import EmbedTokenize as TritonPythonModel  # noqa: E402, F401
