"""Which pool4 transport address a client gets, for one protocol (RFC 6146 §3.5.1.1).

Theory of operation. The items of pool4 that name the client's prefix (the longest one that
matches) serve it, else those that name none; translate/pool4.py knows which of their ports are
free. Within these there are three ways to choose a port:

- any port of the client's address (the default);
- port blocks, `port_block_size`: a client's ports come from blocks that are its alone. Each block
  that is assigned or released is told once (`on_block`), so that few log lines say who had a port.
  A block goes back when its last mapping ends. Blocks lie next to each other from the first port
  of an item on, but not below 1024; what is left behind the last whole one is not used;
- deterministic, translate/deterministic.py: the block follows from the client's address.

In the two latter no port below 1024 is given to anyone. A static BIB entry takes its port
out of all of them (`reserve`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Network

from translate.deterministic import Plan, Subscribers
from translate.packets import Protocol
from translate.pool4 import WELL_KNOWN, PoolRange, PortAllocator, PortBlock, preferences
from translate.reasons import Discard, Reason
from translate.sessions import Client
from translate.settings import Settings

# How many pool addresses a new client tries before its packet is refused.
_ADDRESS_TRIES = 8


@dataclass(frozen=True, slots=True)
class BlockEvent:
    """A block was assigned to a client or released. `first`..`last`: its ports, inclusive."""

    client6: bytes
    addr4: bytes
    protocol: int
    first: int
    last: int
    assigned: bool


OnBlock = Callable[[BlockEvent], None]


class ClientPorts:
    """The ports of pool4 for one protocol, by client."""

    def __init__(
        self,
        settings: Settings,
        protocol: int,
        randbelow: Callable[[int], int],
        on_block: OnBlock,
    ) -> None:
        self._protocol = protocol
        self._on_block = on_block
        items: dict[IPv6Network | None, list[PoolRange]] = {None: []}
        for item in settings.pool4:
            if protocol in item.protocols:
                items.setdefault(item.clients, []).append(item)

        def allocator(ranges: list[PoolRange]) -> PortAllocator:
            return PortAllocator(tuple(ranges), protocol, randbelow)

        self._general = allocator(items[None])
        # (bits behind the prefix, the bits of the prefix, its ports), the longest prefix first.
        self._special = [
            (128 - net.prefixlen, int(net.network_address) >> (128 - net.prefixlen), allocator(own))
            for net, own in sorted(
                ((net, own) for net, own in items.items() if net is not None),
                key=lambda pair: -pair[0].prefixlen,
            )
        ]
        self._allocators = [self._general, *(own for _, _, own in self._special)]
        self._plan = None
        if settings.deterministic is not None and items[None]:
            self._plan = plan_of(settings.deterministic, items[None])
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over how many blocks a client may have; those it has stay."""
        self._block_size = settings.port_block_size
        self._blocks_per_client = settings.port_blocks_per_client

    def owns(self, addr4: bytes) -> bool:
        """Whether the address is in pool4 for this protocol."""
        if not self._special:
            return self._general.owns(addr4)
        return any(allocator.owns(addr4) for allocator in self._allocators)

    def free_ports(self, addr4: bytes) -> int:
        """How many ports of the address are free, whoever may use them."""
        return sum(pool.free_ports(addr4) for pool in self._allocators if pool.owns(addr4))

    def reserve(self, addr4: bytes, port: int) -> bool:
        """Takes one given port; False when it is taken or not in the pool."""
        return any(pool.reserve(addr4, port) for pool in self._allocators)

    def unreserve(self, addr4: bytes, port: int) -> None:
        """Gives a port back that `reserve` took."""
        self._holding(addr4, port).release(addr4, port)

    def take(self, client: Client, wanted: int) -> bytes:
        """A free transport address (6 bytes) for a client whose own port is `wanted`.

        Raises Discard where there is none left for this client.
        """
        pool = self._of(client.addr6)
        if self._protocol == Protocol.ICMP:
            # Identifiers have no well-known range to keep apart.
            wanted |= 0x8000
        if pool is self._general and self._plan is not None:
            return self._take_planned(self._plan, client, wanted)
        addr4 = self._address_of(pool, client)
        if addr4 is not None:
            return addr4 + self._take_at(pool, client, addr4, wanted).to_bytes(2, "big")
        for _ in range(_ADDRESS_TRIES):
            addr4 = pool.random_address()
            if addr4 is None:
                break
            try:
                return addr4 + self._take_at(pool, client, addr4, wanted).to_bytes(2, "big")
            except Discard as discard:
                if discard.reason is not Reason.POOL4_EXHAUSTED:
                    raise
        raise Discard(Reason.POOL4_EXHAUSTED)

    def take_given(self, client: Client, addr4: bytes, port: int) -> bool:
        """Whether the client gets this very port: it is free, and no plan says otherwise.

        Its other ports, if it has any, are of the same address.
        """
        pool = self._of(client.addr6)
        if self._block_size or (pool is self._general and self._plan is not None):
            return False
        return self._address_of(pool, client) in (None, addr4) and pool.reserve(addr4, port)

    def release(self, client: Client, addr4: bytes, port: int, *, used: bool) -> None:
        """Gives a port back that `take` gave to this client. `used`: packets have left from it."""
        pool = self._holding(addr4, port)
        pool.release(addr4, port, used=used)
        blocks = client.blocks.get(self._protocol) if client.blocks else None
        for block in blocks or ():
            if block.first <= port <= block.last and block.addr4 == addr4:
                block.used -= 1
                if not block.used:
                    self._give_back(pool, client, block)
                return

    def begin(self, period: int) -> None:
        """Another period of `REST` has begun."""
        for pool in self._allocators:
            pool.period = period

    def _address_of(self, pool: PortAllocator, client: Client) -> bytes | None:
        """The client's pool address, across protocols where possible (RFC 4787 REQ-2)."""
        addr4 = client.addr4.get(self._protocol)
        if addr4 is None:
            addr4 = next((a for a in client.addr4.values() if pool.owns(a)), None)
        return addr4

    def _of(self, addr6: bytes) -> PortAllocator:
        if self._special:
            value = int.from_bytes(addr6, "big")
            for shift, bits, allocator in self._special:
                if value >> shift == bits:
                    return allocator
        return self._general

    def _holding(self, addr4: bytes, port: int) -> PortAllocator:
        if not self._special:
            return self._general
        return next(pool for pool in self._allocators if pool.covers(addr4, port))

    def _take_at(self, pool: PortAllocator, client: Client, addr4: bytes, wanted: int) -> int:
        if self._block_size:
            return self._take_in_blocks(pool, client, addr4, wanted)
        port = pool.take(addr4, wanted)
        if port is None:
            raise Discard(Reason.POOL4_EXHAUSTED)
        return port

    def _take_in_blocks(
        self, pool: PortAllocator, client: Client, addr4: bytes, wanted: int
    ) -> int:
        """A port of the client's blocks; of one more block where they are full."""
        blocks = client.blocks.get(self._protocol, []) if client.blocks else []
        # Parity and rest are worth looking for in every block, but no block more (RFC 4787 §4.2.2).
        for resting, parity in preferences(wanted):
            for block in blocks:
                port = pool.take_within(addr4, parity, block.first, block.last, resting=resting)
                if port is not None:
                    block.used += 1
                    return port
        if len(blocks) >= self._blocks_per_client:
            raise Discard(Reason.CLIENT_BLOCK_LIMIT)
        block, port = self._new_block(pool, addr4, wanted)
        block.used = 1
        if client.blocks is None:
            client.blocks = {}
        client.blocks.setdefault(self._protocol, []).append(block)
        self._tell(client, block, assigned=True)
        return port

    def _new_block(self, pool: PortAllocator, addr4: bytes, wanted: int) -> tuple[PortBlock, int]:
        """A block that nobody has, and a port of it."""
        full = []
        try:
            while (first := pool.take_block(addr4, self._block_size)) is not None:
                last = first + self._block_size - 1
                for resting, parity in preferences(wanted):
                    port = pool.take_within(addr4, parity, first, last, resting=resting)
                    if port is not None:
                        return PortBlock(addr4, first, last), port
                full.append(first)  # of static entries
        finally:
            for first in full:
                pool.release_block(addr4, first)
        raise Discard(Reason.POOL4_EXHAUSTED)

    def _give_back(self, pool: PortAllocator, client: Client, block: PortBlock) -> None:
        assert client.blocks is not None
        client.blocks[self._protocol].remove(block)
        pool.release_block(block.addr4, block.first)
        self._tell(client, block, assigned=False)

    def _tell(self, client: Client, block: PortBlock, *, assigned: bool) -> None:
        where = (client.addr6, block.addr4, self._protocol, block.first, block.last)
        self._on_block(BlockEvent(*where, assigned))

    def _take_planned(self, plan: Plan, client: Client, wanted: int) -> bytes:
        block = plan.ports_of(client.addr6)
        if block is None:
            raise Discard(Reason.POOL4_EXHAUSTED)
        addr4, first, last = block.addr4, block.first, block.last
        for resting, parity in preferences(wanted):
            port = self._general.take_within(addr4, parity, first, last, resting=resting)
            if port is not None:
                return addr4 + port.to_bytes(2, "big")
        raise Discard(Reason.CLIENT_BLOCK_LIMIT)


def plan_of(subscribers: Subscribers, items: Sequence[PoolRange]) -> Plan:
    """The deterministic plan over items, at least one, that all have the same ports."""
    first, last = max(WELL_KNOWN, items[0].first_port), items[0].last_port
    return Plan(subscribers, [item.network for item in items], first, last)
