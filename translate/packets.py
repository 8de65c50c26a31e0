"""One IP packet in the slow path: the bytes, what the device said of them, and typed views.

    IPv4 (RFC 791)                          IPv6 (RFC 8200)
     0 version, header length                0 version, traffic class, flow label
     1 type of service                       4 payload length
     2 total length                          6 next header
     4 identification                        7 hop limit
     6 flags, fragment offset                8 source
     8 time to live   9 protocol            24 destination
    10 header checksum                      40 extension headers, then the payload
    12 source        16 destination
    20 options, then the payload

The parsers check every length against the bytes that are there and raise `Discard`, nothing
else. They accept what RFC 7915 lets a translator forward and leave transport headers alone.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from translate.reasons import Discard, Reason


class Protocol(IntEnum):
    """IP protocol numbers that the translator names."""

    HOP_BY_HOP = 0
    ICMP = 1
    IGMP = 2
    TCP = 6
    UDP = 17
    ROUTING = 43
    FRAGMENT = 44
    AUTHENTICATION = 51
    ICMPV6 = 58
    NO_NEXT_HEADER = 59
    DESTINATION_OPTIONS = 60


IPV4_HEADER = struct.Struct("!BBHHHBBH4s4s")
IPV6_HEADER = struct.Struct("!IHBB16s16s")

DF = 0x4000
MF = 0x2000

# virtio_net_hdr gso_type (Linux uapi/linux/virtio_net.h).
GSO_NONE = 0
GSO_TCPV4 = 1
GSO_TCPV6 = 4
GSO_UDP_L4 = 5
GSO_ECN = 0x80


@dataclass(slots=True)
class Packet:
    """One IP packet with what its device knows about it.

    `data` starts at the IP header and has exactly the packet's length. `partial`: the TCP or
    UDP checksum field holds only the folded pseudo-header sum, to be completed by whoever
    segments or sends it. `gso_type`, `gso_size`: a super-packet that stands for segments of
    `gso_size` payload bytes each. `link`: Ethernet address, on the way in where the frame
    came from, on the way out where it has to go (empty: the host). `is_own`: an ICMPv4 error
    that the translator itself sends; when it hairpins it is the translator's in IPv6, too.
    """

    data: bytes
    partial: bool = False
    gso_type: int = GSO_NONE
    gso_size: int = 0
    link: bytes = b""
    is_own: bool = False


@dataclass(slots=True)
class Fragment:
    """Position of a fragment: offset in bytes, whether more follow, identification."""

    offset: int
    more: bool
    ident: int


@dataclass(slots=True)
class IPv4View:
    """A parsed IPv4 header; `payload` is what follows it, cut to the total length."""

    tos: int
    ident: int
    df: bool
    fragment: Fragment | None
    ttl: int
    protocol: int
    src: bytes
    dst: bytes
    options: bytes
    payload: bytes
    total_length: int


@dataclass(slots=True)
class IPv6View:
    """A parsed IPv6 header chain; `payload` starts at the upper-layer header.

    `protocol` is the first next-header value that is no extension header skipped here.
    `routing_pointer`: offset, in bytes from the IPv6 header, of the segments-left field of a
    Routing header that is not used up, else None. `upper_length`: what the header says is
    behind the extension headers; more than `payload` has when the packet is truncated.
    `has_cut_headers`: an extension header follows the Fragment header.
    """

    traffic_class: int
    hop_limit: int
    protocol: int
    src: bytes
    dst: bytes
    fragment: Fragment | None
    routing_pointer: int | None
    protocol_pointer: int
    payload: bytes
    upper_length: int
    has_cut_headers: bool


def parse_ipv4(data: bytes, *, truncated: bool = False) -> IPv4View:
    """The view of an IPv4 packet. Raises Discard.

    `truncated`: the packet is the inside of an ICMP error: it may be shorter than it says,
    and what follows it is padding or an extension (RFC 4884 §4).
    """
    if len(data) < 20:
        raise Discard(Reason.MALFORMED)
    first, tos, total, ident, frag, ttl, protocol, _, src, dst = IPV4_HEADER.unpack_from(data)
    header_length = (first & 15) * 4
    if first >> 4 != 4 or header_length < 20 or len(data) < header_length:
        raise Discard(Reason.MALFORMED)
    if total < header_length or (len(data) != total and not truncated):
        raise Discard(Reason.BAD_LENGTH)
    data = data[:total]
    fragment = None
    if frag & 0x3FFF:
        fragment = Fragment((frag & 0x1FFF) * 8, bool(frag & MF), ident)
    return IPv4View(
        tos,
        ident,
        bool(frag & DF),
        fragment,
        ttl,
        protocol,
        src,
        dst,
        data[20:header_length],
        data[header_length:],
        total,
    )


_SKIPPED = frozenset({Protocol.HOP_BY_HOP, Protocol.ROUTING, Protocol.DESTINATION_OPTIONS})
_EXTENSIONS = _SKIPPED | {Protocol.FRAGMENT, Protocol.AUTHENTICATION}


def parse_ipv6(data: bytes, *, truncated: bool = False) -> IPv6View:
    """The view of an IPv6 packet, extension headers skipped (RFC 7915 §5.1). Raises Discard.

    Hop-by-hop options, destination options, Routing and the Fragment header are walked over;
    anything else, an Authentication header too, is the upper layer.
    """
    if len(data) < 40:
        raise Discard(Reason.MALFORMED)
    word, length, protocol, hop_limit, src, dst = IPV6_HEADER.unpack_from(data)
    if word >> 28 != 6:
        raise Discard(Reason.MALFORMED)
    if len(data) != length + 40 and not truncated:
        raise Discard(Reason.BAD_LENGTH)
    data = data[: length + 40]
    at = 40
    pointer = 6
    fragment = None
    has_cut_headers = False
    routing_pointer = None
    while True:
        if protocol == Protocol.FRAGMENT and fragment is None:
            if len(data) < at + 8:
                raise Discard(Reason.MALFORMED)
            following, _, position, ident = struct.unpack_from("!BBHI", data, at)
            fragment = Fragment(position & 0xFFF8, bool(position & 1), ident)
            pointer, protocol, at = at, following, at + 8
            has_cut_headers = protocol in _EXTENSIONS
            if fragment.offset:
                break
        elif protocol in _SKIPPED:
            if len(data) < at + 8:
                raise Discard(Reason.MALFORMED)
            size = 8 + data[at + 1] * 8
            if len(data) < at + size:
                raise Discard(Reason.MALFORMED)
            if protocol == Protocol.ROUTING and data[at + 3] and routing_pointer is None:
                routing_pointer = at + 3
            pointer, protocol, at = at, data[at], at + size
        else:
            break
    return IPv6View(
        word >> 20 & 0xFF,
        hop_limit,
        protocol,
        src,
        dst,
        fragment,
        routing_pointer,
        pointer,
        data[at:],
        length + 40 - at,
        has_cut_headers,
    )
