"""Answers that are kept for requests to come: in memory, in Redis, on disk; and single-flight."""
