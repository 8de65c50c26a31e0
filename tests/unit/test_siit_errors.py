"""ICMP errors in stateless mode (RFC 7915 §4.2, §4.3, §5.2, §5.3, RFC 6791)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.oracle import (
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    checksum_right,
    read,
)
from tests.siit_bench import (
    HOST,
    HOST4,
    IN_NET,
    IN_NET4,
    OWN4,
    OWN6,
    ROUTER,
    ROUTER4,
    SERVER,
    SERVER4,
    SiitBench,
    embedded,
    error4,
    error6,
)
from translate.addresses import Layout, Prefix6
from translate.icmp import UNREACHABLE_4_TO_6, UNREACHABLE_6_TO_4
from translate.policy import WELL_KNOWN_PREFIX
from translate.reasons import Reason

UPPER = {
    "udp": UDP(sport=40000, dport=53) / Raw(b"query"),
    "tcp": TCP(sport=40000, dport=80, seq=5) / Raw(b"data"),
}


def sent4(name="udp", **ip):
    """What a mapped host's packet is in IPv4."""
    return IP(src=HOST4, dst=SERVER4, ttl=60, **ip) / UPPER[name]


def sent6(name="udp", **ip):
    """What an IPv4 host's packet is in IPv6."""
    return IPv6(src=SERVER, dst=HOST, hlim=60, **ip) / UPPER[name]


def inner_of(packet):
    data = bytes(packet.payload)[8:]
    return read(data)


# -- from IPv4 ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", range(16))
def test_unreachable_4_to_6(code):
    bench = SiitBench()
    packet = error4(3, code, 0, sent4(), src=ROUTER4, dst=HOST4)
    if code not in UNREACHABLE_4_TO_6:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
        return
    out = bench.one(packet)
    assert (out.src, out.dst) == (embedded(ROUTER4), HOST)
    assert tuple(bytes(out.payload)[:2]) == UNREACHABLE_4_TO_6[code]


@pytest.mark.parametrize("name", UPPER)
def test_the_packet_inside_is_what_the_host_has_sent(name):
    bench = SiitBench()
    out = bench.one(error4(11, 0, 0, sent4(name), src=ROUTER4, dst=HOST4))
    inner = inner_of(out)
    assert bytes(inner) == bytes(IPv6(src=HOST, dst=SERVER, hlim=60) / UPPER[name])


def test_a_ping_inside():
    bench = SiitBench()
    packet = IP(src=HOST4, dst=SERVER4) / ICMP(type=8, id=7, seq=1) / Raw(b"abcdefgh")
    out = bench.one(error4(11, 0, 0, packet, src=ROUTER4, dst=HOST4))
    want = IPv6(src=HOST, dst=SERVER) / ICMPv6EchoRequest(id=7, seq=1, data=b"abcdefgh")
    assert bytes(inner_of(out)) == bytes(want)


@pytest.mark.parametrize(
    ("mtu4", "mtu6"), [(1400, 1420), (1260, 1280), (1259, 1280), (576, 1280), (9000, 1500)]
)
def test_packet_too_big_4_to_6(mtu4, mtu6):
    """RFC 7915 §4.2: 20 more, at most what the device carries, at least 1280."""
    out = SiitBench().one(error4(3, 4, mtu4, sent4(), src=ROUTER4, dst=HOST4))
    assert bytes(out.payload)[:8] == bytes((2, 0)) + bytes(out.payload)[2:4] + mtu6.to_bytes(4)


def test_packet_too_big_of_a_router_that_says_nothing():
    """RFC 7915 §4.2, RFC 1191 §7.1: a plateau below the packet's size."""
    inner = IP(src=HOST4, dst=SERVER4, len=1500) / UPPER["udp"]
    out = SiitBench().one(error4(3, 4, 0, inner, src=ROUTER4, dst=HOST4))
    assert int.from_bytes(bytes(out.payload)[4:8]) == 1492 + 20 - 12 == 1500


def test_an_error_from_a_denied_router_comes_from_us():
    bench = SiitBench({"deny4": (IPv4Network("198.18.0.0/15"),)})
    assert bench.one(error4(11, 0, 0, sent4(), src=ROUTER4, dst=HOST4)).src == OWN6


