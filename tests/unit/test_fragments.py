"""Fragments of either family (RFC 6146 §3.4, RFC 7915 §4.1, §5.1.1, RFC 1858, RFC 5722).

The pieces are cut here, and what comes out is put together here, not by the code under test.
"""

from __future__ import annotations

import struct
from dataclasses import replace
from itertools import pairwise, permutations

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    IP,
    OTHER_CLIENT,
    OWN6,
    POOL,
    SERVER,
    SERVER6,
    UDP,
    Bench,
    IPv6,
    IPv6ExtHdrDestOpt,
    Raw,
    checksum_right,
    echo6,
    tcp4,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from translate.reasons import Reason
from translate.settings import Limits, Timeouts

IDENT6 = 0xABCD1234
IDENT4 = 0x5678
DATA = bytes(range(256)) * 12 + b"odd"


@pytest.fixture
def bench():
    return Bench()


def cut6(packet, *at, ident=IDENT6, hlim=None):
    """Fragments of an IPv6 packet, cut at these offsets behind its 40-byte header."""
    data = bytes(packet)
    body = data[40:]
    bounds = [0, *at, len(body)]
    pieces = []
    for start, stop in pairwise(bounds):
        more = stop < len(body)
        head = struct.pack("!BBHI", data[6], 0, start | more, ident)
        length = struct.pack("!H", 8 + stop - start)
        hop = data[7:8] if hlim is None else bytes((hlim,))
        pieces.append(data[:4] + length + b"\x2c" + hop + data[8:40] + head + body[start:stop])
    return pieces


def cut4(packet, *at, ident=IDENT4, df=False):
    """Fragments of an IPv4 packet, cut at these offsets behind its 20-byte header."""
    whole = IP(bytes(packet))
    body = bytes(whole)[20:]
    bounds = [0, *at, len(body)]
    pieces = []
    for start, stop in pairwise(bounds):
        flags = (1 if stop < len(body) else 0) | (2 if df else 0)
        head = IP(src=whole.src, dst=whole.dst, proto=whole.proto, ttl=whole.ttl, id=ident)
        head.flags, head.frag = flags, start // 8
        pieces.append(bytes(head / Raw(body[start:stop])))
    return pieces


def place(data):
    """(start, more, identification, protocol, body) of a fragment."""
    if data[0] >> 4 == 4:
        ident, word = struct.unpack_from("!HH", data, 4)
        return (word & 0x1FFF) * 8, bool(word & 0x2000), ident, data[9], data[20:]
    assert data[6] == 44
    protocol, _, word, ident = struct.unpack_from("!BBHI", data, 40)
    return word & 0xFFF8, bool(word & 1), ident, protocol, data[48:]


def join(pieces):
    """The datagram of all of these fragments, unfragmented; asserts that they fit together."""
    if len(pieces) == 1 and pieces[0][0] >> 4 == 6 and pieces[0][6] != 44:
        return pieces[0]
    parts = sorted(map(place, pieces))
    assert len({(ident, protocol) for _, _, ident, protocol, _ in parts}) == 1
    at, body = 0, b""
    for number, (start, more, _, _, data) in enumerate(parts):
        assert start == at, "a gap or an overlap"
        assert more == (number < len(parts) - 1)
        at, body = at + len(data), body + data
    head = bytearray(pieces[0])
    if head[0] >> 4 == 4:
        out = IP(bytes(head[:20]))
        out.flags, out.frag = 0, 0
        del out.len, out.chksum
        return bytes(out / Raw(body))
    head[4:6] = len(body).to_bytes(2, "big")
    head[6] = parts[0][3]
    return bytes(head[:40]) + body


def push(bench, pieces):
    """Everything that comes out for these pieces, one after the other."""
    return [out.data for piece in pieces for out in bench.send(piece)]


def idle(bench):
    """Asserts that nothing of a fragmented datagram is kept."""
    for table in (bench.nat._core.fragments6, bench.nat._core.fragments4):
        assert len(table) == 0
        assert table._bytes == 0
        assert table._senders == {}


