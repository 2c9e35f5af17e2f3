"""Files of requests, a line each, answered by a gateway: OpenAI's batch-file format."""
