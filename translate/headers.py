"""Building IP headers of either family (RFC 7915 §4.1, §5.1)."""

from __future__ import annotations

from translate.checksum import internet_checksum
from translate.packets import DF, IPV4_HEADER, IPV6_HEADER, MF, Fragment, Protocol

# RFC 7915 §5.1: up to this IPv4 size DF stays clear, so that a path with a smaller MTU than
# IPv6's minimum of 1280 is never a black hole.
DF_CLEAR_UP_TO = 1260


def build_ipv4(
    *,
    tos: int,
    ident: int,
    df: bool,
    fragment: Fragment | None,
    ttl: int,
    protocol: int,
    src: bytes,
    dst: bytes,
    payload: bytes,
    total_length: int | None = None,
) -> bytes:
    """An IPv4 packet with a 20-byte header and a right header checksum.

    `total_length` is for packets inside ICMP errors, whose header says more than is there.
    """
    frag = DF if df else 0
    if fragment is not None:
        frag |= (fragment.offset >> 3) | (MF if fragment.more else 0)
    total = 20 + len(payload) if total_length is None else total_length
    header = IPV4_HEADER.pack(0x45, tos, total, ident, frag, ttl, protocol, 0, src, dst)
    checksum = internet_checksum(header)
    return header[:10] + checksum.to_bytes(2, "big") + header[12:] + payload


def build_ipv6(
    *,
    traffic_class: int,
    hop_limit: int,
    protocol: int,
    src: bytes,
    dst: bytes,
    payload: bytes,
    fragment: Fragment | None = None,
    payload_length: int | None = None,
) -> bytes:
    """An IPv6 packet, with a Fragment header if `fragment` is given; flow label 0.

    `payload_length` counts what follows the Fragment header, for packets inside errors.
    """
    length = len(payload) if payload_length is None else payload_length
    word = 6 << 28 | traffic_class << 20
    if fragment is None:
        header = IPV6_HEADER.pack(word, length, protocol, hop_limit, src, dst)
        return header + payload
    header = IPV6_HEADER.pack(word, length + 8, Protocol.FRAGMENT, hop_limit, src, dst)
    position = fragment.offset | fragment.more
    extension = (
        bytes((protocol, 0)) + position.to_bytes(2, "big") + fragment.ident.to_bytes(4, "big")
    )
    return header + extension + payload


def one_hop_more(data: bytes) -> bytes:
    """The IPv4 packet with a TTL that is one higher; ours have 20-byte headers."""
    header = data[:8] + bytes((data[8] + 1, data[9], 0, 0)) + data[12:20]
    return header[:10] + internet_checksum(header).to_bytes(2, "big") + header[12:] + data[20:]
