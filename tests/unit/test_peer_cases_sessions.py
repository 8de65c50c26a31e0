"""Cases of Jool's graybox suite for its stateful translator (test-suite/nat64, RFC 6146).

Each names the case of the suite. What is not told: `source-icmpv6-errors-better off`, an option
of Jool's only, and cases that only repeat another.
"""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.oracle import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    IPv6ExtHdrFragment,
    checksum_right,
)
from tests.unit.peer_network import (
    ICMP,
    IP,
    M6,
    N4,
    N4_AS6,
    N6,
    OWN6,
    POOL,
    POOL_AS6,
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
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Filtering, ZeroChecksum
from translate.tcp_states import State

DATA = bytes(range(4))


@pytest.fixture
def bench():
    return graybox()


def one(bench, packet):
    (out,) = bench.send(packet)
    return out.data


# -- pktgen: every kind of payload, right and wrong checksums, atomic fragments --------------

OUTWARDS = {
    "udp": (UDP(sport=2000, dport=4000) / Raw(DATA), UDP(sport=2000, dport=4000) / Raw(DATA)),
    "tcp": (TCP(sport=2000, dport=4000) / Raw(DATA), TCP(sport=2000, dport=4000) / Raw(DATA)),
    "icmp info": (ICMPv6EchoRequest(id=1, seq=9, data=DATA), ICMP(type=8, id=1, seq=9) / Raw(DATA)),
}
INWARDS = {
    "udp": (UDP(sport=4000, dport=2000) / Raw(DATA), UDP(sport=4000, dport=2000) / Raw(DATA)),
    "tcp": (TCP(sport=4000, dport=2000) / Raw(DATA), TCP(sport=4000, dport=2000) / Raw(DATA)),
    "icmp info": (ICMP(type=0, id=1, seq=9) / Raw(DATA), ICMPv6EchoReply(id=1, seq=9, data=DATA)),
}
CHECKSUM = {"udp": 6, "tcp": 16, "icmp info": 2}


@pytest.mark.parametrize("kind", OUTWARDS)
def test_outwards(bench, kind):
    """udp64, tcp64, icmpi64: csumok-df. Without Fragment header DF is clear up to 1260 bytes."""
    inner6, inner4 = OUTWARDS[kind]
    got = one(bench, to_n4(inner6, tc=5, hlim=64))
    same(got, IP(src=POOL, dst=N4, ttl=63, tos=5) / inner4, free=True)


@pytest.mark.parametrize("kind", OUTWARDS)
def test_outwards_atomic_fragment(bench, kind):
    """csumok-nodf: the identification crosses; graybox takes any, because Jool loses it."""
    inner6, inner4 = OUTWARDS[kind]
    number = {"udp": 17, "tcp": 6, "icmp info": 58}[kind]
    plain = bytes(to_n4(inner6))[40:]
    head = to_n4(IPv6ExtHdrFragment(nh=number, id=0x87654321) / Raw(plain))
    got = one(bench, head)
    same(got, IP(src=POOL, dst=N4, ttl=63, id=0x4321) / inner4)


@pytest.mark.parametrize("flags", ["DF", 0])
@pytest.mark.parametrize("kind", INWARDS)
def test_inwards(bench, kind, flags):
    """udp46, tcp46, icmpi46: csumok-df, csumok-nodf. No Fragment header either way (RFC 8021)."""
    inner4, inner6 = INWARDS[kind]
    got = one(bench, to_n6(inner4, flags=flags, tos=3))
    same(got, IPv6(src=N4_AS6, dst=N6, hlim=63, tc=3) / inner6)


@pytest.mark.parametrize("kind", OUTWARDS)
@pytest.mark.parametrize("packet", [to_n4, to_n6])
def test_a_wrong_checksum_stays_as_wrong(bench, kind, packet):
    """csumfail: neither repaired nor dropped."""
    inner = (OUTWARDS if packet is to_n4 else INWARDS)[kind][0]
    data = bytearray(bytes(packet(inner)))
    at = (40 if packet is to_n4 else 20) + CHECKSUM[kind]
    data[at : at + 2] = (int.from_bytes(data[at : at + 2], "big") ^ 0x0101).to_bytes(2, "big")
    got = one(bench, bytes(data))
    right = one(graybox(), packet(inner))
    at = (20 if packet is to_n4 else 40) + CHECKSUM[kind]
    assert not checksum_right(got)
    other = int.from_bytes(got[at : at + 2], "big") - int.from_bytes(right[at : at + 2], "big")
    was = int.from_bytes(data[at + (20 if packet is to_n4 else -20) :][:2], "big")
    good = int.from_bytes(bytes(packet(inner))[at + (20 if packet is to_n4 else -20) :][:2], "big")
    assert (other - (was - good)) % 0xFFFF == 0, "wrong by as much"


# -- errors that the translator makes -----------------------------------------------------


def test_a_ping_of_nobody(bench):
    """errors: bibless. Host unreachable (RFC 6146 §3.5.3)."""
    ping = to_n6(ICMP(type=8, id=7, seq=1) / Raw(DATA))
    (answer,) = bench.refused(ping, Reason.NO_MAPPING)
    same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 1, ping), free=True)


