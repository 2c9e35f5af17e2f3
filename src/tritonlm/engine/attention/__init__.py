"""Paged attention, registered with transformers as an attention implementation."""
