"""Scores documents for queries."""

from tritonlm.backend.rerank import Rerank as TritonPythonModel  # noqa: F401
