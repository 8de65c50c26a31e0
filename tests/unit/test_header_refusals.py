"""Packets that are not simply translated: hops, options, extension headers, protocols, lengths.

RFC 7915 §4.1, §5.1; RFC 6146 §3.4; RFC 8200 §4; RFC 791 §3.1.
"""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    IP,
    POOL,
    SERVER,
    SERVER6,
    UDP,
    Bench,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    echo6,
    read,
    tcp4,
    tcp6,
    udp4,
    udp6,
    words,
)
from translate.reasons import Reason


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def port(bench):
    """The pool port of a known UDP session."""
    return bench.udp()[UDP].sport


def with_options(packet, options):
    """The packet's bytes with these options, which scapy would tidy up."""
    data = bytearray(bytes(packet))
    data[20:20] = options
    data[0] = 0x45 + len(options) // 4
    data[2:4] = len(data).to_bytes(2, "big")
    data[10:12] = b"\0\0"
    data[10:12] = (0xFFFF - words(bytes(data[: 20 + len(options)]))).to_bytes(2, "big")
    return bytes(data)


# -- hops ---------------------------------------------------------------------------------


@pytest.mark.parametrize("hops", [0, 1])
@pytest.mark.parametrize("known", [False, True])
def test_rfc4443_3_3_hop_limit_runs_out(bench, hops, known):
    if known:
        bench.udp()
    packet = udp6(hlim=hops)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 3, 0)
    assert bytes(out.payload)[8:] == bytes(packet)
    assert len(list(bench.nat.state.sessions())) == known


@pytest.mark.parametrize("ttl", [0, 1])
def test_rfc1812_5_3_1_ttl_runs_out(bench, port, ttl):
    packet = udp4(port, ttl=ttl)
    (answer,) = bench.refused(packet, Reason.HOP_LIMIT)
    out = read(answer.data)
    assert (out.src, out.dst, out.proto) == (POOL, SERVER, 1)
    assert (out.payload.type, out.payload.code) == (11, 0)
    assert bytes(out.payload)[8:] == bytes(packet)


# -- options and extension headers --------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        b"\x01\x01\x01\x00",  # no operation, end
        b"\x94\x04\x00\x00",  # router alert (RFC 2113)
        b"\x07\x07\x04\x00\x00\x00\x00\x00",  # record route
        b"\x83\x07\x08\x0a\x00\x00\x01\x00",  # loose source route, used up
        b"\x89\x07\x08\x0a\x00\x00\x01\x00",  # strict source route, used up
        b"\x07\x00\x00\x00",  # length 0
        b"\x00\x83\x07\x04",  # source route behind the end of the list
        b"\x00\x02\x83\x0b\x04" + bytes(11),  # the same, where a length would lead to it
        b"\x01\x01\x83\x03",  # source route without a pointer
    ],
)
def test_rfc7915_4_1_ipv4_options_are_ignored(bench, port, options):
    out = bench.one(with_options(udp4(port), options))
    assert (out.nh, out.plen, bytes(out[UDP].payload)) == (17, 14, b"answer")


@pytest.mark.parametrize("kind", [0x83, 0x89])
@pytest.mark.parametrize("before", [b"", b"\x01", b"\x94\x04\x00\x00"])
@pytest.mark.parametrize("pointer", [4, 8])
def test_rfc7915_4_1_unexpired_source_route(bench, port, kind, before, pointer):
    option = bytes((kind, 11, pointer)) + bytes(8)
    options = before + option
    options += bytes(-len(options) % 4)
    (answer,) = bench.refused(with_options(udp4(port), options), Reason.SOURCE_ROUTE)
    out = read(answer.data)
    assert (out.src, out.dst, out.payload.type, out.payload.code) == (POOL, SERVER, 3, 5)


@pytest.mark.parametrize(
    "headers",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=0),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(segleft=0) / IPv6ExtHdrDestOpt(),
    ],
)
def test_rfc7915_5_1_extension_headers_are_skipped(bench, headers):
    packet = IPv6(src=CLIENT, dst=SERVER6) / headers / UDP(sport=1025, dport=53) / Raw(b"query")
    out = bench.one(packet)
    assert (out.proto, out.len, bytes(out[UDP].payload)) == (17, 33, b"query")


@pytest.mark.parametrize(
    ("before", "pointer"), [(None, 43), (IPv6ExtHdrHopByHop(), 51), (IPv6ExtHdrDestOpt(), 51)]
)
def test_rfc7915_5_1_segments_left(bench, before, pointer):
    routing = IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=1)
    packet = IPv6(src=CLIENT, dst=SERVER6) / (before / routing if before else routing)
    packet = packet / UDP(sport=1025, dport=53) / Raw(b"query")
    (answer,) = bench.refused(packet, Reason.ROUTING_HEADER)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 4, 0)
    assert out.payload.ptr == pointer
    assert bytes(packet)[pointer] == 1, "the pointer names the segments-left octet"


