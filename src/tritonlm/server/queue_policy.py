"""Levels, bounds and timeouts of the queue of Triton's dynamic batcher."""

from __future__ import annotations

import re

QUEUE_POLICY = """\
  priority_levels: 4
  default_priority_level: 3
  default_queue_policy {
    timeout_action: REJECT
    default_timeout_microseconds: 30000000
    allow_timeout_override: true
    max_queue_size: 1024
  }
"""
"""What the setting `queue_policy` adds to a `dynamic_batching` that waits for more requests."""
BATCHER = re.compile(r"^dynamic_batching \{\n(?=.*preferred_batch_size)", re.MULTILINE)


def with_queue_policy(config: str) -> str:
    """The text of a config.pbtxt, with the policy where there is such a batcher."""
    return BATCHER.sub(lambda batcher: batcher[0] + QUEUE_POLICY, config)
