"""Stateless translation of ordinary packets: addresses, headers, fragments (RFC 7915, RFC 7757)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest
from scapy.layers.inet import IPOption_LSRR, IPOption_NOP

from tests.oracle import (
    ICMP,
    IP,
    LINK,
    TCP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Raw,
    pseudo_sum,
    read,
)
from tests.siit_bench import (
    HOST,
    HOST4,
    IN_NET,
    IN_NET4,
    NEAR4,
    OWN4,
    OWN6,
    ROUTED,
    SERVER,
    SERVER4,
    STRANGER,
    SiitBench,
    embedded,
    table,
)
from translate.addresses import Layout, Prefix6
from translate.policy import DestinationPolicy
from translate.reasons import Reason
from translate.settings import ZeroChecksum
from translate.siit.addresses import AddressMap

UPPER = {
    "tcp": TCP(sport=40000, dport=80, flags="PA", seq=7, ack=9) / Raw(b"data"),
    "syn": TCP(sport=40000, dport=80, flags="S"),
    "rst": TCP(sport=40000, dport=80, flags="R"),
    "udp": UDP(sport=40000, dport=53) / Raw(b"query"),
    "empty udp": UDP(sport=40000, dport=53),
    "sctp": Raw(b"\x9c\x40\x00\x50" + bytes(range(20))),
    "esp": Raw(bytes(range(50))),
    "nothing": Raw(b""),
}
NUMBERS = {"sctp": 132, "esp": 50, "nothing": 253}


def v6(name, src=HOST, dst=SERVER, **ip):
    upper = UPPER[name]
    if name in NUMBERS:
        ip["nh"] = NUMBERS[name]
    return IPv6(src=src, dst=dst, **{"hlim": 64, **ip}) / upper


def v4(name, src=SERVER4, dst=HOST4, **ip):
    upper = UPPER[name]
    if name in NUMBERS:
        ip["proto"] = NUMBERS[name]
    return IP(src=src, dst=dst, **{"ttl": 64, "flags": "DF", **ip}) / upper


# -- addresses ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", UPPER)
def test_from_v6_between_a_mapping_and_the_prefix(name):
    bench = SiitBench()
    want = bytes(v4(name, src=HOST4, dst=SERVER4, ttl=63, id=0, flags=0))
    assert bench.hexes(v6(name)) == [want]
    assert bench.hexes(v6(name)) == [want], "again, from the flow that is known now"


@pytest.mark.parametrize("name", UPPER)
def test_from_v4_without_any_packet_before(name):
    bench = SiitBench()
    want = bytes(v6(name, src=SERVER, dst=HOST, hlim=63))
    assert bench.hexes(v4(name)) == [want]
    assert bench.hexes(v4(name)) == [want]


@pytest.mark.parametrize(
    ("addr6", "addr4"),
    [
        (HOST, HOST4),
        (IN_NET, IN_NET4),
        ("2001:db8:cccc::", "192.0.2.16"),
        ("2001:db8:cccc::f", "192.0.2.31"),
        ("2001:db8:dddd:0:400::", "192.0.2.129"),
        (embedded("198.51.100.7"), "198.51.100.7"),
    ],
)
def test_each_kind_of_source_and_destination(addr6, addr4):
    bench = SiitBench()
    assert bench.one(v6("udp", src=addr6)).src == addr4
    assert bench.one(v4("udp", dst=addr4)).dst == addr6


def test_the_suffix_beyond_the_ipv4_one_is_ignored():
    """RFC 7757 §3.3.2: and what is no address of a mapped host gets no flow of its own."""
    bench = SiitBench()
    one = bench.one(v6("udp", src="2001:db8:dddd:0:400::"))
    other = bench.one(v6("udp", src="2001:db8:dddd:0:0400::9"))
    assert one.src == other.src == "192.0.2.129"
    assert bench.flows == 1


def test_a_destination_that_is_a_mapping_of_an_ipv4_host():
    """RFC 7757 §1.1: an EAM can stand for an IPv4 host, too."""
    bench = SiitBench(mappings=table((f"{HOST4}/32", HOST), ("203.0.113.9/32", "2001:db8:4::9")))
    out = bench.one(v6("udp", dst="2001:db8:4::9"))
    assert (out.src, out.dst) == (HOST4, "203.0.113.9")
    back = bench.one(IP(src="203.0.113.9", dst=HOST4) / UDP(sport=53, dport=40000) / Raw(b"x"))
    assert (back.src, back.dst) == ("2001:db8:4::9", HOST)
    assert bench.flows == 1


def test_a_source_without_an_address_is_told():
    """RFC 4443 §3.1: code 5, the source address, says more than code 1 of RFC 7915 §5.4."""
    (answer,) = SiitBench().refused(v6("udp", src=STRANGER), Reason.SOURCE_UNMAPPED)
    told = read(answer.data)
    assert (told.src, told.dst, told.nh) == (OWN6, STRANGER, 58)
    assert bytes(told.payload)[:2] == bytes((1, 5))


def test_a_source_in_the_prefix_that_embeds_a_refused_address():
    bench = SiitBench({"deny4": (IPv4Network("198.51.100.0/24"),)})
    bench.refused(v6("udp", src=embedded("198.51.100.1")), Reason.SOURCE_UNMAPPED)
    assert bench.refused(v6("udp", src=embedded("127.0.0.1")), Reason.SOURCE_INVALID) == []


@pytest.mark.parametrize("dst4", ["127.0.0.1", "224.0.0.1", "255.255.255.255", "198.51.100.1"])
def test_a_denied_destination(dst4):
    """RFC 7915 §5.4: administratively prohibited."""
    bench = SiitBench({"deny4": (IPv4Network("198.51.100.0/24"),)})
    (answer,) = bench.refused(v6("udp", dst=embedded(dst4)), Reason.DESTINATION_REFUSED)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 1))


def test_deny4_does_not_concern_mapped_hosts():
    bench = SiitBench({"deny4": (IPv4Network("192.0.2.0/24"),)})
    assert bench.one(v6("udp")).src == HOST4
    assert bench.one(v4("udp")).dst == HOST


def test_a_denied_source_from_v4():
    bench = SiitBench({"deny4": (IPv4Network("203.0.113.0/24"),)})
    (answer,) = bench.refused(v4("udp"), Reason.SOURCE_UNMAPPED)
    told = read(answer.data)
    assert (told.src, told.dst, told[ICMP].type, told[ICMP].code) == (OWN4, SERVER4, 3, 13)


@pytest.mark.parametrize("src", ["127.0.0.1", "0.0.0.0", "224.0.0.9", "240.0.0.1", "169.254.0.9"])
def test_a_source_that_is_nobody(src):
    assert SiitBench().refused(v4("udp", src=src), Reason.SOURCE_INVALID) == []


def test_a_destination_outside_of_everything():
    (answer,) = SiitBench().refused(v6("udp", dst="2001:db8:7::1"), Reason.NOT_EMBEDDED)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 3))


def test_well_known_prefix_and_private_addresses():
    """RFC 6052 §3.1."""
    prefix = Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052)
    bench = SiitBench({"prefixes": (prefix,)})
    (answer,) = bench.refused(v6("udp", dst="64:ff9b::a00:1"), Reason.PRIVATE_UNDER_WKP)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 1))
    assert bench.one(v6("udp", dst="64:ff9b::808:808")).dst == "8.8.8.8"
    for ends in ({"src": "10.0.0.1"}, {"dst": "10.0.0.1"}):
        (answer,) = bench.refused(v4("udp", **ends), Reason.PRIVATE_UNDER_WKP)
        assert (read(answer.data)[ICMP].type, read(answer.data)[ICMP].code) == (3, 13)


def test_a_routed_address_that_is_nobodys_goes_round_in_no_circle():
    bench = SiitBench(routed4=(ROUTED,))
    (answer,) = bench.refused(v6("udp", dst=embedded("192.0.2.99")), Reason.NO_MAPPING)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 3))
    # From IPv4 it goes to the embedded address: there may be a host that has it (RFC 6052 §2).
    assert bench.one(v4("udp", dst="192.0.2.99")).dst == embedded("192.0.2.99")
    bench.refused(v6("udp", dst=embedded("192.0.2.255")), Reason.NO_MAPPING)
    bench.refused(v6("udp", dst=embedded("192.0.2.0")), Reason.NO_MAPPING)
    for just_outside in ("192.0.1.255", "192.0.3.0"):
        assert bench.one(v6("udp", dst=embedded(just_outside))).dst == just_outside


def test_the_translator_answers_pings_of_its_own_address_and_nothing_else():
    bench = SiitBench()
    (out,) = bench.refused(IPv6(src=STRANGER, dst=OWN6) / ICMPv6EchoRequest(), Reason.HANDLED)
    assert read(out.data).dst == STRANGER
    (out,) = bench.refused(v6("udp", dst=OWN6), Reason.DESTINATION_REFUSED)
    assert bytes(read(out.data).payload)[:2] == bytes((1, 4))
    unknown = IPv6(src=STRANGER, dst=OWN6, nh=16) / Raw(bytes(20))
    (out,) = bench.refused(unknown, Reason.UNKNOWN_PROTOCOL)
    assert bytes(read(out.data).payload)[:2] == bytes((4, 1))
    assert bytes(read(out.data).payload)[4:8] == bytes((0, 0, 0, 6)), "the next header field"
    damaged = bytearray(bytes(IPv6(src=STRANGER, dst=OWN6) / ICMPv6EchoRequest(data=b"abc")))
    damaged[-1] ^= 1
    assert bench.refused(bytes(damaged), Reason.MALFORMED) == []


def test_and_of_its_own_ipv4_address():
    bench = SiitBench()
    ping = IP(src=SERVER4, dst=OWN4, tos=0x10) / ICMP(type=8, id=7, seq=3) / Raw(b"abc")
    (out,) = bench.refused(ping, Reason.HANDLED)
    answer = read(out.data)
    assert (answer.src, answer.dst, answer.tos) == (OWN4, SERVER4, 0x10)
    assert (answer[ICMP].type, answer[ICMP].id, answer[ICMP].seq) == (0, 7, 3)
    assert bytes(answer[ICMP].payload) == b"abc"
    (out,) = bench.refused(v4("udp", dst=OWN4), Reason.DESTINATION_REFUSED)
    assert (read(out.data)[ICMP].type, read(out.data)[ICMP].code) == (3, 2)
    reply = IP(src=SERVER4, dst=OWN4) / ICMP(type=0, id=7)
    assert bench.refused(reply, Reason.DESTINATION_REFUSED) == []
    piece = IP(src=SERVER4, dst=OWN4, flags="MF") / ICMP(type=8) / Raw(bytes(8))
    assert bench.refused(piece, Reason.DESTINATION_REFUSED) == []
    damaged = bytearray(bytes(ping))
    damaged[-1] ^= 1
    assert bench.refused(bytes(damaged), Reason.MALFORMED) == []
    bench = SiitBench({"icmp4_source": IPv4Address(HOST4).packed})
    assert bench.one(v4("udp")).dst == HOST, "a mapped host's own"


# -- headers --------------------------------------------------------------------------------


def test_hop_limit_runs_out():
    bench = SiitBench()
    (answer,) = bench.refused(v6("udp", hlim=1), Reason.HOP_LIMIT)
    assert bytes(read(answer.data).payload)[:2] == bytes((3, 0))
    (answer,) = bench.refused(v4("udp", ttl=1), Reason.HOP_LIMIT)
    assert bytes(read(answer.data).payload)[:2] == bytes((11, 0))
    assert bench.one(v6("udp", hlim=2)).ttl == 1
    assert bench.one(v4("udp", ttl=2)).hlim == 1


@pytest.mark.parametrize("size", [1259, 1260, 1261])
@pytest.mark.parametrize("nh", [17, 132])
def test_df_and_identification_by_size(size, nh):
    """RFC 7915 §5.1: above 1260 bytes DF is set, and identification 0."""
    body = UDP(sport=1, dport=2) / Raw(bytes(size - 28)) if nh == 17 else Raw(bytes(size - 20))
    bench = SiitBench()
    first = bench.one_plain(IPv6(src=HOST, dst=SERVER, nh=nh) / body)
    second = bench.one_plain(IPv6(src=HOST, dst=SERVER, nh=nh) / body)
    assert first.len == size
    assert bool(first.flags.DF) == (size > 1260)
    if size > 1260:
        assert first.id == second.id == 0
    else:
        assert second.id == (first.id + 1) & 0xFFFF


def test_traffic_class_is_copied_or_set():
    bench = SiitBench()
    assert bench.one(v6("udp", tc=0xB9)).tos == 0xB9
    assert bench.one_plain(v6("sctp", tc=0xB9)).tos == 0xB9
    assert bench.one(v4("udp", tos=0xB9)).tc == 0xB9
    bench = SiitBench({"tos": 0x10, "traffic_class": 0x20})
    assert bench.one(v6("udp", tc=0xB9)).tos == 0x10
    assert bench.one_plain(v6("sctp", tc=0xB9)).tos == 0x10
    assert bench.one(v4("udp", tos=0xB9)).tc == 0x20
    assert bench.one_plain(v4("sctp", tos=0xB9)).tc == 0x20


@pytest.mark.parametrize("name", ["udp", "sctp"])
@pytest.mark.parametrize("extension", [IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt])
def test_extension_headers_are_dropped(name, extension):
    nh = NUMBERS.get(name, 17)
    packet = IPv6(src=HOST, dst=SERVER) / extension(nh=nh) / UPPER[name]
    assert SiitBench().hexes(packet) == [
        bytes(v4(name, src=HOST4, dst=SERVER4, ttl=63, id=0, flags=0))
    ]


def test_a_routing_header_that_is_not_used_up():
    bench = SiitBench()
    packet = (
        IPv6(src=HOST, dst=SERVER)
        / IPv6ExtHdrRouting(addresses=["2001:db8::1"], segleft=1)
        / UPPER["udp"]
    )
    (answer,) = bench.refused(packet, Reason.ROUTING_HEADER)
    assert bytes(read(answer.data).payload)[:2] == bytes((4, 0))
    assert bytes(read(answer.data).payload)[4:8] == (43).to_bytes(4, "big")


def test_a_source_route():
    (answer,) = SiitBench().refused(
        IP(src=SERVER4, dst=HOST4, options=[IPOption_LSRR(routers=[SERVER4])]) / UPPER["udp"],
        Reason.SOURCE_ROUTE,
    )
    assert bytes(read(answer.data).payload)[:2] == bytes((3, 5))


def test_other_options_are_dropped():
    packet = IP(src=SERVER4, dst=HOST4, flags="DF", options=[IPOption_NOP()] * 4) / UPPER["sctp"]
    packet.proto = 132
    assert SiitBench().hexes(packet) == [bytes(v6("sctp", src=SERVER, dst=HOST, hlim=63))]


@pytest.mark.parametrize("protocol", [0, 43, 44, 58, 60])
def test_from_v4_nobody_makes_extension_headers_or_icmpv6(protocol):
    packet = IP(src=SERVER4, dst=HOST4, proto=protocol) / Raw(bytes(24))
    (answer,) = SiitBench().refused(packet, Reason.UNKNOWN_PROTOCOL)
    assert bytes(read(answer.data).payload)[:2] == bytes((3, 2))


@pytest.mark.parametrize("protocol", [1, 2])
def test_from_v6_nobody_makes_icmpv4_or_igmp(protocol):
    packet = IPv6(src=HOST, dst=SERVER, nh=protocol) / Raw(bytes(24))
    assert SiitBench().refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("protocol", [3, 47, 51, 89, 103, 136, 255])
def test_every_other_protocol_passes(protocol):
    """RFC 7915 §4.1, §5.1: translators forward all transport protocols."""
    bench = SiitBench()
    body = bytes(range(24))
    assert bytes(bench.one_plain(IPv6(src=HOST, dst=SERVER, nh=protocol) / Raw(body)))[20:] == body
    packet = IP(src=SERVER4, dst=HOST4, proto=protocol) / Raw(body)
    out = bench.one_plain(packet)
    assert out.nh == protocol
    assert bytes(out)[40:] == body


def test_igmp_is_dropped_in_silence():
    """RFC 7915 §4.2."""
    packet = IP(src=SERVER4, dst=HOST4, proto=2) / Raw(bytes(8))
    assert SiitBench().refused(packet, Reason.ICMP_TYPE) == []


def test_no_next_header():
    """RFC 7915 §5.1: a protocol like others."""
    out = SiitBench().one_plain(IPv6(src=HOST, dst=SERVER, nh=59) / Raw(bytes(8)))
    assert (out.proto, out.src, bytes(out.payload)) == (59, HOST4, bytes(8))


def fragments_of(offset, more, size):
    """The same fragment from either side."""
    head = IPv6ExtHdrFragment(nh=132, offset=offset // 8, m=more, id=7)
    four = IP(src=SERVER4, dst=HOST4, proto=132, frag=offset // 8, flags=more)
    return IPv6(src=HOST, dst=SERVER) / head / Raw(bytes(size)), four / Raw(bytes(size))


@pytest.mark.parametrize(
    ("offset", "more", "size"),
    [(0, 1, 0), (800, 1, 0), (800, 0, 0), (65512, 0, 4), (65504, 0, 12), (65504, 1, 16)],
)
def test_a_fragment_that_is_part_of_no_datagram(offset, more, size):
    """RFC 791 §3.1: without data, or beyond what any IPv4 packet has."""
    for packet in fragments_of(offset, more, size):
        assert SiitBench().refused(packet, Reason.FRAGMENT_OVERLAP) == []


@pytest.mark.parametrize(
    ("offset", "more", "size"), [(0, 0, 0), (65504, 1, 8), (65504, 0, 11), (65512, 0, 3)]
)
def test_the_last_fragment_that_a_datagram_can_have(offset, more, size):
    for packet in fragments_of(offset, more, size):
        assert len(SiitBench().send(packet)) == 1


def test_the_header_checksum_is_looked_at_where_nobody_has():
    packet = bytearray(bytes(v4("udp")))
    packet[10] ^= 1
    assert SiitBench().send(bytes(packet))
    bench = SiitBench({"verify_header4": True})
    assert bench.refused(bytes(packet), Reason.HEADER_CHECKSUM) == []
    assert bench.send(v4("udp"))


def test_too_large_for_ipv4():
    for nh, reason in ((17, Reason.TOO_BIG), (132, Reason.TOO_BIG)):
        body = UDP(sport=1, dport=2, len=0, chksum=1) / Raw(bytes(65508)) if nh == 17 else None
        packet = IPv6(src=HOST, dst=SERVER, nh=nh) / (body or Raw(bytes(65516)))
        SiitBench().refused(packet, reason)


# -- ICMP queries ---------------------------------------------------------------------------


def test_pings_in_both_directions():
    bench = SiitBench()
    out = bench.one(IPv6(src=HOST, dst=SERVER) / ICMPv6EchoRequest(id=7, seq=3, data=b"abc"))
    assert (out[ICMP].type, out[ICMP].id, out[ICMP].seq) == (8, 7, 3)
    back = bench.one(IP(src=SERVER4, dst=HOST4) / ICMP(type=0, id=7, seq=3) / Raw(b"abc"))
    assert (back[ICMPv6EchoReply].id, back[ICMPv6EchoReply].data) == (7, b"abc")
    assert bench.flows == 1
    begun = bench.one(IP(src=SERVER4, dst=HOST4) / ICMP(type=8, id=9) / Raw(b"abcd"))
    assert begun[ICMPv6EchoRequest].id == 9
    reply = bench.one(IPv6(src=HOST, dst=SERVER) / ICMPv6EchoReply(id=9, data=b"abcd"))
    assert (reply[ICMP].type, reply[ICMP].id) == (0, 9)
    assert bench.flows == 2


@pytest.mark.parametrize("kind", [5, 9, 10, 13, 14, 15, 16, 17, 18, 42])
def test_other_icmpv4_is_dropped_in_silence(kind):
    """RFC 7915 §4.2."""
    packet = IP(src=SERVER4, dst=HOST4, proto=1) / Raw(bytes((kind,)) + bytes(11))
    assert SiitBench().refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("kind", [130, 133, 134, 135, 136, 137, 200])
def test_other_icmpv6_is_dropped_in_silence(kind):
    """RFC 7915 §5.2; and nobody gets an address of the pool for it."""
    packet = IPv6(src=STRANGER, dst=SERVER) / ICMPv6Unknown(type=kind, msgbody=bytes(20))
    assert SiitBench().refused(packet, Reason.ICMP_TYPE) == []


# -- UDP without a checksum -----------------------------------------------------------------


def zero_udp(**ip):
    return IP(src=SERVER4, dst=HOST4, **ip) / UDP(sport=53, dport=40000, chksum=0) / Raw(b"answer")


def test_udp_without_a_checksum():
    """RFC 7915 §4.5."""
    assert SiitBench().one(zero_udp())[UDP].chksum
    drop = SiitBench({"udp_zero_checksum": ZeroChecksum.DROP})
    assert drop.refused(zero_udp(), Reason.UDP_ZERO_CHECKSUM) == []
    reject = SiitBench({"udp_zero_checksum": ZeroChecksum.REJECT})
    (answer,) = reject.refused(zero_udp(), Reason.UDP_ZERO_CHECKSUM)
    assert bytes(read(answer.data).payload)[:2] == bytes((3, 13))
    forward = SiitBench({"udp_zero_checksum": ZeroChecksum.FORWARD})
    (out,) = forward.send(zero_udp())
    assert read(out.data)[UDP].chksum == 0


def test_nobody_can_compute_the_checksum_of_a_first_fragment():
    """RFC 7915 §4.5: it is dropped."""
    packet = zero_udp(flags="MF", id=77)
    packet[Raw].load = bytes(16)
    assert SiitBench().refused(packet, Reason.UDP_ZERO_CHECKSUM) == []
    forward = SiitBench({"udp_zero_checksum": ZeroChecksum.FORWARD})
    assert len(forward.send(packet)) == 1


# -- fragments ------------------------------------------------------------------------------


@pytest.mark.parametrize("nh", [6, 17, 132])
def test_fragments_pass_one_by_one(nh):
    """RFC 7915 §4.1, §5.1.1: in any order, without waiting for others."""
    upper = {6: bytes(UPPER["tcp"]), 17: bytes(UPPER["udp"]), 132: b""}[nh].ljust(40, b"x")[:40]
    bench = SiitBench()
    for offset, more in ((2, 0), (1, 1)):
        if nh == 132 or offset:
            packet = (
                IPv6(src=HOST, dst=SERVER)
                / IPv6ExtHdrFragment(nh=nh, offset=offset, m=more, id=0x12345678)
                / Raw(upper)
            )
            (out,) = bench.send(packet)
            got = read(out.data)
            assert (got.frag, int(got.flags), got.id) == (offset, more, 0x5678)
            assert (got.src, got.dst, got.proto, got.ttl) == (HOST4, SERVER4, nh, 63)
            assert bytes(got)[20:] == upper
        packet = IP(src=SERVER4, dst=HOST4, proto=nh, frag=offset, flags=more, id=0x9ABC) / Raw(
            upper
        )
        (out,) = bench.send(packet)
        got = read(out.data)
        piece = got[IPv6ExtHdrFragment]
        assert (got.src, got.dst, got.hlim) == (SERVER, HOST, 63)
        assert (piece.nh, piece.offset, piece.m, piece.id) == (nh, offset, more, 0x9ABC)
        assert bytes(piece.payload) == upper
    assert bench.flows == 0


def test_a_first_fragment_carries_the_checksum_over():
    bench = SiitBench()
    whole = IPv6(src=HOST, dst=SERVER) / UDP(sport=1, dport=2) / Raw(bytes(64))
    data = bytes(whole)[40:]
    packet = IPv6(src=HOST, dst=SERVER) / IPv6ExtHdrFragment(nh=17, m=1, id=5) / Raw(data[:24])
    (out,) = bench.send(packet)
    want = bytes(IP(src=HOST4, dst=SERVER4) / UDP(sport=1, dport=2) / Raw(bytes(64)))[20:44]
    assert out.data[20:] == want
    back = bytes(IP(src=SERVER4, dst=HOST4) / UDP(sport=2, dport=1) / Raw(bytes(64)))[20:44]
    (out,) = bench.send(IP(src=SERVER4, dst=HOST4, proto=17, flags="MF", id=6) / Raw(back))
    want = bytes(IPv6(src=SERVER, dst=HOST) / UDP(sport=2, dport=1) / Raw(bytes(64)))[40:64]
    assert out.data[48:] == want


def test_an_atomic_fragment():
    """RFC 7915 §5.1.1: DF clear, identification of the header; the flow is one like others."""
    bench = SiitBench()
    packet = IPv6(src=HOST, dst=SERVER) / IPv6ExtHdrFragment(id=0xABCD1234) / UPPER["udp"]
    out = bench.one(packet)
    assert (out.id, int(out.flags), out.frag) == (0x1234, 0, 0)
    packet = IPv6(src=HOST, dst=SERVER) / IPv6ExtHdrFragment(nh=132, id=0xABCD1234) / UPPER["sctp"]
    out = bench.one_plain(packet)
    assert (out.id, int(out.flags), out.frag, out.proto) == (0x1234, 0, 0, 132)


@pytest.mark.parametrize(("offset", "more"), [(0, 1), (2, 0), (2, 1)])
def test_fragments_of_icmp_are_dropped(offset, more):
    """RFC 7915 §4.2, §5.2: their checksum covers a length that none of them knows."""
    for kind in (128, 1):
        packet = (
            IPv6(src=HOST, dst=SERVER)
            / IPv6ExtHdrFragment(nh=58, offset=offset, m=more, id=5)
            / Raw(bytes((kind,)) + bytes(15))
        )
        assert SiitBench().refused(packet, Reason.FRAGMENT) == []
    for kind in (8, 3):
        packet = IP(src=SERVER4, dst=HOST4, proto=1, frag=offset, flags=more, id=5) / Raw(
            bytes((kind,)) + bytes(15)
        )
        assert SiitBench().refused(packet, Reason.FRAGMENT) == []


def test_a_first_fragment_without_the_whole_header():
    """RFC 1858."""
    packet = IP(src=SERVER4, dst=HOST4, proto=6, flags="MF", id=5) / Raw(bytes(16))
    assert SiitBench().refused(packet, Reason.FRAGMENT_TINY) == []
    packet = IPv6(src=HOST, dst=SERVER) / IPv6ExtHdrFragment(nh=6, m=1) / Raw(bytes(16))
    assert SiitBench().refused(packet, Reason.FRAGMENT_TINY) == []


def test_an_extension_header_behind_the_fragment_header():
    packet = (
        IPv6(src=HOST, dst=SERVER)
        / IPv6ExtHdrFragment(nh=60, m=1)
        / IPv6ExtHdrDestOpt(nh=17)
        / UPPER["udp"]
    )
    (answer,) = SiitBench().refused(packet, Reason.FRAGMENT_EXTENSION)
    assert bytes(read(answer.data).payload)[:2] == bytes((1, 1))


@pytest.mark.parametrize("proto", [17, 132])
@pytest.mark.parametrize("lowest", [1280, 1400])
@pytest.mark.parametrize("over", [0, 1])
def test_what_may_be_fragmented_is(proto, lowest, over):
    """RFC 7915 §4: without DF an IPv6 packet is at most 1280 bytes, or what is configured."""
    size = lowest - 20 + over
    upper = UDP(sport=1, dport=2) / Raw(bytes(size - 28)) if proto == 17 else Raw(bytes(size - 20))
    bench = SiitBench({"lowest_ipv6_mtu": lowest})
    out = bench.send(IP(src=SERVER4, dst=HOST4, proto=proto, id=0x4321) / upper)
    assert len(out) == 1 + over
    assert all(len(one.data) <= lowest for one in out)
    if over:
        pieces = [read(one.data)[IPv6ExtHdrFragment] for one in out]
        assert [piece.id for piece in pieces] == [0x4321] * 2
        assert [piece.m for piece in pieces] == [1, 0]
        assert pieces[1].offset * 8 == len(bytes(pieces[0].payload))
        body = b"".join(bytes(piece.payload) for piece in pieces)
        assert body[8:] == bytes(len(body) - 8)
        assert len(body) == size - 20
    (whole,) = bench.send(IP(src=SERVER4, dst=HOST4, proto=proto, flags="DF") / upper)
    assert len(whole.data) == size + 20


def test_a_fragment_is_cut_further_and_keeps_its_place():
    packet = IP(src=SERVER4, dst=HOST4, proto=17, id=9, frag=100, flags="MF") / Raw(bytes(1400))
    out = [read(one.data)[IPv6ExtHdrFragment] for one in SiitBench().send(packet)]
    assert [piece.m for piece in out] == [1, 1]
    assert out[0].offset == 100
    assert out[1].offset == 100 + len(bytes(out[0].payload)) // 8


# -- metadata of the device -----------------------------------------------------------------


def test_a_partial_checksum_stays_one():
    bench = SiitBench()
    packet = bytearray(bytes(v6("udp")))
    packet[46:48] = pseudo_sum(v6("udp")).to_bytes(2, "big")
    (out,) = bench.send(bytes(packet), partial=True)
    assert out.partial
    assert int.from_bytes(out.data[26:28], "big") == pseudo_sum(read(out.data))


def test_a_partial_checksum_of_a_protocol_that_nobody_finishes():
    for packet in (v6("sctp"), v4("sctp")):
        assert SiitBench().refused(packet, Reason.MALFORMED, partial=True) == []


def test_link_addresses_are_learnt_and_used():
    bench = SiitBench()
    assert bench.send(v4("udp"))[0].link == b""
    bench.send(v6("udp"), link=LINK)
    assert bench.send(v4("udp", src="203.0.113.81"))[0].link in (b"", LINK)
    back = IP(src=SERVER4, dst=HOST4) / UDP(sport=53, dport=40000) / Raw(b"x")
    assert bench.send(back)[0].link == LINK
    assert bench.send(v4("sctp"))[0].link == LINK


# -- the dynamic pool is told in test_siit_pool.py ------------------------------------------


def test_addresses_that_are_given_are_16_and_4_bytes():
    """What the steps hand to each other is bytes, whichever way an address came about."""
    bench = SiitBench()
    addresses = AddressMap(bench.nat.siit, DestinationPolicy(bench.nat.settings))
    for addr4 in (HOST4, NEAR4, IN_NET4, SERVER4):
        packed = IPv4Address(addr4).packed
        addr6 = addresses.to_v6(packed)
        assert addr6 is not None
        assert addresses.to_v4(addr6) == packed
