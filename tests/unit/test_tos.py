"""Type of service and traffic class: copied, or set (RFC 7915 §4.1, §5.1)."""

from __future__ import annotations

import pytest

from gateway.frames import FrameFormat
from tests.oracle import ICMP, UDP, Bench, echo4, echo6, error4, error6, udp4, udp6
from translate.fast_path import BUFFER_SIZE, IP_AT, make_fast_path
from translate.packets import Packet


@pytest.mark.parametrize("value", [0, 1, 0xB8, 0xFF])
def test_rfc7915_4_1_5_1_copied(value):
    bench = Bench()
    out = bench.one(udp6(tc=value))
    assert out.tos == value
    assert bench.one(udp4(out[UDP].sport, tos=value)).tc == value


@pytest.mark.parametrize("value", [0, 0xB8])
def test_rfc7915_4_1_5_1_set(value):
    bench = Bench(tos=value, traffic_class=value ^ 0x11)
    out = bench.one(udp6(tc=0x5A))
    assert out.tos == value
    back = bench.one(udp4(out[UDP].sport, tos=0x5A))
    assert back.tc == value ^ 0x11
    assert bench.one(error4(3, 3, 0, bytes(out), tos=0x5A)).tc == value ^ 0x11
    assert bench.one(error6(1, 4, 0, bytes(back), tc=0x5A)).tos == value
    ping = bench.one(echo6())
    assert ping.tos == value
    assert bench.one(echo4(ping[ICMP].id)).tc == value ^ 0x11


def test_each_direction_alone():
    bench = Bench(tos=0x10)
    out = bench.one(udp6(tc=0x5A))
    assert (out.tos, bench.one(udp4(out[UDP].sport, tos=0x5A)).tc) == (0x10, 0x5A)


@pytest.mark.parametrize("change", [{}, {"tos": 0x10}, {"traffic_class": 0x21}, {"tos": 0}])
def test_the_fast_path_does_the_same(change):
    form = FrameFormat(False)
    bench, twin = Bench(**change), Bench(**change)
    port = bench.udp()[UDP].sport
    assert twin.udp()[UDP].sport == port
    fast = make_fast_path(
        bench.nat.state.flows,
        vnet=form.vnet,
        ethernet4=form.ethernet4,
        ethernet6_tail=form.ethernet6_tail,
        lowest_ipv6_mtu=1280,
        **change,
    )
    for packet in (udp6(tc=0x5A), udp4(port, tos=0x5A)):
        frame = form.join(Packet(bytes(packet)))
        buffer = bytearray(BUFFER_SIZE)
        base = IP_AT - form.header_size
        buffer[base : base + len(frame)] = frame
        start = fast(buffer, len(frame), bench.now)
        assert start
        (want,) = twin.send(packet)
        assert bytes(buffer[start : base + len(frame)]) == form.join(want)