# -- errors that pass through -------------------------------------------------------------


def test_fragmentation_needed_to_packet_too_big(bench):
    """ptb46: a router's error about a flow to another host."""
    server = "203.0.113.24"
    sent = IPv6(src=N6, dst=f"64:ff9b::{server}") / UDP(sport=2000, dport=4000) / Raw(DATA)
    out = one(bench, sent)
    same(out, IP(src=POOL, dst=server, ttl=63) / sent[UDP], free=True)
    inner = IP(src=POOL, dst=server) / UDP(sport=2000, dport=4000) / Raw(DATA)
    got = one(bench, to_n6(icmp4(3, 4, inner, mtu=1400)))
    expected = IPv6(src=N4_AS6, dst=N6, hlim=63) / ICMPv6PacketTooBig(mtu=1420) / sent
    same(got, expected)


def test_packet_too_big_to_fragmentation_needed(bench):
    """ptb64: the error comes from n6, the flow is m6's; without a pool it has m6's address."""
    sent = IPv6(src=M6, dst=N4_AS6) / UDP(sport=1001, dport=4000) / Raw(DATA)
    same(
        one(bench, sent),
        IP(src=POOL, dst=N4, ttl=63) / UDP(sport=1000, dport=4000) / Raw(DATA),
        free=True,
    )
    inner = IPv6(src=N4_AS6, dst=M6, hlim=63) / UDP(sport=4000, dport=1001) / Raw(DATA)
    got = one(bench, to_n4(ICMPv6PacketTooBig(mtu=1400) / inner))
    about = IP(src=N4, dst=POOL, ttl=63, id=0) / UDP(sport=4000, dport=1000) / Raw(DATA)
    same(got, IP(src=POOL, dst=N4, ttl=63) / icmp4(3, 4, about, mtu=1380), 28)


def test_packet_too_big_hairpinned(bench):
    """ptb66: 1200 becomes 1180 and then no less than 1280. Session and error take one hop."""
    sent = IPv6(src=N6, dst=POOL_AS6) / UDP(sport=1003, dport=1000) / Raw(DATA)
    got = one(bench, sent)
    came = IPv6(src=POOL_AS6, dst=M6) / UDP(sport=1002, dport=1001) / Raw(DATA)
    expected = came.copy()
    expected.hlim = 63
    same(got, expected)
    error = IPv6(src=N6, dst=POOL_AS6) / ICMPv6PacketTooBig(mtu=1200) / came
    expected = IPv6(src=POOL_AS6, dst=N6, hlim=63) / ICMPv6PacketTooBig(mtu=1280) / sent
    same(one(bench, error), expected)


def test_an_error_shows_who_sent_it(bench):
    """misc: issue132, expected-on. A router's address under the prefix, not the server's."""
    server = "203.0.113.1"
    sent = IPv6(src=N6, dst=f"64:ff9b::{server}") / UDP(sport=2000, dport=4000) / Raw(DATA)
    about = IP(one(bench, sent))
    got = one(bench, to_n6(icmp4(3, 0, about), tos=0xC0))
    sent.hlim = 63
    same(got, IPv6(src=N4_AS6, dst=N6, hlim=63, tc=0xC0) / ICMPv6DestUnreach(code=0) / sent)


# -- simultaneous open --------------------------------------------------------------------


def expired(bench, seconds):
    bench.now += seconds
    return [packet.data for packet in bench.nat.expire(bench.now)]


def test_a_syn_that_nobody_wants(bench):
    """so.46: port unreachable, but only after six seconds."""
    syn = to_n6(TCP(sport=50000, dport=1500) / Raw(DATA))
    assert bench.refused(syn, Reason.SYN_STORED) == []
    assert expired(bench, 5.9) == []
    (answer,) = expired(bench, 0.1)
    same(answer, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 3, syn), free=True)


def test_a_hairpinned_syn_that_nobody_wants(bench):
    """so.66: the same for a client that asks for a port of the pool, from our IPv6 address."""
    syn = IPv6(src=N6, dst=POOL_AS6, hlim=64) / TCP(sport=50001, dport=1501) / Raw(DATA)
    assert bench.refused(syn, Reason.SYN_STORED) == []
    assert expired(bench, 5.9) == []
    (answer,) = expired(bench, 0.1)
    out = IPv6(answer)
    assert (out.src, out.dst, out.tc) == (OWN6, N6, 0xC0)
    same(answer, IPv6(src=OWN6, dst=N6, hlim=63, tc=0xC0) / ICMPv6DestUnreach(code=4) / syn)
    assert bench.nat.counters[Reason.SYN_TIMEOUT] == 1


