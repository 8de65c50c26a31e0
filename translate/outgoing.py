"""The translated packet of a session, in either direction (RFC 7915 §4.1, §5.1).

The last step: everything has been decided, and what is left is arithmetic. A super-packet is
handed on whole where its translation fits the length field, and cut where it does not. Sizes
are those of a segment, never of the super-packet that stands for many.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from translate.checksum import pseudo_header_sum
from translate.headers import DF_CLEAR_UP_TO, build_ipv4, build_ipv6
from translate.icmp import Icmp4, Icmp6
from translate.icmp_errors import rewrite_echo
from translate.own_errors import OwnErrors
from translate.packets import (
    GSO_ECN,
    GSO_NONE,
    GSO_TCPV4,
    GSO_TCPV6,
    GSO_UDP_L4,
    IPv4View,
    IPv6View,
    Packet,
    Protocol,
    parse_ipv4,
    parse_ipv6,
)
from translate.reasons import Discard, Reason
from translate.segments import complete_checksum, fragment_ipv6, split
from translate.sessions import Session
from translate.settings import Settings, ZeroChecksum
from translate.tcp_states import SYN
from translate.transport import clamp_mss, fill_checksum, rewrite

_MAX_IPV4 = 65535


class Carrier(Interface):
    """What the last step needs of a translator, stateful or not."""

    @property
    def settings(self) -> Settings:
        """The settings in force."""

    @property
    def errors(self) -> OwnErrors:
        """What builds the translator's own errors."""

    @property
    def path_mtu(self) -> Callable[[bytes], int]:
        """How large a packet to an address of 16 or 4 bytes may be."""

    def take_ident(self, session: Session, count: int) -> int:
        """The first of `count` identifications in a row for packets of a session."""


def check_offload(packet: Packet, protocol: int) -> None:
    """Raises Discard where the device's metadata cannot be true of a packet of this protocol."""
    kind = packet.gso_type & ~GSO_ECN
    if kind == GSO_NONE and not packet.gso_type:
        return
    tcp = GSO_TCPV4 if packet.data[0] >> 4 == 4 else GSO_TCPV6
    if packet.partial and packet.gso_size > 0:
        if protocol == Protocol.TCP and kind == tcp:
            return
        if protocol == Protocol.UDP and packet.gso_type == GSO_UDP_L4:
            return
    raise Discard(Reason.MALFORMED)


def to_v4(
    core: Carrier, session: Session, packet: Packet, view: IPv6View, now: float
) -> list[Packet]:
    """The IPv4 packet for one from the session's client. Raises Discard."""
    if packet.partial and session.protocol == Protocol.ICMP:
        packet = complete_checksum(packet)
        view = parse_ipv6(packet.data)
    if len(view.payload) + 20 > _MAX_IPV4:
        if packet.gso_type == GSO_NONE:
            answer = core.errors.to_v6(packet, view, Icmp6.PACKET_TOO_BIG, 0, now, _MAX_IPV4 + 20)
            raise Discard(Reason.TOO_BIG, answer)
        out: list[Packet] = []
        for segment in split(packet):
            out += to_v4(core, session, segment, parse_ipv6(segment.data), now)
        return out
    payload = bytearray(view.payload)
    if session.protocol == Protocol.ICMP:
        kind = Icmp4.ECHO if payload[0] == Icmp6.ECHO else Icmp4.ECHO_REPLY
        pseudo = pseudo_header_sum(view.src, view.dst, len(payload), Protocol.ICMPV6)
        rewrite_echo(payload, kind, session.tail4[8:10], gained=0xFFFF - pseudo)
    else:
        rewrite(
            session.protocol,
            payload,
            session.tail4[8:12],
            delta_addresses=session.delta_addresses,
            delta_full=session.delta_full,
            partial=packet.partial,
        )
        if session.protocol == Protocol.TCP:
            _clamp(core, session, payload, packet)
    fragment = view.fragment
    if fragment is not None:
        # RFC 7915 §5.1.1: also for the only fragment of a datagram.
        df, ident = False, fragment.ident & 0xFFFF
    else:
        size, count = _segment_size(packet, payload, 20)
        df, ident = size > DF_CLEAR_UP_TO, 0
        if not df:
            ident = core.take_ident(session, count)
    data = build_ipv4(
        tos=tos4(core, view),
        ident=ident,
        df=df,
        fragment=fragment,
        ttl=view.hop_limit - 1,
        protocol=session.protocol,
        src=session.pool4,
        dst=session.server4,
        payload=bytes(payload),
    )
    return [Packet(data, packet.partial, _gso(packet.gso_type, GSO_TCPV4), packet.gso_size)]


def piece_to_v4(core: Carrier, session: Session, view: IPv6View) -> Packet:
    """The IPv4 fragment for a piece that has no transport header."""
    piece = view.fragment
    assert piece is not None
    data = build_ipv4(
        tos=tos4(core, view),
        ident=piece.ident & 0xFFFF,
        df=False,
        fragment=piece,
        ttl=view.hop_limit - 1,
        protocol=session.protocol,
        src=session.pool4,
        dst=session.server4,
        payload=view.payload,
    )
    return Packet(data)


