"""What fragments may cost, and what ends a datagram (RFC 6146 §3.4, RFC 1858, RFC 5722 §4)."""

from __future__ import annotations

import struct
from dataclasses import replace
from ipaddress import IPv4Network

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    LINK,
    OTHER_SERVER,
    POOL,
    SERVER,
    SERVER6,
    UDP,
    Bench,
    IPv6,
    Raw,
    echo6,
    udp4,
    udp6,
)
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits, Timeouts, ZeroChecksum

MOST_PIECES = 512
OVERHEAD = 200


def piece6(start, stop, *, more=True, ident=7, src=CLIENT, protocol=17, data=None, hlim=64):
    """A fragment with the bytes start..stop of a datagram, or of `data`."""
    body = (bytes(udp6(data=bytes(60000)))[40:] if data is None else data)[start:stop]
    head = struct.pack("!BBHI", protocol, 0, start | more, ident)
    return bytes(IPv6(src=src, dst=SERVER6, nh=44, hlim=hlim) / Raw(head + body))


def piece4(data, start, stop, *, ident=7, ttl=64, tos=0):
    """The fragment with the bytes start..stop behind the header of an IPv4 packet."""
    whole = IP(bytes(data))
    body = bytes(whole)[20:]
    head = IP(src=whole.src, dst=whole.dst, proto=whole.proto, id=ident, ttl=ttl, tos=tos)
    head.frag, head.flags = start // 8, int(stop < len(body))
    return bytes(head / Raw(body[start:stop]))


def limited(**limits):
    return Bench(limits=replace(Limits(), **limits))


# -- the end of a datagram ------------------------------------------------------------------


def test_rfc5722_4_two_ends():
    bench = Bench()
    bench.refused(piece6(800, 1200, more=False), Reason.FRAGMENT_HELD)
    bench.refused(piece6(400, 600, more=False), Reason.FRAGMENT_OVERLAP)


def test_rfc5722_4_a_piece_behind_the_end_that_promises_more():
    bench = Bench()
    bench.refused(piece6(800, 1200, more=False), Reason.FRAGMENT_HELD)
    bench.refused(piece6(1200, 2000), Reason.FRAGMENT_OVERLAP)


@pytest.mark.parametrize("start", [1200, 1600])
def test_rfc5722_4_an_end_before_a_piece_that_was_there(start):
    bench = Bench()
    bench.refused(piece6(start, 2400), Reason.FRAGMENT_HELD)
    bench.refused(piece6(800, 1200, more=False), Reason.FRAGMENT_OVERLAP)


@pytest.mark.parametrize("more", [True, False])
def test_a_piece_of_nothing(more):
    bench = Bench()
    bench.refused(piece6(800, 800, more=more), Reason.FRAGMENT_OVERLAP)
    bench.refused(piece6(0, 800), Reason.FRAGMENT_OVERLAP)


# -- how much may wait ----------------------------------------------------------------------


def test_limit_of_pieces_of_a_datagram():
    bench = Bench()
    for number in range(1, MOST_PIECES + 1):
        bench.refused(piece6(8 * number, 8 * number + 8), Reason.FRAGMENT_HELD)
    bench.refused(piece6(8 * 600, 8 * 601), Reason.FRAGMENT_LIMIT)
    # Given up, with all that had waited; another datagram is not concerned.
    bench.refused(piece6(0, 8), Reason.FRAGMENT_LIMIT)
    assert bench.nat._core.fragments6._bytes == 0
    bench.refused(piece6(800, 1200, ident=8), Reason.FRAGMENT_HELD)


def test_as_many_pieces_as_the_limit_make_a_datagram():
    bench = Bench()
    data = bytes(udp6(data=bytes(8 * MOST_PIECES - 8)))[40:]
    for number in range(1, MOST_PIECES):
        more = number < MOST_PIECES - 1
        piece = piece6(8 * number, 8 * number + 8, data=data, more=more)
        bench.refused(piece, Reason.FRAGMENT_HELD)
    assert len(bench.send(piece6(0, 8, data=data))) == MOST_PIECES


def test_limit_of_bytes_counts_what_fits_exactly():
    bench = limited(fragment_bytes=2 * (800 + OVERHEAD))
    bench.refused(piece6(800, 1600, ident=1), Reason.FRAGMENT_HELD)
    bench.refused(piece6(800, 1600, ident=2), Reason.FRAGMENT_HELD)
    bench.refused(piece6(800, 808, ident=3), Reason.FRAGMENT_LIMIT)


