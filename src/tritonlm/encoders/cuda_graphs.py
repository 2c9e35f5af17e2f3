"""Recordings on a GPU: CUDA graphs that share one pool of memory."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import torch

from tritonlm.encoders.captured import Recording


class CudaGraphs:
    """Recordings that are replayed one after the other, on one stream."""

    def __init__(self) -> None:
        self._device = torch.cuda.current_device()
        self._pool = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    def record(self, function: Callable[[], torch.Tensor]) -> Recording:
        """Capture what `function` launches; raises an error if it waits for the device."""
        graph = torch.cuda.CUDAGraph()
        self._stream.wait_stream(torch.cuda.current_stream())
        try:
            with torch.cuda.stream(self._stream):  # which a capture that fails would not leave
                function()  # a first call loads kernels and takes memory for itself
                with (torch.cuda.graph(graph, self._pool, self._stream, "thread_local"),
                      _waiting_refused()):
                    output = function()
        except Exception as error:
            self._abandon()
            # That a capture cannot come to its end only says that there was an error before.
            raise error.__context__ or error from None
        torch.cuda.current_stream().wait_stream(self._stream)
        return Recording(output, graph.replay)

    @staticmethod
    def seconds(function: Callable[[], torch.Tensor]) -> float:
        """How long it takes until the device is done, which was idle before."""
        torch.cuda.synchronize()
        start_s = time.perf_counter()
        function()
        torch.cuda.synchronize()
        return time.perf_counter() - start_s

    def _abandon(self) -> None:
        """Bring memory and device back to order after a capture that failed."""
        with suppress(RuntimeError):  # the capture ended as it should
            torch._C._cuda_endAllocateToPool(self._device, self._pool)
            torch._C._cuda_releasePool(self._device, self._pool)
        torch.cuda.synchronize()


@contextmanager
def _waiting_refused() -> Iterator[None]:
    """Have torch refuse to wait for the device, before that ruins a capture."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that this is a prototype, and does not find all waits
        torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
