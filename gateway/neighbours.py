"""The gateway as a neighbour on the tap's link: ARP, NDP and a ping of its link-local address.

Pure: frames in, frames out. It answers for its own addresses (fe80::5 and the IPv4 next hop)
and for every address of its prefixes and of pool4, so that routes to the device without a next
hop work too. It never asks: where a client is it learns from the client's own frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import dpkt

from gateway.frames import ETHERTYPE_ARP, ETHERTYPE_IPV6
from translate.addresses import is_unicast6
from translate.checksum import fold, ones_sum, pseudo_header_sum
from translate.headers import build_ipv6
from translate.packets import IPv6View, Protocol, parse_ipv6
from translate.reasons import Discard
from translate.transport import fill_checksum

OWN_LINK_LOCAL = IPv6Address("fe80::5").packed
NEXT_HOP4 = IPv4Address("192.0.0.8").packed

_ALL_NODES = IPv6Address("ff02::1").packed
_SOLICITATION, _ADVERTISEMENT, _ECHO, _ECHO_REPLY = 135, 136, 128, 129
_SOLICITED, _OVERRIDE, _ROUTER = 0x40, 0x20, 0x80
_SOURCE_LINK, _TARGET_LINK_ADDRESS = 1, 2
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What the gateway answers for. `mac`: its own Ethernet address, 6 bytes."""

    mac: bytes
    prefixes: tuple[IPv6Network, ...]
    pool4: tuple[IPv4Network, ...]

    def answer(self, ethernet: bytes, payload: bytes) -> bytes | None:
        """The Ethernet frame that answers one of ARP, NDP or ping, or None.

        `ethernet`: the 14 bytes of header, `payload` what follows. Anything malformed gets
        None, never an exception.
        """
        kind = ethernet[12:14]
        if kind == ETHERTYPE_ARP:
            return self._arp(payload)
        if kind == ETHERTYPE_IPV6:
            return self._ipv6(ethernet, payload)
        return None

    def _arp(self, payload: bytes) -> bytes | None:
        try:
            request = dpkt.arp.ARP(payload)
        except (dpkt.UnpackError, ValueError):
            return None
        if (request.op, request.hrd, request.pro) != (dpkt.arp.ARP_OP_REQUEST, 1, 0x0800):
            return None
        if (request.hln, request.pln) != (6, 4) or not self._owns4(request.tpa):
            return None
        # RFC 5227 §2.1.1: a probe (sender 0.0.0.0) for an address of ours is answered too.
        reply = dpkt.arp.ARP(
            op=dpkt.arp.ARP_OP_REPLY,
            sha=self.mac,
            spa=request.tpa,
            tha=request.sha,
            tpa=request.spa,
        )
        return bytes(request.sha) + self.mac + ETHERTYPE_ARP + bytes(reply)

    def _owns4(self, addr4: bytes) -> bool:
        if addr4 == NEXT_HOP4:
            return True
        address = IPv4Address(addr4)
        return any(address in net for net in self.pool4)

    def _owns6(self, addr6: bytes) -> bool:
        if addr6 == OWN_LINK_LOCAL:
            return True
        address = IPv6Address(addr6)
        return any(address in net for net in self.prefixes)

    def _ipv6(self, ethernet: bytes, payload: bytes) -> bytes | None:
        try:
            view = parse_ipv6(payload)
        except Discard:
            return None
        if view.protocol != Protocol.ICMPV6 or view.fragment is not None or len(view.payload) < 8:
            return None
        pseudo = pseudo_header_sum(view.src, view.dst, len(view.payload), Protocol.ICMPV6)
        if fold(pseudo + ones_sum(view.payload)) != 0xFFFF:
            return None
        if view.payload[0] == _SOLICITATION:
            return self._solicitation(ethernet, view)
        if view.payload[0] == _ECHO and view.dst == OWN_LINK_LOCAL and is_unicast6(view.src):
            return self._echo(ethernet, view)
        return None

    def _solicitation(self, ethernet: bytes, view: IPv6View) -> bytes | None:
        """A Neighbor Advertisement for a valid solicitation (RFC 4861 §7.1.1, §7.2.4)."""
        if view.hop_limit != 255 or view.payload[1] or len(view.payload) < 24:
            return None
        target = view.payload[8:24]
        if not self._owns6(target):
            return None
        options = _options(view.payload[24:])
        if options is None:
            return None
        probing = not any(view.src)  # duplicate address detection, RFC 4862 §5.4.3
        if probing and (view.dst != _SOLICITED_NODE + target[13:] or _SOURCE_LINK in options):
            return None
        flags = _ROUTER | _OVERRIDE if probing else _ROUTER | _OVERRIDE | _SOLICITED
        destination = _ALL_NODES if probing else view.src
        message = bytearray(bytes((_ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0)) + target)
        message += bytes((_TARGET_LINK_ADDRESS, 1)) + self.mac
        fill_checksum(Protocol.ICMPV6, message, target, destination)
        data = build_ipv6(
            traffic_class=0,
            hop_limit=255,
            protocol=Protocol.ICMPV6,
            src=target,
            dst=destination,
            payload=bytes(message),
        )
        mac = b"\x33\x33" + destination[12:] if probing else ethernet[6:12]
        return mac + self.mac + ETHERTYPE_IPV6 + data

    def _echo(self, ethernet: bytes, view: IPv6View) -> bytes:
        message = bytearray(view.payload)
        message[0] = _ECHO_REPLY
        fill_checksum(Protocol.ICMPV6, message, view.dst, view.src)
        data = build_ipv6(
            traffic_class=view.traffic_class,
            hop_limit=64,
            protocol=Protocol.ICMPV6,
            src=view.dst,
            dst=view.src,
            payload=bytes(message),
        )
        return ethernet[6:12] + self.mac + ETHERTYPE_IPV6 + data


def _options(data: bytes) -> set[int] | None:
    """The types of NDP options; None when one has length 0 or runs over (RFC 4861 §4.6)."""
    kinds = set()
    while data:
        size = data[1] * 8 if len(data) > 1 else 0
        if not 0 < size <= len(data):
            return None
        kinds.add(data[0])
        data = data[size:]
    return kinds
