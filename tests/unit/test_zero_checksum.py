"""UDP without a checksum from IPv4 (RFC 7915 §4.5)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    ICMP,
    IP,
    OTHER_SERVER,
    POOL,
    SERVER,
    SERVER6,
    TCP,
    UDP,
    Bench,
    IPv6,
    Raw,
    checksum_right,
    fast_path_of,
    pseudo_sum,
    read,
    tcp4,
    transport_sum,
    udp4,
    udp6,
    words,
)
from translate.reasons import Reason
from translate.settings import ZeroChecksum


def prepared(mode):
    bench = Bench(udp_zero_checksum=mode)
    port = bench.udp()[UDP].sport
    return bench, zero(port)


def zero(port, data=b"none"):
    packet = udp4(port, data=data)
    packet[UDP].chksum = 0
    return packet


@pytest.mark.parametrize("data", [b"", b"odd", bytes(1000)])
def test_rfc7915_4_5_calculate_is_the_default(data):
    bench = Bench()
    out = bench.one(zero(bench.udp()[UDP].sport, data))
    assert out[UDP].chksum
    assert bytes(out[UDP].payload) == data


def test_rfc7915_4_5_drop():
    bench, packet = prepared(ZeroChecksum.DROP)
    assert bench.refused(packet, Reason.UDP_ZERO_CHECKSUM) == []


def test_rfc7915_4_5_reject():
    bench, packet = prepared(ZeroChecksum.REJECT)
    (answer,) = bench.refused(packet, Reason.UDP_ZERO_CHECKSUM)
    out = read(answer.data)
    assert (out.src, out.dst, out[ICMP].type, out[ICMP].code) == (POOL, SERVER, 3, 13)


def test_rfc6935_forward():
    bench, packet = prepared(ZeroChecksum.FORWARD)
    (out,) = bench.send(packet)
    assert read(out.data)[UDP].chksum == 0


@pytest.mark.parametrize("mode", ZeroChecksum)
def test_rfc7915_4_5_others_are_not_touched(mode):
    bench, packet = prepared(mode)
    assert checksum_right(bench.send(udp4(packet[UDP].dport))[0].data)


@pytest.mark.parametrize("mode", ZeroChecksum)
def test_an_unfinished_sum_of_zero_is_a_checksum(mode):
    bench, packet = prepared(mode)
    (out,) = bench.send(packet, partial=True)
    assert out.partial
    before, after = pseudo_sum(packet), pseudo_sum(read(out.data))
    assert (read(out.data)[UDP].chksum - after) % 0xFFFF == -before % 0xFFFF


@pytest.mark.parametrize("value", [0x0001, 0x0100, 0x1234])
@pytest.mark.parametrize("mode", ZeroChecksum)
def test_rfc7915_4_5_a_wrong_checksum_is_none_that_is_missing(mode, value):
    """It passes in every mode, as wrong as it was."""
    bench, packet = prepared(mode)
    packet[UDP].chksum = value
    (out,) = bench.send(packet)
    assert transport_sum(out.data) == transport_sum(bytes(packet)) != 0xFFFF


@pytest.mark.parametrize("mode", ZeroChecksum)
def test_rfc7915_4_5_it_is_about_udp_alone(mode):
    """Octets 6 and 7 of a TCP segment are of its sequence number."""
    bench = Bench(udp_zero_checksum=mode)
    out = bench.one(tcp4("PA", bench.connect(), seq=0x12340000, data=b"text"))
    assert out[TCP].seq == 0x12340000


def test_rfc768_a_sum_of_zero_is_sent_as_all_ones():
    bench = Bench()
    port = bench.udp()[UDP].sport
    plain = bytes(bench.send(zero(port, b"\0\0"))[0].data)
    # What is missing to a sum of all ones over everything but the checksum's own field.
    rest = 0xFFFF - words(plain[8:40] + b"\0\x11" + plain[4:6] + plain[40:46] + plain[48:])
    (out,) = bench.send(zero(port, rest.to_bytes(2, "big")))
    assert read(out.data)[UDP].chksum == 0xFFFF


@pytest.mark.parametrize(("length", "covered"), [(8, 8), (10, 10), (20, 20), (7, 20), (21, 20)])
def test_rfc768_the_checksum_covers_what_the_udp_length_says(length, covered):
    """8 is the least that can be said; what cannot be true says nothing."""
    bench = Bench()
    port = bench.udp()[UDP].sport
    packet = zero(port, b"twelve bytes")
    packet[UDP].len = length
    (out,) = bench.send(packet)
    data = out.data
    pseudo = data[8:40] + covered.to_bytes(2, "big") + b"\0\x11"
    assert words(pseudo + data[40 : 40 + covered]) == 0xFFFF


@pytest.mark.parametrize("mode", [ZeroChecksum.DROP, ZeroChecksum.REJECT])
def test_what_is_refused_begins_no_session(mode):
    bench, packet = prepared(mode)
    packet[IP].src = OTHER_SERVER
    bench.refused(packet, Reason.UDP_ZERO_CHECKSUM)
    assert bench.nat.state.session_count == 1


def test_the_fast_path_leaves_it_alone_in_both_directions():
    bench, packet = prepared(ZeroChecksum.CALCULATE)
    fast = fast_path_of(bench)
    assert fast(udp4(packet[UDP].dport)) is not None
    assert fast(packet) is None
    assert fast(udp6()) is not None
    unsummed = IPv6(dst=SERVER6, src=udp6().src) / UDP(sport=40000, dport=53, chksum=0)
    assert fast(unsummed / Raw(b"query")) is None