# -- from IPv6 ----------------------------------------------------------------------------

FROM6 = {
    "udp": udp6(data=DATA),
    "tcp": tcp6("S", data=DATA),
    "icmp": echo6(data=DATA),
}
ORDERS = list(permutations(range(3)))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", FROM6)
def test_rfc6146_3_4_every_order_from_ipv6(kind, order):
    bench, twin = Bench(), Bench()
    pieces = cut6(FROM6[kind], 1232, 2464)
    out = push(bench, [pieces[n] for n in order])
    assert len(out) == 3
    whole = join(out)
    (want,) = twin.send(FROM6[kind])
    assert whole[20:] == want.data[20:]
    assert whole[8:10] + whole[12:20] == want.data[8:10] + want.data[12:20]
    assert checksum_right(whole)
    idle(bench)


def test_rfc7915_5_1_1_identification_flags_and_offsets(bench):
    out = push(bench, cut6(FROM6["udp"], 1232, 2464))
    for number, data in enumerate(out):
        start, more, ident, protocol, _ = place(data)
        assert (start, more, ident, protocol) == (1232 * number, number < 2, 0x1234, 17)
        assert not data[6] & 0x40, "DF"
        assert data[8] == 63


def test_rfc6146_3_4_pieces_follow_the_first_without_waiting(bench):
    pieces = cut6(FROM6["udp"], 800, 1600)
    for piece in pieces:
        assert len(bench.send(piece)) == 1


def test_rfc6146_3_4_pieces_before_the_first_wait(bench):
    pieces = cut6(FROM6["udp"], 800, 1600)
    assert bench.refused(pieces[2], Reason.FRAGMENT_HELD) == []
    assert bench.refused(pieces[1], Reason.FRAGMENT_HELD) == []
    assert len(bench.send(pieces[0])) == 3


@pytest.mark.parametrize("packet", [udp6(), tcp6("S")])
def test_rfc7915_5_1_1_atomic_fragment(bench, packet):
    (piece,) = cut6(packet)
    out = bench.one(piece)
    assert (out.id, out.flags, out.frag) == (0x1234, 0, 0)
    idle(bench)


@pytest.mark.parametrize("order", list(permutations(range(2))))
@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
def test_rfc7915_5_1_1_headers_behind_the_fragment_header(bench, kind, order):
    """Dropped, first fragment or not; the first is answered with the code of RFC 7915 §5.4."""
    whole = IPv6(src=CLIENT, dst=SERVER6) / IPv6ExtHdrDestOpt() / FROM6[kind].payload
    pieces = cut6(whole, 1600)
    for n in order:
        out = bench.refused(pieces[n], Reason.FRAGMENT_EXTENSION)
        assert [answer.data[40:42] for answer in out] == ([b"\1\1"] if n == 0 else [])
        assert all(answer.data[48:] == pieces[0][:1232] for answer in out)
    idle(bench)


def test_rfc791_hop_limit_of_a_piece(bench):
    pieces = cut6(FROM6["icmp"], 1232, 2464)
    worn = cut6(FROM6["icmp"], 1232, 2464, hlim=1)
    assert bench.refused(worn[1], Reason.HOP_LIMIT) == []
    assert push(bench, [pieces[0], pieces[2]]) == [], "one is missing"
    assert checksum_right(join(push(bench, [pieces[1]])))


# -- from IPv4 ----------------------------------------------------------------------------


