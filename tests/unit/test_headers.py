"""IP headers of translated packets, both directions (RFC 7915 §4.1, §5.1)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    IP,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    IPv6,
    IPv6ExtHdrFragment,
    echo6,
    read,
    rfc6052,
    tcp6,
    udp4,
)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def port(bench):
    """The pool port of a known UDP session."""
    return bench.udp()[UDP].sport


# -- IPv6 to IPv4 -------------------------------------------------------------------------


def test_rfc7915_5_1_every_field_of_a_datagram(bench):
    out = bench.udp(sport=40001, dport=53, data=b"hello", hlim=64, tc=0xB8, fl=0x12345)
    assert (out.version, out.ihl, out.tos, out.len) == (4, 5, 0xB8, 33)
    assert (out.frag, out.ttl, out.proto) == (0, 63, 17)
    assert (out.src, out.dst) == (POOL, SERVER)
    assert out[UDP].sport % 2 == 1
    assert (out[UDP].dport, out[UDP].len, bytes(out[UDP].payload)) == (53, 13, b"hello")


def test_rfc7915_5_1_every_field_of_a_segment(bench):
    segment = tcp6("S", sport=40000, dport=443, seq=0x01020304, ack=9, window=777, urgptr=5)
    out = bench.one(segment)
    assert (out.len, out.proto, out.ttl) == (40, 6, 63)
    assert (out[TCP].seq, out[TCP].ack, out[TCP].window, out[TCP].urgptr) == (
        0x01020304,
        9,
        777,
        5,
    )
    assert out[TCP].flags == "S"
    assert (out[TCP].dport, out[TCP].dataofs, out[TCP].options) == (443, 5, [])


def test_rfc7915_5_2_every_field_of_an_echo(bench):
    out = bench.one(echo6(ident=0x1234, data=b"abcde"))
    assert (out.proto, out.len, out.src, out.dst) == (1, 33, POOL, SERVER)
    message = out.payload
    assert (message.type, message.code, message.seq) == (8, 0, 3)
    assert bytes(message.payload) == b"abcde"


@pytest.mark.parametrize("traffic_class", [0, 1, 2, 3, 0x28, 0xB8, 0xFF])
def test_rfc7915_5_1_tos_is_the_traffic_class_ecn_included(bench, traffic_class):
    assert bench.udp(tc=traffic_class).tos == traffic_class


@pytest.mark.parametrize(("hops", "ttl"), [(2, 1), (3, 2), (64, 63), (255, 254)])
def test_rfc7915_5_1_ttl_is_one_less(bench, hops, ttl):
    assert bench.udp(hlim=hops).ttl == ttl


@pytest.mark.parametrize("length", [1260, 1261])
@pytest.mark.parametrize("protocol", ["udp", "tcp", "echo"])
def test_rfc7915_5_1_df_is_clear_up_to_1260_bytes(bench, length, protocol):
    if protocol == "udp":
        out = bench.udp(data=bytes(length - 28))
    elif protocol == "tcp":
        out = bench.one(tcp6("S", data=bytes(length - 40)))
    else:
        out = bench.one(echo6(data=bytes(length - 28)))
    assert out.len == length
    assert out.flags == ("DF" if length > 1260 else "")


def test_rfc6864_4_identification_of_packets_without_df_does_not_repeat(bench):
    first = bench.udp().id
    assert [bench.udp().id for _ in range(5)] == [(first + n) & 0xFFFF for n in range(1, 6)]


def test_rfc6864_4_identification_is_counted_over_flows_of_the_same_addresses(bench):
    ids = [bench.udp(sport=40000 + n % 3, dport=50 + n % 2).id for n in range(12)]
    assert len(set(ids)) == 12


def test_rfc7739_3_identification_does_not_begin_at_a_known_number():
    assert len({Bench(seed=seed).udp().id for seed in range(8)}) > 6


def test_rfc6864_4_segments_without_a_session_have_identifications_too(bench):
    """RFC 6146 §3.5.2.2, CLOSED: with a mapping they pass; DF is clear, so they need one."""
    bench.one(tcp6("S", dport=80))
    ids = {bench.one(tcp6("A", dport=81, data=b"x")).id for _ in range(4)}
    assert len(ids) == 4


# -- IPv4 to IPv6 -------------------------------------------------------------------------


def test_rfc7915_4_1_every_field_of_a_datagram(bench, port):
    out = bench.one(udp4(port, tos=0xB8, ttl=57, id=99, flags="DF"))
    assert (out.version, out.tc, out.fl, out.plen) == (6, 0xB8, 0, 14)
    assert (out.nh, out.hlim) == (17, 56)
    assert (out.src, out.dst) == (SERVER6, CLIENT)
    assert (out[UDP].sport, out[UDP].dport, out[UDP].len) == (53, 40000, 14)
    assert bytes(out[UDP].payload) == b"answer"


def test_rfc7915_4_2_every_field_of_an_echo_reply(bench):
    request = bench.one(echo6(ident=77, data=b"abcde"))
    reply = request.payload.copy()
    reply.type = 0
    del reply.chksum
    out = bench.one(IP(src=SERVER, dst=POOL) / reply)
    assert (out.nh, out.plen, out.src, out.dst) == (58, 13, SERVER6, CLIENT)
    message = out.payload
    assert (message.type, message.code, message.id, message.seq) == (129, 0, 77, 3)
    assert message.data == b"abcde"


def test_rfc7915_4_2_echo_request_of_the_server(bench):
    request = bench.one(echo6(ident=77))
    again = request.payload.copy()
    del again.chksum
    out = bench.one(IP(src=SERVER, dst=POOL) / again)
    assert (out.payload.type, out.payload.id) == (128, 77)


@pytest.mark.parametrize("tos", [0, 1, 3, 0x28, 0xFF])
def test_rfc7915_4_1_traffic_class_is_the_tos(bench, port, tos):
    assert bench.one(udp4(port, tos=tos)).tc == tos


@pytest.mark.parametrize(("ttl", "hops"), [(2, 1), (3, 2), (64, 63), (255, 254)])
def test_rfc7915_4_1_hop_limit_is_one_less(bench, port, ttl, hops):
    assert bench.one(udp4(port, ttl=ttl)).hlim == hops


@pytest.mark.parametrize("flags", ["", "DF"])
def test_rfc7915_4_1_no_fragment_header_where_the_packet_fits(bench, port, flags):
    out = bench.one(udp4(port, flags=flags, data=bytes(1280 - 48)))
    assert (out.nh, out.plen) == (17, 1240)


def test_rfc7915_4_1_without_df_it_is_fragmented_to_1280(bench, port):
    data = bytes(range(256)) * 6
    parts = [read(p.data) for p in bench.send(udp4(port, data=data, id=0xBEEF, tos=4, ttl=9))]
    assert len(parts) == 2
    whole = b""
    for index, part in enumerate(parts):
        header = part[IPv6ExtHdrFragment]
        assert part.plen + 40 <= 1280
        assert (part.tc, part.hlim, part.src, part.dst) == (4, 8, SERVER6, CLIENT)
        assert (header.id, header.nh) == (0xBEEF, 17)
        assert header.offset * 8 == len(whole)
        assert header.m == (index == 0)
        whole += bytes(header.payload)
    joined = IPv6(bytes(IPv6(src=SERVER6, dst=CLIENT, nh=17, plen=len(whole))) + whole)
    assert bytes(joined[UDP].payload) == data
    right = joined.copy()
    del right[UDP].chksum
    assert bytes(right) == bytes(joined)


@pytest.mark.parametrize("lowest", [1280, 1400, 1500])
def test_rfc7915_4_1_the_lowest_ipv6_mtu_decides(lowest):
    bench = Bench(lowest_ipv6_mtu=lowest)
    port = bench.udp()[UDP].sport
    assert len(bench.send(udp4(port, data=bytes(lowest - 48)))) == 1
    parts = bench.send(udp4(port, data=bytes(lowest - 47)))
    assert len(parts) == 2
    assert max(len(part.data) for part in parts) <= lowest


def test_rfc7915_4_1_with_df_it_is_never_fragmented(bench, port):
    assert bench.one(udp4(port, data=bytes(1472), flags="DF")).plen == 1480


def test_either_layout_reaches_the_server_and_is_answered_alike(bench):
    for index, form in enumerate((SERVER6, rfc6052(SERVER))):
        sent = bench.udp(dst=form, sport=41000 + index)
        assert sent.dst == SERVER
        assert bench.one(udp4(sent[UDP].sport)).src == form
