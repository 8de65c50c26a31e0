"""Cases of Jool's RFC 7915 suite (graybox siit/7915: a, c, j) and TAYGA's (test/translate.py, §4.1,
§5.1) about headers, fragments and sizes, told for a stateful translator (tests/unit/peer_network).

Where a case has no packet that a stateful translator carries, or expects what an RFC does not, the
test says so. Cases in which the kernel answers for the translator (a next hop that takes less, ca
and cg) are in tests/e2e/test_path_mtu.py.
"""

from __future__ import annotations

import pytest
from scapy.layers.inet import IPOption, IPOption_SSRR, IPOption_Stream_Id

from tests.oracle import (
    ICMPv6DestUnreach,
    ICMPv6ParamProblem,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    checksum_right,
)
from tests.unit.peer_network import (
    IP,
    N4,
    N4_AS6,
    N6,
    OWN6,
    POOL,
    TCP,
    UDP,
    IPv6,
    Raw,
    graybox,
    icmp4,
    same,
    to_n4,
    to_n6,
)
from translate.reasons import Reason

IDENT6 = 16909320  # 0x01020408: 1032 in IPv4
LONG = bytes(n * 7 & 0xFF for n in range(1500))


@pytest.fixture
def bench():
    return graybox()


def sent(bench, packet):
    return [packet.data for packet in bench.send(packet)]


def one(bench, packet):
    (out,) = sent(bench, packet)
    return out


def outwards(size, **ip):
    """A datagram of n6 that has `size` bytes behind the UDP header."""
    return to_n4(UDP(sport=2000, dport=4000) / Raw(LONG[:size]), **ip)


def inwards(size, **ip):
    return to_n6(UDP(sport=4000, dport=2000) / Raw(LONG[:size]), **ip)


def seen4(size, **ip):
    """What n4 sees of `outwards`."""
    return IP(src=POOL, dst=N4, ttl=63, **ip) / UDP(sport=2000, dport=4000) / Raw(LONG[:size])


def seen6(size, **ip):
    """What n6 sees of `inwards`."""
    return (
        IPv6(src=N4_AS6, dst=N6, hlim=ip.pop("hlim", 63), **ip)
        / UDP(sport=4000, dport=2000)
        / Raw(LONG[:size])
    )


# -- a: headers that do not cross ---------------------------------------------------------

OPTIONS = {
    "none": b"",
    # Security; loose and strict source route, both used up; stream identifier; end.
    "A": bytes.fromhex(
        "820b000000000000000000830b0cc6336402c6336401890b0cc6336402c633640188040102000101"
    ),
    # Record route; timestamp; end.
    "B": bytes.fromhex(
        "070b08c633640200000000" + "44140d01c6336402" + "00000001" + "00000000" + "00000000" + "00"
    ),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_ipv4_options(bench, name):
    """aa: with options or without, the same IPv6 packet."""
    options = [IPOption(OPTIONS[name])] if name != "none" else []
    packet = bytearray(bytes(to_n6(UDP(sport=4000, dport=2000) / Raw(LONG[:4]), options=options)))
    assert (packet[0] & 15) * 4 == 20 + -(-len(OPTIONS[name]) // 4) * 4
    same(one(bench, bytes(packet)), seen6(4))


def test_stream_identifier(bench):
    """TAYGA, "Option Stream ID"."""
    packet = to_n6(UDP(sport=4000, dport=2000) / Raw(LONG[:4]), options=IPOption_Stream_Id())
    same(one(bench, packet), seen6(4))


def test_strict_source_route(bench):
    """TAYGA, "Option Strict Source Route", wants silence, which is what Linux makes of it before
    it comes here. RFC 7915 §4.1 has the translator answer 3/5.
    """
    route = IPOption_SSRR(routers=["1.2.3.4", "4.5.6.7"])
    packet = to_n6(UDP(sport=4000, dport=2000) / Raw(LONG[:4]), options=route)
    (answer,) = bench.refused(packet, Reason.SOURCE_ROUTE)
    same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 5, packet), free=True)