def opened(bench):
    """Packets from the server to sessions of the client, with a long payload."""
    udp = bench.udp()[UDP].sport
    tcp = bench.connect()
    ident = bench.one(echo6())[ICMP].id
    echo = IP(src=SERVER, dst=POOL) / ICMP(type=0, id=ident, seq=3) / Raw(DATA)
    zero = bytearray(bytes(udp4(udp, data=DATA)))
    zero[26:28] = b"\0\0"
    return {
        "udp": udp4(udp, data=DATA),
        "tcp": tcp4("PA", tcp, data=DATA),
        "icmp": echo,
        "zero": bytes(zero),
    }


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp", "zero"])
def test_rfc6146_3_4_every_order_from_ipv4(kind, order):
    bench = Bench()
    packet = opened(bench)[kind]
    pieces = cut4(packet, 1000, 2000)
    out = push(bench, [pieces[n] for n in order])
    whole = join(out)
    assert len(out) == 3
    assert all(len(data) <= 1280 for data in out)
    assert checksum_right(whole)
    (twin,) = bench.send(big_df(packet))
    assert whole[40:] == twin.data[40:]
    assert whole[6:40] == twin.data[6:40]
    idle(bench)


def big_df(packet):
    """The packet with DF, which is translated whole whatever its size."""
    out = IP(bytes(packet))
    out.flags = "DF"
    del out.chksum
    return out


def test_rfc7915_4_1_1_identification_flags_and_offsets(bench):
    out = push(bench, cut4(opened(bench)["udp"], 1000, 2000))
    assert [place(data)[:4] for data in out] == [
        (0, True, IDENT4, 17),
        (1000, True, IDENT4, 17),
        (2000, False, IDENT4, 17),
    ]
    assert {data[7] for data in out} == {63}


@pytest.mark.parametrize("at", [(1480, 2960), (1472, 2944), (2400,)])
@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp", "zero"])
def test_rfc7915_4_1_large_pieces_are_cut_again(kind, at):
    bench = Bench()
    packet = opened(bench)[kind]
    out = push(bench, cut4(packet, *at))
    assert all(len(data) <= 1280 for data in out)
    assert len(out) > len(at)
    whole = join(out)
    assert checksum_right(whole)
    assert whole[-len(DATA) :] == DATA
    assert place(out[0])[2] == IDENT4


def test_rfc7915_4_1_1_df_and_fragmented(bench):
    """RFC 7915 §4.1: with DF nobody may cut it further."""
    out = push(bench, cut4(opened(bench)["udp"], 1480, 2960, df=True))
    assert [place(data)[0] for data in out] == [0, 1480, 2960]
    assert checksum_right(join(out))


def test_rfc7915_4_1_a_whole_packet_is_cut_and_keeps_its_identification(bench):
    packet = IP(bytes(opened(bench)["udp"]))
    packet.id = 0x4321
    del packet.chksum
    out = push(bench, [packet])
    assert len(out) == 3
    assert all(len(data) <= 1280 for data in out)
    assert place(out[0])[2] == 0x4321
    assert checksum_right(join(out))


def test_rfc7915_4_5_fragments_keep_their_wrong_checksum(bench):
    data = bytearray(bytes(opened(bench)["udp"]))
    data[26] ^= 0x10
    assert not checksum_right(join(push(bench, cut4(bytes(data), 1000))))


def test_fragments_of_nobody(bench):
    first, second = cut4(udp4(50000, data=DATA), 1000)
    bench.refused(first, Reason.NO_MAPPING)
    assert bench.refused(second, Reason.NO_MAPPING) == [], "the answer to the first is enough"


# -- attacks ------------------------------------------------------------------------------


def test_rfc5722_4_overlap_ends_the_datagram(bench):
    pieces = cut6(FROM6["udp"], 800, 1600)
    overlap = cut6(FROM6["udp"], 792, 1600)[1]
    bench.refused(pieces[1], Reason.FRAGMENT_HELD)
    assert bench.refused(overlap, Reason.FRAGMENT_OVERLAP) == []
    for piece in pieces:
        assert bench.refused(piece, Reason.FRAGMENT_OVERLAP) == []
    assert bench.nat._core.fragments6._bytes == 0


def test_rfc5722_4_overlap_from_ipv4(bench):
    packet = opened(bench)["udp"]
    assert len(bench.send(cut4(packet, 1000)[0])) == 1
    bench.refused(cut4(packet, 992)[1], Reason.FRAGMENT_OVERLAP)
    bench.refused(cut4(packet, 1000)[1], Reason.FRAGMENT_OVERLAP)


