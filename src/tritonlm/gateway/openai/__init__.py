"""OpenAI's API over the models of Triton servers."""
