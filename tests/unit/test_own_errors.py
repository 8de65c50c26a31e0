"""The translator's own ICMP errors (RFC 4443 §2.4, RFC 1122 §3.2.2, RFC 1812 §4.3.2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    OWN6,
    POOL,
    ROUTER6,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    IPv6ExtHdrRouting,
    Raw,
    echo6,
    pseudo_sum,
    read,
    rfc6052,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits

NOT_EMBEDDED = "fec0:0:0:ffff:1:2:3:4"
ANYWHERE = "2001:db8:aaaa::1"


@pytest.fixture
def bench():
    return Bench()


# -- every field --------------------------------------------------------------------------


def test_rfc4443_2_2_every_field_of_an_icmpv6_error(bench):
    packet = udp6(hlim=1, tc=3)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    out = read(answer.data)
    assert (out.src, out.dst, out.nh, out.fl) == (OWN6, CLIENT, 58, 0)
    assert out.hlim >= 2
    assert (out.payload.type, out.payload.code, out.payload.unused) == (3, 0, 0)
    assert bytes(out.payload)[8:] == bytes(packet), "as it came in, hop limit included"


def test_rfc1812_4_3_2_every_field_of_an_icmpv4_error(bench):
    port = bench.udp()[UDP].sport
    packet = udp4(port, ttl=1)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    out = read(answer.data)
    assert (out.src, out.dst, out.proto, out.ihl, out.frag) == (POOL, SERVER, 1, 5, 0)
    assert out.ttl >= 2
    assert (out[ICMP].type, out[ICMP].code) == (11, 0)
    assert bytes(out[ICMP])[4:8] == bytes(4)
    assert bytes(out[ICMP])[8:] == bytes(packet), "as it came in, TTL included"


@pytest.mark.parametrize("size", [1000, 1184, 1185, 4000])
def test_rfc4443_2_4_c_an_icmpv6_error_has_at_most_1280_bytes(bench, size):
    packet = udp6(hlim=1, data=(bytes(range(256)) * 16)[:size])
    (answer,) = bench.send(packet)
    assert len(answer.data) == min(1280, 48 + 48 + size)
    assert answer.data[48:] == bytes(packet)[: len(answer.data) - 48]


@pytest.mark.parametrize("size", [400, 520, 521, 4000])
def test_rfc1812_4_3_2_3_an_icmpv4_error_has_at_most_576_bytes(bench, size):
    port = bench.udp()[UDP].sport
    packet = udp4(port, ttl=1, data=bytes(size))
    (answer,) = bench.send(packet)
    assert len(answer.data) == min(576, 28 + 28 + size)
    assert answer.data[28:] == bytes(packet)[: len(answer.data) - 28]


def test_the_sources_are_settings():
    bench = Bench(
        icmp6_source=IPv6Address(ANYWHERE).packed,
        icmp4_source=IPv4Address("203.0.113.10").packed,
        pool4=(PoolRange(IPv4Network("203.0.113.8/29")),),
    )
    assert read(bench.send(udp6(hlim=1))[0].data).src == ANYWHERE
    sent = bench.udp()
    (answer,) = bench.send(udp4(sent[UDP].sport, dst=sent.src, ttl=1))
    assert read(answer.data).src == "203.0.113.10"


def test_rfc6864_4_identification_of_own_errors_does_not_repeat(bench):
    """They go without DF, so routers may fragment them: the identification has to count."""
    port = bench.udp()[UDP].sport
    answers = [read(bench.send(udp4(port, ttl=1))[0].data) for _ in range(4)]
    assert all(out.flags == "DF" for out in answers) or len({out.id for out in answers}) == 4


# -- what must not be answered ------------------------------------------------------------


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 100, 101, 126, 127])
def test_rfc4443_2_4_e1_no_answer_to_an_icmpv6_error(bench, kind):
    """Types 0 to 127 are errors, also those that are not known (RFC 4443 §2.1)."""
    packet = IPv6(src=CLIENT, dst=NOT_EMBEDDED) / ICMPv6EchoRequest(type=kind)
    assert bench.send(packet) == []


def test_rfc4443_2_4_e2_no_answer_to_a_redirect(bench):
    packet = IPv6(src=CLIENT, dst=NOT_EMBEDDED) / ICMPv6EchoRequest(type=137)
    assert bench.send(packet) == []


@pytest.mark.parametrize("kind", [1, 3, 127, 137])
def test_rfc4443_2_4_e1_not_even_behind_a_routing_header(bench, kind):
    packet = IPv6(src=CLIENT, dst=SERVER6) / IPv6ExtHdrRouting(addresses=[ROUTER6], segleft=1)
    assert bench.send(packet / ICMPv6EchoRequest(type=kind)) == []


@pytest.mark.parametrize("dst", ["ff02::1", "ff0e::1"])
def test_rfc4443_2_4_e3_no_answer_to_multicast(bench, dst):
    assert bench.send(udp6(dst=dst, hlim=1)) == []


@pytest.mark.parametrize("src", ["::", "ff02::1", "::1"])
def test_rfc4443_2_4_e6_no_answer_to_a_source_that_is_no_single_node(bench, src):
    assert bench.send(udp6(src=src, hlim=1)) == []
    assert bench.send(udp6(src=src, dst=NOT_EMBEDDED)) == []


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_rfc1122_3_2_2_no_answer_to_an_icmpv4_error(bench, kind):
    bench.udp()
    message = bytes((kind, 0, 0, 0)) + bytes(32)
    assert bench.send(IP(src=SERVER, dst=POOL, proto=1, ttl=1) / Raw(message)) == []


@pytest.mark.parametrize("src", ["0.0.0.0", "127.0.0.1", "224.0.0.9", "255.255.255.255"])
def test_rfc1122_3_2_2_no_answer_to_a_source_that_is_no_single_host(bench, src):
    port = bench.udp()[UDP].sport
    assert bench.send(udp4(port, src=src, ttl=1)) == []
    assert bench.send(IP(src=src, dst=POOL, proto=47) / Raw(bytes(40))) == []


def test_rfc1122_3_2_2_no_answer_to_a_later_fragment(bench):
    port = bench.udp()[UDP].sport
    assert bench.send(udp4(port, ttl=1, frag=5)) == []
    packet = IPv6(src=CLIENT, dst=SERVER6, hlim=1) / IPv6ExtHdrFragment(offset=5, nh=17)
    assert bench.send(packet / Raw(bytes(40))) == []


# -- how many -----------------------------------------------------------------------------


def test_rfc4443_2_4_f_rate_of_all_errors_together():
    bench = Bench(limits=Limits(icmp_errors_per_second=10, icmp_errors_burst=4))
    port = bench.udp()[UDP].sport
    packets = [udp6(hlim=1), udp4(port, ttl=1), udp6(dst=NOT_EMBEDDED), udp4(50001)]
    assert [len(bench.send(packet)) for packet in packets + packets] == [1] * 4 + [0] * 4
    bench.now += 0.25
    assert [len(bench.send(packet)) for packet in packets] == [1, 1, 0, 0]
    assert bench.nat.counters[Reason.HOP_LIMIT] == 6
    assert bench.nat.errors.suppressed == 6


def test_errors_that_pass_through_are_not_limited():
    bench = Bench(limits=Limits(icmp_errors_per_second=0, icmp_errors_burst=0))
    sent = bench.send(udp6())[0].data
    error = IP(src=SERVER, dst=POOL) / ICMP(type=3, code=3) / Raw(sent)
    assert [len(bench.send(error)) for _ in range(5)] == [1] * 5


# -- the translator as a node -------------------------------------------------------------


@pytest.mark.parametrize("dst", [OWN6, rfc6052("192.0.0.8")])
@pytest.mark.parametrize("hops", [1, 64])
def test_rfc4443_4_2_it_answers_ping(bench, dst, hops):
    packet = IPv6(src=CLIENT, dst=dst, hlim=hops, tc=7) / ICMPv6EchoRequest(
        id=5, seq=6, data=b"payload"
    )
    (answer,) = bench.refused(packet, Reason.HANDLED)
    out = read(answer.data)
    assert (out.src, out.dst, out.nh) == (dst, CLIENT, 58)
    assert out.hlim >= 2
    message = out.payload
    assert (message.type, message.code, message.id, message.seq) == (129, 0, 5, 6)
    assert message.data == b"payload"
    assert bench.nat.state.session_count == 0


def test_a_ping_with_partial_checksum_is_answered(bench):
    packet = echo6(dst=OWN6)
    packet[ICMPv6EchoRequest].cksum = pseudo_sum(packet)
    (answer,) = bench.refused(packet, Reason.HANDLED, partial=True)
    assert not answer.partial


def test_rfc4443_2_3_a_damaged_ping_is_not_answered(bench):
    damaged = bytearray(bytes(echo6(dst=OWN6)))
    damaged[-1] ^= 1
    assert bench.refused(bytes(damaged), Reason.MALFORMED) == []


def test_it_answers_ping_outside_the_prefix_too():
    bench = Bench(icmp6_source=IPv6Address(ANYWHERE).packed)
    (answer,) = bench.refused(echo6(dst=ANYWHERE), Reason.HANDLED)
    assert read(answer.data).src == ANYWHERE


def test_ping_of_strangers_is_refused():
    bench = Bench(admit=lambda _: False)
    (answer,) = bench.refused(echo6(dst=OWN6), Reason.CLIENT_REFUSED)
    assert (read(answer.data).payload.type, read(answer.data).payload.code) == (1, 1)


def test_pings_count_against_the_rate():
    bench = Bench(limits=Limits(icmp_errors_per_second=10, icmp_errors_burst=3))
    assert [len(bench.send(echo6(dst=OWN6))) for _ in range(5)] == [1, 1, 1, 0, 0]


@pytest.mark.parametrize("packet", [udp6(dst=OWN6), tcp6("S", dst=OWN6)])
def test_rfc4443_3_1_it_has_no_ports(bench, packet):
    (answer,) = bench.refused(packet, Reason.DESTINATION_REFUSED)
    out = read(answer.data)
    assert (out.src, out.payload.type, out.payload.code) == (OWN6, 1, 4)


def test_it_ignores_other_icmpv6_messages_to_itself(bench):
    for kind in (1, 3, 129, 200):
        packet = IPv6(src=CLIENT, dst=OWN6) / ICMPv6EchoRequest(type=kind)
        assert bench.refused(packet, Reason.ICMP_TYPE) == []


def test_traceroute_shows_it_as_the_first_hop(bench):
    hops = [read(bench.send(udp6(hlim=n, dport=33434 + n))[0].data) for n in (1, 2)]
    assert (hops[0].version, hops[0].src, hops[0].payload.type) == (6, OWN6, 3)
    assert (hops[1].version, hops[1].ttl) == (4, 1)
    assert trailing("192.0.0.8") == OWN6
    assert bench.one(tcp6("S", dst=SERVER6))[TCP].dport == 80
