"""Measuring a server as its clients see it: `tritonlm bench`."""
