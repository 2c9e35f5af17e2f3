"""Generates padded batches."""

from benchmarks.padded_model import PaddedModel as TritonPythonModel  # noqa: F401
