"""Which pool4 port a client gets: by client prefix, in blocks, by its address; its limits."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from tests.oracle import (
    CLIENT,
    OTHER_CLIENT,
    OTHER_SERVER6,
    TCP,
    UDP,
    Bench,
    echo6,
    read,
    tcp6,
    udp6,
)
from translate.client_ports import BlockEvent
from translate.deterministic import Subscribers
from translate.nat64 import Nat64
from translate.packets import Packet, Protocol
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits
from translate.static_bib import StaticEntry

A, B, C = "198.51.100.8", "198.51.100.16", "198.51.100.24"
ALL = frozenset({1, 6, 17})


def item(network, first=1, last=65535, *, protocols=ALL, clients=None):
    prefix = None if clients is None else IPv6Network(clients)
    return PoolRange(IPv4Network(network), protocols, first, last, prefix)


def sent(bench: Bench, **about):
    """A client's datagram as it leaves for a server; an answer in its place is a failure."""
    out = bench.udp(**about)
    assert out.version == 4
    return out


# -- by client prefix ----------------------------------------------------------------------


def address_of(bench, client):
    return sent(bench, src=client).src


def test_client_of_a_named_prefix_has_its_own_range():
    bench = Bench(pool4=(item(A), item(B, clients="2001:db8:1::/48")))
    for n in range(20):
        assert address_of(bench, f"2001:db8:1::{n + 1:x}") == B
        assert address_of(bench, f"2001:db8:2::{n + 1:x}") == A


def test_longest_prefix_decides():
    bench = Bench(
        pool4=(item(B, clients="2001:db8::/32"), item(C, clients="2001:db8:1::/48"), item(A))
    )
    assert address_of(bench, "2001:db8:1::1") == C
    assert address_of(bench, "2001:db8:2::1") == B
    assert address_of(bench, "2001:db9::1") == A


def test_client_of_no_range_is_refused():
    bench = Bench(pool4=(item(B, clients="2001:db8:1::/48"),))
    (answer,) = bench.refused(udp6(src="2001:db8:2::1"), Reason.POOL4_EXHAUSTED)
    assert read(answer.data).payload.code == 3


def test_full_range_of_its_own_is_no_reason_for_another():
    bench = Bench(pool4=(item(A), item(B, 2000, 2000, clients="2001:db8:1::/48")))
    sent(bench, src="2001:db8:1::1")
    bench.refused(udp6(src="2001:db8:1::1", sport=40001), Reason.POOL4_EXHAUSTED)


def test_prefix_decides_for_each_protocol():
    tcp_only = frozenset({6})
    bench = Bench(pool4=(item(A), item(B, protocols=tcp_only, clients="2001:db8:1::/48")))
    assert bench.one(tcp6("S", src="2001:db8:1::1")).src == B
    assert sent(bench, src="2001:db8:1::1").src == A


def test_one_address_shared_by_ports():
    bench = Bench(pool4=(item(A, 1024, 1999), item(A, 2000, 2999, clients="2001:db8:1::/48")))
    for n in range(50):
        assert 2000 <= sent(bench, src="2001:db8:1::1", sport=40000 + n)[UDP].sport <= 2999
        assert 1024 <= sent(bench, src="2001:db8:2::1", sport=40000 + n)[UDP].sport <= 1999
    bench.advance(400)
    free = bench.nat.state.allocators[Protocol.UDP].free_ports(IPv4Address(A).packed)
    assert free == 976 + 1000


# -- ports of a client ---------------------------------------------------------------------


def test_ports_of_a_client():
    bench = Bench(limits=Limits(bib_per_client=2))
    sent(bench, sport=40000)
    bench.one(tcp6("S", sport=40000))
    (answer,) = bench.refused(udp6(sport=40001), Reason.CLIENT_BIB_LIMIT)
    got = read(answer.data)
    assert (got.dst, got.payload.type, got.payload.code) == (CLIENT, 1, 3)
    bench.refused(echo6(), Reason.CLIENT_BIB_LIMIT)
    sent(bench, sport=40000, dst=OTHER_SERVER6)
    sent(bench, src=OTHER_CLIENT)
    bench.advance(302)
    sent(bench, sport=40001)


def test_no_limit_of_ports_by_default():
    bench = Bench()
    for port in range(1024, 1224):
        sent(bench, sport=port)


