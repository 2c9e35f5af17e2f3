"""What is counted of the caches; docs/caching.md lists it."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

LOOKUPS = Counter("tritonlm_gateway_cache_lookups", "Questions to a level of the cache",
                  ["level", "outcome"])
ERRORS = Counter("tritonlm_gateway_cache_errors", "Times that a level of the cache failed",
                 ["level"])
REQUESTS = Counter("tritonlm_gateway_cache_requests", "Requests by what the cache did for them",
                   ["outcome"])
MEMORY_BYTES = Gauge("tritonlm_gateway_cache_memory_bytes", "Size of what is kept in memory",
                     multiprocess_mode="livesum")
