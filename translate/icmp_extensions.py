"""What ICMP errors carry behind the packet that they are about (RFC 4884, RFC 5837).

    ICMPv4 3, 11, 12               ICMPv6 1, 3
     0 type, code, checksum         0 type, code, checksum
     4 unused or pointer            4 length, in 64-bit units
     5 length, in 32-bit units      5 unused
     6 unused or MTU (3/4)
     8 the original datagram, zero-padded to `length` and at least 128 bytes
       the extension structure: version 2, checksum, then objects of length, class, type

Theory of operation. The length attribute says where the original datagram ends; 0 means that
nothing is behind it. `split` takes a message apart, the caller translates the original,
`translate` the addresses in the extension, and `join` puts both together for the other family:
the original grows or shrinks by the difference of the headers, the attribute counts in other
units, and an error has a maximal size. The receiver needs the headers and 128 bytes, then it
wants the extension (a cut one is of no use), then as much of the original as there is room for.

The structure is opaque (RFC 7915 §4.2), and so are its objects but for the interface information
of RFC 5837 §4.1, whose addresses become those of the other family. Packet Too Big and the ICMPv6
parameter problem have no length attribute: to those no extension goes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from translate.checksum import internet_checksum, ones_sum
from translate.icmp import Icmp4, Icmp6
from translate.own_errors import MAX_ERROR4, MAX_ERROR6

# RFC 4884 §4: an original datagram with an extension behind it has at least so many bytes.
LEAST_ORIGINAL = 128

_HEADER = 8
_VERSION = 2

# RFC 5837 §4.1: class of interface information, and the bits of its type that say what is in it.
_INTERFACE = 2
_HAS_INDEX = 0x08
_HAS_ADDRESS = 0x04
# RFC 5837 §4.2: sizes of addresses by their family number.
_ADDRESS_SIZES = {1: 4, 2: 16}


@dataclass(frozen=True, slots=True)
class Family:
    """How errors of one family are made.

    `types`: those that have a length attribute. `length_at`: its octet in the ICMP header,
    `unit`: what it counts in, in bytes. `size`: of the largest message, without IP header.
    `afi`: the number of the family (RFC 5837 §4.2).
    """

    types: frozenset[int]
    length_at: int
    unit: int
    size: int
    afi: int


ICMP4 = Family(
    types=frozenset({Icmp4.UNREACHABLE, Icmp4.TIME_EXCEEDED, Icmp4.PARAMETER_PROBLEM}),
    length_at=5,
    unit=4,
    size=MAX_ERROR4 - 20,
    afi=1,
)
ICMP6 = Family(
    types=frozenset({Icmp6.UNREACHABLE, Icmp6.TIME_EXCEEDED}),
    length_at=4,
    unit=8,
    size=MAX_ERROR6 - 40,
    afi=2,
)


def split(message: bytes, family: Family) -> tuple[bytes, bytes]:
    """The original datagram of an error and what is behind it; empty when that is nothing.

    `message`: from the ICMP header on, at least 8 bytes. A length attribute that says more than
    there is, or with no valid extension there less than both the original's own length and what
    RFC 4884 §4 wants, is a leftover in a field that used to have no meaning: the whole body is
    the original then.
    """
    body = message[_HEADER:]
    length = message[family.length_at] * family.unit if message[0] in family.types else 0
    extension = body[length:]
    if not length or not extension:
        return body, b""
    least = min(LEAST_ORIGINAL, _said_length(body, family))
    if length < least and _objects(extension) is None:
        return body, b""
    return body[:length], extension


def _said_length(original: bytes, family: Family) -> int:
    """The length of the original datagram as its header says, in bytes."""
    if family is ICMP4:
        return int.from_bytes(original[2:4], "big")
    return 40 + int.from_bytes(original[4:6], "big")


def join(header: bytes, original: bytes, extension: bytes, family: Family) -> bytes:
    """The error message of the family, cut to its maximal size; checksum as in `header`.

    `header`: 8 bytes with the length attribute 0, as it stays when the extension is empty,
    does not fit or cannot go with this type.
    """
    space = (family.size - _HEADER - len(extension)) // family.unit * family.unit
    if not extension or header[0] not in family.types or space < LEAST_ORIGINAL:
        return (header + original)[: family.size]
    wanted = max(len(original), LEAST_ORIGINAL)
    length = min(-(-wanted // family.unit) * family.unit, space)
    message = bytearray(header + original[:length].ljust(length, b"\0") + extension)
    message[family.length_at] = length // family.unit
    return bytes(message)


def translate(extension: bytes, family: Family, address: Callable[[bytes], bytes | None]) -> bytes:
    """The extension structure with its addresses in this family.

    `address` turns one of the other family into one of this (4 and 16 bytes), or returns None:
    its object is left out. Empty when no object is left. A structure that is not valid stays as
    it is: a translator does not verify what it forwards.
    """
    before = _objects(extension)
    if before is None:
        return extension
    after = [new for old in before if (new := _translate_object(old, family, address)) is not None]
    if after == before:
        return extension
    if not after:
        return b""
    objects = b"".join(after)
    checksum = internet_checksum(extension[:2] + objects)
    return extension[:2] + checksum.to_bytes(2, "big") + objects


def _objects(extension: bytes) -> list[bytes] | None:
    """The objects of an extension structure, each with its header; None when it is malformed.

    RFC 4884 §7: a checksum of 0 was not computed, and there is at least one object; §8: each of
    whole 32-bit words. What is longer than any error is not looked at.
    """
    if not 8 <= len(extension) <= MAX_ERROR6 or extension[0] >> 4 != _VERSION:
        return None
    if any(extension[2:4]) and ones_sum(extension) != 0xFFFF:
        return None
    objects: list[bytes] = []
    at = 4
    while at < len(extension):
        size = int.from_bytes(extension[at : at + 2], "big")
        if size < 4 or size % 4 or at + size > len(extension):
            return None
        objects.append(extension[at : at + size])
        at += size
    return objects


def _translate_object(
    data: bytes, family: Family, address: Callable[[bytes], bytes | None]
) -> bytes | None:
    """The object with its address in this family, or None when that cannot be."""
    if data[2] != _INTERFACE or not data[3] & _HAS_ADDRESS:
        return data
    # RFC 5837 §4.1: index, address, name and MTU follow each other in this order.
    at = 8 if data[3] & _HAS_INDEX else 4
    afi = int.from_bytes(data[at : at + 2], "big")
    size = _ADDRESS_SIZES.get(afi)
    if size is None or afi == family.afi:
        return data
    start, end = at + 4, at + 4 + size
    new = address(data[start:end]) if end <= len(data) else None
    if new is None:
        return None
    payload = data[4:at] + family.afi.to_bytes(2, "big") + data[at + 2 : start] + new + data[end:]
    return (4 + len(payload)).to_bytes(2, "big") + data[2:4] + payload
