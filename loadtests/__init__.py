"""Load tests: users of every way in, with Locust."""
