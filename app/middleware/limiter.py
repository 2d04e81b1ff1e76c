"""How many requests a key may send. Counted in Redis, for all API servers together; each counts for itself while Redis
is away, so that neither a flood nor a legitimate caller gains or loses by it."""

import time
from dataclasses import dataclass

from limits import RateLimitItem, parse
from limits.storage import MemoryStorage, RedisStorage
from limits.strategies import SlidingWindowCounterRateLimiter as Strategy
from redis import Redis
from redis.exceptions import RedisError

from core.config.settings import Settings
from core.errors import InvalidParameter

PREFIX = "kinora:limits"
# Before it counts, each script deletes what cannot be a count of its own: one without an end would refuse for ever.
GUARD = b"""
for _, key in ipairs(KEYS) do
    local kind, ttl = redis.call('type', key).ok, redis.call('pttl', key)
    local is_short = kind == 'string' and redis.call('strlen', key) <= 15
    local count = is_short and string.match(redis.call('get', key), '^%d+$')
    local is_right = count and tonumber(count) <= LIMIT and ttl > 0 and ttl <= EXPIRY * 2000
    if kind ~= 'none' and not is_right then
        redis.call('unlink', key)
    end
end
"""
AWAY_SECONDS = 5.0  # how long a Redis that failed is not asked again: each question costs a second


@dataclass(frozen=True)
class Allowance:
    granted: bool
    limit: int
    remaining: int
    seconds: int
    """Until the window is over."""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        told = {"limit": self.limit, "remaining": self.remaining, "reset": int(time.time()) + self.seconds}
        return [(f"x-ratelimit-{name}".encode(), str(value).encode()) for name, value in told.items()]


class GuardedStorage(RedisStorage):
    """Counts in Redis, whatever somebody else wrote there."""

    SCRIPT_ACQUIRE_SLIDING_WINDOW = (
        GUARD.replace(b"LIMIT", b"tonumber(ARGV[1])").replace(b"EXPIRY", b"tonumber(ARGV[2])")
        + RedisStorage.SCRIPT_ACQUIRE_SLIDING_WINDOW
    )
    SCRIPT_SLIDING_WINDOW = (
        GUARD.replace(b"LIMIT", b"math.huge").replace(b"EXPIRY", b"tonumber(ARGV[1])")
        + RedisStorage.SCRIPT_SLIDING_WINDOW
    )


class Limiter:
    def __init__(self, settings: Settings) -> None:
        """Raises InvalidParameter if RATE_LIMIT cannot be read."""
        self.rule = _rule(settings.rate_limit)
        self._shared: Strategy | None = None
        self._own = Strategy(MemoryStorage())
        self._away_until = 0.0

    def share(self, redis: Redis) -> None:
        """From now on count in `redis`. Connects to nothing yet."""
        self._shared = Strategy(GuardedStorage("redis://", connection_pool=redis.connection_pool, key_prefix=PREFIX))

    def hit(self, who: str) -> Allowance | None:
        """Count one request; None: there is no limit."""
        if self.rule is None:
            return None
        if self._shared and time.monotonic() >= self._away_until:
            try:
                return _hit(self._shared, self.rule, who)
            except RedisError:
                self._away_until = time.monotonic() + AWAY_SECONDS
        return _hit(self._own, self.rule, who)


def _hit(strategy: Strategy, rule: RateLimitItem, who: str) -> Allowance:
    granted = strategy.hit(rule, who)
    stats = strategy.get_window_stats(rule, who)
    seconds = max(1, round(stats.reset_time - time.time()))
    return Allowance(granted, rule.amount, stats.remaining, seconds)


def _rule(text: str) -> RateLimitItem | None:
    if text == "0":
        return None
    try:
        return parse(text)
    except ValueError as error:
        raise InvalidParameter(f"RATE_LIMIT must be like 10/second or 6000/minute, or 0; got {text}") from error