@pytest.mark.parametrize("kind", ["later fragment", "first fragment", "sctp", "short", "bare"])
def test_packets_without_ports_inside_4_to_6(kind):
    head = IP(src=HOST4, dst=SERVER4)
    inner = {
        "later fragment": bytes(IP(src=HOST4, dst=SERVER4, frag=7, id=9, proto=17) / Raw(b"x" * 9)),
        "first fragment": bytes(IP(src=HOST4, dst=SERVER4, flags="MF", id=9) / UPPER["udp"]),
        "sctp": bytes(IP(src=HOST4, dst=SERVER4, proto=132) / Raw(b"x" * 9)),
        "short": bytes(head / UPPER["udp"])[:26],
        "bare": bytes(head / UPPER["udp"])[:20],
    }[kind]
    out = SiitBench().one(error4(11, 1, 0, inner, src=ROUTER4, dst=HOST4))
    assert tuple(bytes(out.payload)[:2]) == (3, 1)
    got = inner_of(out)
    assert (got.src, got.dst) == (HOST, SERVER)
    if kind.endswith("fragment"):
        piece = got[IPv6ExtHdrFragment]
        assert (piece.nh, piece.offset, piece.id) == (17, 7 if kind[0] == "l" else 0, 9)
    else:
        assert got.nh == (132 if kind == "sctp" else 17)
        assert bytes(got)[40:] == (inner[20:] if kind != "short" else inner[20:26])


def test_an_error_about_a_packet_between_others():
    bench = SiitBench()
    assert (
        bench.refused(
            error4(
                11,
                0,
                0,
                IP(src="198.51.100.1", dst="127.0.0.1") / UPPER["udp"],
                src=ROUTER4,
                dst=HOST4,
            ),
            Reason.ICMP_INNER,
        )
        == []
    )


def test_an_error_inside_an_error():
    inner = error4(11, 0, 0, sent4(), src=HOST4, dst=SERVER4)
    SiitBench().refused(error4(3, 1, 0, inner, src=ROUTER4, dst=HOST4), Reason.ICMP_INNER)


# -- from IPv6 ------------------------------------------------------------------------------


@pytest.mark.parametrize("code", range(7))
def test_unreachable_6_to_4(code):
    bench = SiitBench()
    packet = error6(1, code, 0, sent6(), src=HOST, dst=SERVER)
    if code not in UNREACHABLE_6_TO_4:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
        return
    out = bench.one(packet)
    assert (out.src, out.dst) == (HOST4, SERVER4)
    assert tuple(bytes(out.payload)[:2]) == UNREACHABLE_6_TO_4[code]
    assert not out.flags.DF


@pytest.mark.parametrize("name", UPPER)
def test_the_packet_inside_is_what_the_ipv4_host_has_sent(name):
    out = SiitBench().one(error6(3, 0, 0, sent6(name), src=HOST, dst=SERVER))
    inner = inner_of(out)
    want = IP(src=SERVER4, dst=HOST4, ttl=60, id=inner.id, flags=inner.flags) / UPPER[name]
    assert bytes(inner) == bytes(want)


@pytest.mark.parametrize(("mtu6", "mtu4"), [(1500, 1480), (1400, 1380), (1280, 1260), (9000, 1480)])
def test_packet_too_big_6_to_4(mtu6, mtu4):
    out = SiitBench().one(error6(2, 0, mtu6, sent6(), src=ROUTER, dst=SERVER))
    message = bytes(out.payload)
    assert tuple(message[:2]) == (3, 4)
    assert int.from_bytes(message[6:8]) == mtu4


def test_packet_too_big_about_a_fragment():
    """RFC 7915 §5.2: the Fragment header takes 8 bytes more."""
    inner = IPv6(src=SERVER, dst=HOST) / IPv6ExtHdrFragment(nh=17, offset=3, id=9) / Raw(b"x" * 9)
    out = SiitBench().one(error6(2, 0, 1400, inner, src=ROUTER, dst=SERVER))
    assert int.from_bytes(bytes(out.payload)[6:8]) == 1372
    assert (inner_of(out).frag, inner_of(out).id) == (3, 9)


@pytest.mark.parametrize("kind", ["sctp", "short", "later fragment"])
def test_packets_without_ports_inside_6_to_4(kind):
    inner = {
        "sctp": bytes(IPv6(src=SERVER, dst=IN_NET, nh=132) / Raw(b"x" * 9)),
        "short": bytes(IPv6(src=SERVER, dst=IN_NET) / UPPER["udp"])[:45],
        "later fragment": bytes(
            IPv6(src=SERVER, dst=IN_NET) / IPv6ExtHdrFragment(nh=6, offset=3, id=9) / Raw(b"x" * 9)
        ),
    }[kind]
    out = SiitBench().one(error6(1, 3, 0, inner, src=ROUTER, dst=SERVER))
    got = inner_of(out)
    assert (got.src, got.dst) == (SERVER4, IN_NET4)
    assert got.proto == {"sctp": 132, "short": 17, "later fragment": 6}[kind]


