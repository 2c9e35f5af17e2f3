"""Speed and memory of the engine, measured in its own process, without a network."""
