"""TCP and UDP headers: ports, checksums, MSS. Checksums are carried over, never repaired."""

from __future__ import annotations

import struct

from translate.checksum import adjust, fold, ones_sum, pseudo_header_sum
from translate.packets import Protocol
from translate.reasons import Discard, Reason

CHECKSUM_AT: dict[int, int] = {
    Protocol.TCP: 16,
    Protocol.UDP: 6,
    Protocol.ICMPV6: 2,
    Protocol.ICMP: 2,
}
_MINIMUM: dict[int, int] = {Protocol.TCP: 20, Protocol.UDP: 8, Protocol.ICMPV6: 8, Protocol.ICMP: 8}

_SYN = 0x02
_OPTION_END, _OPTION_NOP, _OPTION_MSS = 0, 1, 2


def check_header(protocol: int, payload: bytes) -> None:
    """Raises Discard unless the fixed transport header (and TCP's data offset) is there."""
    if len(payload) < _MINIMUM[protocol]:
        raise Discard(Reason.MALFORMED)
    if protocol == Protocol.TCP and not 20 <= (payload[12] >> 4) * 4 <= len(payload):
        raise Discard(Reason.MALFORMED)


def check_icmpv6_checksum(message: bytes, src: bytes, dst: bytes) -> None:
    """Raises Discard unless the checksum of a message for ourselves is right (RFC 4443 §2.3)."""
    total = ones_sum(message) + pseudo_header_sum(src, dst, len(message), Protocol.ICMPV6)
    if fold(total) != 0xFFFF:
        raise Discard(Reason.MALFORMED)


def check_first_fragment(protocol: int, payload: bytes) -> None:
    """Raises Discard unless a first fragment holds the whole transport header (RFC 1858)."""
    try:
        check_header(protocol, payload)
    except Discard:
        raise Discard(Reason.FRAGMENT_TINY) from None


def rewrite(
    protocol: int,
    payload: bytearray,
    ports: bytes,
    *,
    delta_addresses: int,
    delta_full: int,
    partial: bool,
) -> None:
    """Writes both ports (4 bytes) and carries the checksum over, in place.

    With `partial` the field is an uncomplemented pseudo-header sum, which ports do not touch.
    A checksum that lies beyond a truncated payload (inside an ICMP error) is left out.
    """
    payload[0:4] = ports
    at = CHECKSUM_AT[protocol]
    if len(payload) < at + 2:
        return
    checksum = payload[at] << 8 | payload[at + 1]
    if partial:
        checksum = fold(checksum + delta_addresses)
    elif protocol == Protocol.UDP and checksum == 0:
        return
    else:
        checksum = adjust(checksum, delta_full)
        if protocol == Protocol.UDP and checksum == 0:
            checksum = 0xFFFF
    payload[at] = checksum >> 8
    payload[at + 1] = checksum & 0xFF


def fill_checksum(protocol: int, payload: bytearray, src: bytes, dst: bytes) -> None:
    """Computes the transport checksum anew over the pseudo-header of `src` and `dst`.

    `payload` is the whole transport segment; ICMPv4 has no pseudo-header. A UDP length that
    is smaller than the segment says how much is covered (RFC 768).
    """
    at = CHECKSUM_AT[protocol]
    payload[at : at + 2] = b"\0\0"
    length = len(payload)
    if protocol == Protocol.UDP:
        said = int.from_bytes(payload[4:6], "big")
        length = said if 8 <= said < length else length
    total = ones_sum(bytes(payload[:length]))
    if protocol != Protocol.ICMP:
        total += pseudo_header_sum(src, dst, length, protocol)
    checksum = 0xFFFF - fold(total)
    if checksum == 0 and protocol == Protocol.UDP:
        checksum = 0xFFFF
    payload[at : at + 2] = checksum.to_bytes(2, "big")


def clamp_mss(payload: bytearray, limit: int, *, partial: bool) -> None:
    """Lowers the MSS option of a SYN to `limit` bytes, in place, if it is larger.

    An absent option is not added: its absence means 536 or 1220 bytes (RFC 9293 §3.7.1),
    which fits. A malformed option list is left as it is.
    """
    if not payload[13] & _SYN:
        return
    at, end = 20, min((payload[12] >> 4) * 4, len(payload))
    while at < end:
        kind = payload[at]
        if kind == _OPTION_END:
            return
        if kind == _OPTION_NOP:
            at += 1
            continue
        if at + 2 > end or payload[at + 1] < 2 or at + payload[at + 1] > end:
            return
        if kind == _OPTION_MSS and payload[at + 1] == 4:
            (mss,) = struct.unpack_from("!H", payload, at + 2)
            if mss > limit:
                _replace(payload, at + 2, limit, partial=partial)
            return
        at += payload[at + 1]


def _replace(payload: bytearray, at: int, value: int, *, partial: bool) -> None:
    # The option may start at an odd offset, so the words that it touches are summed whole.
    first, end = at & ~1, (at + 3) & ~1
    before = ones_sum(bytes(payload[first:end]))
    payload[at : at + 2] = value.to_bytes(2, "big")
    if partial:
        return
    after = ones_sum(bytes(payload[first:end]))
    checksum = payload[16] << 8 | payload[17]
    checksum = adjust(checksum, after + (0xFFFF - before))
    payload[16:18] = checksum.to_bytes(2, "big")