def test_limit_of_bytes_counts_small_pieces_for_what_they_cost():
    bench = limited(fragment_bytes=3 * (8 + OVERHEAD))
    held = [bench.send(piece6(8 * n, 8 * n + 8)) for n in (1, 2, 3, 4)]
    assert held == [[], [], [], []]
    assert bench.nat.counters[Reason.FRAGMENT_HELD] == 3
    assert bench.nat.counters[Reason.FRAGMENT_LIMIT] == 1


def test_servers_are_charged_each_for_itself():
    bench = limited(fragments_per_client=1)
    port = bench.udp()[UDP].sport
    packet, other = (udp4(port, src=src, data=bytes(2000)) for src in (SERVER, OTHER_SERVER))
    bench.refused(piece4(packet, 800, 1600, ident=1), Reason.FRAGMENT_HELD)
    bench.refused(piece4(packet, 800, 1600, ident=2), Reason.FRAGMENT_LIMIT)
    bench.refused(piece4(other, 800, 1600, ident=2), Reason.FRAGMENT_HELD)


# -- floods (RFC 4787 REQ-14 a) -------------------------------------------------------------

FLOODED = [{"fragments": 3}, {"fragments_per_client": 3}]


def wanted(bench, number):
    """Datagrams of a server that has a session, in two pieces each."""
    packet = udp4(bench.udp()[UDP].sport, data=bytes(2000))
    parts = (0, 800), (800, 2008)
    return [[piece4(packet, *part, ident=ident) for part in parts] for ident in range(number)]


@pytest.mark.parametrize("limits", FLOODED)
def test_rfc4787_req14_pieces_without_a_first_are_not_in_the_way_from_ipv6(limits):
    bench = limited(**limits)
    for ident in range(100, 110):
        bench.send(piece6(800, 1600, ident=ident))
    assert bench.nat.counters[Reason.FRAGMENT_LIMIT] == 7
    data = bytes(udp6(data=bytes(2000)))[40:]
    assert len(bench.send(piece6(0, 800, data=data))) == 1
    assert len(bench.send(piece6(800, 2008, data=data, more=False))) == 1
    bench.advance(2)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 3
    table = bench.nat._core.fragments6
    assert (len(table), table._bytes, table._senders, table._without) == (0, 0, {}, {})


@pytest.mark.parametrize("limits", FLOODED)
@pytest.mark.parametrize("forged", ["pieces", "firsts"])
def test_rfc4787_req14_a_flood_in_a_servers_name_is_not_in_its_way(limits, forged):
    bench = limited(**limits)
    ((first, last),) = wanted(bench, 1)
    nobodys = udp4(5, data=bytes(2000))
    for ident in range(100, 110):
        part = (800, 1600) if forged == "pieces" else (0, 800)
        bench.send(piece4(nobodys, *part, ident=ident))
    assert [len(bench.send(piece)) for piece in (first, last)] == [1, 1]


@pytest.mark.parametrize("limits", [{"fragments": 2}, {"fragments_per_client": 2}])
def test_datagrams_on_their_way_do_not_make_way(limits):
    bench = limited(**limits)
    one, two, three = wanted(bench, 3)
    assert [len(bench.send(begun[0])) for begun in (one, two)] == [1, 1]
    bench.refused(three[0], Reason.FRAGMENT_LIMIT)
    assert [len(bench.send(begun[1])) for begun in (one, two)] == [1, 1]
    assert [len(bench.send(piece)) for piece in three] == [1, 1]


@pytest.mark.parametrize("limits", [{"fragments": 2}, {"fragments_per_client": 2}])
def test_the_oldest_without_a_session_makes_way(limits):
    bench = limited(**limits)
    (first, last), (other_first, other_last) = wanted(bench, 2)
    bench.refused(last, Reason.FRAGMENT_HELD)
    assert len(bench.send(other_first)) == 1
    bench.refused(piece4(udp4(5, data=bytes(2000)), 0, 800, ident=9), Reason.NO_MAPPING)
    assert len(bench.send(first)) == 1, "alone: what had waited for it made way"
    assert len(bench.send(other_last)) == 1
    bench.advance(0)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 1


