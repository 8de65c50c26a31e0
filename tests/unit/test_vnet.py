"""The virtio-net header: read, built, and translated for the fast path."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6

from translate.packets import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Packet, Protocol
from translate.vnet import VNET_SIZE, build_vnet, parse_vnet, translate_vnet

NEEDS_CSUM, DATA_VALID, RSC_INFO = 1, 2, 4
GSO_UDP = 3  # fragmentation offload, which nobody offers any more
TCP_, UDP_ = Protocol.TCP, Protocol.UDP
TCP_CSUM, UDP_CSUM = 16, 6
LINKS = [14, 0]


def vnet(
    flags: int = NEEDS_CSUM,
    gso_type: int = 0,
    hdr_len: int = 0,
    gso_size: int = 0,
    csum_start: int = 0,
    csum_offset: int = 0,
) -> bytes:
    """In the host's byte order, without padding, as the kernel lays it out."""
    return struct.pack("=BBHHHH", flags, gso_type, hdr_len, gso_size, csum_start, csum_offset)


# -- parse --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (bytes(10), (False, 0, 0)),
        (vnet(NEEDS_CSUM, 0, 0, 0, 54, 16), (True, 0, 0)),
        (vnet(DATA_VALID), (False, 0, 0)),
        (vnet(NEEDS_CSUM | DATA_VALID), (True, 0, 0)),
        (vnet(NEEDS_CSUM, GSO_TCPV6, 86, 1428, 54, 16), (True, GSO_TCPV6, 1428)),
        (vnet(NEEDS_CSUM, GSO_TCPV4 | GSO_ECN, 66, 1448, 34, 16), (True, 0x81, 1448)),
        (vnet(NEEDS_CSUM, GSO_UDP_L4, 62, 1200, 54, 6), (True, GSO_UDP_L4, 1200)),
        # A size without a type means nothing.
        (vnet(NEEDS_CSUM, GSO_NONE, 0, 1200, 54, 6), (True, 0, 0)),
    ],
)
def test_parse(header, expected):
    assert parse_vnet(header) == expected


# -- build --------------------------------------------------------------------------------

_TCP4 = bytes(IP(src="192.0.0.6", dst="192.0.2.1") / TCP(options=[("NOP", 0)] * 12) / bytes(5000))
_TCP6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / TCP() / bytes(5000))
_UDP4 = bytes(IP(src="192.0.0.6", dst="192.0.2.1") / UDP() / bytes(5000))
_UDP6 = bytes(IPv6(src="fd00::1", dst="fd00::2") / UDP() / bytes(5000))


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(
    ("data", "gso_type", "hdr_len", "csum_start", "csum_offset"),
    [
        (_TCP4, GSO_TCPV4, 20 + 32, 20, 16),
        (_TCP4, GSO_TCPV4 | GSO_ECN, 20 + 32, 20, 16),
        (_TCP6, GSO_TCPV6, 40 + 20, 40, 16),
        (_UDP4, GSO_UDP_L4, 20 + 8, 20, 6),
        (_UDP6, GSO_UDP_L4, 40 + 8, 40, 6),
    ],
)
def test_build(link, data, gso_type, hdr_len, csum_start, csum_offset):
    super_packet = Packet(data, True, gso_type, 1200)
    expected = vnet(NEEDS_CSUM, gso_type, link + hdr_len, 1200, link + csum_start, csum_offset)
    assert build_vnet(super_packet, link) == expected
    # One packet: no segments, so no header length either.
    alone = vnet(NEEDS_CSUM, 0, 0, 0, link + csum_start, csum_offset)
    assert build_vnet(Packet(data, True), link) == alone


@pytest.mark.parametrize("data", [_TCP4, _UDP6, b""])
def test_build_nothing_for_a_whole_checksum(data):
    assert build_vnet(Packet(data), 14) == bytes(VNET_SIZE)


@pytest.mark.parametrize(("data", "gso_type"), [(_TCP4, 0x81), (_TCP6, 4), (_UDP4, 5), (_UDP6, 0)])
def test_what_is_built_is_parsed(data, gso_type):
    packet = Packet(data, True, gso_type, 1000 if gso_type else 0)
    assert parse_vnet(build_vnet(packet, 14)) == (True, packet.gso_type, packet.gso_size)


# -- translate ----------------------------------------------------------------------------


@pytest.mark.parametrize("to_v4", [True, False])
@pytest.mark.parametrize("protocol", [TCP_, UDP_])
@pytest.mark.parametrize("flags", [0, DATA_VALID])
def test_translate_a_whole_checksum(to_v4, protocol, flags):
    # What was verified does not verify the translation.
    header = vnet(flags, 0, 0, 0, 0, 0)
    assert translate_vnet(header, protocol, 14, to_v4=to_v4) == (bytes(10), False, 0)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("to_v4", [True, False])
