"""Transport checksums across families (RFC 7915 §4.5, §5.5; RFC 768; RFC 1624)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    ICMP,
    IP,
    POOL,
    SERVER,
    TCP,
    UDP,
    Bench,
    IPv6,
    Raw,
    checksum_right,
    echo4,
    echo6,
    read,
    tcp4,
    tcp6,
    transport_sum,
    udp4,
    udp6,
)


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def port(bench):
    return bench.udp()[UDP].sport


@pytest.mark.parametrize("data", [b"", b"x", b"odd", b"even", bytes(1200), bytes(1201)])
def test_rfc7915_4_5_a_missing_udp_checksum_is_computed(bench, port, data):
    packet = udp4(port, data=data)
    packet[UDP].chksum = 0
    out = bench.one(packet)
    assert out[UDP].chksum != 0
    assert bytes(out[UDP].payload) == data


def test_rfc7915_4_5_also_when_the_packet_is_then_fragmented(bench, port):
    packet = udp4(port, data=bytes(1400))
    packet[UDP].chksum = 0
    parts = [read(part.data) for part in bench.send(packet)]
    assert len(parts) == 2
    assert bytes(parts[0].payload.payload)[6:8] != b"\0\0"


def test_rfc768_the_computed_checksum_covers_the_udp_length_and_no_more(bench, port):
    """Bytes behind the datagram, inside the IP packet, are no part of it."""
    packet = bytearray(bytes(udp4(port, data=b"answer") / Raw(b"surplus")))
    packet[24:26] = (8 + 6).to_bytes(2, "big")
    packet[26:28] = b"\0\0"
    for out in bench.send(bytes(packet)):
        datagram = out.data[40 : 40 + 14]
        alone = IPv6(src=read(out.data).src, dst=read(out.data).dst, nh=17, plen=14)
        assert checksum_right(bytes(alone) + datagram)


def test_rfc768_a_sum_of_zero_goes_out_as_all_ones_to_ipv4(bench):
    sent = bench.udp(data=b"\0\0")
    out = bench.udp(data=sent[UDP].chksum.to_bytes(2, "big"))
    assert out[UDP].chksum == 0xFFFF


@pytest.mark.parametrize("missing", [False, True])
def test_rfc768_a_sum_of_zero_goes_out_as_all_ones_to_ipv6(bench, port, missing):
    there = bench.one(udp4(port, data=b"\0\0"))[UDP].chksum
    packet = udp4(port, data=there.to_bytes(2, "big"))
    if missing:
        packet[UDP].chksum = 0
    assert bench.one(packet)[UDP].chksum == 0xFFFF


@pytest.mark.parametrize("data", [b"", b"odd", b"even"])
@pytest.mark.parametrize("value", [1, 0x1234, 0x8000, 0xFFFE])
def test_a_wrong_checksum_is_as_wrong_behind_the_translator(bench, data, value):
    packets = []
    for packet in (udp6(data=data), tcp6("S", data=data), echo6(data=data)):
        (out,) = bench.send(packet)
        packets.append((packet, packet.payload))
        layer = read(out.data).payload
        if isinstance(layer, ICMP):
            back = echo4(layer.id)
        else:
            back = (udp4 if isinstance(layer, UDP) else lambda p: tcp4("SA", p))(layer.sport)
        packets.append((back, back.payload))
    for packet, layer in packets:
        data = bytearray(bytes(packet))
        start = 20 if data[0] >> 4 == 4 else 40
        at = start + (16 if isinstance(layer, TCP) else 6 if isinstance(layer, UDP) else 2)
        right = int.from_bytes(data[at : at + 2], "big")
        wrong = (right + value) % 0xFFFF or 0xFFFF
        data[at : at + 2] = wrong.to_bytes(2, "big")
        off = transport_sum(bytes(data))
        assert off != 0xFFFF
        (out,) = bench.send(bytes(data))
        assert transport_sum(out.data) == off


@pytest.mark.parametrize("size", [0, 1, 2, 1192, 1193])
def test_rfc7915_5_2_the_pseudo_header_comes_and_goes_with_icmp(bench, size):
    out = bench.one(echo6(data=b"\xa5" * size))
    reply = IP(src=SERVER, dst=POOL) / ICMP(type=0, id=out[ICMP].id) / Raw(b"\x5a" * size)
    assert bench.one(reply).payload.type == 129
