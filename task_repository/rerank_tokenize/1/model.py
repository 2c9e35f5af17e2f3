"""Encodes the pairs of `rerank`."""

from tritonlm.backend.stub import leave_torch_out

leave_torch_out()

from tritonlm.backend.task_tokenize import RerankTokenize as TritonPythonModel  # noqa: E402, F401
