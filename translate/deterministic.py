"""Deterministic ports: who had a port follows from the configuration alone (RFC 7422).

Theory of operation. The operator names the prefix of all subscribers and the length of the
prefix that one subscriber has: `2001:db8::/48 by 56` is 256 subscribers, numbered 0..255 by the
bits in between. With S subscribers and A pool addresses (numbered in the order of the
configuration, each with the ports `first`..`last`):

    C = ceil(S / A)                        subscribers on one address
    P = floor((last - first + 1) / C)      ports of one subscriber
    subscriber i:  address i div C,  ports first + (i mod C)·P  and the P - 1 after it

These are consecutive blocks, RFC 7422 §2's "sequential". Ports behind the last block of an address
belong to nobody. All hosts of a subscriber share its ports. Nothing is random but the port within
the block, so the two functions here answer the question in either direction, with no log.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network


@dataclass(frozen=True, slots=True)
class Subscribers:
    """Who shares pool4 deterministically: all of `prefix`, each with a prefix of `length`."""

    prefix: IPv6Network
    length: int

    @property
    def count(self) -> int:
        """How many subscribers the prefix has room for."""
        return 1 << (self.length - self.prefix.prefixlen)


@dataclass(frozen=True, slots=True)
class PortsOf:
    """The ports of one subscriber, inclusive. `addr4`: 4 bytes."""

    addr4: bytes
    first: int
    last: int


class Plan:
    """Ports for subscribers and subscribers for ports.

    `networks`: the pool, in order, none overlapping; `first`, `last`: the ports of each address.
    """

    def __init__(
        self, subscribers: Subscribers, networks: Sequence[IPv4Network], first: int, last: int
    ) -> None:
        self._subscribers = subscribers
        self._networks = tuple(networks)
        self._first, self._last = first, last
        addresses = sum(network.num_addresses for network in networks)
        self.per_address = -(-subscribers.count // addresses) if addresses else 0
        # 0: there are more subscribers than ports, nobody can be served.
        self.ports_each = (last - first + 1) // self.per_address if addresses else 0

    def ports_of(self, addr6: bytes) -> PortsOf | None:
        """The ports of the subscriber that this host (16 bytes) belongs to, None if of none."""
        if IPv6Address(addr6) not in self._subscribers.prefix or self.ports_each < 1:
            return None
        offset = int.from_bytes(addr6, "big") - int(self._subscribers.prefix.network_address)
        index = offset >> (128 - self._subscribers.length)
        number, place = divmod(index, self.per_address)
        first = self._first + place * self.ports_each
        return PortsOf(self._address(number), first, first + self.ports_each - 1)

    def client_of(self, addr4: bytes, port: int) -> IPv6Network | None:
        """The prefix of the subscriber that the port of this address (4 bytes) belongs to."""
        number = self._number(IPv4Address(addr4))
        if number is None or self.ports_each < 1 or not self._first <= port <= self._last:
            return None
        place = (port - self._first) // self.ports_each
        index = number * self.per_address + place
        if place >= self.per_address or index >= self._subscribers.count:
            return None
        base = int(self._subscribers.prefix.network_address)
        length = self._subscribers.length
        return IPv6Network((base + (index << (128 - length)), length))

    def _address(self, number: int) -> bytes:
        for network in self._networks:
            if number < network.num_addresses:
                return (int(network.network_address) + number).to_bytes(4, "big")
            number -= network.num_addresses
        raise AssertionError("more subscribers on an address than were counted")

    def _number(self, address: IPv4Address) -> int | None:
        before = 0
        for network in self._networks:
            if address in network:
                return before + int(address) - int(network.network_address)
            before += network.num_addresses
        return None
