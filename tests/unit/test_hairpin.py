"""Clients that meet each other at pool4 (RFC 6146 §3.8, RFC 4787 REQ-9)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    LINK,
    OTHER_CLIENT,
    POOL,
    TCP,
    UDP,
    Bench,
    IPv6,
    Raw,
    checksum_right,
    echo6,
    read,
    tcp6,
    trailing,
    transport_sum,
    udp6,
)
from translate.reasons import Reason

POOL6 = trailing(POOL)


@pytest.fixture
def bench():
    return Bench()


def ends(packet, layer):
    return packet.src, packet[layer].sport, packet.dst, packet[layer].dport


def test_rfc6146_3_8_udp_both_ways(bench):
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    mine = bench.udp(sport=5000)[UDP].sport
    for _ in range(3):
        out = bench.one(udp6(sport=5000, dst=POOL6, dport=theirs, hlim=64))
        assert ends(out, UDP) == (POOL6, mine, OTHER_CLIENT, 6000)
        assert bytes(out[UDP].payload) == b"query"
        assert out.hlim == 63, "both halves are one router"
        out = bench.one(udp6(src=OTHER_CLIENT, sport=6000, dst=POOL6, dport=mine))
        assert ends(out, UDP) == (POOL6, theirs, CLIENT, 5000)


def test_rfc6146_3_8_tcp_both_ways(bench):
    theirs = bench.connect(src=OTHER_CLIENT, sport=6000)
    out = bench.one(tcp6("S", sport=5000, dst=POOL6, dport=theirs))
    mine = out[TCP].sport
    assert ends(out, TCP) == (POOL6, mine, OTHER_CLIENT, 6000)
    for n, flags in enumerate(("SA", "A", "PA", "PA", "FA", "FA", "A")):
        there = {"src": OTHER_CLIENT, "sport": 6000, "dst": POOL6, "dport": mine}
        here = {"sport": 5000, "dst": POOL6, "dport": theirs}
        out = bench.one(tcp6(flags, data=b"x" * n, **(here if n % 2 else there)))
        want = (OTHER_CLIENT, 6000) if n % 2 else (CLIENT, 5000)
        assert (out.src, out.dst, out[TCP].dport) == (POOL6, *want)
        assert len(out[TCP].payload) == n


def test_rfc6146_3_8_a_ping_has_one_identifier_and_so_meets_its_sender(bench):
    theirs = bench.one(echo6(src=OTHER_CLIENT, ident=60))[ICMP].id
    out = bench.one(echo6(ident=theirs, dst=POOL6, data=b"there"))
    assert (out.src, out.dst, out.payload.type) == (POOL6, CLIENT, 128)
    assert (out.payload.id, out.payload.data) == (theirs, b"there")


def test_rfc6146_3_8_link_of_the_other_client(bench):
    other = LINK[:5] + b"\x44"
    theirs = bench.one(udp6(src=OTHER_CLIENT, sport=6000), link=other)[UDP].sport
    (out,) = bench.send(udp6(dst=POOL6, dport=theirs), link=LINK)
    assert out.link == other


@pytest.mark.parametrize("packet", [udp6(dst=POOL6, dport=1), tcp6("A", dst=POOL6, dport=1)])
def test_rfc6146_3_8_a_port_that_is_nobodys(bench, packet):
    bench.udp(src=OTHER_CLIENT)
    (answer,) = bench.refused(packet, Reason.DESTINATION_REFUSED)
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (CLIENT, 1, 1)


def test_ping_of_an_identifier_that_is_nobodys(bench):
    bench.refused(echo6(ident=7, dst=POOL6), Reason.DESTINATION_REFUSED)


def test_a_client_that_talks_to_itself(bench):
    mine = bench.udp(sport=5000)[UDP].sport
    for _ in range(3):
        out = bench.one(udp6(sport=5000, dst=POOL6, dport=mine))
        assert ends(out, UDP) == (POOL6, mine, CLIENT, 5000)


@pytest.mark.parametrize("hops", [1, 2, 3])
def test_hops_run_out_on_the_way(bench, hops):
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    out = bench.send(udp6(sport=5000, dst=POOL6, dport=theirs, hlim=hops))
    (got,) = out
    packet = read(got.data)
    assert checksum_right(got.data)
    if hops > 1:
        assert (packet.dst, packet.hlim) == (OTHER_CLIENT, hops - 1)
    else:
        assert (packet.dst, packet.payload.type, packet.payload.code) == (CLIENT, 3, 0)


def icmp6(kind, code, inner, src, dst):
    packet = IPv6(src=src, dst=dst, nh=58) / Raw(bytes((kind, code, 0, 0)) + bytes(4) + inner)
    data = bytearray(bytes(packet))
    data[42:44] = (0xFFFF - transport_sum(bytes(data))).to_bytes(2, "big")
    return bytes(data)


@pytest.mark.parametrize(("kind", "code"), [(1, 4), (3, 0)])
def test_rfc6146_3_8_errors_come_back(bench, kind, code):
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    sent = udp6(sport=5000, dst=POOL6, dport=theirs)
    (got,) = bench.send(sent)
    out = bench.one(icmp6(kind, code, got.data, OTHER_CLIENT, POOL6))
    assert (out.src, out.dst, out.payload.type, out.payload.code) == (POOL6, CLIENT, kind, code)
    inner = IPv6(bytes(out.payload)[8:])
    assert ends(inner, UDP) == (CLIENT, 5000, POOL6, theirs)
