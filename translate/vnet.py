"""The virtio-net header in front of each frame of a tap device (Linux uapi/linux/virtio_net.h).

     0 flags          NEEDS_CSUM: the transport checksum is still to be completed
     1 gso_type       kind of super-packet, or none
     2 hdr_len        bytes of all headers
     4 gso_size       payload bytes of one segment
     6 csum_start     where the checksummed part begins, from the start of the frame
     8 csum_offset    where in it the checksum field is

Numbers are in the host's byte order.
"""

from __future__ import annotations

import struct

from translate.packets import GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, Packet, Protocol
from translate.transport import CHECKSUM_AT

VNET = struct.Struct("=BBHHHH")
VNET_SIZE = VNET.size
NEEDS_CSUM = 1
DATA_VALID = 2


def parse_vnet(vnet: bytes) -> tuple[bool, int, int]:
    """(partial, gso_type, gso_size) as `Packet` wants them."""
    flags, gso_type, _, gso_size, _, _ = VNET.unpack(vnet)
    return bool(flags & NEEDS_CSUM), gso_type, gso_size if gso_type else 0


def build_vnet(packet: Packet, link_header: int) -> bytes:
    """The header for a packet behind `link_header` bytes of link-layer header.

    IPv4 packets in question have no options and IPv6 ones no extension headers, because only
    translated ones carry offloads.
    """
    if not packet.partial:
        return bytes(VNET_SIZE)
    data = packet.data
    version4 = data[0] >> 4 == 4
    at = 20 if version4 else 40
    protocol = Protocol(data[9] if version4 else data[6])
    csum_offset = CHECKSUM_AT[protocol]
    transport = (data[at + 12] >> 4) * 4 if protocol == Protocol.TCP else 8
    hdr_len = link_header + at + transport if packet.gso_type else 0
    return VNET.pack(
        NEEDS_CSUM, packet.gso_type, hdr_len, packet.gso_size, link_header + at, csum_offset
    )


def translate_vnet(
    vnet: bytes, protocol: int, link_header: int, *, to_v4: bool
) -> tuple[bytes, bool, int] | None:
    """(translated header, partial, gso_size) of a TCP or UDP frame for the fast path.

    None where the slow path has to look. The result depends on the arguments alone, so it
    can be remembered.
    """
    flags, gso_type, hdr_len, gso_size, csum_start, csum_offset = VNET.unpack(vnet)
    old, new, shift = (40, 20, -20) if to_v4 else (20, 40, 20)
    if flags & ~(NEEDS_CSUM | DATA_VALID):
        return None
    if not flags & NEEDS_CSUM:
        return (bytes(VNET_SIZE), False, 0) if gso_type == GSO_NONE else None
    if csum_start != link_header + old or csum_offset != CHECKSUM_AT.get(Protocol(protocol)):
        return None
    kind = gso_type & ~GSO_ECN
    if kind == GSO_NONE:
        return VNET.pack(NEEDS_CSUM, 0, 0, 0, link_header + new, csum_offset), True, 0
    if protocol == Protocol.TCP and kind == (GSO_TCPV6 if to_v4 else GSO_TCPV4):
        gso_type = (GSO_TCPV4 if to_v4 else GSO_TCPV6) | gso_type & GSO_ECN
    elif protocol != Protocol.UDP or gso_type != GSO_UDP_L4:
        return None
    if gso_size == 0 or hdr_len < link_header + old:
        return None
    header = VNET.pack(
        NEEDS_CSUM, gso_type, hdr_len + shift, gso_size, link_header + new, csum_offset
    )
    return header, True, gso_size
