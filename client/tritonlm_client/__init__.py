"""Client of a tritonlm server."""
