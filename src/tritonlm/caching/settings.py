"""The levels that a gateway is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tritonlm.caching.level import Level
from tritonlm.caching.memory_level import MemoryLevel
from tritonlm.errors import InvalidArgument, StartFailure

MIB = 2**20
REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


@dataclass(frozen=True)
class CacheSettings:
    """Which levels there are, and for how long answers are kept."""

    memory_mib: int = 0
    redis: str = ""
    disk: Path | None = None
    disk_mib: int = 1024
    ttl_s: float = 3600.0

    def __post_init__(self) -> None:
        """Raise `InvalidArgument` under the names that the gateway's settings have."""
        for name, value, is_allowed, allowed in (
            ("cache_mib", self.memory_mib, self.memory_mib >= 0, "0 (none) and more"),
            ("cache_redis", "(hidden)", not self.redis or self.redis.startswith(REDIS_SCHEMES),
             f"a URL that begins with {', '.join(REDIS_SCHEMES)}"),
            ("cache_disk_mib", self.disk_mib, self.disk_mib > 0, "1 and more"),
            ("cache_ttl_s", self.ttl_s, self.ttl_s > 0, "more than 0"),
        ):
            if not is_allowed:
                raise InvalidArgument(name, value, f"allowed: {allowed}")

    @property
    def is_on(self) -> bool:
        """Whether there is a level."""
        return bool(self.memory_mib or self.redis or self.disk)

    def check(self) -> None:
        """Raise `StartFailure` for a library that is not installed, or a folder out of reach."""
        for package, option, is_needed in (("redis", "--cache-redis", self.redis),
                                           ("diskcache", "--cache-disk", self.disk)):
            if is_needed and find_spec(package) is None:
                raise StartFailure(f"{option} needs the package {package}: "
                                   "pip install -c constraints.txt -e '.[cache]'")
        if self.disk:
            try:
                self.disk.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise StartFailure(f"--cache-disk {self.disk}: {error.strerror}") from None

    def open(self) -> list[Level]:
        """The levels, the fastest first."""
        levels: list[Level] = []
        if self.memory_mib:
            levels.append(MemoryLevel(self.memory_mib * MIB))
        if self.redis:
            from tritonlm.caching.redis_level import RedisLevel  # noqa: PLC0415 - of an extra
            levels.append(RedisLevel(self.redis))
        if self.disk:
            from tritonlm.caching.disk_level import DiskLevel  # noqa: PLC0415 - of an extra
            levels.append(DiskLevel(self.disk, self.disk_mib * MIB))
        return levels