@pytest.mark.parametrize("size", range(8))
def test_less_than_an_icmp_header_inside_tells_nothing(size):
    """It may be an error itself, and has no type that could be translated."""
    bench = SiitBench()
    inner = bytes(IP(src=HOST4, dst=SERVER4) / ICMP(type=8, id=1))[: 20 + size]
    bench.refused(error4(3, 1, 0, inner, src=ROUTER4, dst=HOST4), Reason.ICMP_INNER)
    inner = bytes(IPv6(src=SERVER, dst=HOST) / ICMPv6EchoRequest(id=1))[: 40 + size]
    bench.refused(error6(1, 3, 0, inner, src=ROUTER, dst=SERVER), Reason.ICMP_INNER)


@pytest.mark.parametrize("src4", ["0.0.0.0", "127.0.0.1", "169.254.0.9", "224.0.0.1"])
def test_rfc7915_4_1_an_impossible_router_is_shown_but_not_under_the_well_known_prefix(src4):
    inner = IP(src=HOST4, dst="8.8.8.8") / UPPER["udp"]
    error = error4(11, 0, 0, inner, src=src4, dst=HOST4)
    assert SiitBench().one(error).src == embedded(src4)
    strict = SiitBench({"prefixes": (Prefix6(WELL_KNOWN_PREFIX, Layout.RFC6052),)})
    assert strict.one(error).src == OWN6


def test_a_router_without_an_ipv4_address_is_us():
    """RFC 6791 §3."""
    assert SiitBench().one(error6(3, 0, 0, sent6(), src=ROUTER, dst=SERVER)).src == OWN4


def test_a_router_gets_an_address_of_the_pool_always_the_same():
    """RFC 6791 §3.1: so that hops can be told apart."""
    pool = (IPv4Network("198.51.100.0/28"), IPv4Network("198.51.100.32/30"))
    bench = SiitBench({"icmp4_error_pool": pool})
    seen = {}
    for number in range(1, 60):
        src = f"2001:db8:ffff::{number:x}"
        out = bench.one(error6(3, 0, 0, sent6(), src=src, dst=SERVER))
        seen[src] = out.src
        assert any(IPv4Address(out.src) in network for network in pool)
        assert bench.one(error6(3, 0, 0, sent6(), src=src, dst=SERVER)).src == out.src
    assert len(set(seen.values())) > 12
    assert bench.one(error6(3, 0, 0, sent6(), src=HOST, dst=SERVER)).src == HOST4


def test_a_mapped_router_has_its_own_address():
    bench = SiitBench({"icmp4_error_pool": (IPv4Network("198.51.100.0/28"),)})
    assert bench.one(error6(3, 0, 0, sent6(), src=IN_NET, dst=SERVER)).src == IN_NET4


def test_errors_are_no_use_of_the_pool_and_have_hop_limits():
    bench = SiitBench()
    bench.refused(error6(3, 0, 0, sent6(), src=ROUTER, dst=SERVER, hlim=1), Reason.HOP_LIMIT)
    bench.refused(error4(11, 0, 0, sent4(), src=ROUTER4, dst=HOST4, ttl=1), Reason.HOP_LIMIT)


def test_an_error_for_nobody_goes_round_in_no_circle():
    bench = SiitBench(routed4=(IPv4Network("192.0.2.0/24"),))
    inner = IPv6(src=embedded("192.0.2.99"), dst=HOST) / UPPER["udp"]
    packet = error6(1, 4, 0, inner, src=HOST, dst=embedded("192.0.2.99"))
    assert bench.refused(packet, Reason.NO_MAPPING) == []


def test_a_wrong_checksum_stays_wrong():
    for packet in (
        error6(1, 4, 0, sent6(), src=HOST, dst=SERVER),
        error4(3, 3, 0, sent4(), src=ROUTER4, dst=HOST4),
    ):
        data = bytearray(bytes(packet))
        data[-1] ^= 0x55
        (out,) = SiitBench().send(bytes(data))
        assert not checksum_right(out.data)