@pytest.mark.parametrize(("seconds", "rests"), [(119, True), (241, False)])
def test_rfc6888_req8_a_port_rests_before_another_client_gets_it(seconds, rests):
    bench = Bench(pool4=(item(A, 5000, 5003),))
    port = sent(bench, sport=40000)[UDP].sport
    bench.advance(302)
    others = {sent(bench, src=OTHER_CLIENT, sport=sport)[UDP].sport for sport in (40000, 40002)}
    assert port not in others
    bench.advance(seconds)
    assert (sent(bench, sport=40000)[UDP].sport == port) != rests
    assert {sent(bench, sport=sport)[UDP].sport for sport in (40000, 40002)} | others == {
        *range(5000, 5004)
    }


@pytest.mark.parametrize("limit", [{"sessions": 1}, {"sessions_per_client": 0}])
def test_who_is_refused_leaves_no_port_resting(limit):
    bench = Bench(pool4=(item(A, 5000, 5003),))
    sent(bench, src=OTHER_CLIENT, sport=40000)
    before = bench.nat.settings
    bench.nat.configure(replace(before, limits=Limits(**limit)))
    (answer,) = bench.nat.translate(Packet(bytes(udp6(sport=40000))), bench.now)
    assert read(answer.data).payload.code == 3
    assert bench.nat.state.bib_count == 1
    bench.nat.configure(before)
    assert sent(bench, sport=40000)[UDP].sport % 2 == 0, "the only even one left is free"


# -- blocks --------------------------------------------------------------------------------


class Blocks(Bench):
    """A bench that notes what is told about blocks."""

    def __init__(self, size=100, most=2, pool=None, **changes):
        super().__init__(
            pool4=pool or (item(A, 1024, 1323),),
            port_block_size=size,
            port_blocks_per_client=most,
            **changes,
        )
        self.events: list[BlockEvent] = []
        self.nat = Nat64(
            self.nat.settings,
            randbelow=lambda n: n // 2,
            admit=lambda _: True,
            path_mtu=lambda _: 1500,
            on_block=self.events.append,
        )

    def told(self):
        events = [(e.client6[-1], e.first, e.last, e.assigned) for e in self.events]
        self.events.clear()
        return events


def test_ports_come_from_one_block_and_it_is_told_once():
    bench = Blocks()
    ports = [sent(bench, sport=port)[UDP].sport for port in range(2000, 2100)]
    ((_, first, last, assigned),) = bench.told()
    assert (first - 1024) % 100 == 0
    assert (last - first, assigned) == (99, True)
    assert sorted(ports) == list(range(first, last + 1))


def test_parity_is_kept_while_there_are_ports():
    bench = Blocks()
    for port in range(2000, 2100, 2):
        assert sent(bench, sport=port)[UDP].sport % 2 == 0
    assert len(bench.told()) == 1
    assert sent(bench, sport=3000)[UDP].sport % 2 == 1
    assert bench.told() == []


def test_well_known_port_gets_one_of_the_block():
    bench = Blocks()
    assert sent(bench, sport=53)[UDP].sport >= 1024


def test_more_blocks_up_to_the_limit():
    bench = Blocks(size=10, most=2)
    ports = {sent(bench, sport=port)[UDP].sport for port in range(2000, 2020)}
    assert len(ports) == 20
    assert len(bench.told()) == 2
    (answer,) = bench.refused(udp6(sport=2020), Reason.CLIENT_BLOCK_LIMIT)
    assert read(answer.data).payload.code == 3
    sent(bench, src=OTHER_CLIENT)
    assert len(bench.told()) == 1


def test_each_protocol_has_blocks_of_its_own():
    bench = Blocks(size=10, most=1)
    sent(bench)
    bench.one(tcp6("S"))
    bench.one(echo6())
    assert {event.protocol for event in bench.events} == {1, 6, 17}
    assert len(bench.events) == 3


def test_block_is_one_clients_alone():
    bench = Blocks(size=100, most=1)
    ranges = []
    for client in ("2001:db8::1", "2001:db8::2", "2001:db8::3"):
        sent(bench, src=client)
        ((_, first, last, _),) = bench.told()
        ranges.append((first, last))
    assert sorted(ranges) == [(1024, 1123), (1124, 1223), (1224, 1323)]
    bench.refused(udp6(src="2001:db8::4"), Reason.POOL4_EXHAUSTED)
    assert bench.told() == []
    bench.advance(400)
    sent(bench, src="2001:db8::4")