def test_hairpinned_syns_meet(bench):
    """Two clients open towards each other at once."""
    syn = IPv6(src=N6, dst=POOL_AS6) / TCP(sport=1501, dport=1503)
    assert bench.refused(syn, Reason.SYN_STORED) == []
    (first,) = list(bench.nat.state.sessions())
    port = int.from_bytes(first.bib.key4[4:], "big")
    back = IPv6(src=M6, dst=POOL_AS6) / TCP(sport=1503, dport=port)
    out = bench.one(back)
    assert (out.src, out.dst, out[TCP].sport, out[TCP].dport) == (POOL_AS6, N6, 1503, 1501)
    assert {State(s.state) for s in bench.nat.state.sessions()} == {State.ESTABLISHED}
    assert expired(bench, 7) == []
    out = bench.one(IPv6(src=N6, dst=POOL_AS6) / TCP(sport=1501, dport=1503, flags="SA"))
    assert (out.dst, out[TCP].sport, out[TCP].dport) == (M6, port, 1503)


def test_both_syns_meet(bench):
    """so.success: the client has no mapping yet, and gets the port that the server's SYN is for."""
    assert bench.refused(to_n6(TCP(sport=2601, dport=2600)), Reason.SYN_STORED) == []
    bench.now += 1
    got = one(bench, to_n4(TCP(sport=2600, dport=2601)))
    same(got, IP(src=POOL, dst=N4, ttl=63) / TCP(sport=2600, dport=2601), free=True)
    assert expired(bench, 10) == []
    (session,) = bench.nat.state.sessions()
    assert session.state == State.ESTABLISHED


@pytest.mark.parametrize("client", [2601, 2602])
def test_a_stored_syn_gives_nobody_another_port_than_his_own(client):
    """Else whoever forges SYNs would know the ports of a server's clients beforehand."""
    ports = set()
    for seed in range(5):
        bench = graybox(seed=seed)
        bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
        ports.add(bench.one(to_n4(TCP(sport=client, dport=443)))[TCP].sport)
    assert len(ports) > 1


def test_a_stored_syn_gives_no_port_of_another_protocol():
    ports = set()
    for seed in range(5):
        bench = graybox(seed=seed)
        bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
        ports.add(bench.one(to_n4(UDP(sport=2600, dport=443)))[UDP].sport)
    assert len(ports) > 1


def test_a_stored_syn_does_not_take_a_port_from_its_owner():
    bench = graybox(filtering=Filtering.ADDRESS_DEPENDENT)
    bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
    assert bench.one(IPv6(src=M6, dst=N4_AS6) / TCP(sport=2600, dport=443))[TCP].sport == 2600
    syn = IP(src="192.0.2.6", dst=POOL) / TCP(sport=443, dport=2600)
    bench.refused(syn, Reason.SYN_STORED)
    out = bench.one(IPv6(src=N6, dst="64:ff9b::c000:206") / TCP(sport=2600, dport=443))
    assert out[TCP].sport != 2600


@pytest.mark.parametrize("known", [TCP(sport=5000, dport=80), UDP(sport=5000, dport=80)])
def test_a_stored_syn_gives_nobody_a_second_address(known):
    """RFC 4787 REQ-2, RFC 6888 REQ-2: nor one for each protocol."""
    bench = graybox(pool4=(PoolRange(IPv4Network("192.0.2.2/31"), last_port=3000),))
    own = bench.one(to_n4(known)).src
    other = {"192.0.2.2": "192.0.2.3", "192.0.2.3": "192.0.2.2"}[own]
    bench.refused(IP(src=N4, dst=other) / TCP(sport=443, dport=2600), Reason.SYN_STORED)
    assert bench.one(to_n4(TCP(sport=2600, dport=443))).src == own


def test_a_stored_syn_gives_no_port_of_anothers_block():
    bench = graybox(port_block_size=16)
    bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
    assert bench.one(to_n4(TCP(sport=2600, dport=443)))[TCP].sport != 2600


def test_a_syn_that_waited_in_vain_is_forgotten(bench):
    bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
    assert len(expired(bench, 6)) == 1
    assert bench.nat.next_deadline() is None
    assert bench.one(to_n4(TCP(sport=2600, dport=443)))[TCP].sport != 2600


