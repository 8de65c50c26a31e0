"""The dynamic pool and the flow cache of a stateless translator."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from tests.oracle import CLIENT, IP, OTHER_CLIENT, UDP, IPv6, Raw, fast_path_of, read, tcp4, tcp6
from tests.siit_bench import (
    HOST,
    HOST4,
    OWN4,
    OWN6,
    PREFIX,
    SERVER,
    SERVER4,
    SiitBench,
    embedded,
    error4,
    make_settings,
    table,
)
from translate.address_pool import AddressPool
from translate.addresses import Layout, Prefix6
from translate.reasons import Reason

POOL = IPv4Network("198.51.100.0/30")


def udp6(src=CLIENT, dst=SERVER, sport=40000, **ip):
    return IPv6(src=src, dst=dst, **ip) / UDP(sport=sport, dport=53) / Raw(b"query")


def udp4(dst, src=SERVER4, dport=40000):
    return IP(src=src, dst=dst) / UDP(sport=53, dport=dport) / Raw(b"answer")


def pooled(networks=(POOL,), **changes):
    pool = AddressPool(networks, keep=changes.pop("keep", 100.0), **changes.pop("about", {}))
    return SiitBench(pool=pool, routed4=(POOL,), **changes), pool


# -- assignments ----------------------------------------------------------------------------


def test_a_host_gets_an_address_and_keeps_it():
    bench, pool = pooled()
    first = bench.one(udp6()).src
    assert IPv4Address(first) in POOL
    assert bench.one(udp6(sport=40001)).src == first
    assert bench.one(udp4(first)).dst == CLIENT
    assert bench.one(udp4(first, src="203.0.113.99")).dst == CLIENT, "who has an address has all"
    assert bench.one(udp6(src=OTHER_CLIENT)).src != first
    assert len(pool) == 2


def test_a_mapped_host_needs_none():
    bench, pool = pooled()
    assert bench.one(udp6(src=HOST)).src == HOST4
    assert len(pool) == 0


def test_an_address_that_nobody_has():
    """The destination of a packet from IPv4: host unreachable."""
    bench, _ = pooled()
    (answer,) = bench.refused(udp4("198.51.100.2"), Reason.NO_MAPPING)
    told = read(answer.data)
    assert (told.src, told.dst) == (OWN4, SERVER4)
    assert bytes(told.payload)[:2] == bytes((3, 1))
    (answer,) = bench.refused(udp6(dst=embedded("198.51.100.2")), Reason.NO_MAPPING)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 3))


def test_a_pool_without_free_addresses():
    bench, _ = pooled()
    for number in range(4):
        bench.one(udp6(src=f"2001:db8:1::{number + 1:x}"))
    (answer,) = bench.refused(udp6(src="2001:db8:1::9"), Reason.POOL4_EXHAUSTED)
    told = read(answer.data)
    assert (told.src, told.dst) == (OWN6, "2001:db8:1::9")
    assert bytes(told.payload)[:2] == bytes((1, 3))
    bench.advance(101.0)
    assert IPv4Address(bench.one(udp6(src="2001:db8:1::9")).src) in POOL


def test_who_is_not_admitted_gets_none():
    bench, pool = pooled(admit=lambda addr6: addr6 != IPv6Address(CLIENT).packed)
    (answer,) = bench.refused(udp6(), Reason.CLIENT_REFUSED)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 1))
    assert len(pool) == 0
    bench.one(udp6(src=OTHER_CLIENT))
    pool.assign(IPv6Address(CLIENT).packed, bench.now)
    bench.refused(udp6(), Reason.CLIENT_REFUSED)


def test_a_mapping_goes_before_the_pool():
    """Also one that came later, while the pool still knows the host."""
    bench, pool = pooled()
    assert IPv4Address(bench.one(udp6()).src) in POOL
    mappings = table((f"{HOST4}/32", f"{CLIENT}/128"))
    bench.nat.configure(replace(bench.nat.siit, mappings=mappings, pool=pool))
    assert bench.one(udp6()).src == HOST4
    assert bench.one(udp4(HOST4)).dst == CLIENT


def test_a_mapped_host_is_not_asked_for():
    bench, _ = pooled(admit=lambda _: False)
    assert bench.one(udp6(src=HOST)).src == HOST4
    assert bench.one(udp6(src=embedded("203.0.113.7"))).src == "203.0.113.7"


def test_what_cannot_pass_uses_no_address():
    bench, pool = pooled()
    bench.refused(udp6(hlim=1), Reason.HOP_LIMIT)
    bench.refused(udp6(dst=embedded("127.0.0.1")), Reason.DESTINATION_REFUSED)
    bench.refused(IPv6(src=CLIENT, dst=SERVER, nh=2), Reason.ICMP_TYPE)
    bench.refused(udp6(src=embedded("127.0.0.1")), Reason.SOURCE_INVALID)
    assert len(pool) == 0


def test_pool_hosts_can_talk_to_each_other():
    bench, _ = pooled()
    one, other = bench.one(udp6()).src, bench.one(udp6(src=OTHER_CLIENT)).src
    out = bench.one(udp6(dst=embedded(other)))
    assert (out.src, out.dst) == (embedded(one), OTHER_CLIENT)


def test_an_error_from_an_address_that_nobody_has_comes_from_us():
    bench, _ = pooled()
    inner = IP(src=HOST4, dst=SERVER4) / UDP(sport=1, dport=2)
    assert bench.one(error4(11, 0, 0, inner, src="198.51.100.3", dst=HOST4)).src == OWN6


# -- use, seen by whichever path carries the packets ----------------------------------------


def test_a_flow_on_the_fast_path_keeps_the_address_in_use():
    bench, pool = pooled(keep=100.0)
    addr4 = bench.one(udp6()).src
    fast = fast_path_of(bench)
    for _ in range(30):
        bench.advance(20.0)
        assert fast(udp6()) is not None
    for number in range(1, 9):
        bench.send(udp6(src=f"2001:db8:7::{number:x}"))
    assert pool.find6(IPv6Address(CLIENT).packed).addr4 == IPv4Address(addr4).packed
    assert bench.one(udp4(addr4)).dst == CLIENT


def test_use_is_noted_when_a_flow_ends():
    bench, pool = pooled()
    bench.one(udp6())
    fast = fast_path_of(bench)
    bench.advance(50.0)
    assert fast(udp6()) is not None
    last = bench.now
    bench.advance(200.0)
    assert bench.flows == 0
    assert abs(pool.find6(IPv6Address(CLIENT).packed).last - last) < 2


# -- the cache ------------------------------------------------------------------------------


def test_a_flow_goes_when_it_is_silent():
    bench = SiitBench()
    bench.one(udp6(src=HOST))
    assert (bench.flows, len(bench.nat.state.clients)) == (1, 1)
    assert bench.nat.next_deadline() is not None
    bench.advance(59.0)
    assert bench.flows == 1
    bench.advance(2.0)
    assert (bench.flows, len(bench.nat.state.clients)) == (0, 0)
    assert bench.nat.next_deadline() is None
    assert fast_path_of(bench)(udp6(src=HOST)) is None
    assert bench.one(udp6(src=HOST)).src == HOST4


def test_at_the_limit_everything_passes_and_nothing_is_entered():
    bench = SiitBench()
    limits = replace(bench.nat.settings.limits, sessions=3)
    bench = SiitBench({"limits": limits})
    for port in range(1, 10):
        assert bench.one(udp6(src=HOST, sport=port)).src == HOST4
    assert bench.flows == 3
    fast = fast_path_of(bench)
    assert fast(udp6(src=HOST, sport=3)) is not None
    assert fast(udp6(src=HOST, sport=4)) is None


def test_a_syn_enters_nothing():
    """Otherwise a flood of them would fill the cache."""
    bench = SiitBench()
    bench.one(tcp6("S", src=HOST, dst=SERVER))
    assert bench.flows == 0
    bench.one(tcp4("SA", 40000, src=SERVER4, dst=HOST4))
    assert bench.flows == 0
    bench.one(tcp6("A", src=HOST, dst=SERVER))
    assert bench.flows == 1


def test_what_comes_back_to_another_address_enters_nothing():
    """The fast path carries both directions of a flow."""
    overlapping = table(("198.51.100.0/24", "2001:db8:5::/120"), ("198.51.100.9/32", HOST))
    bench = SiitBench(mappings=overlapping)
    assert bench.one(udp6(src="2001:db8:5::9")).src == "198.51.100.9"
    assert bench.one(udp4("198.51.100.9")).dst == HOST
    assert bench.flows == 1, "that of HOST alone"


def test_the_way_back_of_what_came_from_ipv4():
    """For each of its two addresses."""
    inner = ("198.51.100.0/24", "2001:db8:5::/120"), ("192.0.2.77/32", "2001:db8:5::9")
    bench = SiitBench(mappings=table(*inner))
    assert bench.one(udp4("198.51.100.9")).dst == "2001:db8:5::9"
    assert bench.one(udp4("203.0.113.5", src="198.51.100.9")).src == "2001:db8:5::9"
    assert bench.flows == 0
    assert bench.one(udp4("198.51.100.8")).dst == "2001:db8:5::8"
    assert bench.flows == 1


def test_a_peer_in_another_form_enters_nothing():
    """What comes back would come from the first prefix."""
    second = Prefix6(IPv6Network("2001:db8:65::/96"), Layout.RFC6052)
    bench = SiitBench({"prefixes": (PREFIX, second)})
    assert bench.one(udp6(src=HOST, dst="2001:db8:65::cb00:7150")).dst == SERVER4
    assert bench.flows == 0
    assert bench.one(udp6(src=HOST)).dst == SERVER4
    assert bench.flows == 1


def test_new_mappings_are_in_force_at_once():
    bench = SiitBench()
    bench.one(udp6(src=HOST))
    bench.one(udp4(HOST4))
    assert bench.flows == 1
    bench.nat.configure(make_settings(mappings=table(("192.0.2.77/32", HOST))))
    assert bench.flows == 0
    assert fast_path_of(bench)(udp6(src=HOST)) is None
    assert bench.one(udp6(src=HOST)).src == "192.0.2.77"
    assert bench.one(udp4("192.0.2.77")).dst == HOST
    assert bench.one(udp4(HOST4)).dst == embedded(HOST4)


def test_identifications_go_on_after_a_change():
    """RFC 6864 §4: they must not begin anew."""
    bench = SiitBench()
    before = bench.one(udp6(src=HOST)).id
    bench.nat.configure(make_settings())
    assert bench.one(udp6(src=HOST)).id == (before + 1) & 0xFFFF


def test_a_change_notes_the_use_of_addresses():
    bench, pool = pooled()
    bench.one(udp6())
    fast = fast_path_of(bench)
    bench.now += 30
    assert fast(udp6()) is not None
    bench.nat.configure(bench.nat.siit)
    assert abs(pool.find6(IPv6Address(CLIENT).packed).last - bench.now) < 2
