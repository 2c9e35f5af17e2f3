"""Classifies texts."""

from tritonlm.backend.classify import Classify as TritonPythonModel  # noqa: F401
