"""Super-packets into segments and packets into fragments; scapy reads what comes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet as Layers

from tests.unit.fakes import checksums_hold
from translate.checksum import pseudo_header_sum
from translate.packets import GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Packet
from translate.segments import complete_checksum, fragment_ipv6, split

IP4 = IP(src="192.0.2.1", dst="192.0.0.6", ttl=61, tos=3, id=0xFFFE, flags="DF")
IP6 = IPv6(src="fd00:64::2", dst="fec0:0:0:ffff::c000:201", hlim=61, tc=3, fl=5)
LINK = b"\2\0\0\0\0\1"
FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80


def body(size: int) -> bytes:
    return bytes(n % 251 for n in range(size))


def tcp(ip: Layers, data: bytes, flags: int = ACK, seq: int = 1000, **fields) -> Layers:
    return ip / TCP(sport=1025, dport=80, flags=flags, seq=seq, ack=77, **fields) / data


def udp(ip: Layers, data: bytes) -> Layers:
    return ip / UDP(sport=1025, dport=53) / data


def partial(layers: Layers, gso_type: int = 0, gso_size: int = 0) -> Packet:
    """The packet as a device hands it over: the checksum field holds the pseudo-header sum."""
    data = bytearray(bytes(layers))
    at = 20 if data[0] >> 4 == 4 else 40
    protocol = data[9] if at == 20 else data[6]
    src, dst = (data[12:16], data[16:20]) if at == 20 else (data[8:24], data[24:40])
    field = at + (16 if protocol == 6 else 6)
    total = pseudo_header_sum(bytes(src), bytes(dst), len(data) - at, protocol)
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    data[field : field + 2] = total.to_bytes(2, "big")
    return Packet(bytes(data), True, gso_type, gso_size, LINK)


def parsed(packet: Packet) -> Layers:
    return IP(packet.data) if packet.data[0] >> 4 == 4 else IPv6(packet.data)


def assert_plain(packets: list[Packet]) -> None:
    for packet in packets:
        assert (packet.partial, packet.gso_type, packet.gso_size) == (False, 0, 0)
        assert packet.link == LINK
        layers = parsed(packet)
        assert checksums_hold(layers)
        length = layers.len if IP in layers else layers.plen + 40
        assert length == len(packet.data)


# -- checksums ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "layers", [tcp(IP4, b"data"), tcp(IP6, b"odd"), udp(IP4, b"data"), udp(IP6, b"odd")]
)
def test_complete_checksum(layers):
    whole = complete_checksum(partial(layers))
    assert whole.data == bytes(layers)
    assert_plain([whole])


@pytest.mark.parametrize("ip", [IP4, IP6])
def test_complete_checksum_of_udp_is_never_zero_RFC768(ip):
    # The data is chosen so that the sum comes out as zero, which is sent as all ones.
    without = bytes(udp(ip, b"\0\0"))
    at = 20 if ip is IP4 else 40
    datagram = udp(ip, without[at + 6 : at + 8])
    whole = complete_checksum(partial(datagram))
    assert whole.data[at + 6 : at + 8] == b"\xff\xff"


def test_complete_checksum_leaves_a_whole_one_alone():
    packet = Packet(bytes(tcp(IP4, b"data"))[:-1] + b"X", link=LINK)
    assert complete_checksum(packet) is packet


@pytest.mark.parametrize(("layers", "size"), [(tcp(IP4, b""), 17), (udp(IP6, b""), 7)])
def test_complete_checksum_leaves_what_has_no_room_for_one(layers, size):
    whole = bytes(layers)
    if layers.version == 4:
        data = whole[:2] + (20 + size).to_bytes(2, "big") + whole[4 : 20 + size]
    else:
        data = whole[:4] + size.to_bytes(2, "big") + whole[6 : 40 + size]
    packet = Packet(data, True)
    assert complete_checksum(packet) is packet


def test_complete_checksum_leaves_other_protocols():
    packet = Packet(bytes(IP(src="192.0.2.1", dst="192.0.0.6", proto=47) / bytes(30)), True)
    assert complete_checksum(packet) is packet


# -- TCP segments -------------------------------------------------------------------------


@pytest.mark.parametrize(("ip", "gso_type"), [(IP4, GSO_TCPV4), (IP6, GSO_TCPV6)])
@pytest.mark.parametrize("ecn", [0, GSO_ECN])
def test_split_tcp(ip, gso_type, ecn):
    data = body(2500)
    flags = ACK | PSH | FIN | CWR
    options = [("NOP", None), ("NOP", None), ("Timestamp", (1, 2))]
    layers = tcp(ip, data, flags, options=options)
    segments = split(partial(layers, gso_type | ecn, 1000))
    assert_plain(segments)
    out = [parsed(segment)[TCP] for segment in segments]
    assert [bytes(segment.payload) for segment in out] == [
        data[:1000],
        data[1000:2000],
        data[2000:],
    ]
    assert [segment.seq for segment in out] == [1000, 2000, 3000]
    # RFC 3168 §6.1.2: CWR on the first only.
    assert [int(segment.flags) for segment in out] == [ACK | CWR, ACK, ACK | PSH | FIN]
    assert {(s.sport, s.dport, s.ack, s.dataofs) for s in out} == {(1025, 80, 77, 8)}
    assert all(("Timestamp", (1, 2)) in segment.options for segment in out)


def test_split_tcp_sequence_numbers_wrap():
    segments = split(partial(tcp(IP6, body(300), seq=0xFFFFFFF0), GSO_TCPV6, 100))
    assert_plain(segments)
    assert [parsed(s)[TCP].seq for s in segments] == [0xFFFFFFF0, 0x54, 0xB8]


def test_split_keeps_the_ipv4_header():
    segments = split(partial(tcp(IP4, body(300)), GSO_TCPV4, 100))
    headers = [parsed(segment)[IP] for segment in segments]
    assert [header.id for header in headers] == [0xFFFE, 0xFFFF, 0]
    assert {(h.src, h.dst, h.ttl, h.tos, str(h.flags), h.frag) for h in headers} == {
        ("192.0.2.1", "192.0.0.6", 61, 3, "DF", 0)
    }


def test_split_keeps_df_clear():
    ip = IP4.copy()
    ip.flags = 0
    segments = split(partial(tcp(ip, body(300)), GSO_TCPV4, 100))
    assert [int(parsed(segment).flags) for segment in segments] == [0, 0, 0]


def test_split_keeps_the_ipv6_header():
    segments = split(partial(tcp(IP6, body(300)), GSO_TCPV6, 100))
    headers = [parsed(segment)[IPv6] for segment in segments]
    expected = (IP6.src, IPv6(dst=IP6.dst).dst, 61, 3, 6)
    assert {(h.src, h.dst, h.hlim, h.tc, h.nh) for h in headers} == {expected}


@pytest.mark.parametrize(("size", "count"), [(1, 1), (99, 1), (100, 1), (101, 2), (200, 2)])
def test_split_at_the_limit_and_one_beyond(size, count):
    flags = ACK | PSH | CWR
    segments = split(partial(tcp(IP6, body(size), flags), GSO_TCPV6, 100))
    assert_plain(segments)
    assert len(segments) == count
    assert int(parsed(segments[-1])[TCP].flags) & PSH
    assert sum(len(parsed(segment)[TCP].payload) for segment in segments) == size


def test_split_a_super_packet_without_data():
    segments = split(partial(tcp(IP6, b"", ACK | FIN), GSO_TCPV6, 100))
    assert_plain(segments)
    assert [int(parsed(segment)[TCP].flags) for segment in segments] == [ACK | FIN]


@pytest.mark.parametrize(("gso_type", "gso_size"), [(0, 0), (0, 1000), (GSO_TCPV6, 0)])
def test_split_of_an_ordinary_packet_completes_its_checksum(gso_type, gso_size):
    layers = tcp(IP6, body(3000))
    segments = split(partial(layers, gso_type, gso_size))
    assert [segment.data for segment in segments] == [bytes(layers)]
    assert_plain(segments)


@given(st.integers(1, 3000), st.integers(1, 1500), st.integers(0, 0xFFFFFFFF), st.integers(0, 255))
def test_split_tcp_is_the_stream_that_came_in(size, gso_size, seq, flags):
    flags &= ~SYN
    data = body(size)
    segments = split(partial(tcp(IP4, data, flags, seq), GSO_TCPV4, max(gso_size, 40)))
    out = [parsed(segment)[TCP] for segment in segments]
    joined = bytearray(size)
    for segment in out:
        at = segment.seq - seq & 0xFFFFFFFF
        part = bytes(segment.payload)
        joined[at : at + len(part)] = part
    assert bytes(joined) == data
    assert all(int(s.flags) & (FIN | PSH) == 0 for s in out[:-1])
    assert all(int(s.flags) & CWR == 0 for s in out[1:])
    union = 0
    for segment in out:
        union |= int(segment.flags)
    assert union == flags


# -- UDP segments -------------------------------------------------------------------------


@pytest.mark.parametrize("ip", [IP4, IP6])
def test_split_udp(ip):
    data = body(2500)
    segments = split(partial(udp(ip, data), GSO_UDP_L4, 1000))
    assert_plain(segments)
    out = [parsed(segment)[UDP] for segment in segments]
    assert [bytes(d.payload) for d in out] == [data[:1000], data[1000:2000], data[2000:]]
    assert [datagram.len for datagram in out] == [1008, 1008, 508]
    assert {(datagram.sport, datagram.dport) for datagram in out} == {(1025, 53)}


# -- fragments ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "room", "payloads"),
    [
        (1280, 1232, [1232, 768]),
        (1287, 1232, [1232, 768]),
        (1288, 1240, [1240, 760]),
        (56, 8, [8] * 250),
        (2048, 2000, [2000]),
    ],
)
def test_fragments_RFC8200_4_5(size, room, payloads):
    whole = udp(IP6, body(1992))
    fragments = fragment_ipv6(Packet(bytes(whole), link=LINK), size, 0x89ABCDEF)
    layers = [IPv6(fragment.data) for fragment in fragments]
    headers = [layer[IPv6ExtHdrFragment] for layer in layers]
    assert [len(bytes(header.payload)) for header in headers] == payloads
    assert [header.offset * 8 for header in headers] == [n * room for n in range(len(payloads))]
    assert [header.m for header in headers] == [1] * (len(payloads) - 1) + [0]
    assert {(h.id, h.nh, h.res1, h.res2) for h in headers} == {(0x89ABCDEF, 17, 0, 0)}
    assert {(la.src, la.dst, la.hlim, la.tc, la.nh) for la in layers} == {
        (IP6.src, IPv6(dst=IP6.dst).dst, 61, 3, 44)
    }
    for fragment, layer in zip(fragments, layers, strict=True):
        assert layer.plen == len(fragment.data) - 40
        assert len(fragment.data) <= size
        assert (fragment.link, fragment.partial, fragment.gso_type) == (LINK, False, 0)
    joined = b"".join(bytes(header.payload) for header in headers)
    assert joined == bytes(whole[UDP])


def test_fragments_of_icmp_name_icmp():
    whole = IP6 / ICMP() / body(2000)
    whole.nh = 58
    fragments = fragment_ipv6(Packet(bytes(whole)), 1280, 1)
    assert {fragment.data[40] for fragment in fragments} == {58}
