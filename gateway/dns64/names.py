"""Names of DNS messages in wire form: read, compared, moved (RFC 1035 §3.1, §4.1.4). Pure.

Theory of operation. A name is a row of labels, each behind its length, up to the root's length of
zero. In answers it may end in a pointer to an earlier place of the message instead. Pointers must
lead backwards, so that following them ends, and only so many of them are followed for one name:
a message of 64 KiB has room for chains of thousands, which cost time at every name that ends in
one. Where only the end of a name is wanted, no pointer is followed at all.

`Malformed` is the only exception that bytes from the network can raise here, but for the IndexError
of the functions that say so.
"""

from __future__ import annotations

from typing import Final

MAX_NAME: Final = 255
# Of one name. Long chains of compression pointers cost time and nobody makes them.
MAX_POINTERS: Final = 16

_lower = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ", b"abcdefghijklmnopqrstuvwxyz")


class Malformed(ValueError):
    """These bytes are no DNS message that could be answered, or believed."""


def lower_case(name: bytes) -> bytes:
    """A name as it is compared; lengths, at most 63, are no letters."""
    return name.translate(_lower)


def plain_name_end(data: bytes, at: int) -> int:
    """The offset behind a name without compression. Raises Malformed, IndexError."""
    start = at
    while length := data[at]:
        if length > 63:
            raise Malformed("compressed or unknown label in a question")
        at += length + 1
    at += 1
    if at - start > MAX_NAME:
        raise Malformed("name too long")
    return at


def name_end(data: bytes, at: int) -> int:
    """The offset behind a name, whose pointer is only looked at. Raises Malformed, IndexError."""
    length = data[at]
    while length:
        if length >= 0xC0:
            if (length & 0x3F) << 8 | data[at + 1] >= at:
                raise Malformed("compression pointer forward")
            return at + 2
        if length > 63:
            raise Malformed("unknown label type")
        at += length + 1
        length = data[at]
    return at + 1


def name_end_within(data: bytes, at: int, end: int) -> int:
    """The offset behind a name inside a record that ends at `end`, or some place beyond that."""
    while at < end and (length := data[at]):
        if length >= 0xC0:
            return at + 2
        at += 1 + length
    return at + 1


def read_name(data: bytes, at: int) -> bytes:
    """A name of a message, without compression and in lower case. Raises Malformed."""
    wire = bytearray()
    bound = len(data)
    pointers = 0
    try:
        while length := data[at]:
            if length >= 0xC0:
                pointers += 1
                target = (length & 0x3F) << 8 | data[at + 1]
                if target >= min(at, bound) or pointers > MAX_POINTERS:
                    raise Malformed("compression pointer forward, or one of many")
                at = bound = target
                continue
            if length > 63:
                raise Malformed("unknown label type")
            wire += data[at : at + 1 + length]
            at += 1 + length
            if len(wire) >= MAX_NAME:
                raise Malformed("name too long")
    except IndexError:
        raise Malformed("name beyond the end") from None
    return lower_case(bytes(wire + b"\0"))


def rebased_name(data: bytes, at: int, bound: int) -> bytes:
    """A name for a message that is the same only before `bound`. Raises Malformed.

    Pointers to what stays are kept, others are written out.
    """
    if data[at] >= 0xC0 and ((data[at] & 0x3F) << 8 | data[at + 1]) < bound:
        return data[at : at + 2]
    out = bytearray()
    pointers = 0
    try:
        while length := data[at]:
            if length >= 0xC0:
                target = (length & 0x3F) << 8 | data[at + 1]
                if target < bound:
                    return bytes(out) + data[at : at + 2]
                pointers += 1
                if target >= at or pointers > MAX_POINTERS:
                    raise Malformed("compression pointer forward, or one of many")
                at = target
            elif length > 63 or len(out) > MAX_NAME:
                raise Malformed("no name")
            else:
                out += data[at : at + 1 + length]
                at += 1 + length
    except IndexError:
        raise Malformed("name beyond the end") from None
    return bytes(out) + b"\0"


def is_below(qname: bytes, zone: bytes) -> bool:
    """Whether a name is a zone's, or in it; both in wire form and lower case."""
    at = 0
    while len(qname) - at > len(zone):
        at += 1 + qname[at]
    return qname[at:] == zone


def name_from_text(text: str) -> bytes:
    """The wire form of a plain name in lower case. Raises Malformed."""
    parts = text.rstrip(".").split(".") if text.rstrip(".") else []
    wire = bytearray()
    for part in parts:
        try:
            label = lower_case(part.encode("ascii"))
        except UnicodeEncodeError:
            raise Malformed(f"{text!r} is not ASCII") from None
        if not 1 <= len(label) <= 63:
            raise Malformed(f"{text!r} has a label that is empty or longer than 63")
        wire += bytes((len(label),)) + label
    wire += b"\0"
    if len(wire) > MAX_NAME:
        raise Malformed(f"{text!r} is too long")
    return bytes(wire)