@pytest.mark.parametrize("limits", [{"fragments": 1}, {"fragments_per_client": 1}])
def test_a_datagram_that_was_given_up_makes_way(limits):
    bench = limited(**limits)
    (first, _), other = wanted(bench, 2)
    assert len(bench.send(first)) == 1
    overlap = udp4(bench.udp()[UDP].sport, data=bytes(2000))
    bench.refused(piece4(overlap, 400, 1200, ident=0), Reason.FRAGMENT_OVERLAP)
    assert [len(bench.send(piece)) for piece in other] == [1, 1]


# -- a reload (SIGHUP) ----------------------------------------------------------------------


def waiting(bench, family, ident):
    """Sends a later piece from this family; whether it is kept."""
    before = bench.nat.counters[Reason.FRAGMENT_HELD]
    packet = piece6(800, 1600, ident=ident)
    if family == 4:
        packet = piece4(udp4(1024, data=bytes(2000)), 800, 1600, ident=ident)
    bench.send(packet)
    return bench.nat.counters[Reason.FRAGMENT_HELD] > before


def reload(bench, **changes):
    bench.nat.configure(replace(bench.nat.settings, **changes))


@pytest.mark.parametrize("family", [4, 6])
def test_reload_of_the_limit_of_datagrams(family):
    bench = limited(fragments=2)
    assert [waiting(bench, family, n) for n in range(3)] == [True, True, False]
    reload(bench, limits=replace(Limits(), fragments=3))
    assert [waiting(bench, family, n) for n in (4, 5)] == [True, False]
    # A lower one ends nothing that waits, but lets nothing more in.
    reload(bench, limits=replace(Limits(), fragments=1))
    assert not waiting(bench, family, 6)
    bench.advance(1.9)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 0
    bench.advance(0.1)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 3
    assert [waiting(bench, family, n) for n in (7, 8)] == [True, False]


@pytest.mark.parametrize("family", [4, 6])
def test_reload_of_the_limits_of_a_client_and_of_bytes(family):
    bench = limited(fragments_per_client=1)
    assert [waiting(bench, family, n) for n in range(2)] == [True, False]
    reload(bench, limits=replace(Limits(), fragments_per_client=2))
    assert waiting(bench, family, 2)
    reload(bench, limits=replace(Limits(), fragment_bytes=2 * (800 + OVERHEAD)))
    assert not waiting(bench, family, 3)
    reload(bench, limits=replace(Limits(), fragment_bytes=3 * (800 + OVERHEAD)))
    assert waiting(bench, family, 4)


@pytest.mark.parametrize("family", [4, 6])
def test_reload_of_fragment_min(family):
    """The lifetime that is in force when it is looked at, not that of the arrival."""
    bench = Bench()
    assert waiting(bench, family, 1)
    reload(bench, timeouts=replace(Timeouts(), fragment_min=10.0))
    assert bench.nat.next_deadline() == bench.now + 10
    bench.advance(9.9)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 0
    bench.advance(0.1)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 1


# -- what pieces do to a session and to each other --------------------------------------------


def test_rfc6146_3_5_1_a_later_piece_from_ipv6_keeps_the_session():
    bench = Bench()
    data = bytes(udp6(data=bytes(2000)))[40:]
    assert len(bench.send(piece6(0, 800, data=data))) == 1
    bench.now += 1.9
    assert len(bench.send(piece6(800, 2008, data=data, more=False))) == 1
    bench.advance(301.5 - 1.9)
    assert bench.nat.state.session_count == 1


def test_rfc6146_3_5_1_a_later_piece_from_ipv4_keeps_the_session():
    bench = Bench()
    packet = udp4(bench.udp()[UDP].sport, data=bytes(2000))
    assert len(bench.send(piece4(packet, 0, 800))) == 1
    bench.now += 1.9
    assert len(bench.send(piece4(packet, 800, 2008))) == 1
    bench.advance(301.5 - 1.9)
    assert bench.nat.state.session_count == 1


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_rfc791_a_datagram_put_together_has_the_fewest_hops_of_its_pieces(order):
    bench = Bench()
    data = bytes(echo6(data=bytes(1000)))[40:]
    there = [
        piece6(0, 504, data=data, protocol=58, hlim=9),
        piece6(504, len(data), data=data, protocol=58, hlim=33, more=False),
    ]
    out = [IP(p.data) for n in order for p in bench.send(there[n])]
    assert {packet.ttl for packet in out} == {8}
    reply = IP(src=SERVER, dst=POOL) / ICMP(type=0, id=bytes_id(out), seq=3) / Raw(bytes(1000))
    back = [piece4(reply, 0, 504, ttl=31), piece4(reply, 504, 1008, ttl=7)]
    sent = [p.data for n in order for p in bench.send(back[n])]
    assert {data[7] for data in sent} == {6}


