"""A machine that computes parts of a model for the server of another one."""

from __future__ import annotations

import logging

from tritonlm.engine.tensor_parallel.followers import start_followers, wait_for_any
from tritonlm.engine.tensor_parallel.terms import LOST, Terms, find_store
from tritonlm.errors import InvalidArgument, Unavailable, first_line

LOG = logging.getLogger(__name__)


def follow(address: str, node: int, timeout_s: float) -> None:
    """Run the followers of machine number `node`, from 1, until one of them ends.

    `address` is the server's `tensor_parallel_address`. Raises `InvalidArgument` for a machine too
    many, and `Unavailable` if there is no leader within `timeout_s`, and at the end.
    """
    LOG.info("looking for the engine at %s", address)
    try:
        store = find_store(address, timeout_s)
        config = Terms.read(store).config
    except (OSError, RuntimeError) as error:
        raise Unavailable(f"no engine is at {address}: {first_line(error)}") from None
    nodes = config.tensor_parallel_nodes
    if node not in range(1, nodes):
        raise InvalidArgument("node", node, f"allowed: 1 to {nodes - 1}, for the model is on "
                                            f"{nodes} machines, and the server's own is 0")
    here = config.tensor_parallel // nodes
    ranks = range(node * here, (node + 1) * here)
    LOG.info("parts %d to %d of %d of %s, for the engine at %s", ranks[0] + 1, ranks[-1] + 1,
             config.tensor_parallel, config.model, address)
    reason = wait_for_any(start_followers(address, ranks, place=0))
    try:
        store.set(LOST, f"{reason} on machine {node}")
    except RuntimeError:
        pass  # it has ended because the leader has
    raise Unavailable(reason)
