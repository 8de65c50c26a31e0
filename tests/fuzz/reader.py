"""Packets as a receiver sees them: a second reading that shares no code with translate.

Strict about what goes out: a packet whose lengths, header checksum or reserved bits are not
right is a `Finding`, with the words of what broke. No scapy here, because a fuzzer reads a few
thousand packets a second.
"""

from __future__ import annotations

from dataclasses import dataclass

ICMP, IGMP, TCP, UDP, FRAGMENT, ICMPV6 = 1, 2, 6, 17, 44, 58
ERRORS4, ERRORS6 = (3, 11, 12), (1, 2, 3, 4)
_SKIPPED6 = (0, 43, 60)


class Finding(AssertionError):
    """What the translator did and must not do."""


def require(condition: bool, what: str) -> None:
    """Raises Finding unless the condition holds; an assert that -O keeps."""
    if not condition:
        raise Finding(what)


def word_sum(data: bytes) -> int:
    """The one's complement sum of RFC 1071 §4.1 over big-endian words, 0..0xffff."""
    if len(data) & 1:
        data += b"\0"
    # 65536 is 1 modulo 65535, so the whole string as one number has the same residue.
    value = int.from_bytes(data, "big")
    return 0 if not value else value % 0xFFFF or 0xFFFF


@dataclass
class Seen:
    """One packet. `body`: from the transport header; `offset`: in bytes, None: no fragment."""

    version: int
    src: bytes
    dst: bytes
    protocol: int
    hops: int
    tos: int
    body: bytes
    offset: int | None
    more: bool
    ident: int

    @property
    def whole(self) -> bool:
        """Whether nothing is missing: no fragment, or an atomic one."""
        return self.offset is None or (self.offset == 0 and not self.more)

    @property
    def first(self) -> bool:
        """Whether the transport header is here."""
        return not self.offset

    @property
    def is_error(self) -> bool:
        """Whether this is an ICMP error."""
        if not self.first or len(self.body) < 8:
            return False
        # The other family's ICMP is a protocol like any other.
        protocol, kinds = (ICMP, ERRORS4) if self.version == 4 else (ICMPV6, ERRORS6)
        return self.protocol == protocol and self.body[0] in kinds

    def pseudo_sum(self, length: int | None = None) -> int:
        """The sum of the pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1); none for ICMPv4."""
        if self.protocol == ICMP:
            return 0
        length = len(self.body) if length is None else length
        numbers = length.to_bytes(4, "big") + self.protocol.to_bytes(2, "big")
        return word_sum(self.src + self.dst + numbers)

    def transport_sum(self) -> int:
        """0 modulo 0xffff when the transport checksum is right; else how wrong it is."""
        total = word_sum(self.body) + self.pseudo_sum()
        return total % 0xFFFF

    @property
    def checksum(self) -> int | None:
        """The transport checksum field, None where there is none."""
        at = {TCP: 16, UDP: 6, ICMP: 2, ICMPV6: 2}.get(self.protocol)
        if at is None or not self.first or len(self.body) < at + 2:
            return None
        return int.from_bytes(self.body[at : at + 2], "big")

    @property
    def data(self) -> bytes:
        """What is behind the transport header."""
        if self.protocol == TCP and len(self.body) >= 20:
            return self.body[(self.body[12] >> 4) * 4 :]
        return self.body[8:]


def read_out(data: bytes, *, others: bool = False) -> Seen:
    """A packet that the translator sends; `others`: of any protocol. Raises Finding."""
    require(len(data) >= 20, "shorter than a header")
    version = data[0] >> 4
    require(version in (4, 6), f"version {version}")
    seen = _read4(data) if version == 4 else _read6(data)
    require(seen.hops >= 1, "no hops left")
    if seen.offset is not None:
        require(seen.offset + len(seen.body) <= 65535, "a fragment beyond 65535 bytes")
        require(not seen.more or bool(seen.body), "an empty fragment")
    if seen.first:
        _check_transport(seen, others=others)
    return seen


def _read4(data: bytes) -> Seen:
    require(data[0] == 0x45, "an IPv4 header of other than 20 bytes")
    require(int.from_bytes(data[2:4], "big") == len(data), "IPv4 total length")
    require(word_sum(data[:20]) == 0xFFFF, "IPv4 header checksum")
    flags = int.from_bytes(data[6:8], "big")
    require(not flags & 0x8000, "IPv4 reserved flag")
    fragment = bool(flags & 0x3FFF)
    # RFC 7915 §5.1.1, and own packets are never cut.
    require(not (fragment and flags & 0x4000), "DF in a fragment")
    return Seen(
        4,
        data[12:16],
        data[16:20],
        data[9],
        data[8],
        data[1],
        data[20:],
        (flags & 0x1FFF) * 8 if fragment else None,
        bool(flags & 0x2000),
        int.from_bytes(data[4:6], "big"),
    )


def _read6(data: bytes) -> Seen:
    require(len(data) >= 40, "shorter than an IPv6 header")
    require(int.from_bytes(data[4:6], "big") + 40 == len(data), "IPv6 payload length")
    require(not int.from_bytes(data[1:4], "big") & 0xFFFFF, "a flow label")
    protocol, body, offset, more, ident = data[6], data[40:], None, False, 0
    if protocol == FRAGMENT:
        require(len(body) >= 8, "a Fragment header cut off")
        position = int.from_bytes(body[2:4], "big")
        require(body[1] == 0 and not position & 6, "reserved bits of the Fragment header")
        offset, more = position & 0xFFF8, bool(position & 1)
        protocol, ident, body = body[0], int.from_bytes(body[4:8], "big"), body[8:]
    return Seen(
        6,
        data[8:24],
        data[24:40],
        protocol,
        data[7],
        int.from_bytes(data[0:2], "big") >> 4 & 0xFF,
        body,
        offset,
        more,
        ident,
    )


