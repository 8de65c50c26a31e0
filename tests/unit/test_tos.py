"""Type of service and traffic class: copied, or set (RFC 7915 §4.1, §5.1)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    ICMP,
    IP,
    UDP,
    Bench,
    IPv6,
    IPv6ExtHdrFragment,
    Raw,
    echo4,
    echo6,
    error4,
    error6,
    fast_path_of,
    pseudo_sum,
    read,
    udp4,
    udp6,
)
from translate.packets import GSO_UDP_L4


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


@pytest.mark.parametrize("value", [0, 0x21])
def test_zero_is_a_value_too(value):
    bench = Bench(tos=value, traffic_class=value)
    out = bench.one(udp6(tc=0x5A))
    assert out.tos == value
    assert bench.one(udp4(out[UDP].sport, tos=0x5A)).tc == value


@pytest.mark.parametrize("change", [{}, {"tos": 0x10, "traffic_class": 0x21}])
def test_rfc7915_4_1_5_1_of_fragments(change):
    """Each piece alone, also one that is cut again."""
    bench = Bench(**change)
    data = bytes(udp6(data=bytes(3000)))[40:]
    for start, tc in ((0, 0x50), (1600, 0x51)):
        head = IPv6(src=udp6().src, dst=udp6().dst, tc=tc)
        more = int(start == 0)
        head /= IPv6ExtHdrFragment(nh=17, offset=start // 8, m=more, id=5)
        (out,) = bench.send(head / Raw(data[start : start + 1600]))
        assert out.data[1] == change.get("tos", tc)
    port = bench.udp()[UDP].sport
    data = bytes(udp4(port, data=bytes(3000)))[20:]
    for start, tos in ((0, 0x50), (1600, 0x51)):
        head = IP(src=udp4(port).src, dst=udp4(port).dst, proto=17, id=6, tos=tos)
        head.frag, head.flags = start // 8, int(start == 0)
        cut = bench.send(head / Raw(data[start : start + 1600]))
        assert len(cut) == 2
        assert {read(p.data).tc for p in cut} == {change.get("traffic_class", tos)}


@pytest.mark.parametrize("change", [{}, {"tos": 0x10, "traffic_class": 0x21}])
def test_rfc7915_4_1_5_1_of_datagrams_put_together(change):
    bench = Bench(**change)
    data = bytes(echo6(data=bytes(2000)))[40:]
    out = []
    for start in (0, 1000):
        head = IPv6(src=echo6().src, dst=echo6().dst, tc=0x50)
        head /= IPv6ExtHdrFragment(nh=58, offset=start // 8, m=int(start == 0), id=5)
        stop = 1000 if start == 0 else len(data)
        out += bench.send(head / Raw(data[start:stop]))
    assert {IP(p.data).tos for p in out} == {change.get("tos", 0x50)}
    ident = int.from_bytes(next(p.data for p in out if not IP(p.data).frag)[24:26], "big")
    reply = bytes(echo4(ident))[:20], bytes(echo4(ident) / Raw(bytes(2000)))[20:]
    whole = IP(src=echo4(ident).src, dst=echo4(ident).dst, proto=1, id=6, tos=0x50)
    back = []
    for start, stop in ((0, 1000), (1000, len(reply[1]))):
        whole.frag, whole.flags = start // 8, int(start == 0)
        back += bench.send(whole / Raw(reply[1][start:stop]))
    assert len(back) == 2
    assert {read(p.data).tc for p in back} == {change.get("traffic_class", 0x50)}


@pytest.mark.parametrize("change", [{}, {"traffic_class": 0x21}])
def test_rfc7915_4_1_of_a_super_packet_that_is_split(change):
    bench = Bench(**change)
    port = bench.udp()[UDP].sport
    packet = read(bytes(udp4(port, data=bytes(6000), tos=0x50)))
    packet[UDP].chksum = pseudo_sum(packet)
    out = bench.send(packet, partial=True, gso_type=GSO_UDP_L4, gso_size=1400)
    assert len(out) > 5
    assert {read(p.data).tc for p in out} == {change.get("traffic_class", 0x50)}


CHANGES = [{}, {"tos": 0x10}, {"traffic_class": 0x21}, {"tos": 0}, {"traffic_class": 0}]


@pytest.mark.parametrize("change", CHANGES)
def test_the_fast_path_does_the_same(change):
    bench, twin = Bench(**change), Bench(**change)
    port, ident = bench.udp()[UDP].sport, bench.one(echo6())[ICMP].id
    assert (twin.udp()[UDP].sport, twin.one(echo6())[ICMP].id) == (port, ident)
    fast = fast_path_of(bench)
    ping, pong = echo6(), echo4(ident)
    ping.tc, pong.tos = 0x5A, 0x5A
    for packet in (udp6(tc=0x5A), udp4(port, tos=0x5A), ping, pong):
        (want,) = twin.send(packet)
        assert fast(packet) == want.data