def bytes_id(pieces):
    """The identifier of an echo request in fragments."""
    first = next(piece for piece in pieces if not piece.frag)
    return int.from_bytes(bytes(first)[24:26], "big")


def test_datagrams_of_different_servers_and_pool_addresses_do_not_mix():
    second = "203.0.113.9"
    networks = (IPv4Network(POOL + "/32"), IPv4Network(second + "/32"))
    bench = Bench(pool4=tuple(PoolRange(network) for network in networks))
    ports: dict[str, int] = {}
    for number in range(40):
        out = bench.udp(src=f"2001:db8:1::{number + 1:x}")
        ports.setdefault(out.src, out[UDP].sport)
    assert set(ports) == {POOL, second}
    packets = [
        udp4(ports[POOL], data=b"1" * 2000),
        udp4(ports[POOL], src=OTHER_SERVER, data=b"2" * 2000),
        udp4(ports[second], dst=second, data=b"3" * 2000),
    ]
    for packet in packets:
        bench.refused(piece4(packet, 1000, 2008), Reason.FRAGMENT_HELD)
    for packet in packets:
        assert len(bench.send(piece4(packet, 0, 1000))) == 2


def test_rfc7915_4_1_a_piece_of_exactly_1280_bytes_is_not_cut():
    bench = Bench()
    packet = udp4(bench.udp()[UDP].sport, data=bytes(5000))
    for start in (0, 1232):
        (out,) = bench.send(piece4(packet, start, start + 1232))
        assert len(out.data) == 1280
    cut = bench.send(piece4(packet, 2464, 2464 + 1240))
    assert [len(out.data) <= 1280 for out in cut] == [True, True]


def test_rfc7915_4_1_a_first_piece_is_cut_for_the_fragment_header_too():
    bench = Bench()
    packet = udp4(bench.udp()[UDP].sport, data=bytes(5000))
    out = bench.send(piece4(packet, 0, 1240))
    assert [len(piece.data) <= 1280 for piece in out] == [True, True]


def test_every_piece_goes_to_the_client_on_its_link():
    bench = Bench()
    (out,) = bench.send(udp6(), link=LINK)
    packet = udp4(IP(out.data)[UDP].sport, data=bytes(5000))
    for start, stop in ((0, 2000), (2000, 4000), (4000, 5008)):
        sent = bench.send(piece4(packet, start, stop))
        assert sent
        assert {piece.link for piece in sent} == {LINK}


# -- without a checksum -----------------------------------------------------------------------


def unsummed(bench, src=SERVER):
    packet = bytearray(bytes(udp4(bench.udp()[UDP].sport, src=src, data=bytes(2000))))
    packet[26:28] = b"\0\0"
    return bytes(packet)


def test_rfc7915_4_5_forwarded_pieces_do_not_wait():
    bench = Bench(udp_zero_checksum=ZeroChecksum.FORWARD)
    packet = unsummed(bench)
    (first,) = bench.send(piece4(packet, 0, 1000))
    (last,) = bench.send(piece4(packet, 1000, 2008))
    assert first.data[54:56] == b"\0\0"
    assert last.data[6] == 44


@pytest.mark.parametrize("mode", [ZeroChecksum.DROP, ZeroChecksum.REJECT])
def test_rfc7915_4_5_refused_in_pieces_as_whole(mode):
    bench = Bench(udp_zero_checksum=mode)
    packet = unsummed(bench)
    answers = bench.refused(piece4(packet, 0, 1000), Reason.UDP_ZERO_CHECKSUM)
    assert len(answers) == (mode is ZeroChecksum.REJECT)
    assert bench.refused(piece4(packet, 1000, 2008), Reason.UDP_ZERO_CHECKSUM) == []
