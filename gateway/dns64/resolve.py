"""One question, one answer: from the cache, from a question that is on its way, or by asking.

Theory of operation. There is no task for a question. Whoever asks leaves a callback; when the
answer comes, the loop that read it calls everybody who waits for it. Questions that are the same
but for upper and lower case, DO and CD share one exchange with the upstreams. A callback gets None
when no answer came in time or when there are too many questions already; where `serve_stale` is
set, an old answer stands in for silence and for failures, with a TTL of 30 seconds (RFC 8767 §4).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from gateway.dns64.cache import Cache
from gateway.dns64.messages import NOERROR, NXDOMAIN, Answer
from gateway.dns64.synthesis import is_bogus

STALE_TTL = 30  # seconds, RFC 8767 §4

# The answer, None for none, and for how many whole seconds it has been known.
Callback = Callable[[Answer | None, int], None]
# Question, DO, CD, and what to call with the answer or None: what upstreams.Upstreams.ask does.
Ask = Callable[[bytes, bool, bool, Callable[[Answer | None], None]], None]


@dataclass(slots=True)
class ResolverCounters:
    """Since start. `shared`: questions that were on their way already."""

    hits: int = 0
    misses: int = 0
    shared: int = 0
    refused: int = 0
    failures: int = 0
    stale: int = 0


class Resolver:
    """Answers for the engine. `waiting` is how many questions are with the upstreams."""

    def __init__(
        self, cache: Cache, ask: Ask, clock: Callable[[], float], *, limit: int, stale: bool
    ) -> None:
        self._cache = cache
        self._ask = ask
        self._clock = clock
        self._limit = limit
        self._stale = stale
        self._under_way: dict[bytes, list[Callback]] = {}
        self.counters = ResolverCounters()

    @property
    def waiting(self) -> int:
        return len(self._under_way)

    def ask(self, question: bytes, *, do: bool, cd: bool, then: Callback) -> None:
        """Calls `then` once, now or later. `question`: name in lower case, type, class."""
        key = cache_key(question, do=do, cd=cd)
        now = self._clock()
        entry = self._cache.get(key, now)
        if entry is not None:
            self.counters.hits += 1
            then(entry.answer, int(now - entry.stored))
            return
        waiters = self._under_way.get(key)
        if waiters is not None:
            self.counters.shared += 1
            waiters.append(then)
            return
        if len(self._under_way) >= self._limit:
            self.counters.refused += 1
            then(None, 0)
            return
        self.counters.misses += 1
        self._under_way[key] = [then]
        self._ask(question, do, cd, lambda answer: self._answered(key, answer))

    def _answered(self, key: bytes, answer: Answer | None) -> None:
        now = self._clock()
        stands_in = None
        if answer is None or answer.rcode not in (NOERROR, NXDOMAIN):
            self.counters.failures += 1
            stands_in = self._stand_in(key, answer, now)
        if stands_in is not None:
            answer = stands_in
        elif answer is not None:
            self._cache.put(key, answer, now)
        for then in self._under_way.pop(key):
            then(answer, 0)

    def _stand_in(self, key: bytes, failure: Answer | None, now: float) -> Answer | None:
        """An old answer, if there is one; what is known to be forged has none."""
        if not self._stale or (failure is not None and is_bogus(failure)):
            return None
        old = self._cache.get_stale(key, now)
        if old is None:
            return None
        self.counters.stale += 1
        body = old.answer.aged(0, cap=STALE_TTL)
        records = tuple(record._replace(ttl=STALE_TTL) for record in old.answer.records)
        answer = replace(old.answer, body=body, records=records, _aged=(0, b""))
        self._cache.put_stale(key, answer, now, old, STALE_TTL)
        return answer


def cache_key(question: bytes, *, do: bool, cd: bool) -> bytes:
    """Questions with the same key have the same answer."""
    return question + (b"\3" if do and cd else b"\2" if cd else b"\1" if do else b"\0")
