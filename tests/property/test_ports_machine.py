"""Ports of pool4 beside a naive model: by client, in blocks, static ones that change.

The model keeps who has which port and which blocks were told; it never asks the translator but
through packets, `on_block` and the counters. UDP alone: ports are chosen alike for all.
"""

from __future__ import annotations

import random
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle import START, UDP, Bench, read, udp4, udp6
from translate.nat64 import Nat64
from translate.packets import Packet, Protocol
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits
from translate.static_bib import StaticEntry

GENERAL, SPECIAL = "198.51.100.8", "198.51.100.9"
NAMED = IPv6Network("2001:db8:1::/48")
FIRST, LAST = 1024, 1043
INSIDE = ["2001:db8:1::1", "2001:db8:1::2"]
CLIENTS = [*INSIDE, "2001:db8:2::1", "2001:db8:2::2"]
PORTS = list(range(2000, 2012))

statics = st.lists(
    st.tuples(
        st.sampled_from([GENERAL, SPECIAL]),
        st.integers(FIRST, LAST),
        st.sampled_from([*CLIENTS, "2001:db8:3::1"]),
        st.sampled_from(PORTS),
    ),
    max_size=6,
    unique_by=(lambda e: e[:2], lambda e: e[2:]),
)


def entry_of(address4, port4, address6, port6):
    key4 = IPv4Address(address4).packed + port4.to_bytes(2, "big")
    return StaticEntry(17, key4, IPv6Address(address6).packed + port6.to_bytes(2, "big"))


