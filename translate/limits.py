"""Rate limits (RFC 4443 §2.4 (f): a token bucket is what the RFC recommends)."""

from __future__ import annotations


class TokenBucket:
    """Allows `burst` events at once and `rate` a second in the long run."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: int) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more event may happen at `now` (seconds)."""
        if now > self._at:
            self._tokens = min(self.burst, self._tokens + (now - self._at) * self.rate)
            self._at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True