@pytest.mark.parametrize("second", [131, 137])
@pytest.mark.parametrize("pointer", [4, 7])
def test_a_route_behind_a_used_up_one_counts(bench, second, pointer):
    """It is used up when the pointer is larger than the length (RFC 791 §3.1)."""
    used_up = bytes.fromhex("830b0cc6336402c6336401")
    ahead = bytes((second, 7, pointer)) + bytes.fromhex("c6336402")
    packet = to_n6(UDP(sport=4000, dport=2000), options=[IPOption(used_up + ahead)])
    bench.refused(packet, Reason.SOURCE_ROUTE)


HEADERS = {
    "hop-by-hop": (IPv6ExtHdrHopByHop(),),
    "destination": (IPv6ExtHdrDestOpt(),),
    "routing": (IPv6ExtHdrRouting(segleft=0, type=253),),
    "hop-by-hop, destination": (IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt()),
    "all": (
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrRouting(segleft=0, type=253),
    ),
}


def chained(headers, upper=None):
    """n6's datagram behind these headers; its checksum knows nothing of them."""
    plain = bytes(outwards(72) if upper is None else upper)[40:]
    packet = IPv6(src=N6, dst=N4_AS6)
    for header in headers:
        packet = packet / header.copy()
    packet.lastlayer().nh = 17
    return packet / Raw(plain)


@pytest.mark.parametrize("name", HEADERS)
def test_extension_headers_are_skipped(bench, name):
    """ab 1 and 2; TAYGA §5.1."""
    same(one(bench, chained(HEADERS[name])), seen4(72), free=True)


@pytest.mark.parametrize("name", HEADERS)
def test_extension_headers_before_the_fragment_header(bench, name):
    """ab 3."""
    got = one(bench, chained((*HEADERS[name], IPv6ExtHdrFragment(id=IDENT6))))
    same(got, seen4(72, id=1032))


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("first", [None, IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting])
@pytest.mark.parametrize("behind", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt, IPv6ExtHdrRouting])
def test_extension_headers_behind_the_fragment_header(bench, first, behind, more):
    """ac 1 to 6: dropped, and told 1/1 with the packet as it came."""
    headers = (IPv6ExtHdrFragment(id=IDENT6, m=more), behind())
    packet = chained(headers if first is None else (first(), *headers))
    (answer,) = bench.refused(packet, Reason.FRAGMENT_EXTENSION)
    same(answer.data, IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6DestUnreach(code=1) / packet)
    assert bench.nat.state.session_count == 0


@pytest.mark.parametrize("header", [44, 51])
def test_headers_that_are_no_upper_layer_behind_the_fragment_header(bench, header):
    """RFC 7915 §5.1.1 counts the Authentication Header as one of them."""
    packet = IPv6(src=N6, dst=N4_AS6) / IPv6ExtHdrFragment(nh=header) / Raw(bytes(24))
    (answer,) = bench.refused(packet, Reason.FRAGMENT_EXTENSION)
    assert answer.data[40:42] == b"\1\1"


def test_esp_behind_the_fragment_header_is_another_protocol(bench):
    packet = IPv6(src=N6, dst=N4_AS6) / IPv6ExtHdrFragment(nh=50) / Raw(bytes(24))
    bench.refused(packet, Reason.UNKNOWN_PROTOCOL)


@pytest.mark.parametrize("headers", [(), (IPv6ExtHdrHopByHop(),)])
def test_segments_left(bench, headers):
    """TAYGA wants silence; RFC 7915 §5.1 has 4/0, which points to the segments left."""
    packet = chained((*headers, IPv6ExtHdrRouting(segleft=4, type=253)))
    (answer,) = bench.refused(packet, Reason.ROUTING_HEADER)
    pointer = 40 + 8 * len(headers) + 3
    expected = IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6ParamProblem(code=0, ptr=pointer) / packet
    same(answer.data, expected)


@pytest.mark.parametrize("fragment", [(), (IPv6ExtHdrFragment(id=IDENT6),)])
def test_no_next_header(bench, fragment):
    """ad: a stateless translator carries it like any protocol; a stateful one has no session for
    it (RFC 6146 §3.4). Either way it survives.
    """
    packet = IPv6(src=N6, dst=N4_AS6, nh=59)
    for header in fragment:
        packet = IPv6(src=N6, dst=N4_AS6) / IPv6ExtHdrFragment(nh=59, id=header.id)
    assert bench.refused(packet, Reason.NO_NEXT_HEADER) == []