def piece_to_v6(core: Carrier, session: Session, view: IPv4View) -> list[Packet]:
    """The IPv6 fragments for a piece that has no transport header."""
    piece = view.fragment
    assert piece is not None
    protocol = Protocol.ICMPV6 if session.protocol == Protocol.ICMP else session.protocol
    data = build_ipv6(
        traffic_class=traffic_class6(core, view),
        hop_limit=view.ttl - 1,
        protocol=protocol,
        src=session.server6,
        dst=session.client6,
        payload=view.payload,
        fragment=piece,
    )
    whole = Packet(data, link=session.client.link)
    lowest = core.settings.lowest_ipv6_mtu
    return [whole] if view.df or len(data) <= lowest else fragment_ipv6(whole, lowest, piece.ident)


def tos4(core: Carrier, view: IPv6View) -> int:
    """The type of service of the IPv4 packet (RFC 7915 §5.1)."""
    override = core.settings.tos
    return view.traffic_class if override is None else override


def traffic_class6(core: Carrier, view: IPv4View) -> int:
    """The traffic class of the IPv6 packet (RFC 7915 §4.1)."""
    override = core.settings.traffic_class
    return view.tos if override is None else override


def to_v6(core: Carrier, session: Session, packet: Packet, view: IPv4View) -> list[Packet]:
    """The IPv6 packets for one from the session's server: several where it is fragmented."""
    size, _ = _segment_size(packet, view.payload, 40)
    if view.fragment is not None:
        size += 8
    lowest = core.settings.lowest_ipv6_mtu
    if view.df or size <= lowest:
        return [_whole_to_v6(core, session, packet, view)]
    out: list[Packet] = []
    for segment in split(packet):
        segment_view = parse_ipv4(segment.data)
        segment_view.fragment = view.fragment
        whole = _whole_to_v6(core, session, segment, segment_view)
        if len(whole.data) > lowest:
            out += fragment_ipv6(whole, lowest, segment_view.ident)
        else:
            out.append(whole)
    return out


def _whole_to_v6(core: Carrier, session: Session, packet: Packet, view: IPv4View) -> Packet:
    if packet.partial and session.protocol == Protocol.ICMP:
        packet = complete_checksum(packet)
        view = parse_ipv4(packet.data)
    payload = bytearray(view.payload)
    if session.protocol == Protocol.ICMP:
        kind = Icmp6.ECHO if payload[0] == Icmp4.ECHO else Icmp6.ECHO_REPLY
        pseudo = pseudo_header_sum(session.server6, session.client6, len(payload), Protocol.ICMPV6)
        rewrite_echo(payload, kind, session.key6[32:34], gained=pseudo)
        protocol: int = Protocol.ICMPV6
    else:
        protocol = session.protocol
        zero = protocol == Protocol.UDP and not packet.partial and not any(payload[6:8])
        rewrite(
            protocol,
            payload,
            session.tail6[32:36],
            delta_addresses=0xFFFF - session.delta_addresses,
            delta_full=0xFFFF - session.delta_full,
            partial=packet.partial,
        )
        if zero and core.settings.udp_zero_checksum is ZeroChecksum.CALCULATE:
            # RFC 7915 §4.5: IPv6 needs one.
            fill_checksum(protocol, payload, session.server6, session.client6)
        if protocol == Protocol.TCP:
            _clamp(core, session, payload, packet)
    data = build_ipv6(
        traffic_class=traffic_class6(core, view),
        hop_limit=view.ttl - 1,
        protocol=protocol,
        src=session.server6,
        dst=session.client6,
        payload=bytes(payload),
        fragment=view.fragment,
    )
    gso_type = _gso(packet.gso_type, GSO_TCPV6)
    return Packet(data, packet.partial, gso_type, packet.gso_size, session.client.link)


def _clamp(core: Carrier, session: Session, payload: bytearray, packet: Packet) -> None:
    settings = core.settings
    if not payload[13] & SYN or settings.mss_clamp == 0:
        return
    limit = settings.mss_clamp
    if limit is None:
        mtu6 = min(
            settings.mtu,
            core.path_mtu(session.client6),
            core.path_mtu(session.server4) + 20,
        )
        limit = max(mtu6 - 60, 1)
    clamp_mss(payload, limit, partial=packet.partial)


def _gso(gso_type: int, tcp_type: int) -> int:
    """The gso_type in the other family; UDP's is the same in both."""
    if gso_type & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6):
        return tcp_type | gso_type & GSO_ECN
    return gso_type


def _segment_size(packet: Packet, payload: bytes | bytearray, header: int) -> tuple[int, int]:
    """Size of the largest packet on the wire with an IP header of `header` bytes, and how many."""
    if packet.gso_type == GSO_NONE or packet.gso_size <= 0:
        return header + len(payload), 1
    tcp = packet.gso_type & ~GSO_ECN in (GSO_TCPV4, GSO_TCPV6)
    transport = (payload[12] >> 4) * 4 if tcp else 8
    body = len(payload) - transport
    count = max(1, -(-body // packet.gso_size))
    return header + transport + min(packet.gso_size, body), count
