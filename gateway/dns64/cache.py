"""Answers that are kept: for how long, and how many (RFC 2308, RFC 2181 §8, RFC 8767). Pure.

Theory of operation. One ordered dict, least recently used first, bounded in entries and in bytes.
An answer lives as long as its shortest-lived record in the answer section; one that says that
there is nothing lives as long as its SOA record says (RFC 2308 §5), and not at all without one; a
failure lives for a second, so that a storm of questions does not become one of retries (RFC 9520
§3.2). Time comes in. An entry past its end is kept while `stale` seconds have not passed, and is
only returned by `get_stale`.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

from gateway.dns64.messages import ANY, NOERROR, NXDOMAIN, SOA, Answer

FAILURE_LIFETIME = 1  # seconds
# Measured with tracemalloc: the entry, its answer, and each record with its numbers.
_ENTRY_OVERHEAD = 700
_RECORD_OVERHEAD = 220


@dataclass(slots=True)
class Entry:
    """One answer, in whole seconds of the clock that the caller has."""

    answer: Answer
    stored: float
    expires: float
    stale_until: float
    size: int


class Cache:
    """Answers by key. Never holds more than `entries` answers or `limit` bytes."""

    def __init__(
        self, entries: int, limit: int, *, max_ttl: int, max_negative_ttl: int, stale: int
    ) -> None:
        self._entries: OrderedDict[bytes, Entry] = OrderedDict()
        self._max_entries = entries
        self._max_bytes = limit
        self._max_ttl = max_ttl
        self._max_negative_ttl = max_negative_ttl
        self._stale = stale
        self.bytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, key: bytes, now: float) -> Entry | None:
        """The entry that is still good, or None."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if now >= entry.expires:
            if now >= entry.stale_until:
                self._remove(key)
            return None
        self._entries.move_to_end(key)
        return entry

    def get_stale(self, key: bytes, now: float) -> Entry | None:
        """An entry past its end that may still stand in (RFC 8767), or None."""
        entry = self._entries.get(key)
        return entry if entry is not None and now < entry.stale_until else None

    def put(self, key: bytes, answer: Answer, now: float) -> Entry | None:
        """Keeps the answer as long as it may be kept; None when that is not at all.

        A failure does not displace an entry that could stand in for it.
        """
        seconds = lifetime(answer, self._max_ttl, self._max_negative_ttl)
        is_failure = answer.rcode not in (NOERROR, NXDOMAIN)
        if seconds <= 0 or (is_failure and self._stale and key in self._entries):
            return None
        expires = now + seconds
        stale_until = expires if is_failure else expires + self._stale
        return self._store(key, answer, now, expires, stale_until)

    def put_stale(self, key: bytes, answer: Answer, now: float, old: Entry, seconds: int) -> None:
        """Keeps what stands in for a while, so that the dead upstream is not asked for each."""
        self._store(key, answer, now, now + seconds, max(old.stale_until, now + seconds))

    def _store(
        self, key: bytes, answer: Answer, now: float, expires: float, stale_until: float
    ) -> Entry | None:
        size = size_of(key, answer)
        if size > self._max_bytes:
            return None
        if key in self._entries:
            self._remove(key)
        entry = Entry(answer, now, expires, stale_until, size)
        self._entries[key] = entry
        self.bytes += size
        while len(self._entries) > self._max_entries or self.bytes > self._max_bytes:
            _, old = self._entries.popitem(last=False)
            self.bytes -= old.size
            self.evicted += 1
        return entry

    def _remove(self, key: bytes) -> None:
        self.bytes -= self._entries.pop(key).size


def size_of(key: bytes, answer: Answer) -> int:
    """What an entry takes, in bytes; the body twice, as it is and with lowered TTLs."""
    return (
        _ENTRY_OVERHEAD
        + len(key)
        + 2 * len(answer.body)
        + len(answer.extended_error)
        + _RECORD_OVERHEAD * len(answer.records)
    )


def lifetime(answer: Answer, max_ttl: int, max_negative_ttl: int) -> int:
    """For how many seconds an answer may be kept; 0 is not at all."""
    if answer.truncated:
        return 0
    if answer.rcode not in (NOERROR, NXDOMAIN):
        return FAILURE_LIFETIME
    seconds = min((r.ttl for r in answer.records if r.section == 1), default=max_ttl)
    qtype = int.from_bytes(answer.question[-4:-2], "big")
    if answer.rcode == NXDOMAIN or not _answers(answer, qtype):
        negative = _negative_ttl(answer)
        if negative is None:
            return 0
        seconds = min(seconds, negative, max_negative_ttl)
    return min(seconds, max_ttl)


def _answers(answer: Answer, qtype: int) -> bool:
    """Whether there is a record of the type asked for; ANY takes all (RFC 1035 §3.2.3)."""
    return any(r.section == 1 and qtype in (r.rtype, ANY) for r in answer.records)


def _negative_ttl(answer: Answer) -> int | None:
    """RFC 2308 §5: the SOA's TTL or its MINIMUM, whichever is less; None without an SOA."""
    ttls = [min(r.ttl, int.from_bytes(answer.rdata(r)[-4:], "big")) for r in answer.of_type(SOA, 2)]
    return min(ttls, default=None)
