"""UDP without a checksum from IPv4 (RFC 7915 §4.5)."""

from __future__ import annotations

import pytest

from tests.oracle import ICMP, POOL, SERVER, UDP, Bench, checksum_right, read, udp4
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
