"""A pool of IPv4 addresses, one for each IPv6 host that has no mapping (dynamic 1:1 mapping).

Theory of operation. Which address a host gets follows from its own by a hash, so that it is the
same again after a loss of all state whenever it is free. A host keeps its address while it is
used and for `keep` seconds after; then it is given away only when somebody else needs it, the
longest unused first. Nothing expires by itself: the tables are as large as the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from math import inf
from zlib import crc32

TWO_WEEKS = 14 * 86_400.0  # seconds


@dataclass(slots=True)
class Assignment:
    """Who has an address. `last`: when it was used, in the caller's seconds."""

    addr4: bytes
    addr6: bytes
    last: float


class AddressPool:
    """Assignments of one pool; at most one for each address of either family."""

    __slots__ = ("_by4", "_by6", "_full_until", "_keep", "_networks", "_reserved", "size")

    def __init__(
        self,
        networks: Sequence[IPv4Network],
        *,
        reserved: Collection[bytes] = (),
        keep: float = TWO_WEEKS,
    ) -> None:
        """`networks` do not overlap; `reserved`: addresses in them that nobody gets."""
        self._networks = [(int(net.network_address), net.num_addresses) for net in networks]
        self._keep = keep
        self._full_until = -inf
        self._by4: dict[bytes, Assignment] = {}
        self._by6: dict[bytes, Assignment] = {}
        self.size = sum(count for _, count in self._networks)
        self._reserved = frozenset(addr4 for addr4 in reserved if self.contains(addr4))

    def __len__(self) -> int:
        return len(self._by4)

    def __iter__(self) -> Iterator[Assignment]:
        return iter(self._by4.values())

    def contains(self, addr4: bytes) -> bool:
        """Whether the address is one of the pool's."""
        value = int.from_bytes(addr4, "big")
        return any(first <= value < first + count for first, count in self._networks)

    def find6(self, addr6: bytes) -> Assignment | None:
        """The assignment of an IPv6 host."""
        return self._by6.get(addr6)

    def find4(self, addr4: bytes) -> Assignment | None:
        """The assignment of an IPv4 address."""
        return self._by4.get(addr4)

    def assign(self, addr6: bytes, now: float) -> Assignment | None:
        """The host's assignment, made if need be and used now; None when all are in use."""
        known = self._by6.get(addr6)
        if known is not None:
            known.last = now
            return known
        addr4 = self._free(addr6)
        if addr4 is None:
            if now < self._full_until:
                return None
            unused = min(self._by4.values(), key=lambda item: item.last, default=None)
            if unused is None:
                return None
            if now - unused.last < self._keep:
                # Uses only get later: until then a flood of strangers need not be looked at.
                self._full_until = unused.last + self._keep
                return None
            del self._by6[unused.addr6]
            addr4 = unused.addr4
        return self._enter(Assignment(addr4, addr6, now))

    def restore(self, addr4: bytes, addr6: bytes, last: float) -> bool:
        """Enters an assignment of an earlier run; False when it does not fit (any more)."""
        fits = self.contains(addr4) and addr4 not in self._reserved
        if not fits or addr4 in self._by4 or addr6 in self._by6:
            return False
        self._enter(Assignment(addr4, addr6, last))
        return True

    def _enter(self, made: Assignment) -> Assignment:
        self._by4[made.addr4] = made
        self._by6[made.addr6] = made
        return made

    def _free(self, addr6: bytes) -> bytes | None:
        """A free address, looked for from the one that the hash names on."""
        if len(self._by4) + len(self._reserved) >= self.size:
            return None
        start = crc32(addr6) % self.size
        for step in range(self.size):
            addr4 = self._address((start + step) % self.size)
            if addr4 not in self._by4 and addr4 not in self._reserved:
                return addr4
        return None

    def _address(self, index: int) -> bytes:
        for first, count in self._networks:
            if index < count:
                return (first + index).to_bytes(4, "big")
            index -= count
        raise AssertionError("the index is within the pool")
