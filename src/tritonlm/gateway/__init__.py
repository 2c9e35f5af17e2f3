"""The gateway: OpenAI's API, server-sent events and WebSocket over Triton; needs no torch."""
