"""Cases of Jool's stateless suite (graybox siit) and TAYGA's tests, told for the stateless mode in
the network of tests/siit_bench.py. What they share with the stateful mode and depends on no
session is in test_peer_cases_* too; here is what a translator without state does differently.

Where a suite expects what an RFC does not, or what an RFC leaves open, the test says what we do and
why; docs/siit.md has the list.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from tests.oracle import (
    ICMP,
    IP,
    UDP,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    Raw,
    checksum_right,
    read,
)
from tests.siit_bench import (
    HOST,
    HOST4,
    NEAR,
    NEAR4,
    OWN4,
    ROUTER,
    ROUTER4,
    SERVER,
    SERVER4,
    SiitBench,
    embedded,
    error4,
    error6,
    table,
    without_ident,
)
from translate.addresses import Layout, Prefix6
from translate.reasons import Reason
from translate.settings import ZeroChecksum
from translate.siit.addresses import Hairpin

IDENT6 = 0x12345678
LONG = bytes(n * 7 & 0xFF for n in range(2000))


def out6(upper, **ip):
    """What the IPv6 host sends to the server."""
    return IPv6(src=HOST, dst=SERVER, **{"hlim": 64, **ip}) / upper


def in4(upper, **ip):
    """What the server sends to the host."""
    return IP(src=SERVER4, dst=HOST4, **{"ttl": 64, **ip}) / upper


def data_of(packet) -> bytes:
    return bytes(packet.payload)


# -- fa: any protocol -------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", [16, 33, 50, 51, 69, 132, 136, 253])
@pytest.mark.parametrize("size", [0, 1, 100])
def test_any_protocol_both_ways(protocol, size):
    """fa; TAYGA "NH" 16 and 69 (RFC 7915 §4.1, §5.1): copied, and what follows is not touched."""
    bench = SiitBench()
    got = bench.one_plain(out6(Raw(LONG[:size]), nh=protocol))
    assert (got.src, got.dst, got.proto, got.ttl) == (HOST4, SERVER4, protocol, 63)
    assert data_of(got) == LONG[:size]
    back = bench.one_plain(in4(Raw(LONG[:size]), proto=protocol))
    assert (back.src, back.dst, back.nh, back.hlim) == (SERVER, HOST, protocol, 63)
    assert bytes(back)[40:] == LONG[:size]


@pytest.mark.parametrize(("protocol", "answer"), [(2, None), (58, (3, 2))])
def test_what_tayga_copies_from_ipv4_and_we_do_not(protocol, answer):
    """TAYGA "NH" 2 and 58. IGMP is dropped in silence (RFC 7915 §4.2). Protocol 58 would become an
    ICMPv6 that nobody has checked, and whose pseudo-header is not the one it was made for: 3/2.
    """
    reason = Reason.UNKNOWN_PROTOCOL if answer else Reason.ICMP_TYPE
    sent = SiitBench().refused(in4(Raw(LONG[:8]), proto=protocol), reason)
    told = [(read(one.data)[ICMP].type, read(one.data)[ICMP].code) for one in sent]
    assert told == ([answer] if answer else [])


@pytest.mark.parametrize("protocol", [1, 2])
def test_what_tayga_copies_from_ipv6_and_we_do_not(protocol):
    """The same from IPv6: an ICMPv4 or IGMP that no IPv4 host has sent."""
    assert SiitBench().refused(out6(Raw(LONG[:8]), nh=protocol), Reason.ICMP_TYPE) == []


# -- ad: no next header -----------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 8])
def test_no_next_header(size):
    """ad 1 (RFC 7915 §5.1): 59 is none of the headers that are skipped, and is copied."""
    got = SiitBench().one_plain(out6(Raw(LONG[:size]), nh=59))
    assert (got.proto, got.src, got.dst, got.len) == (59, HOST4, SERVER4, 20 + size)
    assert not got.flags & 2, "DF"


@pytest.mark.parametrize(("offset", "more"), [(0, 0), (0, 1), (3, 0)])
def test_no_next_header_behind_a_fragment_header(offset, more):
    """ad 2 (RFC 7915 §5.1.1): the low 16 bits of the identification, and DF clear."""
    head = IPv6ExtHdrFragment(nh=59, offset=offset, m=more, id=IDENT6)
    got = SiitBench().one_plain(out6(head / Raw(LONG[:16])))
    assert (got.proto, got.id, int(got.flags), got.frag) == (59, 0x5678, more, offset)
    assert data_of(got) == LONG[:16]


def test_no_next_header_from_ipv4():
    got = SiitBench().one_plain(in4(Raw(LONG[:8]), proto=59))
    assert (got.nh, bytes(got)[40:]) == (59, LONG[:8])


# -- cj, ce, cf: fragments -------------------------------------------------------------------


@pytest.mark.parametrize("size", [1239, 1240])
@pytest.mark.parametrize(("offset", "more"), [(1, 0), (155, 0), (155, 1)])
@pytest.mark.parametrize("protocol", [6, 17, 132])
def test_a_later_ipv6_fragment_alone(size, offset, more, protocol):
    """cj (RFC 7915 §5.1.1): nobody waits for the first one."""
    size -= size % 8 if more else 0
    head = IPv6ExtHdrFragment(nh=protocol, offset=offset, m=more, id=IDENT6)
    (out,) = SiitBench().send(out6(head / Raw(LONG[:size])))
    got = IP(out.data)
    assert (got.src, got.dst, got.proto, got.id) == (HOST4, SERVER4, protocol, 0x5678)
    assert (int(got.flags), got.frag, got.len) == (more, offset, 20 + size)
    assert out.data[20:] == LONG[:size]


@pytest.mark.parametrize("flags", ["MF", "MF+DF"])
def test_an_ipv4_fragment(flags):
    """ce (RFC 7915 §4.1): the same identification, whatever DF is."""
    packet = IP(bytes(in4(UDP(sport=53, dport=2000) / Raw(LONG[:64]), flags=flags, id=0x1234)))
    (out,) = SiitBench().send(packet)
    got = IPv6(out.data)
    head = got[IPv6ExtHdrFragment]
    assert (head.id, head.offset, head.m, head.nh) == (0x1234, 0, 1, 17)
    assert (got.src, got.dst, got.plen) == (SERVER, HOST, 8 + 8 + 64)


@pytest.mark.parametrize("offset", [0, 100])
def test_a_large_ipv4_fragment(offset):
    """cf (RFC 7915 §4): cut again, every piece with more behind it, and the place goes on."""
    upper = UDP(sport=53, dport=2000) / Raw(LONG[:1472])
    packet = IP(bytes(in4(upper, flags="MF", id=0x1234)))
    packet.frag = offset
    del packet.chksum
    pieces = [IPv6(out.data) for out in SiitBench().send(packet)]
    heads = [piece[IPv6ExtHdrFragment] for piece in pieces]
    assert [len(piece) for piece in pieces] == [1280, 40 + 8 + 1480 - 1232]
    assert [(head.offset, head.m, head.id) for head in heads] == [
        (offset, 1, 0x1234),
        (offset + 154, 1, 0x1234),
    ]


def test_a_large_ipv4_fragment_with_df():
    """ca2: it is not cut. The host's kernel has the route and tells us 1280 (RFC 7915 §4, §5.2). An
    IPv4 fragment gets a Fragment header, so 28 bytes less fit, where Jool says 1260 all the same.
    """
    packet = IP(bytes(in4(Raw(LONG[:1480]), flags="MF+DF", proto=17, id=0x1234)))
    bench = SiitBench()
    (out,) = bench.send(packet)
    assert len(out.data) == 40 + 8 + 1480
    told = bench.one(error6(2, 0, 1280, out.data[:1232], src=HOST, dst=SERVER))
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1252)
    whole = bench.send(in4(UDP(sport=53, dport=2000) / Raw(LONG[:1472]), flags="DF"))
    told = bench.one(error6(2, 0, 1280, whole[0].data[:1232], src=HOST, dst=SERVER))
    assert (told[ICMP].type, told[ICMP].code, told[ICMP].nexthopmtu) == (3, 4, 1260)


def test_ipv6_packets_for_a_smaller_ipv4_link():
    """cg (RFC 7915 §4.2): 3/4 with 1400 is 2/0 with 1420, and 1280 bytes. It is the kernel that
    says so. Jool tells so about a fragment too; here it has DF clear (RFC 7915 §5.1.1), and the
    kernel cuts it.
    """
    bench = SiitBench()
    upper = UDP(sport=2000, dport=53) / Raw(LONG[: 1421 - 48])
    (out,) = bench.send(out6(upper))
    assert IP(out.data).flags == "DF"
    told = bench.one(error4(3, 4, 1400, out.data, src=ROUTER4, dst=HOST4))
    assert (len(told), bytes(told.payload)[:2]) == (1280, bytes((2, 0)))
    assert int.from_bytes(bytes(told.payload)[4:8]) == 1420
    head = IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=IDENT6)
    (out,) = bench.send(out6(head / Raw(bytes(UDP(sport=2000, dport=53)) + LONG[:1373])))
    assert len(out.data) == 1401
    assert not IP(out.data).flags & 2


# -- ec, 446: UDP without a checksum ----------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "answers"),
    [(ZeroChecksum.REJECT, [(3, 13)]), (ZeroChecksum.DROP, []), (ZeroChecksum.CALCULATE, [])],
)
def test_a_first_fragment_without_a_checksum(mode, answers):
    """ec. Jool answers 3/13 whatever its setting. RFC 7915 §4.5 has it dropped and noted, which the
    counter does; who wants senders to be told has the setting `reject`.
    """
    packet = in4(UDP(sport=53, dport=2000, chksum=0, len=100) / Raw(LONG[:16]), flags="MF")
    bench = SiitBench({"udp_zero_checksum": mode})
    sent = bench.refused(packet, Reason.UDP_ZERO_CHECKSUM)
    assert [(read(o.data)[ICMP].type, read(o.data)[ICMP].code) for o in sent] == answers


def test_udp_without_a_checksum_both_ways():
    """siit/446 (RFC 7915 §4.5; RFC 6935 lets some tunnels over IPv6 go without): forwarded as it
    is, where that is allowed; from IPv6 it always is, because IPv4 needs none (RFC 768).
    """
    bench = SiitBench({"udp_zero_checksum": ZeroChecksum.FORWARD})
    for packet in (
        in4(UDP(sport=53, dport=2000, chksum=0) / Raw(LONG[:9])),
        out6(UDP(sport=2000, dport=53, chksum=0) / Raw(LONG[:9])),
    ):
        (out,) = bench.send(packet)
        got = read(out.data)
        assert (got[UDP].chksum, data_of(got[UDP])) == (0, LONG[:9])


# -- errors of routers that have no address of the other family -------------------------------


def from_host(**ip):
    return IP(src=HOST4, dst=SERVER4, ttl=60, **ip) / UDP(sport=2000, dport=53) / Raw(LONG[:8])


def to_host(**ip):
    return IPv6(src=SERVER, dst=HOST, hlim=60, **ip) / UDP(sport=53, dport=2000) / Raw(LONG[:8])


@pytest.mark.parametrize("src", ["127.0.0.1", "0.0.0.0", "224.0.0.5", "240.0.0.1"])
def test_an_error_from_an_illegal_source(src):
    """ha (RFC 7915 §4.1): data from there is dropped, but an error shows where it came from."""
    got = SiitBench().one(error4(11, 0, 0, from_host(), src=src, dst=HOST4))
    assert (got.src, got.dst, bytes(got.payload)[:2]) == (embedded(src), HOST, bytes((3, 0)))
    assert checksum_right(bytes(got))


@pytest.mark.parametrize(
    ("pool", "sources"), [((), {OWN4}), ((IPv4Network("198.18.9.4/30"),), "198.18.9.4/30")]
)
def test_an_icmpv6_error_from_a_router(pool, sources):
    """6791v64 and -empty; TAYGA 5.2 (RFC 6791 §3): an address of the pool, without one our own."""
    got = SiitBench({"icmp4_error_pool": pool}).one(
        error6(3, 0, 0, to_host(), src=ROUTER, dst=SERVER)
    )
    assert (got.dst, got[ICMP].type, got[ICMP].code) == (SERVER4, 11, 0)
    if isinstance(sources, str):
        assert IPv4Address(got.src) in IPv4Network(sources)
    else:
        assert got.src in sources
    assert checksum_right(bytes(got))


@pytest.mark.parametrize("src", ["10.0.0.1", "198.18.0.1"])
def test_an_icmpv4_error_from_a_router_without_an_address(src):
    """6791v46 and -empty: under the well-known prefix some have none (RFC 6052 §3.1). Jool lets one
    be configured, else takes its own; we have `icmp6_source` for both.
    """
    prefix = Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052)
    own = IPv6Address("2001:db8:7::1")
    bench = SiitBench({"prefixes": (prefix,), "icmp6_source": own.packed})
    inner = IP(src=HOST4, dst="8.8.8.8", ttl=60) / UDP(sport=2000, dport=53)
    got = bench.one(error4(11, 0, 0, inner, src=src, dst=HOST4))
    assert (got.src, got.dst) == (str(own), HOST)


# -- hairpin (RFC 7757 appendix B) ------------------------------------------------------------


def test_hairpin():
    """ga: both addresses are rewritten, and it is one hop. (RFC 7757 §4.2.2.)"""
    packet = IPv6(src=HOST, dst=embedded(NEAR4), hlim=64) / UDP(sport=1, dport=2) / Raw(LONG[:9])
    got = SiitBench(hairpin=Hairpin.INTRINSIC).one(packet)
    assert (got.src, got.dst, got.hlim) == (embedded(HOST4), NEAR, 63)
    assert checksum_right(bytes(got))


def test_hairpin_of_an_error():
    """6791v66: the error of a router on the way has no mapping, and our IPv4 address in between,
    which is embedded; inside is the packet as it was sent.
    """
    bench = SiitBench(hairpin=Hairpin.INTRINSIC)
    packet = IPv6(src=HOST, dst=embedded(NEAR4), hlim=64) / UDP(sport=1, dport=2) / Raw(LONG[:9])
    (there,) = bench.send(packet)
    back = error6(3, 0, 0, there.data, src=ROUTER, dst=embedded(HOST4))
    got = bench.one(back)
    assert (got.src, got.dst, bytes(got.payload)[:2]) == (embedded(OWN4), HOST, bytes((3, 0)))
    inner = IPv6(bytes(got.payload)[8:])
    assert (inner.src, inner.dst, inner[UDP].sport, inner[UDP].dport) == (
        HOST,
        embedded(NEAR4),
        1,
        2,
    )


# -- ac, b, d, i, j: as in mode nat64, but without a packet before ----------------------------


@pytest.mark.parametrize(
    "behind", [IPv6ExtHdrDestOpt(), IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt() / Raw(LONG[:8])]
)
def test_extension_headers_behind_the_fragment_header(behind):
    """ac (RFC 7915 §5.1.1): dropped, and told 1/1."""
    packet = out6(IPv6ExtHdrFragment(m=1, id=IDENT6) / behind / UDP(sport=2000, dport=53))
    (answer,) = SiitBench().refused(packet, Reason.FRAGMENT_EXTENSION)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 1))


@pytest.mark.parametrize(("size", "total"), [(344, 440), (1444, 1280), (1224, 1280), (1205, 1280)])
@pytest.mark.parametrize("lowest", [1280, 1500])
def test_sizes_of_errors_inwards(size, total, lowest):
    """ba, bb, bc, ja (RFC 4443 §2.4): 1280 bytes whatever the lowest IPv6 MTU is."""
    bench = SiitBench({"lowest_ipv6_mtu": lowest})
    inner = IP(src=HOST4, dst=SERVER4, ttl=60) / UDP(sport=2000, dport=53) / Raw(LONG[:size])
    assert len(bench.one(error4(3, 3, 0, inner, src=SERVER4, dst=HOST4))) == total


@pytest.mark.parametrize(("size", "total"), [(304, 360), (604, 576), (520, 576), (521, 576)])
def test_sizes_of_errors_outwards(size, total):
    """bd, be (RFC 1812 §4.3.2.3): 576 bytes."""
    inner = IPv6(src=SERVER, dst=HOST, hlim=60) / UDP(sport=53, dport=2000) / Raw(LONG[:size])
    assert len(bytes(SiitBench().one(error6(1, 4, 0, inner, src=HOST, dst=SERVER)))) == total


@pytest.mark.parametrize(("mtu", "expected"), [(1261, 1281), (1480, 1500), (576, 1280)])
def test_fragmentation_needed_inwards(mtu, expected):
    """db (RFC 7915 §4.2): 20 bytes more, 1280 at least."""
    inner = IP(src=HOST4, dst=SERVER4, ttl=60, flags="DF") / UDP() / Raw(LONG[:1300])
    got = SiitBench().one(error4(3, 4, mtu, inner, src=ROUTER4, dst=HOST4))
    assert int.from_bytes(bytes(got.payload)[4:8]) == expected


@pytest.mark.parametrize("pads", [128, 256])
def test_extensions_inwards(pads):
    """i (RFC 7915 §4.2, RFC 4884 §4): the length counts 8 octets and the extension stays."""
    labels = bytes((0, 8, 1, 1, 1, 2, 3, 4))
    body = b"\x20\0\0\0" + labels
    total = sum(int.from_bytes(body[n : n + 2]) for n in range(0, len(body), 2))
    extension = body[:2] + (0xFFFF - total).to_bytes(2) + labels
    original = bytes(from_host()).ljust(pads, b"\0")
    rest = pads // 4 << 16
    got = SiitBench().one(error4(3, 1, rest, original + extension, src=ROUTER4, dst=HOST4))
    message = bytes(got.payload)
    assert message[4] * 8 >= 128
    assert message[8 + message[4] * 8 :] == extension


@pytest.mark.parametrize("lowest", [1280, 1400])
@pytest.mark.parametrize("over", [0, 1])
def test_ipv4_without_df_is_fragmented(lowest, over):
    """cc, ck, jba, jca (RFC 7915 §4): where it is larger than the lowest IPv6 MTU."""
    size = lowest - 48 + over
    upper = UDP(sport=53, dport=2000) / Raw(LONG[:size])
    sent = SiitBench({"lowest_ipv6_mtu": lowest}).send(in4(upper, id=0x1234))
    assert len(sent) == 1 + over
    assert all(len(out.data) <= lowest for out in sent)
    if over:
        assert [IPv6(out.data)[IPv6ExtHdrFragment].id for out in sent] == [0x1234] * 2


# -- TAYGA mapping ----------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(25))
@pytest.mark.parametrize("longer", [0, 7])
def test_an_eam_of_each_size(bits, longer):
    """TAYGA "mapping" (RFC 7757 §3.3): first, last, and the neighbours of both.

    Outside, a destination is nobody's, and a source is taken by the prefix from IPv4.
    """
    net4 = IPv4Network((int(IPv4Address("100.0.0.0")) + (1 << bits), 32 - bits))
    length6 = 128 - bits - longer
    net6 = IPv6Network((int(IPv6Address("2001:db8:e000::")) + (1 << 60), length6))
    bench = SiitBench(mappings=table((str(net4), str(net6)), (f"{HOST4}/32", f"{HOST}/128")))
    upper = UDP(sport=1, dport=2)
    for number in (0, net4.num_addresses - 1):
        four, six = str(net4[number]), str(IPv6Address(int(net6[0]) + (number << longer)))
        got = bench.one(IPv6(src=six, dst=SERVER) / upper)
        assert (got.src, got.dst) == (four, SERVER4)
        got = bench.one(IP(src=SERVER4, dst=four) / upper)
        assert (got.src, got.dst) == (SERVER, six)
        got = bench.one(IP(src=four, dst=HOST4) / upper)
        assert (got.src, got.dst) == (six, HOST)
    for outside in (int(net6[0]) - 1, int(net6[-1]) + 1):
        packet = IPv6(src=HOST, dst=str(IPv6Address(outside))) / upper
        (answer,) = bench.refused(packet, Reason.NOT_EMBEDDED)
        assert bytes(read(answer.data).payload)[:2] == bytes((1, 3))
        packet = IPv6(src=str(IPv6Address(outside)), dst=SERVER) / upper
        bench.refused(packet, Reason.SOURCE_UNMAPPED)
    for beside in (int(net4[0]) - 1, int(net4[-1]) + 1):
        four = str(IPv4Address(beside))
        assert bench.one(IP(src=four, dst=HOST4) / upper).src == embedded(four)


# -- TAYGA addressing, "v6 src" ---------------------------------------------------------------


def test_a_source_in_the_prefix():
    """RFC 6052 §2, IPv4-translatable: mapped back."""
    got = SiitBench().one(IPv6(src=embedded("198.51.100.9"), dst=SERVER) / UDP(sport=1, dport=2))
    assert (got.src, got.dst) == ("198.51.100.9", SERVER4)


@pytest.mark.parametrize(
    ("src", "dst", "reason", "code"),
    [
        ("64:ff9b::a00:1", "64:ff9b::808:808", Reason.SOURCE_UNMAPPED, 5),
        ("64:ff9b::909:909", "64:ff9b::a00:1", Reason.PRIVATE_UNDER_WKP, 1),
    ],
)
def test_the_strict_well_known_prefix(src, dst, reason, code):
    """RFC 6052 §3.1: an ICMP error; without `wkp_strict` it passes."""
    prefix = Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052)
    packet = IPv6(src=src, dst=dst) / ICMPv6EchoRequest()
    own = IPv6Address("2001:db8:7::1").packed
    strict = SiitBench({"prefixes": (prefix,), "icmp6_source": own})
    (answer,) = strict.refused(packet, reason)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, code))
    lax = SiitBench({"prefixes": (prefix,), "icmp6_source": own, "wkp_strict": False})
    (out,) = lax.send(packet)
    assert without_ident(out.data)[12:16] == IPv6Address(src).packed[12:]
