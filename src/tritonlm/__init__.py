"""Hugging Face language models on Triton Inference Server."""
