"""What holds for one client is asked of both."""

from __future__ import annotations

import pytest
from calls import Async, Sync


@pytest.fixture(params=[Sync, Async])
def api(request):
    return request.param()
