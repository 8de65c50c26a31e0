"""Hairpinning (RFC 6146 §3.8): fragments, each pool address, filters, not by the fast path."""

from __future__ import annotations

import struct
from ipaddress import IPv4Network
from itertools import permutations

import pytest

from tests.oracle import (
    CLIENT,
    LINK,
    OTHER_CLIENT,
    POOL,
    TCP,
    UDP,
    Bench,
    IPv6,
    Raw,
    checksum_right,
    fast_path_of,
    read,
    tcp6,
    trailing,
    transport_sum,
    udp4,
    udp6,
)
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Filtering

POOL6 = trailing(POOL)
DATA = bytes(range(250)) * 10


def pieces6(packet, *bounds):
    """The packet in fragments that end at these offsets, and at its end."""
    data = bytes(packet)
    body = data[40:]
    out, start = [], 0
    for stop in (*bounds, len(body)):
        head = struct.pack("!BBHI", data[6], 0, start | (stop < len(body)), 0xABCD)
        fragment = IPv6(data[:40])
        fragment.nh = 44
        del fragment.plen
        out.append(bytes(fragment / Raw(head + body[start:stop])))
        start = stop
    return out


def put_together(pieces):
    """The IPv6 packet that the fragments are."""
    pieces = sorted(pieces, key=lambda data: int.from_bytes(data[42:44], "big"))
    body = b""
    for data in pieces:
        assert data[6] == 44
        assert int.from_bytes(data[42:44], "big") & 0xFFF8 == len(body)
        body += data[48:]
    assert not pieces[-1][43] & 1
    assert all(data[43] & 1 for data in pieces[:-1])
    head = pieces[0]
    return head[:4] + len(body).to_bytes(2, "big") + head[40:41] + head[7:40] + body


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_rfc6146_3_8_fragments(kind, order):
    bench = Bench()
    if kind == "udp":
        theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
        packet = udp6(sport=5000, dst=POOL6, dport=theirs, data=DATA)
    else:
        theirs = bench.connect(src=OTHER_CLIENT, sport=6000)
        packet = tcp6("S", sport=5000, dst=POOL6, dport=theirs, data=DATA)
    parts = pieces6(packet, 1000, 2000)
    out = [sent.data for number in order for sent in bench.send(parts[number])]
    whole = put_together(out)
    assert checksum_right(whole)
    seen = read(whole)
    assert (seen.src, seen.dst, seen.dport) == (POOL6, OTHER_CLIENT, 6000)
    assert whole[-len(DATA) :] == DATA
    for table in (bench.nat._core.fragments6, bench.nat._core.fragments4):
        assert len(table) == 0


def test_rfc6146_3_8_large_fragments_are_cut_on_the_way():
    bench = Bench()
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    packet = udp6(sport=5000, dst=POOL6, dport=theirs, data=DATA)
    out = [sent.data for part in pieces6(packet, 1448) for sent in bench.send(part)]
    assert all(len(data) <= 1280 for data in out)
    assert checksum_right(put_together(out))


def test_rfc6146_3_8_fragments_of_nobody_are_answered_once():
    bench = Bench()
    bench.udp(src=OTHER_CLIENT)
    first, last = pieces6(udp6(dst=POOL6, dport=1, data=DATA), 1000)
    assert len(bench.refused(first, Reason.DESTINATION_REFUSED)) == 1
    assert bench.refused(last, Reason.DESTINATION_REFUSED) == []


def test_rfc6146_3_8_each_network_of_the_pool():
    second = "203.0.113.77"
    networks = (IPv4Network(POOL + "/32"), IPv4Network(second + "/32"))
    bench = Bench(pool4=tuple(PoolRange(network) for network in networks))
    met = set()
    for number in range(40):
        other = f"2001:db8:1::{number + 0x100:x}"
        theirs = bench.udp(src=other, sport=6000)
        out = bench.one(udp6(dst=trailing(theirs.src), dport=theirs[UDP].sport))
        assert (out.dst, out[UDP].dport) == (other, 6000)
        met.add(theirs.src)
    assert met == {POOL, second}


def test_rfc6146_3_8_an_error_goes_to_the_link_of_its_client():
    bench = Bench()
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    mine = LINK[:5] + b"\x55"
    (got,) = bench.send(udp6(sport=5000, dst=POOL6, dport=theirs), link=mine)
    message = bytes((1, 4, 0, 0)) + bytes(4) + got.data
    error = bytearray(bytes(IPv6(src=OTHER_CLIENT, dst=POOL6, nh=58) / Raw(message)))
    error[42:44] = (0xFFFF - transport_sum(bytes(error))).to_bytes(2, "big")
    (out,) = bench.send(bytes(error))
    assert read(out.data).dst == CLIENT
    assert out.link == mine


def test_rfc6146_3_8_what_the_filter_refuses_is_told_to_the_client():
    """The error of the second half turns back, too; nothing leaves for the pool."""
    bench = Bench(filtering=Filtering.ADDRESS_DEPENDENT)
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    (answer,) = bench.refused(udp6(dst=POOL6, dport=theirs), Reason.FILTERED)
    out = read(answer.data)
    assert (out.version, out.dst, out.payload.type, out.payload.code) == (6, CLIENT, 1, 1)


def test_rfc6146_3_8_the_fast_path_carries_no_half_of_it():
    """It would send out what has to turn back."""
    bench = Bench()
    fast = fast_path_of(bench)
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    there = udp6(sport=5000, dst=POOL6, dport=theirs)
    mine = bench.one(there)[UDP].sport
    back = udp6(src=OTHER_CLIENT, sport=6000, dst=POOL6, dport=mine)
    bench.one(back)
    for packet in (there, back, udp4(theirs, sport=mine, src=POOL), udp4(mine, src=POOL)):
        assert fast(packet) is None
    theirs = bench.connect(src=OTHER_CLIENT, sport=6000)
    mine = bench.one(tcp6("S", sport=5000, dst=POOL6, dport=theirs))[TCP].sport
    here = {"sport": 5000, "dst": POOL6, "dport": theirs}
    other = {"src": OTHER_CLIENT, "sport": 6000, "dst": POOL6, "dport": mine}
    bench.one(tcp6("SA", **other))
    for _ in range(2):
        for ends in (here, other):
            assert fast(tcp6("A", **ends)) is None
            assert bench.one(tcp6("A", **ends)).version == 6
