"""Two mapped hosts that talk through the translator (RFC 7757 §4), and both sides mapped."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from tests.oracle import IP, UDP, ICMPv6EchoRequest, IPv6, IPv6ExtHdrFragment, Raw, read
from tests.siit_bench import (
    HOST,
    HOST4,
    NEAR,
    NEAR4,
    OWN4,
    OWN6,
    ROUTER,
    SERVER4,
    STRANGER,
    SiitBench,
    embedded,
    error4,
    error6,
    table,
)
from translate.reasons import Reason
from translate.settings import ZeroChecksum
from translate.siit.addresses import Hairpin

NEAR_AS_SEEN, HOST_AS_SEEN = embedded(NEAR4), embedded(HOST4)


def udp6(src, dst, hlim=64, sport=40000, dport=53):
    return IPv6(src=src, dst=dst, hlim=hlim) / UDP(sport=sport, dport=dport) / Raw(b"query")


def udp4(src, dst, ttl=64):
    return IP(src=src, dst=dst, ttl=ttl, flags="DF") / UDP(sport=40000, dport=53) / Raw(b"query")


# -- intrinsic: RFC 7757 §4.2.2 -------------------------------------------------------------


def test_intrinsic_turns_round_and_takes_one_hop():
    bench = SiitBench()
    there = udp6(HOST, NEAR_AS_SEEN)
    assert bench.hexes(there) == [bytes(udp6(HOST_AS_SEEN, NEAR, hlim=63))]
    back = udp6(NEAR, HOST_AS_SEEN, sport=53, dport=40000)
    assert bench.hexes(back) == [bytes(udp6(NEAR_AS_SEEN, HOST, hlim=63, sport=53, dport=40000))]
    assert bench.flows == 0, "the fast path would send it to IPv4"


def test_intrinsic_hop_limits():
    bench = SiitBench()
    bench.refused(udp6(HOST, NEAR_AS_SEEN, hlim=1), Reason.HOP_LIMIT)
    assert bench.one(udp6(HOST, NEAR_AS_SEEN, hlim=2)).hlim == 1


def test_intrinsic_from_a_host_that_is_not_mapped():
    bench = SiitBench()
    bench.refused(udp6(STRANGER, NEAR_AS_SEEN), Reason.SOURCE_UNMAPPED)
    out = bench.one(udp6(embedded("198.51.100.1"), NEAR_AS_SEEN))
    assert (out.src, out.dst) == (embedded("198.51.100.1"), NEAR)


def test_intrinsic_ping_and_fragments():
    bench = SiitBench()
    out = bench.one(IPv6(src=HOST, dst=NEAR_AS_SEEN) / ICMPv6EchoRequest(id=5, data=b"abc"))
    assert (out.src, out.dst, out[ICMPv6EchoRequest].id) == (HOST_AS_SEEN, NEAR, 5)
    piece = IPv6(src=HOST, dst=NEAR_AS_SEEN) / IPv6ExtHdrFragment(nh=17, offset=4, id=9)
    (got,) = bench.send(piece / Raw(b"rest"))
    out = read(got.data)
    assert (out.src, out.dst) == (HOST_AS_SEEN, NEAR)
    assert (out[IPv6ExtHdrFragment].offset, out[IPv6ExtHdrFragment].id) == (4, 9)
    (got,) = bench.send(IPv6(src=HOST, dst=NEAR_AS_SEEN, nh=132) / Raw(bytes(12)))
    assert (read(got.data).src, read(got.data).dst) == (HOST_AS_SEEN, NEAR)


@pytest.mark.parametrize("hairpin", [Hairpin.INTRINSIC, Hairpin.SIMPLE])
@pytest.mark.parametrize(
    ("src", "seen_as"), [(NEAR, NEAR_AS_SEEN), (ROUTER, OWN6)], ids=["the host itself", "a router"]
)
def test_an_error_shows_the_packet_as_it_was_sent(hairpin, src, seen_as):
    """RFC 7757 §4.2.1, appendix B.1: of an error it is the destination inside that stays embedded,
    and its source where both are the same.
    """
    bench = SiitBench(hairpin=hairpin)
    sent = udp6(HOST, NEAR_AS_SEEN)
    arrived = read(through_the_network(bench, sent)[0])
    error = error6(1, 4, 0, arrived, src=src, dst=HOST_AS_SEEN)
    (got,) = through_the_network(bench, error)
    out = read(got)
    assert (out.src, out.dst) == (seen_as, HOST)
    inner = IPv6(bytes(out.payload)[8:])
    assert (inner.src, inner.dst) == (HOST, NEAR_AS_SEEN)
    assert bytes(inner.payload) == bytes(sent.payload), "ports and checksum as they were sent"


def through_the_network(bench, packet):
    """What comes out at last, when the network sends packets for our addresses back to us."""
    out = []
    for one in bench.send(packet):
        if one.data[0] >> 4 == 4 and read(one.data).dst in (HOST4, NEAR4):
            out += through_the_network(bench, one.data)
        else:
            out.append(one.data)
    return out


@pytest.mark.parametrize("kind", ["later fragment", "unknown protocol", "short"])
def test_errors_without_ports_inside(kind):
    bench = SiitBench()
    head = IPv6(src=HOST_AS_SEEN, dst=NEAR)
    inner = {
        "later fragment": bytes(head / IPv6ExtHdrFragment(nh=17, offset=7, id=1) / Raw(bytes(30))),
        "unknown protocol": bytes(IPv6(src=HOST_AS_SEEN, dst=NEAR, nh=132) / Raw(bytes(30))),
        "short": bytes(head / UDP(sport=1, dport=2))[:44],
    }[kind]
    out = bench.one(error6(3, 0, 0, inner, src=NEAR, dst=HOST_AS_SEEN))
    inner6 = IPv6(bytes(out.payload)[8:])
    assert (inner6.src, inner6.dst) == (HOST, NEAR_AS_SEEN)


def test_an_own_error_about_a_turned_packet_comes_back_to_its_sender():
    own4 = IPv4Address("192.0.2.17").packed
    bench = SiitBench({"udp_zero_checksum": ZeroChecksum.REJECT, "icmp4_source": own4})
    packet = bytearray(bytes(udp6(HOST, NEAR_AS_SEEN)))
    packet[46:48] = b"\0\0"
    (got,) = bench.send(bytes(packet))
    out = read(got.data)
    assert (out.src, out.dst, out.nh) == (OWN6, HOST, 58)
    inner = bytes(out.payload)[8:]
    assert inner[40:] == bytes(packet)[40:]
    assert inner[8:40] == bytes(packet)[8:40]
    assert bench.nat.counters[Reason.UDP_ZERO_CHECKSUM] == 1


def test_intrinsic_leaves_ipv4_hosts_with_mappings_alone():
    """Where mappings stand for hosts of either side, nothing is a hairpin."""
    ipv4_host, as_seen = "203.0.113.9", "2001:db8:4::9"
    bench = SiitBench(mappings=table((f"{HOST4}/32", HOST), (f"{ipv4_host}/32", as_seen)))
    out = bench.one(udp6(HOST, as_seen))
    assert (out.src, out.dst) == (HOST4, ipv4_host)
    out = bench.one(udp4(ipv4_host, HOST4))
    assert (out.src, out.dst) == (as_seen, HOST)
    assert bench.flows == 2
    inner = bytes(udp4(HOST4, ipv4_host))
    out = bench.one(error4(3, 3, 0, inner, src=ipv4_host, dst=HOST4))
    inner6 = IPv6(bytes(out.payload)[8:])
    assert (inner6.src, inner6.dst) == (HOST, as_seen)


def test_a_turned_packet_is_no_part_of_a_flow_from_ipv4():
    """The same addresses and ports, but from somebody else."""
    bench = SiitBench()
    assert bench.one(udp4(HOST4, NEAR4)).src == HOST
    assert bench.flows == 1
    assert bench.one(udp6(HOST, NEAR_AS_SEEN)).src == HOST_AS_SEEN


# -- simple: RFC 7757 §4.2.1 ----------------------------------------------------------------


def test_simple_sends_to_ipv4_and_takes_back():
    bench = SiitBench(hairpin=Hairpin.SIMPLE)
    (got,) = bench.send(udp6(HOST, NEAR_AS_SEEN))
    out = read(got.data)
    assert (out.src, out.dst) == (HOST4, NEAR4)
    back = bench.one(got.data)
    assert (back.src, back.dst) == (HOST_AS_SEEN, NEAR)
    assert bench.flows == 2, "each direction is a flow like others: with its answers"
    assert bench.hexes(udp6(HOST, NEAR_AS_SEEN)) != []


def test_simple_towards_a_host_that_is_not_mapped():
    """RFC 7757 §4.2.1 asks no more than that it is simple; then answers to an IPv4 host with a
    mapping would come from another address than the question went to.
    """
    out = SiitBench(hairpin=Hairpin.SIMPLE).one(udp4(HOST4, "198.51.100.1"))
    assert (out.src, out.dst) == (HOST, embedded("198.51.100.1"))


def test_simple_leaves_other_sources_alone():
    out = SiitBench(hairpin=Hairpin.SIMPLE).one(udp4(SERVER4, HOST4))
    assert (out.src, out.dst) == (embedded(SERVER4), HOST)


def test_simple_the_source_of_an_error_is_translated_by_its_mapping_unless_it_was_written_to():
    bench = SiitBench(hairpin=Hairpin.SIMPLE)
    out = bench.one(error4(3, 3, 0, udp4(HOST4, SERVER4), src=NEAR4, dst=HOST4))
    assert (out.src, out.dst) == (NEAR, HOST)
    out = bench.one(error4(3, 3, 0, udp4(HOST4, NEAR4), src=NEAR4, dst=HOST4))
    assert (out.src, out.dst) == (NEAR_AS_SEEN, HOST)


# -- none -----------------------------------------------------------------------------------


def test_none():
    bench = SiitBench(hairpin=Hairpin.NONE)
    out = bench.one(udp6(HOST, NEAR_AS_SEEN))
    assert (out.src, out.dst) == (HOST4, NEAR4)
    back = bench.one(udp4(HOST4, NEAR4))
    assert (back.src, back.dst) == (HOST, NEAR)
    out = bench.one(error4(3, 3, 0, udp4(HOST4, NEAR4), src=NEAR4, dst=HOST4))
    inner = IPv6(bytes(out.payload)[8:])
    assert (inner.src, inner.dst) == (HOST, NEAR)


def test_a_hairpin_without_a_prefix_has_no_way():
    bench = SiitBench({"prefixes": ()}, hairpin=Hairpin.SIMPLE)
    (answer,) = bench.refused(udp4(HOST4, NEAR4), Reason.SOURCE_UNMAPPED)
    assert read(answer.data).src == OWN4
