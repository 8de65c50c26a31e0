"""pool4: the IPv4 transport addresses that the translator may use (RFC 6146 §3.5.1.1)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Network

from translate.packets import Protocol


@dataclass(frozen=True, slots=True)
class PoolRange:
    """IPv4 addresses with a range of ports (ICMP: identifiers), for some protocols.

    `protocols`: IP protocol numbers (6, 17, 1). Ports are inclusive, 1..65535. `clients`: whom
    they are for; None: for those that no other range of the protocol names.
    """

    network: IPv4Network
    protocols: frozenset[int] = frozenset({1, 6, 17})
    first_port: int = 1
    last_port: int = 65535
    clients: IPv6Network | None = None


# Ports below are the well-known ones (RFC 4787 REQ-3 keeps the two ranges apart).
WELL_KNOWN = 1024
# How long a port that is given back is left alone, while there are others: at least this long, and
# less than twice as long (RFC 6888 REQ-8). Seconds.
REST = 120.0
# One byte a port. Even and odd ports apart, because parity is preserved and a search for a free one
# is then a single bytearray.find. What was given back in one period of `REST` rests until the end
# of the next; periods alternate between two marks, so nothing is noted for a single port.
_FREE, _TAKEN, _RESTING = 0, 1, (2, 3)
_PREFERENCES = tuple(
    tuple((resting, parity) for resting in (False, True) for parity in (same, 1 - same))
    for same in (0, 1)
)


def preferences(wanted: int) -> tuple[tuple[bool, int], ...]:
    """(resting, parity) of ports for a client whose own is `wanted`, in the order of choice."""
    return _PREFERENCES[wanted & 1]


def block_starts(item: PoolRange, size: int) -> range:
    """The first ports of the blocks of `size` ports that lie wholly in the range, from 1024 on."""
    first = max(item.first_port, WELL_KNOWN)
    count = max(0, item.last_port - first + 1) // size
    return range(first, first + count * size, size)


class _Ports:
    """The ports of one pool address for one protocol; `ranges` are inclusive and do not overlap."""

    __slots__ = ("free", "period", "ranges", "taken")

    def __init__(self, ranges: list[tuple[int, int]], period: int) -> None:
        even, odd = bytearray(b"\1" * 32768), bytearray(b"\1" * 32768)
        self.taken = (even, odd)
        for first, last in ranges:
            for parity in (0, 1):
                low = (first - parity + 1) >> 1
                high = (last - parity) >> 1
                if high >= low:
                    self.taken[parity][low : high + 1] = bytes(high + 1 - low)
        self.free = even.count(_FREE) + odd.count(_FREE)
        self.ranges = ranges
        self.period = period

    def begin(self, period: int) -> None:
        """Lets the ports be free that have rested, at the first look at them in a period."""
        over = {_RESTING[self.period - 1 & 1]}
        if period - self.period > 1:
            over.add(_RESTING[self.period & 1])
        for table in self.taken:
            for mark in over:
                table[:] = table.replace(bytes((mark,)), bytes((_FREE,)))
        self.period = period

    def random_port(self, low: int, high: int, randbelow: Callable[[int], int]) -> int | None:
        """Any port of the ranges in low..high, free or not; None when there is none.

        A search that began outside of them would always find the same port.
        """
        if len(self.ranges) == 1 and low <= self.ranges[0][0] and self.ranges[0][1] <= high:
            first, last = self.ranges[0]
            return first + randbelow(last - first + 1)
        spans = [(max(low, a), min(high, b)) for a, b in self.ranges if a <= high and b >= low]
        index = randbelow(sum(b - a + 1 for a, b in spans)) if spans else 0
        for a, b in spans:
            if index <= b - a:
                return a + index
            index -= b - a + 1
        return None

    def take(self, parity: int, low: int, high: int, start: int, *, resting: bool) -> int | None:
        """A free port of this parity in low..high (ports), the search beginning at `start`.

        `resting`: one that rests, of those that have for longer if there are any.
        """
        table = self.taken[parity]
        first, end = (low - parity + 1) >> 1, ((high - parity) >> 1) + 1
        begin = min(max(start >> 1, first), end)
        older, newer = _RESTING[self.period - 1 & 1], _RESTING[self.period & 1]
        for mark in (older, newer) if resting else (_FREE,):
            at = table.find(mark, begin, end)
            if at < 0:
                at = table.find(mark, first, begin)
            if at >= 0:
                table[at] = _TAKEN
                self.free -= 1
                return at * 2 + parity
        return None

    def reserve(self, port: int) -> bool:
        table = self.taken[port & 1]
        if table[port >> 1] == _TAKEN:
            return False
        table[port >> 1] = _TAKEN
        self.free -= 1
        return True

    def release(self, port: int, *, rests: bool) -> None:
        self.taken[port & 1][port >> 1] = _RESTING[self.period & 1] if rests else _FREE
        self.free += 1


class PortBlock:
    """Ports of a pool address that one client has alone; `used` counts its dynamic mappings."""

    __slots__ = ("addr4", "first", "last", "used")

    def __init__(self, addr4: bytes, first: int, last: int) -> None:
        self.addr4 = addr4
        self.first = first
        self.last = last
        self.used = 0


class PortAllocator:
    """Chooses pool4 transport addresses for one protocol (RFC 6146 §3.5.1.1, RFC 6056 §3.3.1).

    `randbelow(n)` returns 0..n-1. The port is the first free one from a random start, with the
    parity of the client's port, from 1..1023 only when the client's own is there (the client's
    port 0 counts as 1024 and above). Tables for an address are made when it is first used.

    A port that was given back rests: it is chosen only where all others are taken (RFC 6888 REQ-8,
    which exempts TCP: its sessions are followed to their end). `period` counts time in steps of
    `REST`; whoever owns the allocator sets it.
    """

    def __init__(
        self, ranges: tuple[PoolRange, ...], protocol: int, randbelow: Callable[[int], int]
    ) -> None:
        self._randbelow = randbelow
        self._rests = protocol != Protocol.TCP
        self.period = 0
        self._ports: dict[bytes, _Ports] = {}
        self._blocks: dict[bytes, set[int]] = {}
        self._nets: list[tuple[int, int]] = []
        self._ranges: list[PoolRange] = [r for r in ranges if protocol in r.protocols]
        seen: set[IPv4Network] = set()
        for item in self._ranges:
            if item.network not in seen:
                seen.add(item.network)
                net = item.network
                self._nets.append((int(net.network_address), net.num_addresses))
        self.address_count = sum(count for _, count in self._nets)

    def owns(self, addr4: bytes) -> bool:
        """Whether the address is in this protocol's pool."""
        value = int.from_bytes(addr4, "big")
        return any(base <= value < base + count for base, count in self._nets)

    def random_address(self) -> bytes | None:
        """A random address of the pool, or None when the protocol has none."""
        if not self.address_count:
            return None
        index = self._randbelow(self.address_count)
        for base, count in self._nets:
            if index < count:
                return (base + index).to_bytes(4, "big")
            index -= count
        return None

    def _table(self, addr4: bytes) -> _Ports:
        table = self._ports.get(addr4)
        if table is None:
            ranges = [(item.first_port, item.last_port) for item in self._at(addr4)]
            table = self._ports[addr4] = _Ports(ranges, self.period)
        elif table.period != self.period:
            table.begin(self.period)
        return table

    def free_ports(self, addr4: bytes) -> int:
        """How many ports of the address are free."""
        return self._table(addr4).free

    def take(self, addr4: bytes, wanted: int) -> int | None:
        """A port for a client whose own is `wanted`, or None when the address has none left.

        Same parity before other parity, both before those that rest; a client port below 1024 gets
        one from there while there are any, every other client port never does.
        """
        table = self._table(addr4)
        low, high = (1, WELL_KNOWN - 1) if 0 < wanted < WELL_KNOWN else (WELL_KNOWN, 65535)
        attempts = [(low, high)]
        if low == 1:
            attempts.append((WELL_KNOWN, 65535))
        for low, high in attempts:
            start = table.random_port(low, high, self._randbelow)
            if start is None:
                continue
            for resting, parity in preferences(wanted):
                port = table.take(parity, low, high, start, resting=resting)
                if port is not None:
                    return port
        return None

    def take_within(
        self, addr4: bytes, parity: int, first: int, last: int, *, resting: bool
    ) -> int | None:
        """A port of this parity in first..last, free or resting, from a random start, or None."""
        start = first + self._randbelow(last - first + 1)
        return self._table(addr4).take(parity, first, last, start, resting=resting)

    def take_block(self, addr4: bytes, size: int) -> int | None:
        """The first port of a block that nobody has, from a random start, or None."""
        taken = self._blocks.setdefault(addr4, set())
        runs = [block_starts(item, size) for item in self._at(addr4)]
        if len(taken) >= sum(len(run) for run in runs):
            return None
        firsts = [first for run in runs for first in run]
        start = self._randbelow(len(firsts))
        for first in (*firsts[start:], *firsts[:start]):
            if first not in taken:
                taken.add(first)
                return first
        return None

    def release_block(self, addr4: bytes, first: int) -> None:
        """Gives a block back."""
        self._blocks[addr4].discard(first)

    def covers(self, addr4: bytes, port: int) -> bool:
        """Whether the port of the address is in this pool."""
        return any(item.first_port <= port <= item.last_port for item in self._at(addr4))

    def _at(self, addr4: bytes) -> list[PoolRange]:
        address = IPv4Address(addr4)
        return [item for item in self._ranges if address in item.network]

    def reserve(self, addr4: bytes, port: int) -> bool:
        """Takes one given port; False when it is taken or not in the pool."""
        return self.owns(addr4) and self._table(addr4).reserve(port)

    def release(self, addr4: bytes, port: int, *, used: bool = True) -> None:
        """Gives a taken port back. It needs no rest where it was not `used`."""
        self._table(addr4).release(port, rests=used and self._rests)