def _check_transport(seen: Seen, *, others: bool) -> None:
    allowed = (ICMP, TCP, UDP) if seen.version == 4 else (ICMPV6, TCP, UDP)
    # What means a header of the other family, or its ICMP, would be taken for it.
    never = (ICMPV6, IGMP, *_SKIPPED6, FRAGMENT) if seen.version == 4 else (ICMP, IGMP, *_SKIPPED6)
    is_known = seen.protocol in allowed
    may_pass = is_known or (others and seen.protocol not in never)
    require(may_pass, f"protocol {seen.protocol} in IPv{seen.version}")
    if not is_known:
        return
    if not seen.more:
        least = 20 if seen.protocol == TCP else 8
        require(len(seen.body) >= least, "a transport header cut off")
    if seen.protocol == TCP and len(seen.body) >= 20:
        require(20 <= (seen.body[12] >> 4) * 4 <= len(seen.body), "TCP data offset")
    if seen.protocol in (ICMP, ICMPV6):
        known = (0, 3, 8, 11, 12) if seen.version == 4 else (1, 2, 3, 4, 128, 129)
        require(seen.body[0] in known, f"ICMP type {seen.body[0]}")
    if seen.is_error:
        _check_error(seen)


def _check_error(seen: Seen) -> None:
    header = 20 if seen.version == 4 else 40
    require(
        header + len(seen.body) <= (576 if seen.version == 4 else 1280), "an ICMP error too large"
    )
    inner = seen.body[8:]
    require(len(inner) >= header and inner[0] >> 4 == seen.version, "no packet in an ICMP error")
    length = original_length(seen)
    if length:
        # RFC 4884 §4: the length of the original datagram, and an extension behind it.
        require(length >= 128, "an RFC 4884 length below 128 bytes")
        require(length < len(inner), "an RFC 4884 length that leaves no extension")


def original_length(error: Seen) -> int:
    """What the RFC 4884 §4 length of an ICMP error says, in bytes; 0 where it has none."""
    kind = error.body[0]
    if error.version == 4:
        return error.body[5] * 4 if kind in (3, 11, 12) else 0
    return error.body[4] * 8 if kind in (1, 3) else 0


def families_of(extension: bytes) -> set[int] | None:
    """The families of the interface addresses (RFC 5837 §4.1) in an RFC 4884 §7 structure.

    None for what is no such structure.
    """
    if not 8 <= len(extension) <= 1280 or extension[0] >> 4 != 2:
        return None
    if any(extension[2:4]) and word_sum(extension) != 0xFFFF:
        return None
    found, at = set(), 4
    while at < len(extension):
        size = int.from_bytes(extension[at : at + 2], "big")
        if size < 4 or size % 4 or at + size > len(extension):
            return None
        item = extension[at : at + size]
        where = 8 if item[3] & 8 else 4
        if item[2] == 2 and item[3] & 4:
            found.add(int.from_bytes(item[where : where + 2], "big"))
        at += size
    return found


def read_in(data: bytes) -> Seen | None:
    """A packet that goes in, forgivingly: None unless its frame of lengths is sound."""
    if len(data) < 20:
        return None
    if data[0] >> 4 == 4:
        start = (data[0] & 15) * 4
        if start < 20 or len(data) < start or int.from_bytes(data[2:4], "big") != len(data):
            return None
        flags = int.from_bytes(data[6:8], "big")
        return Seen(
            4,
            data[12:16],
            data[16:20],
            data[9],
            data[8],
            data[1],
            data[start:],
            (flags & 0x1FFF) * 8 if flags & 0x3FFF else None,
            bool(flags & 0x2000),
            int.from_bytes(data[4:6], "big"),
        )
    if data[0] >> 4 != 6 or len(data) < 40 or int.from_bytes(data[4:6], "big") + 40 != len(data):
        return None
    protocol, at, offset, more, ident = data[6], 40, None, False, 0
    while protocol in _SKIPPED6 or (protocol == FRAGMENT and offset is None):
        if len(data) < at + 8:
            return None
        if protocol == FRAGMENT:
            position = int.from_bytes(data[at + 2 : at + 4], "big")
            offset, more = position & 0xFFF8, bool(position & 1)
            ident = int.from_bytes(data[at + 4 : at + 8], "big")
            protocol, at = data[at], at + 8
            if offset:
                break
        else:
            protocol, at = data[at], at + 8 + data[at + 1] * 8
            if len(data) < at:
                return None
    tos = int.from_bytes(data[0:2], "big") >> 4 & 0xFF
    return Seen(6, data[8:24], data[24:40], protocol, data[7], tos, data[at:], offset, more, ident)


def reassemble(parts: list[Seen]) -> Seen | None:
    """The datagram that the fragments are, or None unless they are exactly one. Raises Finding.

    Fragments that overlap, or disagree about the end, are a finding: a translator sends none.
    """
    first = parts[0]
    key = (first.version, first.src, first.dst, first.ident)
    if any((p.version, p.src, p.dst, p.ident) != key or p.offset is None for p in parts):
        return None
    parts = sorted(parts, key=lambda part: part.offset or 0)
    body = b""
    for index, part in enumerate(parts):
        require((part.offset or 0) >= len(body), "overlapping fragments")
        if part.offset != len(body) or part.more != (index < len(parts) - 1):
            return None
        body += part.body
    return Seen(
        first.version,
        first.src,
        first.dst,
        first.protocol,
        first.hops,
        first.tos,
        body,
        None,
        False,
        first.ident,
    )
