"""Super-packets and partial checksums: what the device says of a packet crosses with it.

A super-packet stands for segments of `gso_size` bytes; every rule about sizes is about those.
A partial checksum field holds the pseudo-header's sum, which alone is translated
(Linux, Documentation/networking/checksum-offloads and segmentation-offloads).
"""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    IPv6,
    IPv6ExtHdrFragment,
    checksum_right,
    pseudo_sum,
    read,
    tcp4,
    tcp6,
    udp4,
    udp6,
    words,
)
from translate.packets import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4

FIN, PSH, ACK, CWR = 0x01, 0x08, 0x10, 0x80


def body(size):
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def partial(packet):
    """The packet as a sender with checksum offload hands it over."""
    packet = read(bytes(packet))
    layer = packet[TCP] if TCP in packet else packet[UDP]
    layer.chksum = pseudo_sum(packet)
    return packet


def completed(packet):
    """The packet after the device has filled in the checksum: complement of the sum."""
    assert packet.partial
    data = bytearray(packet.data)
    start = 20 if data[0] >> 4 == 4 else 40
    at = start + (16 if data[9 if start == 20 else 6] == 6 else 6)
    data[at : at + 2] = (0xFFFF - words(bytes(data[start:]))).to_bytes(2, "big")
    return bytes(data)


@pytest.fixture
def bench():
    return Bench()


# -- partial checksums --------------------------------------------------------------------


@pytest.mark.parametrize("packet", [udp6(data=b"odd"), udp6(data=b"even"), tcp6("S", data=b"x")])
def test_partial_from_ipv6(bench, packet):
    (out,) = bench.send(partial(packet), partial=True)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_NONE, 0)
    assert got.payload.chksum == pseudo_sum(got)
    assert checksum_right(completed(out))


@pytest.mark.parametrize("kind", ["udp", "tcp"])
def test_partial_from_ipv4(bench, kind):
    if kind == "udp":
        packet = udp4(bench.udp()[UDP].sport, data=b"odd")
    else:
        packet = tcp4("SA", bench.one(tcp6("S"))[TCP].sport, data=b"odd")
    (out,) = bench.send(partial(packet), partial=True)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_NONE, 0)
    assert got.payload.chksum == pseudo_sum(got)
    assert checksum_right(completed(out))


def test_partial_udp_to_be_fragmented_is_completed_first(bench):
    port = bench.udp()[UDP].sport
    out = bench.send(partial(udp4(port, data=body(1400))), partial=True)
    assert len(out) == 2
    assert not any(part.partial for part in out)
    whole = b"".join(bytes(read(part.data)[IPv6ExtHdrFragment].payload) for part in out)
    assert checksum_right(bytes(IPv6(src=SERVER6, dst=CLIENT, nh=17, plen=len(whole))) + whole)


# -- TCP ----------------------------------------------------------------------------------


@pytest.mark.parametrize("ecn", [0, GSO_ECN])
def test_tcp_super_packet_from_ipv6(bench, ecn):
    bench.connect()
    packet = partial(tcp6("PA", seq=1000, data=body(20000)))
    (out,) = bench.send(packet, partial=True, gso_type=GSO_TCPV6 | ecn, gso_size=1428)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_TCPV4 | ecn, 1428)
    assert (got.len, got.src, got.dst, got.ttl) == (20040, POOL, SERVER, 63)
    assert (got[TCP].seq, got[TCP].flags) == (1000, "PA")
    assert got[TCP].chksum == pseudo_sum(got)
    assert bytes(got[TCP].payload) == body(20000)
    assert checksum_right(completed(out))


@pytest.mark.parametrize("ecn", [0, GSO_ECN])
@pytest.mark.parametrize("flags", ["DF", ""])
def test_tcp_super_packet_from_ipv4(bench, ecn, flags):
    port = bench.connect()
    packet = tcp4("PA", port, seq=1000, data=body(60000))
    packet.flags = flags
    size = 1448 if flags else 1220
    (out,) = bench.send(partial(packet), partial=True, gso_type=GSO_TCPV4 | ecn, gso_size=size)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_TCPV6 | ecn, size)
    assert (got.plen, got.src, got.dst, got.hlim) == (60020, SERVER6, CLIENT, 63)
    assert got[TCP].chksum == pseudo_sum(got)
    assert checksum_right(completed(out))


