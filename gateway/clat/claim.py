"""Asks the uplink whether somebody has an address before the CLAT takes it (RFC 4862 §5.4).

And hears who says to have it later, which the kernel tells nobody.

The kernel probes what it is given as its own addresses, and not those that it answers for as a
proxy, so it is done here: one neighbour solicitation from the unspecified address for each, and a
second for the answers. A packet socket, because no other one sends from that address. An
advertisement for the address says that it is somebody's, and so does a solicitation from the
unspecified address, by which somebody else is about to take it (§5.4.3).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import closing
from ipaddress import IPv6Address

import trio

from gateway.clat.states import Uplink
from gateway.host.netlink import explaining
from gateway.ra.icmp6_socket import Icmp6Socket
from translate.checksum import fold, ones_sum

# RFC 4862 §5.1: one probe; RFC 4861 §10: RETRANS_TIMER, in seconds.
WAIT = 1.0

_ETH_P_IPV6 = 0x86DD
_SOL_PACKET, _ADD_MEMBERSHIP, _MULTICAST = 263, 1, 0
_PACKET_OUTGOING = 4
_ICMP6 = 58
_SOLICITATION, _ADVERTISEMENT = 135, 136
_GROUP = IPv6Address("ff02::1:ff00:0").packed[:13]
_UNSPECIFIED = bytes(16)
_TARGET = slice(48, 64)
_SHORTEST = 64  # bytes: IPv6 header, and an advertisement without options
_TARGET_LINK = b"\2\1"  # the option with the target's MAC (RFC 4861 §4.6.1)

# Told of the source of an advertisement and of the address that it is about.
Claimed = Callable[[IPv6Address, IPv6Address], None]


def solicitation(address: IPv6Address) -> bytes:
    """An IPv6 packet that asks who has the address (RFC 4862 §5.4.2). Pure."""
    group = _GROUP + address.packed[13:]
    body = struct.pack(">BBHI", _SOLICITATION, 0, 0, 0) + address.packed
    complement = 0xFFFF - fold(_pseudo_sum(_UNSPECIFIED + group, body))
    body = body[:2] + struct.pack(">H", complement) + body[4:]
    return struct.pack(">IHBB", 0x6000_0000, len(body), _ICMP6, 255) + _UNSPECIFIED + group + body


def taken_by(packet: bytes) -> IPv6Address | None:
    """The address that somebody else says to have, or to be about to take; else None. Pure."""
    if len(packet) < _SHORTEST or packet[0] >> 4 != 6:
        return None
    (length,) = struct.unpack_from(">H", packet, 4)
    next_header, hop_limit, kind, code = packet[6], packet[7], packet[40], packet[41]
    body = packet[40 : 40 + length]
    # RFC 4861 §7.1: from this link, whole, and as it was sent.
    if next_header != _ICMP6 or hop_limit != 255 or code or len(body) < max(24, length):
        return None
    if fold(_pseudo_sum(packet[8:40], body)) != 0xFFFF:
        return None
    is_probe = kind == _SOLICITATION and packet[8:24] == _UNSPECIFIED
    if kind != _ADVERTISEMENT and not is_probe:
        return None
    return IPv6Address(packet[_TARGET])


def _pseudo_sum(addresses: bytes, body: bytes) -> int:
    return ones_sum(addresses + struct.pack(">II", len(body), _ICMP6) + body)


async def find_taken(uplink: Uplink, addresses: Sequence[IPv6Address]) -> set[IPv6Address]:
    """Those of the addresses that somebody on the uplink has. Takes a second. Raises HostError."""
    if not uplink.mac:
        return set()  # without a link layer there are no neighbours
    found: set[IPv6Address] = set()
    with explaining(f"ask who has an address on {uplink.name}"):
        kind = socket.htons(_ETH_P_IPV6)
        with closing(trio.socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, kind)) as sock:
            await sock.bind((uplink.name, _ETH_P_IPV6))
            for address in addresses:
                group = b"\x33\x33\xff" + address.packed[13:]
                member = struct.pack("@iHH8s", uplink.index, _MULTICAST, 6, group)
                sock.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, member)
                to = (uplink.name, _ETH_P_IPV6, 0, 0, group)
                await sock.sendto(solicitation(address), to)
            with trio.move_on_after(WAIT):
                while len(found) < len(addresses):
                    packet, sender = await sock.recvfrom(2048)
                    # Our own, as they leave or come back by a loop of the link (RFC 7527).
                    if sender[2] == _PACKET_OUTGOING or sender[4] == uplink.mac:
                        continue
                    owned = taken_by(packet)
                    if owned is not None and owned in addresses:
                        found.add(owned)
    return found


def claim_in(message: bytes, hop_limit: int, own_mac: bytes) -> IPv6Address | None:
    """The address of a neighbour advertisement that is not our own (RFC 4861 §7.1.2). Pure.

    `message`: of ICMPv6, whose checksum the kernel has verified.
    """
    if len(message) < 24 or message[0] != _ADVERTISEMENT or message[1] or hop_limit != 255:
        return None
    if _TARGET_LINK + own_mac == message[24:32]:
        return None  # came back by a loop of the link (RFC 7527)
    return IPv6Address(message[8:24])


async def hear_claims(uplink: Uplink, claimed: Claimed) -> None:
    """Tells `claimed` what neighbours on the uplink say to all nodes and to us, until cancelled.

    Raises HostError, and OSError when the interface goes.
    """
    with explaining(f"listen to neighbours on {uplink.name}"):
        sock = Icmp6Socket(uplink.index, uplink.name, _ADVERTISEMENT)
    with closing(sock):
        while True:
            message, hop_limit, source = await sock.receive(2048)
            address = claim_in(message, hop_limit, uplink.mac)
            if address is not None:
                claimed(source, address)
