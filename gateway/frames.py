"""Frames of the device and packets of the translator: taking apart and putting together.

Used by the slow path; the fast path rewrites frames where they lie. A frame is an optional
virtio-net header, an Ethernet header on a tap device and none on a tun device, and the packet.
"""

from __future__ import annotations

from dataclasses import dataclass

from translate.packets import GSO_NONE, Packet
from translate.vnet import VNET_SIZE, build_vnet, parse_vnet

ETHERTYPE_IPV4 = b"\x08\x00"
ETHERTYPE_IPV6 = b"\x86\xdd"
ETHERTYPE_ARP = b"\x08\x06"
ETHERNET_HEADER = 14


@dataclass(frozen=True, slots=True)
class FrameFormat:
    """How frames of one device look.

    `host_mac`: 6 bytes, where IPv4 packets and everything without another address go;
    `own_mac`: the gateway's. Both are empty on a tun device.
    """

    vnet: bool
    host_mac: bytes = b""
    own_mac: bytes = b""

    @property
    def ethernet(self) -> bool:
        """Whether frames have an Ethernet header (tap)."""
        return bool(self.own_mac)

    @property
    def link_size(self) -> int:
        """Bytes of link-layer header."""
        return ETHERNET_HEADER if self.own_mac else 0

    @property
    def header_size(self) -> int:
        """Bytes in front of the packet."""
        return self.link_size + (VNET_SIZE if self.vnet else 0)

    @property
    def ethernet4(self) -> bytes:
        """The Ethernet header of IPv4 packets to the host, b"" on tun."""
        return self.host_mac + self.own_mac + ETHERTYPE_IPV4 if self.own_mac else b""

    @property
    def ethernet6_tail(self) -> bytes:
        """What follows the destination in front of IPv6 packets, b"" on tun."""
        return self.own_mac + ETHERTYPE_IPV6 if self.own_mac else b""

    def split(self, frame: bytes) -> tuple[bytes, Packet] | None:
        """(Ethernet header, packet) of a frame, or None when it is too short for one.

        Padding behind the packet (IEEE 802.3 wants 60 bytes) is cut off. On tun the Ethernet
        header is b"".
        """
        size = self.header_size
        if len(frame) < size:
            return None
        partial, gso_type, gso_size = False, GSO_NONE, 0
        at = 0
        if self.vnet:
            partial, gso_type, gso_size = parse_vnet(frame[:VNET_SIZE])
            at = VNET_SIZE
        header = frame[at:size]
        return header, Packet(
            without_padding(frame[size:]), partial, gso_type, gso_size, header[6:12]
        )

    def join(self, packet: Packet) -> bytes:
        """The frame that carries a packet of the translator's to the host or a client."""
        header = b""
        if self.own_mac:
            kind = ETHERTYPE_IPV4 if packet.data[0] >> 4 == 4 else ETHERTYPE_IPV6
            header = (packet.link or self.host_mac) + self.own_mac + kind
        vnet = build_vnet(packet, self.link_size) if self.vnet else b""
        return vnet + header + packet.data

    def plain(self, ethernet_frame: bytes) -> bytes:
        """A finished Ethernet frame without offloads, as the device wants it."""
        return (bytes(VNET_SIZE) if self.vnet else b"") + ethernet_frame


def without_padding(data: bytes) -> bytes:
    """The IP packet alone: cut to the length in its header where there is more."""
    if len(data) >= 20 and data[0] >> 4 == 4:
        length = int.from_bytes(data[2:4], "big")
    elif len(data) >= 40 and data[0] >> 4 == 6:
        length = 40 + int.from_bytes(data[4:6], "big")
    else:
        return data
    return data[:length] if 20 <= length < len(data) else data
