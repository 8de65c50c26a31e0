"""Cutting packets: super-packets into segments, and IPv6 packets into fragments.

Only the slow path needs this, where a super-packet cannot be handed on whole: its translation
would exceed what a length field holds, or each of its segments needs fragmenting.
"""

from __future__ import annotations

from translate.headers import build_ipv4, build_ipv6
from translate.packets import (
    GSO_NONE,
    Fragment,
    Packet,
    Protocol,
    parse_ipv4,
    parse_ipv6,
)
from translate.transport import CHECKSUM_AT, fill_checksum

_FIN_PSH = 0x09
_CWR = 0x80


def complete_checksum(packet: Packet) -> Packet:
    """The packet with a full transport checksum in place of a partial one."""
    if not packet.partial:
        return packet
    if packet.data[0] >> 4 == 4:
        view4 = parse_ipv4(packet.data)
        payload, protocol, src, dst = bytearray(view4.payload), view4.protocol, view4.src, view4.dst
    else:
        view6 = parse_ipv6(packet.data)
        payload, protocol, src, dst = bytearray(view6.payload), view6.protocol, view6.src, view6.dst
    if protocol not in CHECKSUM_AT or len(payload) < CHECKSUM_AT[protocol] + 2:
        return packet
    fill_checksum(protocol, payload, src, dst)
    data = packet.data[: len(packet.data) - len(payload)] + bytes(payload)
    return Packet(data, link=packet.link)


def split(packet: Packet) -> list[Packet]:
    """The segments of a super-packet, each with full checksums; others come back alone.

    TCP: sequence numbers advance, FIN and PSH stay on the last segment, CWR on the first
    (RFC 3168 §6.1.2). UDP: each segment is a datagram of its own.
    """
    if packet.gso_type == GSO_NONE or packet.gso_size <= 0:
        return [complete_checksum(packet)]
    if packet.data[0] >> 4 == 4:
        view4 = parse_ipv4(packet.data)
        protocol, payload, src, dst = view4.protocol, view4.payload, view4.src, view4.dst
    else:
        view6 = parse_ipv6(packet.data)
        protocol, payload, src, dst = view6.protocol, view6.payload, view6.src, view6.dst
    header_length = (payload[12] >> 4) * 4 if protocol == Protocol.TCP else 8
    header, body = payload[:header_length], payload[header_length:]
    segments: list[Packet] = []
    for index, at in enumerate(range(0, max(len(body), 1), packet.gso_size)):
        part = body[at : at + packet.gso_size]
        segment = bytearray(header + part)
        if protocol == Protocol.TCP:
            sequence = int.from_bytes(header[4:8], "big") + at & 0xFFFFFFFF
            segment[4:8] = sequence.to_bytes(4, "big")
            if at + packet.gso_size < len(body):
                segment[13] &= ~_FIN_PSH & 0xFF
            if index:
                segment[13] &= ~_CWR & 0xFF
        else:
            segment[4:6] = len(segment).to_bytes(2, "big")
        fill_checksum(protocol, segment, src, dst)
        if packet.data[0] >> 4 == 4:
            data = build_ipv4(
                tos=view4.tos,
                ident=view4.ident + index & 0xFFFF,
                df=view4.df,
                fragment=None,
                ttl=view4.ttl,
                protocol=protocol,
                src=src,
                dst=dst,
                payload=bytes(segment),
            )
        else:
            data = build_ipv6(
                traffic_class=view6.traffic_class,
                hop_limit=view6.hop_limit,
                protocol=protocol,
                src=src,
                dst=dst,
                payload=bytes(segment),
            )
        segments.append(Packet(data, link=packet.link))
    return segments


def fragment_ipv6(packet: Packet, size: int, ident: int) -> list[Packet]:
    """Fragments of an IPv6 packet, each at most `size` bytes (RFC 8200 §4.5).

    `ident`: the 32-bit identification; `size` at least 56. A packet that is a fragment itself
    is cut further, and keeps its place in the datagram.
    """
    view = parse_ipv6(packet.data)
    base, more = 0, False
    if view.fragment is not None:
        base, more = view.fragment.offset, view.fragment.more
    room = (size - 48) & ~7
    fragments: list[Packet] = []
    for at in range(0, len(view.payload), room):
        part = view.payload[at : at + room]
        is_last = at + len(part) >= len(view.payload)
        data = build_ipv6(
            traffic_class=view.traffic_class,
            hop_limit=view.hop_limit,
            protocol=view.protocol,
            src=view.src,
            dst=view.dst,
            payload=part,
            fragment=Fragment(base + at, more or not is_last, ident),
        )
        fragments.append(Packet(data, link=packet.link))
    return fragments


def fragment_ipv4(packet: Packet, room: int, ident: int) -> list[Packet]:
    """Fragments of an unfragmented IPv4 packet, each with at most `room` bytes of payload.

    `room` is a multiple of 8 (RFC 791 §3.2), `ident` the 16-bit identification.
    """
    view = parse_ipv4(packet.data)
    fragments: list[Packet] = []
    for at in range(0, len(view.payload), room):
        part = view.payload[at : at + room]
        data = build_ipv4(
            tos=view.tos,
            ident=ident,
            df=False,
            fragment=Fragment(at, at + len(part) < len(view.payload), ident),
            ttl=view.ttl,
            protocol=view.protocol,
            src=view.src,
            dst=view.dst,
            payload=part,
        )
        fragments.append(Packet(data, link=packet.link))
    return fragments