def test_block_is_released_with_its_last_mapping():
    bench = Blocks()
    sent(bench, sport=2000)
    bench.now += 200
    sent(bench, sport=2001)
    ((client, first, last, _),) = bench.told()
    bench.advance(150)
    assert bench.told() == []
    bench.advance(200)
    assert bench.told() == [(client, first, last, False)]


def test_partial_block_at_the_end_is_not_used():
    bench = Blocks(size=200, pool=(item(A, 1024, 1423 - 1),))
    sent(bench, src="2001:db8::1")
    bench.refused(udp6(src="2001:db8::2"), Reason.POOL4_EXHAUSTED)


def test_static_entry_lies_inside_a_block():
    key4 = IPv4Address(A).packed + (1024).to_bytes(2, "big")
    entry = StaticEntry(17, key4, IPv6Network("2001:db8:5::5").network_address.packed + b"\0\x35")
    bench = Blocks(size=2, most=1, pool=(item(A, 1024, 1025),), static=(entry,))
    assert sent(bench, sport=2000)[UDP].sport == 1025
    bench.refused(udp6(sport=2001), Reason.CLIENT_BLOCK_LIMIT)


def test_block_full_of_static_entries_is_passed_over():
    server = IPv6Network("2001:db8:5::5").network_address.packed
    entries = tuple(
        StaticEntry(17, IPv4Address(A).packed + p.to_bytes(2, "big"), server + p.to_bytes(2, "big"))
        for p in (1026, 1027)
    )
    bench = Blocks(size=2, most=4, pool=(item(A, 1024, 1027),), static=entries)
    assert {sent(bench, sport=p)[UDP].sport for p in (2000, 2001)} == {1024, 1025}
    bench.refused(udp6(sport=2002), Reason.POOL4_EXHAUSTED)
    bench.nat.configure(replace(bench.nat.settings, static=()))
    assert sent(bench, sport=2002)[UDP].sport in (1026, 1027)


def test_failed_session_gives_the_block_back():
    bench = Blocks(limits=Limits(sessions=1))
    sent(bench)
    bench.told()
    bench.refused(udp6(src=OTHER_CLIENT), Reason.SESSION_LIMIT)
    assert [event[3] for event in bench.told()] == [True, False]


# -- deterministic -------------------------------------------------------------------------

HOMES = Subscribers(IPv6Network("2001:db8::/62"), 64)


def test_ports_follow_from_the_address():
    bench = Bench(pool4=(item("198.51.100.8/31"),), deterministic=HOMES)
    size = 64512 // 2
    for home, (address, first) in enumerate(
        [(A, 1024), (A, 1024 + size), ("198.51.100.9", 1024), ("198.51.100.9", 1024 + size)]
    ):
        for host in (1, 2, 3):
            got = sent(bench, src=f"2001:db8:0:{home:x}::{host}")
            assert got.src == address
            assert first <= got[UDP].sport < first + size
            assert got[UDP].sport % 2 == 0


def test_subscriber_shares_its_ports_and_no_more():
    bench = Bench(pool4=(item(A, 1024, 1031),), deterministic=HOMES)
    sent(bench, src="2001:db8::1")
    sent(bench, src="2001:db8::2")
    bench.refused(udp6(src="2001:db8::3"), Reason.CLIENT_BLOCK_LIMIT)
    assert bench.one(tcp6("S", src="2001:db8::3"))[TCP].sport in (1024, 1025)
    sent(bench, src="2001:db8:0:1::1")
    bench.advance(302)
    sent(bench, src="2001:db8::3")


def test_stranger_gets_no_port():
    bench = Bench(pool4=(item(A), item(B, clients="2001:db9::/32")), deterministic=HOMES)
    bench.refused(udp6(src="2001:db8:0:4::1"), Reason.POOL4_EXHAUSTED)
    assert sent(bench, src="2001:db9::1").src == B


@pytest.mark.parametrize("protocol", [6, 17, 1])
def test_nothing_is_left_behind(protocol):
    bench = Blocks(size=10)
    before = [p.free_ports(IPv4Address(A).packed) for p in bench.nat.state.allocators.values()]
    for port in range(2000, 2015):
        packets = {6: tcp6("S", sport=port), 17: udp6(sport=port), 1: echo6(ident=port)}
        bench.one(packets[protocol])
    bench.advance(8000)
    after = [p.free_ports(IPv4Address(A).packed) for p in bench.nat.state.allocators.values()]
    assert after == before
    assert not bench.nat.state.clients
