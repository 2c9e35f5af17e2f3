"""One model on several devices: each holds a part of every layer, and all take each step at once.

The engine's process is the leader, of rank 0. It schedules, and tells its followers each batch.
"""