def test_a_syn_that_was_met_is_forgotten(bench):
    bench.refused(to_n6(TCP(sport=443, dport=2600)), Reason.SYN_STORED)
    assert bench.one(to_n4(TCP(sport=2600, dport=443)))[TCP].sport == 2600
    (session,) = bench.nat.state.sessions()
    bench.nat.state.end_session(session)
    assert bench.one(to_n4(TCP(sport=2600, dport=443)))[TCP].sport != 2600


# -- UDP without a checksum ---------------------------------------------------------------


def test_no_checksum_inwards(bench):
    """issue446 with `forward`: it stays without one (RFC 6936)."""
    datagram = to_n6(UDP(sport=4000, dport=2000, chksum=0) / Raw(bytes(100)))
    same(
        one(graybox(udp_zero_checksum=ZeroChecksum.FORWARD), datagram),
        IPv6(src=N4_AS6, dst=N6, hlim=63) / UDP(sport=4000, dport=2000, chksum=0) / Raw(bytes(100)),
    )
    same(
        one(bench, datagram),
        IPv6(src=N4_AS6, dst=N6, hlim=63) / UDP(sport=4000, dport=2000) / Raw(bytes(100)),
    )


def test_no_checksum_outwards(bench):
    """issue446: from IPv6 (RFC 6936), where IPv4 takes it as it is."""
    datagram = to_n4(UDP(sport=2000, dport=4000, chksum=0) / Raw(bytes(100)))
    same(
        one(bench, datagram),
        IP(src=POOL, dst=N4, ttl=63) / UDP(sport=2000, dport=4000, chksum=0) / Raw(bytes(100)),
        free=True,
    )


def test_refused_without_a_checksum():
    """ea, with `reject`: 3/13 with the packet as it came."""
    bench = graybox(udp_zero_checksum=ZeroChecksum.REJECT)
    datagram = to_n6(UDP(sport=4000, dport=2000, chksum=0) / Raw(DATA))
    (answer,) = bench.refused(datagram, Reason.UDP_ZERO_CHECKSUM)
    same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 13, datagram), free=True)


@pytest.mark.parametrize("mode", ["calculate", "reject"])
def test_a_fragment_without_a_checksum(mode):
    """ec: a stateless translator refuses it; RFC 6146 §3.4 has a stateful one put it together."""
    bench = graybox(udp_zero_checksum=ZeroChecksum(mode))
    whole = bytes(to_n6(UDP(sport=4000, dport=2000, chksum=0) / Raw(bytes(range(24)))))[20:]
    first, last = to_n6(Raw(whole[:16]), proto=17, flags="MF"), to_n6(Raw(whole[16:]), proto=17)
    last.frag = 2
    if mode == "reject":
        (answer,) = bench.refused(first, Reason.UDP_ZERO_CHECKSUM)
        same(answer.data, IP(src=POOL, dst=N4, tos=0xC0) / icmp4(3, 13, first), free=True)
        return
    assert bench.send(first) == []
    same(
        one(bench, last),
        IPv6(src=N4_AS6, dst=N6, hlim=63) / UDP(sport=4000, dport=2000) / Raw(bytes(range(24))),
    )


# -- timers -------------------------------------------------------------------------------


def test_a_udp_session_ends_after_five_minutes(bench):
    """The end of graybox's test.sh: what it leaves an operator to look at."""
    bench.send(to_n4(UDP(sport=2500, dport=4000)))
    bench.advance(299)
    assert bench.nat.state.session_count == 1
    bench.advance(2)
    assert bench.nat.state.session_count == 0
    assert bench.nat.state.bib_count == 5, "those that were made by hand stay"


def test_ports_of_ranges_far_apart_are_not_known_beforehand():
    ranges = tuple(
        PoolRange(IPv4Network(POOL), first_port=first, last_port=last)
        for first, last in ((1, 3000), (40000, 40999), (65000, 65000))
    )
    ports = {
        graybox(seed=seed, pool4=ranges).one(to_n4(UDP(sport=2500, dport=53)))[UDP].sport
        for seed in range(60)
    }
    assert len(ports) > 45
    assert {1 if port < 3001 else 2 for port in ports} == {1, 2}
    assert all(1024 <= port <= 3000 or 40000 <= port <= 40999 or port == 65000 for port in ports)


@pytest.mark.parametrize("sport", [2500, 80])
def test_ports_of_a_narrow_pool_are_not_known_beforehand(sport):
    """RFC 6056: with 1 to 3000, a search that begins anywhere would mostly find the first."""
    ports = {
        graybox(seed=seed).one(to_n4(UDP(sport=sport, dport=53)))[UDP].sport for seed in range(20)
    }
    assert len(ports) > 15
    assert all(1024 <= port <= 3000 if sport > 1023 else port < 1024 for port in ports)
