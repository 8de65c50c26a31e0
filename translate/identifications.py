"""The Identification of IPv4 packets that may be fragmented (RFC 7915 §5.1, RFC 6864 §4).

Theory of operation. Identifications must not repeat soon within a source, destination and
protocol, and must not be predictable from outside (RFC 7739 §3). An exact counter for each such
triple would be the largest part of the table of a translator with many servers, and would have
to be forgotten at some limit. Instead there is a fixed number of counters, each beginning at a
random number; a triple's counter is chosen by a keyed hash (SipHash with a key of the process,
which is what Python's `hash` of bytes is), so that nobody can tell which servers share one.
Where two do, the numbers of each go up in larger steps and still repeat only after 65536.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

# A power of two; few enough to stay in the processor's cache.
COUNTERS = 16_384

_BYTES = [bytes((number,)) for number in range(256)]


class Identifications:
    """All counters of one translator. `randbelow(n)` gives 0..n-1, unguessable."""

    __slots__ = ("counters",)

    def __init__(self, randbelow: Callable[[int], int]) -> None:
        size = 2 * COUNTERS
        start = randbelow(1 << (8 * size))
        # A list would take 50 ns less, but 20 times the memory: with many flows out of the cache.
        self.counters = array("H", start.to_bytes(size, "big"))

    def index(self, addresses4: bytes, protocol: int) -> int:
        """Which counter is that of two addresses (8 bytes, in the caller's order)."""
        return hash(addresses4 + _BYTES[protocol]) & COUNTERS - 1

    def take(self, index: int, count: int = 1) -> int:
        """The first of `count` numbers in a row, which are then used."""
        number = self.counters[index]
        self.counters[index] = number + count & 0xFFFF
        return number
