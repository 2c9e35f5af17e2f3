"""The commands that talk to a server; they are clients of it, and load no torch."""