def test_pieces_behind_the_end(bench):
    longer = cut6(udp6(data=DATA + DATA), 800, 3200)
    last = cut6(FROM6["udp"], 800)[1]
    bench.refused(last, Reason.FRAGMENT_HELD)
    bench.refused(longer[2], Reason.FRAGMENT_OVERLAP)


def test_a_repetition_is_dropped_alone(bench):
    pieces = cut6(FROM6["udp"], 800, 1600)
    bench.refused(pieces[1], Reason.FRAGMENT_HELD)
    assert bench.refused(pieces[1], Reason.FRAGMENT_REPEATED) == []
    assert checksum_right(join(push(bench, [pieces[0], pieces[2]])))


def test_rfc1858_3_tiny_first_fragment(bench):
    for piece in cut6(tcp6("S", data=DATA), 16):
        assert bench.refused(piece, Reason.FRAGMENT_TINY) == []
    assert bench.nat.state.session_count == 0


@pytest.mark.parametrize("start", [8, 16])
@pytest.mark.parametrize("header_first", [True, False])
def test_rfc1858_4_second_piece_inside_the_tcp_header(bench, start, header_first):
    """The flags are in bytes 12 and 13, and the second piece could change them."""
    first = cut6(tcp6("S", data=DATA), 24)[0]
    inside = cut6(tcp6("S", data=DATA), start, 800)[1]
    overlaps(bench, first, inside, header_first=header_first)


@pytest.mark.parametrize("start", [8, 16])
@pytest.mark.parametrize("header_first", [True, False])
def test_rfc1858_4_second_piece_inside_the_tcp_header_from_ipv4(bench, start, header_first):
    packet = opened(bench)["tcp"]
    overlaps(bench, cut4(packet, 24)[0], cut4(packet, start, 800)[1], header_first=header_first)


def overlaps(bench, first, inside, *, header_first):
    """Asserts that nothing of the second piece gets out, and nothing behind it."""
    if header_first:
        assert len(bench.send(first)) == 1
    else:
        bench.refused(inside, Reason.FRAGMENT_HELD)
        bench.refused(first, Reason.FRAGMENT_OVERLAP)
    for _ in range(2):
        assert bench.refused(inside, Reason.FRAGMENT_OVERLAP) == []


@pytest.mark.parametrize("size", [8, 16])
def test_rfc1858_3_tiny_first_fragment_from_ipv4(bench, size):
    packet = opened(bench)["tcp"]
    for piece in cut4(packet, size):
        assert bench.refused(piece, Reason.FRAGMENT_TINY) == []