# -- protocols ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [2, 4, 33, 41, 47, 50, 51, 132, 135, 255])
def test_rfc6146_3_4_another_protocol_from_ipv6_is_port_unreachable(bench, protocol):
    packet = IPv6(src=CLIENT, dst=SERVER6, nh=protocol) / Raw(bytes(40))
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 4)


@pytest.mark.parametrize("protocol", [4, 33, 41, 47, 50, 51, 58, 132, 255])
def test_rfc6146_3_4_another_protocol_from_ipv4_is_protocol_unreachable(bench, port, protocol):
    packet = IP(src=SERVER, dst=POOL, proto=protocol) / Raw(bytes(40))
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    out = read(answer.data)
    assert (out.src, out.dst, out.payload.type, out.payload.code) == (POOL, SERVER, 3, 2)


def test_rfc7915_4_2_igmp_is_dropped_in_silence(bench, port):
    packet = IP(src=SERVER, dst=POOL, proto=2) / Raw(bytes(40))
    assert bench.refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("behind", [b"", b"ignored"])
def test_rfc8200_4_7_no_next_header_is_dropped_in_silence(bench, behind):
    packet = IPv6(src=CLIENT, dst=SERVER6, nh=59) / Raw(behind)
    assert bench.refused(packet, Reason.NO_NEXT_HEADER) == []


@pytest.mark.parametrize("kind", [100, 130, 131, 132, 133, 134, 135, 136, 137, 138, 143, 200])
def test_rfc7915_5_2_other_icmpv6_messages_are_dropped_in_silence(bench, kind):
    packet = IPv6(src=CLIENT, dst=SERVER6) / ICMPv6EchoRequest(type=kind)
    assert bench.refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("kind", [1, 2, 4, 5, 6, 9, 10, 13, 14, 15, 16, 17, 18, 30, 40, 255])
def test_rfc7915_4_2_other_icmpv4_messages_are_dropped_in_silence(bench, port, kind):
    packet = IP(src=SERVER, dst=POOL, proto=1) / Raw(bytes((kind, 0, 0, 0)) + bytes(24))
    assert bench.refused(packet, Reason.ICMP_TYPE) == []


# -- lengths ------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-1, 1, 8, 65000])
def test_lengths_that_disagree_are_dropped(bench, port, off):
    packet = bytearray(bytes(udp6()))
    packet[4:6] = (len(packet) - 40 + off).to_bytes(2, "big")
    assert bench.refused(bytes(packet), Reason.BAD_LENGTH) == []
    packet = bytearray(bytes(udp4(port)))
    packet[2:4] = (len(packet) + off).to_bytes(2, "big")
    assert bench.refused(bytes(packet), Reason.BAD_LENGTH) == []


@pytest.mark.parametrize("packet", [udp6(), udp4(1), tcp6("S"), echo6()])
def test_no_prefix_of_a_packet_is_taken_for_one(bench, packet):
    whole = bytes(packet)
    for size in range(len(whole)):
        assert bench.send(whole[:size]) == []


@pytest.mark.parametrize(("nh", "least"), [(6, 20), (17, 8), (58, 8)])
def test_short_transport_headers_are_dropped(bench, nh, least):
    for size in range(least):
        packet = IPv6(src=CLIENT, dst=SERVER6, nh=nh) / Raw(b"\x80" * size)
        assert bench.refused(packet, Reason.MALFORMED) == []


@pytest.mark.parametrize(("proto", "least"), [(6, 20), (17, 8), (1, 8)])
def test_short_transport_headers_from_ipv4_are_dropped(bench, proto, least):
    for size in range(least):
        packet = IP(src=SERVER, dst=POOL, proto=proto) / Raw(b"\x80" * size)
        assert bench.refused(packet, Reason.MALFORMED) == []


@pytest.mark.parametrize("offset", [0, 4, 6, 15])
def test_rfc9293_3_1_data_offset_outside_the_segment_is_dropped(bench, offset):
    assert bench.refused(tcp6("S", dataofs=offset), Reason.MALFORMED) == []
    assert bench.refused(tcp4("S", 5000, dataofs=offset), Reason.MALFORMED) == []


@pytest.mark.parametrize("first", [0x00, 0x10, 0x44, 0x55, 0x70, 0xF5])
def test_other_versions_and_short_headers_are_dropped(bench, first):
    assert bench.send(bytes((first,)) + bytes(range(59))) == []


def test_rfc7915_5_1_a_packet_too_large_for_ipv4_does_not_go_out(bench):
    """65,515 bytes behind the header are the most that an IPv4 total length can hold."""
    assert len(bench.send(udp6(data=bytes(65515 - 8)))[0].data) == 65535
    for size in (65516, 65535):
        assert all(out.data[0] >> 4 == 6 for out in bench.send(udp6(data=bytes(size - 8))))


def test_rfc7915_4_1_the_largest_ipv4_packet(bench, port):
    out = bench.one(udp4(port, data=bytes(65535 - 28), flags="DF"))
    assert out.plen == 65515
