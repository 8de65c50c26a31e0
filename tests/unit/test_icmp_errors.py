"""ICMP errors that pass through: types, codes, pointers, MTUs (RFC 7915 §4.2, §5.2)."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    OWN6,
    POOL,
    ROUTER4,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    ICMPv6DestUnreach,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    echo4,
    error4,
    error6,
    read,
    tcp4,
    tcp6,
    trailing,
    transport_sum,
    udp4,
    udp6,
    words,
)
from translate.addresses import Layout, Prefix6
from translate.policy import WELL_KNOWN_PREFIX
from translate.reasons import Reason
from translate.settings import Filtering


@pytest.fixture
def bench():
    return Bench()


def from_v4(bench, kind, code, rest=0, inner=None):
    """An error of these numbers about a known datagram, sent from the IPv4 side."""
    sent = bench.send(udp6(hlim=9))[0].data
    return error4(kind, code, rest, sent if inner is None else inner)


def from_v6(bench, kind, code, rest=0, size=5):
    """An error of these numbers about a known answer, sent from the IPv6 side."""
    port = bench.udp()[UDP].sport
    (sent,) = bench.send(udp4(port, data=bytes(size), flags="DF"))
    return error6(kind, code, rest, sent.data[:1232])


# -- IPv4 to IPv6 -------------------------------------------------------------------------

UNREACHABLE_4_TO_6 = [
    (0, (1, 0)),  # net
    (1, (1, 0)),  # host
    (3, (1, 4)),  # port
    (5, (1, 0)),  # source route failed
    (6, (1, 0)),  # net unknown
    (7, (1, 0)),  # host unknown
    (8, (1, 0)),  # source host isolated
    (9, (1, 1)),  # net prohibited
    (10, (1, 1)),  # host prohibited
    (11, (1, 0)),  # net for TOS
    (12, (1, 0)),  # host for TOS
    (13, (1, 1)),  # communication prohibited
    (15, (1, 1)),  # precedence cutoff
]


@pytest.mark.parametrize(("code", "expected"), UNREACHABLE_4_TO_6)
def test_rfc7915_4_2_destination_unreachable(bench, code, expected):
    out = bench.one(from_v4(bench, 3, code))
    assert (out.payload.type, out.payload.code) == expected
    assert bytes(out.payload)[4:8] == bytes(4)


def test_rfc7915_4_2_protocol_unreachable_points_to_the_next_header(bench):
    out = bench.one(from_v4(bench, 3, 2))
    assert (out.payload.type, out.payload.code, out.payload.ptr) == (4, 1, 6)


@pytest.mark.parametrize("code", [14, 16, 17, 100, 255])
def test_rfc7915_4_2_other_unreachables_are_dropped(bench, code):
    assert bench.refused(from_v4(bench, 3, code), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("code", [0, 1])
def test_rfc7915_4_2_time_exceeded(bench, code):
    out = bench.one(from_v4(bench, 11, code))
    assert (out.payload.type, out.payload.code) == (3, code)


POINTERS_4_TO_6 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6}
POINTERS_4_TO_6 |= dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)


@pytest.mark.parametrize("code", [0, 2])
@pytest.mark.parametrize("pointer", range(24))
def test_rfc7915_4_2_figure_3(bench, pointer, code):
    packet = from_v4(bench, 12, code, pointer << 24)
    if pointer in POINTERS_4_TO_6:
        out = bench.one(packet)
        assert (out.payload.type, out.payload.code) == (4, 0)
        assert out.payload.ptr == POINTERS_4_TO_6[pointer]
    else:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("code", [1, 3, 255])
def test_rfc7915_4_2_other_parameter_problems_are_dropped(bench, code):
    assert bench.refused(from_v4(bench, 12, code), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [
        (1500, 1500),  # not above the translator's own IPv6 link
        (65535, 1500),
        (1481, 1500),
        (1480, 1500),
        (1479, 1499),
        (1400, 1420),
        (1261, 1281),
        (1260, 1280),
        (1259, 1280),
        (576, 1280),
        (68, 1280),
        (1, 1280),
    ],
)
def test_rfc7915_4_2_mtu_is_20_more_within_1280_and_the_link(bench, mtu, expected):
    out = bench.one(from_v4(bench, 3, 4, mtu))
    assert (out.payload.type, out.payload.code, out.payload.mtu) == (2, 0, expected)


@pytest.mark.parametrize("unused", [0x12340000, 0xFFFF0000])
def test_rfc1191_4_the_upper_half_is_no_part_of_the_mtu(bench, unused):
    assert bench.one(from_v4(bench, 3, 4, unused | 1400)).payload.mtu == 1420


@pytest.mark.parametrize(
    ("total", "expected"),
    [
        (40000, 32020),
        (32001, 32020),
        (32000, 17934),
        (17915, 17934),
        (17914, 8186),
        (8167, 8186),
        (4353, 4372),
        (4352, 2022),
        (2003, 2022),
        (2002, 1512),
        (1500, 1512),
        (1493, 1512),
        (1492, 1280),
        (576, 1280),
    ],
)
def test_rfc7915_4_2_plateau_below_the_total_length(total, expected):
    bench = Bench(mtu=65535)
    port = bench.udp()[UDP].sport
    inner = IP(src=POOL, dst=SERVER, len=total) / UDP(sport=port, dport=53, len=total - 20)
    assert bench.one(from_v4(bench, 3, 4, 0, inner)).payload.mtu == expected


SINGLE_HOP_OR_OBSOLETE4 = {
    4: "source quench",
    5: "redirect",
    6: "alternative host address",
    9: "router advertisement",
    10: "router solicitation",
    13: "timestamp",
    14: "timestamp reply",
    15: "information request",
    16: "information reply",
    17: "address mask request",
    18: "address mask reply",
    30: "traceroute",
    40: "photuris",
    42: "extended echo",
    43: "extended echo reply",
}
UNKNOWN4 = [1, 2, 7, 19, 41, 44, 200, 253, 255]


@pytest.mark.parametrize("kind", [*SINGLE_HOP_OR_OBSOLETE4, *UNKNOWN4])
def test_rfc7915_4_2_other_types_are_dropped_in_silence(bench, kind):
    assert bench.refused(from_v4(bench, kind, 0), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("kind", sorted({*range(256)} - {0, 3, 8, 11, 12}))
def test_rfc7915_4_2_no_other_type_has_a_row(bench, kind):
    assert bench.send(from_v4(bench, kind, 0)) == []


@pytest.mark.parametrize("code", [2, 3, 255])
def test_rfc7915_4_2_other_time_exceededs_are_dropped(bench, code):
    assert bench.refused(from_v4(bench, 11, code), Reason.ICMP_TYPE) == []


# -- IPv6 to IPv4 -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "expected"), [(0, (3, 1)), (1, (3, 10)), (2, (3, 1)), (3, (3, 1)), (4, (3, 3))]
)
def test_rfc7915_5_2_destination_unreachable(bench, code, expected):
    out = bench.one(from_v6(bench, 1, code))
    assert (out.payload.type, out.payload.code) == expected
    assert bytes(out.payload)[4:8] == bytes(4)


@pytest.mark.parametrize("code", [5, 6, 7, 255])
def test_rfc7915_5_2_other_unreachables_are_dropped(bench, code):
    assert bench.refused(from_v6(bench, 1, code), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("code", [0, 1])
def test_rfc7915_5_2_time_exceeded(bench, code):
    out = bench.one(from_v6(bench, 3, code))
    assert (out.payload.type, out.payload.code) == (11, code)


POINTERS_6_TO_4 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
POINTERS_6_TO_4 |= dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)


@pytest.mark.parametrize("pointer", [*range(44), 255, 256, 0x06000000, 0xFFFFFFFF])
def test_rfc7915_5_2_figure_6(bench, pointer):
    packet = from_v6(bench, 4, 0, pointer)
    if pointer in POINTERS_6_TO_4:
        out = bench.one(packet)
        assert (out.payload.type, out.payload.code) == (12, 0)
        assert out.payload.ptr == POINTERS_6_TO_4[pointer]
    else:
        assert bench.refused(packet, Reason.ICMP_TYPE) == []


def test_rfc7915_5_2_unrecognised_next_header_is_protocol_unreachable(bench):
    out = bench.one(from_v6(bench, 4, 1, 6))
    assert (out.payload.type, out.payload.code) == (3, 2)


@pytest.mark.parametrize("code", [2, 3, 255])
def test_rfc7915_5_2_other_parameter_problems_are_dropped(bench, code):
    assert bench.refused(from_v6(bench, 4, code), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [(1500, 1480), (1501, 1480), (65535, 1480), (0xFFFFFFFF, 1480), (1400, 1380), (1280, 1260)],
)
def test_rfc7915_5_2_mtu_is_20_less_within_the_link(bench, mtu, expected):
    out = bench.one(from_v6(bench, 2, 0, mtu, size=1400))
    assert (out.payload.type, out.payload.code, out.payload.nexthopmtu) == (3, 4, expected)


@pytest.mark.parametrize(
    ("mtu", "expected"),
    [(1500, 1472), (1508, 1472), (1400, 1372), (1280, 1252), (0xFFFFFFFF, 1472)],
)
def test_rfc7915_5_2_a_fragment_header_takes_8_bytes_more(bench, mtu, expected):
    """The packet inside had 28 bytes more in IPv6 than in IPv4."""
    bench.udp(sport=40000)
    inner = IPv6(src=SERVER6, dst=CLIENT) / IPv6ExtHdrFragment(nh=17, m=1, id=5)
    inner = inner / UDP(sport=53, dport=40000, len=3000) / Raw(bytes(1000))
    assert bench.one(error6(2, 0, mtu, inner)).payload.nexthopmtu == expected


@pytest.mark.parametrize("mtu", [0, 1, 68, 87, 88])
def test_rfc791_3_2_no_mtu_below_68(bench, mtu):
    assert bench.one(from_v6(bench, 2, 0, mtu, size=1400)).payload.nexthopmtu == 68


SINGLE_HOP6 = {
    130: "listener query",
    131: "listener report",
    132: "listener done",
    133: "router solicitation",
    134: "router advertisement",
    135: "neighbour solicitation",
    136: "neighbour advertisement",
    137: "redirect",
    143: "version 2 listener report",
}
UNKNOWN6 = [0, 5, 100, 101, 127, 138, 139, 140, 144, 151, 160, 200, 201, 255]


@pytest.mark.parametrize("kind", [*SINGLE_HOP6, *UNKNOWN6])
def test_rfc7915_5_2_other_types_are_dropped_in_silence(bench, kind):
    assert bench.refused(from_v6(bench, kind, 0), Reason.ICMP_TYPE) == []


@pytest.mark.parametrize("kind", sorted({*range(256)} - {1, 2, 3, 4, 128, 129}))
def test_rfc7915_5_2_no_other_type_has_a_row(bench, kind):
    assert bench.send(from_v6(bench, kind, 0)) == []


@pytest.mark.parametrize("code", [2, 3, 255])
def test_rfc7915_5_2_other_time_exceededs_are_dropped(bench, code):
    assert bench.refused(from_v6(bench, 3, code), Reason.ICMP_TYPE) == []


# -- checksums ----------------------------------------------------------------------------


@pytest.mark.parametrize("error", [1, 0x8000, 0x1234, 0xFFFE])
def test_a_wrong_checksum_stays_as_wrong(bench, error):
    """A translator does not make a damaged message look whole."""
    for packet, at in ((from_v4(bench, 11, 0), 22), (from_v6(bench, 3, 0), 42)):
        data = bytearray(bytes(packet))
        assert transport_sum(data) == 0xFFFF
        checksum = int.from_bytes(data[at : at + 2], "big") + error
        data[at : at + 2] = words(checksum.to_bytes(4, "big")).to_bytes(2, "big")
        (out,) = bench.send(data)
        assert transport_sum(out.data) == transport_sum(data) == error


def test_a_partial_checksum_is_completed(bench):
    """The field holds what its sender left to the device, no checksum that could be wrong."""
    for packet, at in ((from_v4(bench, 11, 0), 22), (from_v6(bench, 3, 0), 42)):
        data = bytearray(bytes(packet))
        data[at : at + 2] = (words(data[8:40]) if at == 42 else 0).to_bytes(2, "big")
        bench.one(data, partial=True)


# -- where errors come from and go to -----------------------------------------------------


def test_rfc7915_4_1_outer_header_from_ipv4(bench):
    packet = from_v4(bench, 11, 0)
    packet.tos, packet.ttl = 0xC0, 50
    out = bench.one(packet)
    assert (out.src, out.dst) == (trailing(ROUTER4), CLIENT)
    assert (out.tc, out.hlim, out.nh) == (0xC0, 49, 58)


def test_the_server_itself_appears_as_the_client_knows_it(bench):
    packet = from_v4(bench, 3, 3)
    packet.src = SERVER
    assert bench.one(packet).src == SERVER6


@pytest.mark.parametrize("src", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_rfc7915_4_1_an_impossible_router_is_shown(bench, src):
    packet = from_v4(bench, 11, 0)
    packet.src = src
    assert bench.one(packet).src == trailing(src)


def test_rfc6052_3_1_a_private_router_does_not_appear_under_the_well_known_prefix():
    bench = Bench(prefixes=(Prefix6(WELL_KNOWN_PREFIX, Layout.RFC6052),))
    sent = bench.send(udp6(dst="64:ff9b::8.8.8.8"))[0].data
    for src in ("10.1.2.3", "127.0.0.1"):
        assert bench.one(error4(11, 0, 0, sent, src=src)).src == OWN6
    assert bench.one(error4(11, 0, 0, sent, src="9.9.9.9")).src == "64:ff9b::909:909"


def test_an_address_that_may_not_be_reached_does_not_appear():
    """What `deny4` refuses as a destination could not be answered by the client."""
    bench = Bench(deny4=(IPv4Network("10.0.0.0/8"),))
    packet = from_v4(bench, 11, 0)
    packet.src = "10.1.2.3"
    assert bench.one(packet).src == OWN6
    packet.src = "11.1.2.3"
    assert bench.one(packet).src == trailing("11.1.2.3")


def test_an_illegal_source_crosses_in_errors_only(bench):
    """RFC 7915 §4.1: other packets from there are dropped."""
    port = bench.udp()[UDP].sport
    for src in ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"):
        assert bench.refused(udp4(port, src=src), Reason.SOURCE_INVALID) == []
        inside = IP(src=src, dst=SERVER) / UDP(sport=port, dport=53)
        assert bench.refused(error4(11, 0, 0, inside), Reason.NO_SESSION) == []


ERROR_POOL = (IPv4Network("198.18.100.0/28"), IPv4Network("198.18.200.7/32"))


def resealed(packet):
    """The bytes of an ICMPv6 packet, with the checksum that its addresses want."""
    data = bytearray(bytes(packet))
    data[42:44] = bytes(2)
    data[42:44] = (0xFFFF - transport_sum(data)).to_bytes(2, "big")
    return data


def hop(bench, router):
    """The IPv4 source of an error from this IPv6 router."""
    packet = from_v6(bench, 3, 0)
    packet.src = router
    return bench.one(resealed(packet)).src


def test_rfc6791_3_without_a_pool_errors_come_from_the_address_of_the_session(bench):
    assert {hop(bench, f"2001:db8:ffff::{n:x}") for n in range(1, 9)} == {POOL}


def test_rfc6791_3_each_router_has_its_address_of_the_pool():
    bench, other = Bench(icmp4_error_pool=ERROR_POOL), Bench(icmp4_error_pool=ERROR_POOL, seed=2)
    routers = [f"2001:db8:ffff:{n // 50:x}::{n % 50:x}" for n in range(200)]
    found = [hop(bench, router) for router in routers]
    assert [hop(other, router) for router in routers] == found, "the same for ever"
    assert {IPv4Address(src) for src in found} == {
        address for network in ERROR_POOL for address in network
    }
    assert found[:3] == ["198.18.100.12", "198.18.200.7", "198.18.100.10"], "in every process"
    # Neighbours on a path are told apart: 16 hops share 17 addresses about as dice would.
    for start in range(0, 192, 16):
        assert len(set(found[start : start + 16])) >= 7


def test_rfc6791_3_the_client_itself_appears_as_the_server_knows_it():
    bench = Bench(icmp4_error_pool=ERROR_POOL)
    assert hop(bench, CLIENT) == POOL


def test_rfc6864_4_identifications_count_for_each_source_of_errors():
    bench = Bench(icmp4_error_pool=(IPv4Network("198.18.200.7/32"),))
    packets = [from_v6(bench, 3, 0), from_v6(bench, 3, 0)]
    packets[1].src = CLIENT
    found = [bench.one(resealed(packets[n % 2])) for n in range(6)]
    assert [out.src for out in found] == ["198.18.200.7", POOL] * 3
    assert {int(out.flags) for out in found} == {0}
    for start in (0, 1):
        first, second, third = (out.id for out in found[start::2])
        assert (second, third) == ((first + 1) % 65536, (first + 2) % 65536)


def test_rfc7915_5_1_outer_header_from_ipv6(bench):
    packet = from_v6(bench, 3, 0)
    packet.tc, packet.hlim = 0xC0, 50
    out = bench.one(packet)
    assert (out.src, out.dst, out.tos, out.ttl, out.proto) == (POOL, SERVER, 0xC0, 49, 1)


@pytest.mark.parametrize("hops", [0, 1])
def test_rfc4443_2_4_e_an_error_out_of_hops_is_dropped_in_silence(bench, hops):
    packet6 = from_v6(bench, 3, 0)
    packet6.hlim = hops
    assert bench.refused(packet6, Reason.HOP_LIMIT) == []
    packet4 = from_v4(bench, 11, 0)
    packet4.ttl = hops
    assert bench.refused(packet4, Reason.HOP_LIMIT) == []


def test_rfc6146_3_5_an_error_needs_a_session_but_none_of_its_own(bench):
    inner4 = IP(src=POOL, dst=SERVER) / UDP(sport=50000, dport=53)
    assert bench.refused(error4(3, 3, 0, inner4), Reason.NO_SESSION) == []
    inner6 = IPv6(src=SERVER6, dst=CLIENT) / UDP(sport=53, dport=40000)
    assert bench.refused(error6(1, 4, 0, inner6), Reason.NO_SESSION) == []
    assert bench.nat.state.session_count == 0


def test_rfc6146_3_5_an_error_changes_no_lifetime_and_no_state(bench):
    port = bench.one(tcp6("S"))[TCP].sport
    bench.advance(200)
    sent = IP(src=POOL, dst=SERVER) / TCP(sport=port, dport=80, flags="S")
    bench.one(error4(3, 1, 0, sent))
    bench.advance(41)
    assert bench.nat.state.session_count == 0


def test_address_dependent_filtering_lets_errors_of_routers_in():
    bench = Bench(filtering=Filtering.ADDRESS_DEPENDENT)
    assert bench.one(from_v4(bench, 11, 0)).payload.type == 3


# -- errors about errors ------------------------------------------------------------------


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_rfc7915_4_3_an_error_about_an_error_is_dropped_v4(bench, kind):
    bench.udp()
    inner = IP(src=POOL, dst=SERVER) / ICMP(type=kind) / Raw(bytes(28))
    assert bench.refused(error4(3, 1, 0, inner), Reason.ICMP_INNER) == []


@pytest.mark.parametrize("inner", [ICMPv6DestUnreach(), ICMPv6PacketTooBig(), ICMPv6ParamProblem()])
def test_rfc7915_5_3_an_error_about_an_error_is_dropped_v6(bench, inner):
    bench.udp()
    packet = IPv6(src=SERVER6, dst=CLIENT) / inner / Raw(bytes(48))
    assert bench.refused(error6(1, 0, 0, packet), Reason.ICMP_INNER) == []


@pytest.mark.parametrize(
    "inner", [IP(src=POOL, dst=SERVER, proto=47) / Raw(bytes(20)), b"", b"\x45", bytes(20)]
)
def test_an_error_about_what_no_session_sends_is_dropped(bench, inner):
    bench.udp()
    assert bench.send(error4(3, 1, 0, inner)) == []


def test_errors_about_every_protocol_cross(bench):
    for request in (udp6(), tcp6("S")):
        sent = bench.send(request)[0].data
        out = bench.one(error4(3, 1, 0, sent))
        assert bytes(read(bytes(out.payload)[8:]).payload)[:4] == bytes(request.payload)[:4]
    assert bench.send(error4(3, 1, 0, echo4(9))) == []
    assert bench.send(error4(3, 1, 0, tcp4("A", 1))) == []