class Ports(RuleBasedStateMachine):
    @initialize(
        size=st.sampled_from([0, 2, 5, 20]),
        most=st.integers(1, 3),
        per_client=st.sampled_from([0, 3, 8]),
        fixed=statics,
        seed=st.integers(0, 3),
    )
    def begin(self, size, most, per_client, fixed, seed):
        self.size, self.most, self.per_client = size, most, per_client
        protocols = frozenset({17})
        bench = Bench(
            pool4=(
                PoolRange(IPv4Network(GENERAL), protocols, FIRST, LAST),
                PoolRange(IPv4Network(SPECIAL), protocols, FIRST, LAST, NAMED),
            ),
            port_block_size=size,
            port_blocks_per_client=most,
            limits=Limits(bib_per_client=per_client),
            static=tuple(entry_of(*one) for one in fixed),
        )
        self.blocks: set[tuple] = set()
        self.nat = Nat64(
            bench.nat.settings,
            randbelow=random.Random(seed).randrange,
            admit=lambda _: True,
            path_mtu=lambda _: 1500,
            on_block=self.told,
        )
        self.now = START
        # (client, port) to (pool address, pool port).
        self.fixed = {one[2:]: one[:2] for one in fixed}
        self.dynamic: dict[tuple, tuple] = {}

    def told(self, event):
        assert event.protocol == 17
        client, address = str(IPv6Address(event.client6)), str(IPv4Address(event.addr4))
        block = (client, address, event.first, event.last)
        if event.assigned:
            assert block not in self.blocks
            self.blocks.add(block)
        else:
            self.blocks.remove(block)

    @rule(c=st.sampled_from(CLIENTS), p=st.sampled_from(PORTS), d=st.sampled_from([53, 54]))
    def client_sends(self, c, p, d):
        before, refusal = dict(self.nat.counters), self.reason_to_refuse(c)
        (out,) = self.nat.translate(Packet(bytes(udp6(src=c, sport=p, dport=d))), self.now)
        counted = [r for r, n in self.nat.counters.items() if n != before[r]]
        known = self.fixed.get((c, p)) or self.dynamic.get((c, p))
        got = read(out.data)
        if known is None and counted:
            assert (got.dst, got.payload.type, got.payload.code) == (c, 1, 3)
            assert counted == [refusal]
            return
        assert counted == []
        where = (got.src, got[UDP].sport)
        if known is not None:
            assert where == known
            return
        assert refusal is None, "was to be refused"
        assert where not in [*self.fixed.values(), *self.dynamic.values()], "somebody else's"
        assert got.src == (SPECIAL if c in INSIDE else GENERAL)
        assert FIRST <= where[1] <= LAST
        self.dynamic[c, p] = where

    def reason_to_refuse(self, c):
        """Why a client that asks for one port more has to be refused, None if it must get it."""
        mine = [where for (who, _), where in self.dynamic.items() if who == c]
        if self.per_client and len(mine) >= self.per_client:
            return Reason.CLIENT_BIB_LIMIT
        address = SPECIAL if c in INSIDE else GENERAL
        used = {*self.fixed.values(), *self.dynamic.values()}
        free = {port for port in range(FIRST, LAST + 1) if (address, port) not in used}
        if not self.size:
            return None if free else Reason.POOL4_EXHAUSTED
        own = [range(b[2], b[3] + 1) for b in self.blocks if b[0] == c]
        if any(free.intersection(block) for block in own):
            return None
        if len(own) >= self.most:
            return Reason.CLIENT_BLOCK_LIMIT
        firsts = set(range(FIRST, LAST + 2 - self.size, self.size))
        firsts -= {b[2] for b in self.blocks if b[1] == address}
        if any(free.intersection(range(first, first + self.size)) for first in firsts):
            return None
        return Reason.POOL4_EXHAUSTED

    @precondition(lambda self: self.fixed or self.dynamic)
    @rule(data=st.data())
    def server_sends(self, data):
        both = {**self.fixed, **self.dynamic}
        (client, port) = data.draw(st.sampled_from(sorted(both)))
        address, pool_port = both[client, port]
        (out,) = self.nat.translate(Packet(bytes(udp4(pool_port, dst=address))), self.now)
        got = read(out.data)
        assert (got.dst, got[UDP].dport) == (client, port)

    @rule(fixed=statics)
    def reload(self, fixed):
        kept = {(s.key6, s.key4) for s in self.nat.state.sessions()}
        self.nat.configure(
            replace(self.nat.settings, static=tuple(entry_of(*one) for one in fixed))
        )
        before, self.fixed = self.fixed, {one[2:]: one[:2] for one in fixed}
        displaced = {
            who
            for who, where in self.dynamic.items()
            if who in self.fixed or where in self.fixed.values()
        }
        for who in displaced:
            del self.dynamic[who]
        ended = displaced | {who for who in before if self.fixed.get(who) != before[who]}
        after = {(s.key6, s.key4) for s in self.nat.state.sessions()}
        for key6, key4 in kept:
            who = (str(IPv6Address(key6[:16])), int.from_bytes(key6[32:34], "big"))
            assert ((key6, key4) in after) == (who not in ended)

    @rule()
    def everything_expires(self):
        self.now += 1000
        self.nat.expire(self.now, 1_000_000)
        self.dynamic.clear()

    @invariant()
    def everything_adds_up(self):
        if not hasattr(self, "nat"):
            return
        state = self.nat.state
        assert state.bib_count == len(self.fixed) + len(self.dynamic)
        assert set(state.clients) == {
            IPv6Address(who).packed for who, _ in [*self.fixed, *self.dynamic]
        }
        for address in (GENERAL, SPECIAL):
            used = [w for w in [*self.fixed.values(), *self.dynamic.values()] if w[0] == address]
            free = state.allocators[Protocol.UDP].free_ports(IPv4Address(address).packed)
            assert free == LAST - FIRST + 1 - len(used)
        if not self.size:
            assert not self.blocks
            return
        held = [(address, p) for _, address, a, b in self.blocks for p in range(a, b + 1)]
        assert len(held) == len(set(held)), "one client's alone"
        for client in CLIENTS:
            assert sum(block[0] == client for block in self.blocks) <= self.most
        in_use = set()
        for (client, _), (address, port) in self.dynamic.items():
            (block,) = [
                b for b in self.blocks if b[:2] == (client, address) and b[2] <= port <= b[3]
            ]
            in_use.add(block)
        assert in_use == self.blocks, "a block without mappings is given back"


TestPorts = Ports.TestCase
TestPorts.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