@pytest.mark.parametrize("protocol", [2, 16, 33, 58, 69])
def test_other_protocols_from_ipv4(bench, protocol):
    """fa 1, TAYGA "NH": RFC 7915 §4.5 is for stateless translators; a stateful one says that it
    does not know the protocol (RFC 6146 §3.4), and nothing about IGMP (RFC 7915 §4.2).
    """
    packet = to_n6(Raw(LONG[:16]), proto=protocol)
    if protocol == 2:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []
        return
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 2, packet), free=True)


@pytest.mark.parametrize("protocol", [16, 33])
def test_other_protocols_from_ipv6(bench, protocol):
    """fa 2: the same in the other direction, with the code that RFC 6146 §3.4 names."""
    packet = to_n4(Raw(LONG[:16]), nh=protocol)
    (answer,) = bench.refused(packet, Reason.UNKNOWN_PROTOCOL)
    same(answer.data, IPv6(src=OWN6, dst=N6, hlim=64) / ICMPv6DestUnreach(code=4) / packet)


def test_a_wrong_header_checksum():
    """TAYGA, "Invalid Checksum": dropped in silence, where Linux has not done that before."""
    bench = graybox(verify_header4=True)
    assert bench.refused(inwards(128, chksum=1), Reason.HEADER_CHECKSUM) == []
    error = to_n6(icmp4(3, 1, inwards(8)), chksum=1)
    assert bench.refused(error, Reason.HEADER_CHECKSUM) == []


# -- the fields ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [64, 1024, 1232])
@pytest.mark.parametrize("tos", [0, 2, 163, 240])
@pytest.mark.parametrize("ttl", [2, 127, 255])
def test_fields_inwards(bench, size, tos, ttl):
    """TAYGA §4.1: sizes, DS field, ECN, hop limits; flow label 0. One hop, not TAYGA's three."""
    same(one(bench, inwards(size, tos=tos, ttl=ttl)), seen6(size, tc=tos, hlim=ttl - 1))


@pytest.mark.parametrize("size", [64, 512, 1412])
@pytest.mark.parametrize("tc", [0, 1, 24, 25, 48, 96])
def test_fields_outwards(bench, size, tc):
    """TAYGA §5.1 wants identification 0 always. RFC 7915 §5.1 has one generated, and RFC 6864 §4
    wants it for what routers may fragment; with DF it is 0 here, too.
    """
    got = one(bench, outwards(size, tc=tc, fl=0x12345))
    want = seen4(size, tos=tc, flags="DF" if size > 1232 else 0, id=0)
    same(got, want, free=size <= 1232)


@pytest.mark.parametrize("hlim", [2, 5, 172])
def test_hop_limits_outwards(bench, hlim):
    got = IP(one(bench, outwards(72, hlim=hlim)))
    assert got.ttl == hlim - 1


# -- c: sizes, DF, fragments --------------------------------------------------------------


@pytest.mark.parametrize("flags", ["DF", 0])
def test_ipv4_1260_bytes(bench, flags):
    """cb, cd: no Fragment header."""
    got = one(bench, inwards(1232, flags=flags))
    assert len(got) == 1280
    same(got, seen6(1232))