@pytest.mark.parametrize(
    ("gso_size", "options", "df"),
    [(1220, 0, False), (1221, 0, True), (1208, 12, False), (1209, 12, True), (536, 0, False)],
)
def test_rfc7915_5_1_df_is_decided_by_a_segment(bench, gso_size, options, df):
    bench.connect()
    packet = tcp6("A", data=body(9000), options=[("NOP", None)] * options)
    (out,) = bench.send(partial(packet), partial=True, gso_type=GSO_TCPV6, gso_size=gso_size)
    assert read(out.data).flags == ("DF" if df else "")


@pytest.mark.parametrize("size", [3660, 3661, 1221, 2440])
def test_rfc6864_4_segments_without_df_have_identifications_of_their_own(bench, size):
    """Whoever cuts a super-packet counts up; the next packet must not use one of these."""
    bench.connect()
    packet = partial(tcp6("A", data=body(size)))
    (first,) = bench.send(packet, partial=True, gso_type=GSO_TCPV6, gso_size=1220)
    (second,) = bench.send(packet, partial=True, gso_type=GSO_TCPV6, gso_size=1220)
    count = -(-size // 1220)
    assert (read(second.data).id - read(first.data).id) & 0xFFFF == count


def test_rfc7915_4_1_tcp_segments_that_need_fragmenting_take_the_long_way(bench):
    port = bench.connect()
    data = body(5000)
    packet = partial(tcp4("PA", port, seq=7, data=data))
    out = bench.send(packet, partial=True, gso_type=GSO_TCPV4, gso_size=1400)
    assert all(len(part.data) <= 1280 for part in out)
    assert not any(part.partial or part.gso_type for part in out)
    got = b""
    for segment in reassembled(out):
        assert checksum_right(segment)
        layer = IPv6(segment)[TCP]
        assert layer.seq == 7 + len(got)
        got += bytes(layer.payload)
    assert got == data


def reassembled(parts):
    """Whole IPv6 packets from fragments that come in order."""
    whole = []
    for part in parts:
        packet = read(part.data)
        if IPv6ExtHdrFragment not in packet:
            whole.append(part.data)
            continue
        header = packet[IPv6ExtHdrFragment]
        piece = bytes(header.payload)
        if header.offset == 0:
            head = IPv6(src=packet.src, dst=packet.dst, nh=header.nh, hlim=packet.hlim)
            data = bytearray()
        assert header.offset * 8 == len(data)
        data += piece
        if not header.m:
            head.plen = len(data)
            whole.append(bytes(head) + bytes(data))
    return whole


@pytest.mark.parametrize("size", [65516 - 20, 65535 - 20])
def test_a_super_packet_too_large_for_ipv4_is_cut(bench, size):
    bench.connect()
    data = body(size)
    packet = partial(tcp6("", seq=0xFFFFFF00, data=data))
    packet[TCP].flags = FIN | PSH | ACK | CWR
    out = bench.send(packet, partial=True, gso_type=GSO_TCPV6 | GSO_ECN, gso_size=1400)
    got = b""
    for index, segment in enumerate(out):
        layer = read(segment.data)[TCP]
        assert (segment.partial, segment.gso_type) == (False, GSO_NONE)
        assert checksum_right(segment.data)
        assert layer.seq == (0xFFFFFF00 + len(got)) & 0xFFFFFFFF
        # RFC 3168 §6.1.2: CWR on the first; FIN and PSH belong to the last.
        last = index == len(out) - 1
        assert int(layer.flags) == ACK | (0 if index else CWR) | (FIN | PSH if last else 0)
        got += bytes(layer.payload)
    assert got == data
    assert len(out) == -(-size // 1400)
    assert all(read(segment.data).flags == "DF" for segment in out[:-1])


def test_a_super_packet_of_one_segment_too_large_for_ipv4_does_not_go_out(bench):
    bench.connect()
    packet = partial(tcp6("A", data=body(65500)))
    out = bench.send(packet, partial=True, gso_type=GSO_TCPV6, gso_size=65500)
    assert all(answer.data[0] >> 4 == 6 for answer in out)


def test_a_syn_in_a_super_packet_is_clamped_too(bench):
    packet = partial(tcp6("S", options=[("MSS", 9000)], data=body(3000)))
    (out,) = bench.send(packet, partial=True, gso_type=GSO_TCPV6, gso_size=1400)
    got = read(out.data)
    assert got[TCP].options == [("MSS", 1440)]
    assert got[TCP].chksum == pseudo_sum(got)


# -- UDP ----------------------------------------------------------------------------------


def test_udp_super_packet_from_ipv6(bench):
    packet = partial(udp6(data=body(6000)))
    (out,) = bench.send(packet, partial=True, gso_type=GSO_UDP_L4, gso_size=1300)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_UDP_L4, 1300)
    assert (got.len, got.flags, got[UDP].len) == (6028, "DF", 6008)
    assert got[UDP].chksum == pseudo_sum(got)


@pytest.mark.parametrize(("gso_size", "df"), [(1232, False), (1233, True)])
def test_rfc7915_5_1_df_is_decided_by_a_datagram(bench, gso_size, df):
    packet = partial(udp6(data=body(6000)))
    (out,) = bench.send(packet, partial=True, gso_type=GSO_UDP_L4, gso_size=gso_size)
    assert read(out.data).flags == ("DF" if df else "")


@pytest.mark.parametrize(("gso_size", "flags"), [(1232, ""), (1400, "DF")])
def test_udp_super_packet_from_ipv4(bench, gso_size, flags):
    port = bench.udp()[UDP].sport
    packet = partial(udp4(port, data=body(6000), flags=flags))
    (out,) = bench.send(packet, partial=True, gso_type=GSO_UDP_L4, gso_size=gso_size)
    got = read(out.data)
    assert (out.partial, out.gso_type, out.gso_size) == (True, GSO_UDP_L4, gso_size)
    assert got[UDP].chksum == pseudo_sum(got)


def test_rfc7915_4_1_datagrams_that_need_fragmenting_take_the_long_way(bench):
    port = bench.udp()[UDP].sport
    data = body(4000)
    packet = partial(udp4(port, data=data, id=0xFFFF))
    out = bench.send(packet, partial=True, gso_type=GSO_UDP_L4, gso_size=1300)
    assert all(len(part.data) <= 1280 for part in out)
    datagrams = reassembled(out)
    assert all(checksum_right(datagram) for datagram in datagrams)
    payloads = [bytes(IPv6(datagram)[UDP].payload) for datagram in datagrams]
    assert [len(payload) for payload in payloads] == [1300, 1300, 1300, 100]
    assert b"".join(payloads) == data
    assert [IPv6(datagram)[UDP].len for datagram in datagrams] == [1308, 1308, 1308, 108]
    idents = {read(part.data)[IPv6ExtHdrFragment].id for part in out[:-1]}
    assert idents == {0xFFFF, 0, 1}, "as the sender's stack would have counted"


# -- metadata that cannot be true ---------------------------------------------------------


@pytest.mark.parametrize("gso_type", [GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, 3, 0x7F, 0xFF])
@pytest.mark.parametrize("gso_size", [0, 1, 65535])
@pytest.mark.parametrize("is_partial", [False, True])
def test_wrong_metadata_raises_nothing(bench, gso_type, gso_size, is_partial):
    port = bench.udp()[UDP].sport
    about = {"partial": is_partial, "gso_type": gso_type, "gso_size": gso_size}
    for packet in (udp6(data=b""), udp4(port, data=b""), tcp6("S"), udp6(dst="fec0:0:0:ffff::")):
        bench.send(packet, **about)
