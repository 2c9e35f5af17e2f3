"""Users, a module for each way in."""