@pytest.mark.parametrize("kind", ["udp", "zero", "icmp"])
@pytest.mark.parametrize("length", [65508, 65515, 65516, 65528, 65535])
def test_rfc791_no_datagram_is_longer_than_its_length_field(kind, length):
    """What the largest offset allows, but no IPv4 packet."""
    bench = Bench()
    base = bytes(opened(bench)[kind])
    body = (base[20:] + bytes(70000))[:length]
    bounds = [*range(0, length, 32000), length]
    pieces = []
    for start, stop in pairwise(bounds):
        head = IP(src=SERVER, dst=POOL, proto=base[9], id=3, frag=start // 8)
        head.flags = int(stop < length)
        pieces.append(bytes(head / Raw(body[start:stop])))
    out = push(bench, pieces)
    lost = bench.nat.counters[Reason.FRAGMENT_OVERLAP]
    assert bool(lost) == (length > 65515)
    if not lost:
        assert len(join(out)) == 40 + length


@pytest.mark.parametrize("kind", ["udp", "icmp"])
def test_rfc7915_5_1_1_too_long_for_ipv4(bench, kind):
    head = bytes(FROM6[kind])
    pieces = cut6(head + bytes(65535 - (len(head) - 40)), 32000, 64000)
    for piece in pieces[:2]:
        bench.send(piece)
    bench.refused(pieces[2], Reason.FRAGMENT_OVERLAP)


# -- limits and time ----------------------------------------------------------------------


def waiting(bench, number, src=CLIENT):
    """Sends the second piece of a datagram; whether it was kept."""
    before = bench.nat.counters[Reason.FRAGMENT_HELD]
    bench.send(cut6(udp6(data=DATA, src=src), 800, ident=number)[1])
    return bench.nat.counters[Reason.FRAGMENT_HELD] > before


def limited(**limits):
    return Bench(limits=replace(Limits(), **limits))


def test_limit_of_datagrams():
    bench = limited(fragments=3)
    assert [waiting(bench, n) for n in range(4)] == [True, True, True, False]
    assert bench.nat.counters[Reason.FRAGMENT_LIMIT] == 1
    bench.advance(2)
    idle(bench)
    assert waiting(bench, 9)


def test_limit_of_datagrams_for_a_sender():
    bench = limited(fragments_per_client=2)
    assert [waiting(bench, n) for n in range(3)] == [True, True, False]
    assert bench.nat.counters[Reason.FRAGMENT_LIMIT] == 1
    assert waiting(bench, 1, src=OTHER_CLIENT)


def test_limit_of_bytes():
    bench = limited(fragment_bytes=6000)
    assert [waiting(bench, n) for n in range(4)] == [True, True, False, False]
    assert bench.nat.counters[Reason.FRAGMENT_LIMIT] == 2
    # Given up: its first piece does not get through alone.
    bench.refused(cut6(udp6(data=DATA), 800, ident=3)[0], Reason.FRAGMENT_LIMIT)


@pytest.mark.parametrize("lifetime", [2.0, 5.0])
def test_rfc6146_4_fragment_min(lifetime):
    bench = Bench(timeouts=replace(Timeouts(), fragment_min=lifetime))
    pieces = cut6(FROM6["udp"], 800, 1600)
    push(bench, pieces[1:])
    assert bench.nat.next_deadline() == bench.now + lifetime
    bench.advance(lifetime - 0.01)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 0
    bench.advance(0.01)
    assert bench.nat.counters[Reason.FRAGMENT_LOST] == 2
    idle(bench)
    assert len(push(bench, pieces[:1])) == 1, "alone"


def test_datagrams_of_different_ends_do_not_mix(bench):
    one = cut6(udp6(data=b"1" * 2000), 800)
    for other in (
        cut6(udp6(data=b"2" * 2000, src=OTHER_CLIENT), 800),
        cut6(udp6(data=b"2" * 2000, dst=trailing("8.8.8.8")), 800),
        cut6(udp6(data=b"2" * 2000), 800, ident=IDENT6 + (1 << 16)),
    ):
        out = push(bench, [one[1], other[1], one[0], other[0]])
        assert checksum_right(join(out[:2]))
        assert checksum_right(join(out[2:]))


def test_rfc791_fragments_of_other_protocols_do_not_mix(bench):
    packets = opened(bench)
    one, two = cut4(packets["udp"], 1000, 2000), cut4(packets["tcp"], 1000, 2000)
    out = push(bench, [p for pair in zip(one, two, strict=True) for p in pair])
    assert checksum_right(join(out[0::2]))
    assert checksum_right(join(out[1::2]))


def test_pieces_of_eight_bytes_stay_so(bench):
    """What has been put together is cut as it came."""
    packet = echo6(data=bytes(28))
    pieces = cut6(packet, 8, 16, 24, 32)
    out = push(bench, pieces)
    assert [len(place(piece)[4]) for piece in out] == [8, 8, 8, 8, 4]
    assert checksum_right(join(out))


@pytest.mark.parametrize("packet", [udp6(dst=OWN6, data=DATA), echo6(dst=OWN6, data=DATA)])
def test_pieces_for_the_translator_itself(bench, packet):
    for piece in cut6(packet, 1000, 2000):
        assert bench.refused(piece, Reason.FRAGMENT) == []


def test_partial_checksums_are_not_those_of_fragments(bench):
    bench.refused(cut6(FROM6["udp"], 800)[0], Reason.MALFORMED, partial=True)