@pytest.mark.parametrize(("protocol", "at"), [(TCP_, TCP_CSUM), (UDP_, UDP_CSUM)])
@pytest.mark.parametrize("flags", [NEEDS_CSUM, NEEDS_CSUM | DATA_VALID])
def test_translate_a_partial_checksum(link, to_v4, protocol, at, flags):
    old, new = (40, 20) if to_v4 else (20, 40)
    header = vnet(flags, 0, 0, 0, link + old, at)
    expected = vnet(NEEDS_CSUM, 0, 0, 0, link + new, at)
    assert translate_vnet(header, protocol, link, to_v4=to_v4) == (expected, True, 0)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize("ecn", [0, GSO_ECN])
@pytest.mark.parametrize(
    ("to_v4", "before", "after", "old", "new"),
    [(True, GSO_TCPV6, GSO_TCPV4, 40, 20), (False, GSO_TCPV4, GSO_TCPV6, 20, 40)],
)
def test_translate_a_tcp_super_packet(link, ecn, to_v4, before, after, old, new):
    header = vnet(NEEDS_CSUM, before | ecn, link + old + 32, 1400, link + old, TCP_CSUM)
    expected = vnet(NEEDS_CSUM, after | ecn, link + new + 32, 1400, link + new, TCP_CSUM)
    assert translate_vnet(header, TCP_, link, to_v4=to_v4) == (expected, True, 1400)


@pytest.mark.parametrize("link", LINKS)
@pytest.mark.parametrize(("to_v4", "old", "new"), [(True, 40, 20), (False, 20, 40)])
def test_translate_a_udp_super_packet(link, to_v4, old, new):
    header = vnet(NEEDS_CSUM, GSO_UDP_L4, link + old + 8, 1200, link + old, UDP_CSUM)
    expected = vnet(NEEDS_CSUM, GSO_UDP_L4, link + new + 8, 1200, link + new, UDP_CSUM)
    assert translate_vnet(header, UDP_, link, to_v4=to_v4) == (expected, True, 1200)


TO_V4_TCP = {
    "gso_type": GSO_TCPV6,
    "hdr_len": 74,
    "gso_size": 1400,
    "csum_start": 54,
    "csum_offset": TCP_CSUM,
}


@pytest.mark.parametrize(
    ("protocol", "changes"),
    [
        (TCP_, {"flags": NEEDS_CSUM | RSC_INFO}),
        (TCP_, {"flags": RSC_INFO, "gso_type": 0}),
        (TCP_, {"flags": 0}),  # a super-packet has no whole checksum
        (TCP_, {"csum_start": 53}),
        (TCP_, {"csum_start": 34}),
        (TCP_, {"csum_start": 40}),
        (TCP_, {"csum_offset": UDP_CSUM}),
        (TCP_, {"csum_offset": 0}),
        (UDP_, {"gso_type": GSO_UDP_L4}),
        (TCP_, {"gso_type": GSO_TCPV4}),  # of the other family
        (TCP_, {"gso_type": GSO_UDP}),
        (TCP_, {"gso_type": GSO_UDP_L4}),
        (TCP_, {"gso_type": 6}),
        (TCP_, {"gso_size": 0}),
        (TCP_, {"hdr_len": 53}),
        (UDP_, {"gso_type": GSO_TCPV6, "csum_offset": UDP_CSUM}),
        (UDP_, {"gso_type": GSO_UDP, "csum_offset": UDP_CSUM}),
        (UDP_, {"gso_type": GSO_UDP_L4 | GSO_ECN, "csum_offset": UDP_CSUM}),
    ],
)
def test_translate_leaves_the_rest_to_the_slow_path(protocol, changes):
    assert translate_vnet(vnet(**TO_V4_TCP), TCP_, 14, to_v4=True) is not None
    assert translate_vnet(vnet(**{**TO_V4_TCP, **changes}), protocol, 14, to_v4=True) is None


def test_translate_other_family_to_v6():
    header = vnet(NEEDS_CSUM, GSO_TCPV6, 66, 1400, 34, TCP_CSUM)
    assert translate_vnet(header, TCP_, 14, to_v4=False) is None


@pytest.mark.parametrize(("protocol", "at"), [(TCP_, TCP_CSUM), (UDP_, UDP_CSUM)])
def test_translate_there_and_back(protocol, at):
    gso = GSO_TCPV6 if protocol == TCP_ else GSO_UDP_L4
    header = vnet(NEEDS_CSUM, gso, 94, 1111, 54, at)
    there = translate_vnet(header, protocol, 14, to_v4=True)
    assert there is not None
    back = translate_vnet(there[0], protocol, 14, to_v4=False)
    assert back == (header, True, 1111)
