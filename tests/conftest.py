"""What must hold in every test's process before anything else is imported."""

from __future__ import annotations

import os
import signal

# Tests run beside each other, and the servers that they start: threads of a product that wait for
# one another would wait for those of the next test. Torch reads this when it is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from hypothesis import HealthCheck, settings

# What is drawn is the same in every run, and no machine is too slow to draw it.
settings.register_profile("tests", deadline=None, derandomize=True, database=None,
                          suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")

# A shell has Ctrl-C ignored by what it runs in the background, and so by all that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Kernels run in Triton's interpreter where there is no GPU. Triton reads the variable when it is
# imported, which importing transformers does.
if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