def fragment6(*, offset, more, ident, payload, protocol=17, hlim=63):
    head = IPv6ExtHdrFragment(nh=protocol, offset=offset // 8, m=more, id=ident)
    return IPv6(src=N4_AS6, dst=N6, hlim=hlim) / head / Raw(payload)


@pytest.mark.parametrize(
    ("lowest", "size", "first"),
    [(1280, 1233, 1232), (1402, 1355, 1352), (1280, 1472, 1232)],
)
def test_ipv4_without_df_is_fragmented(lowest, size, first):
    """cc, ck, jba, jca; TAYGA "Requires Fragmentation". The identification crosses."""
    bench = graybox(lowest_ipv6_mtu=lowest)
    whole = bytes(seen6(size))[40:]
    out = sent(bench, inwards(size, flags=0, id=1234))
    assert len(out) == 2
    same(out[0], fragment6(offset=0, more=1, ident=1234, payload=whole[:first]))
    same(out[1], fragment6(offset=first, more=0, ident=1234, payload=whole[first:]))
    assert len(out[0]) <= lowest


@pytest.mark.parametrize(("lowest", "size"), [(1280, 1233), (1402, 1355), (1280, 1472)])
def test_ipv4_with_df_is_not_fragmented(lowest, size):
    """jbb, jcb. (jbd and jcd are about an option of Jool's that hands DF to the kernel.)"""
    same(one(graybox(lowest_ipv6_mtu=lowest), inwards(size, flags="DF")), seen6(size))


@pytest.mark.parametrize("flags", ["MF", "MF+DF"])
def test_an_ipv4_fragment(bench, flags):
    """ce; TAYGA "More Fragments": the same identification, whatever DF is."""
    whole = bytes(inwards(1300))[20:]
    first = to_n6(Raw(whole[:1232]), proto=17, flags=flags, id=1234)
    translated = bytes(seen6(1300))[40:]
    same(one(bench, first), fragment6(offset=0, more=1, ident=1234, payload=translated[:1232]))


def test_a_large_ipv4_fragment(bench):
    """cf: cut once more, and both pieces have more behind them."""
    whole = bytes(inwards(1300))[20:]
    first = to_n6(Raw(whole[:1248]), proto=17, flags="MF", id=4321)
    translated = bytes(seen6(1300))[40:]
    out = sent(bench, first)
    assert len(out) == 2
    same(out[0], fragment6(offset=0, more=1, ident=4321, payload=translated[:1232]))
    same(out[1], fragment6(offset=1232, more=1, ident=4321, payload=translated[1232:1248]))


@pytest.mark.parametrize(("size", "flags"), [(1232, 0), (1233, "DF"), (1240, "DF"), (1452, "DF")])
def test_df_of_what_comes_from_ipv6(bench, size, flags):
    """ch, ci: clear up to 1260 bytes of IPv4."""
    got = one(bench, outwards(size))
    same(got, seen4(size, flags=flags, id=0), free=not flags)


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("size", [1232, 1240])
def test_an_ipv6_fragment(bench, size, more):
    """cj: DF clear whatever the size, M copied, the low 16 bits of the identification.

    The suite's fragments come without a first one, and one has 1239 bytes in the middle of a
    datagram. A stateful translator needs the first (RFC 6146 §3.4); the odd size crosses, too.
    """
    first = IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=IDENT6)
    whole = bytes(outwards(632))[40:]
    got = one(bench, IPv6(src=N6, dst=N4_AS6) / first / Raw(whole))
    assert IP(got).flags == "MF"
    for payload in (LONG[:size], LONG[: size - 1]):
        again = graybox()
        one(again, IPv6(src=N6, dst=N4_AS6) / first / Raw(whole))
        head = IPv6ExtHdrFragment(nh=17, offset=80, m=more, id=IDENT6)
        got = one(again, IPv6(src=N6, dst=N4_AS6) / head / Raw(payload))
        want = IP(src=POOL, dst=N4, ttl=63, id=1032, flags="MF" if more else 0, frag=80, proto=17)
        same(got, want / Raw(payload))


def test_tcp_in_two_pieces_is_whole_again_behind_us(bench):
    """6-tcp-csumok-nodf-frag: payloads do not move between fragments."""
    whole = bytes(to_n4(TCP(sport=2000, dport=80, flags="S") / Raw(LONG)))[40:]
    cuts = ((0, 512), (512, 1024), (1024, len(whole)))
    out = [
        one(
            bench,
            IPv6(src=N6, dst=N4_AS6)
            / IPv6ExtHdrFragment(nh=6, offset=start // 8, m=stop < len(whole), id=0x87654321)
            / Raw(whole[start:stop]),
        )
        for start, stop in cuts
    ]
    assert [(IP(data).id, IP(data).frag * 8, len(data) - 20) for data in out] == [
        (0x4321, start, stop - start) for start, stop in cuts
    ]
    joined = bytes(IP(src=POOL, dst=N4, proto=6) / Raw(b"".join(data[20:] for data in out)))
    assert checksum_right(joined)
