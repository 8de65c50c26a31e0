"""Capture files: pcap and pcapng in, pcap out, and the IP packet inside each frame.

Formats: pcap (draft-ietf-opsawg-pcap) with microseconds or nanoseconds, in either byte order,
and pcapng (draft-ietf-opsawg-pcapng) with any number of sections and interfaces. Read as a
stream, so that a pipe is as good as a file. dpkt's readers do not serve here: they hide a
packet's original length, know one interface only, and seek. Its writer does.

What is in a file is not trusted: whatever its bytes, reading ends in records, `CutShort` or
`CaptureError`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from decimal import Decimal
from typing import BinaryIO

from dpkt import pcap

from gateway.frames import without_padding

# Link types (https://www.tcpdump.org/linktypes.html). 12 and 14 are raw IP in files of programs
# that wrote their system's own number.
_NULL, _ETHERNET, _LOOP, _SLL, _SLL2 = 0, 1, 108, 113, 276
_RAW = frozenset({12, 14, 101, 228, 229})
LINK_TYPES = frozenset({_NULL, _ETHERNET, _LOOP, _SLL, _SLL2}) | _RAW
KNOWN_LINKS = "Ethernet, raw IP, Linux cooked (tcpdump -i any) and BSD loopback"
_OUT_LINK_TYPE = 101

_IP = frozenset({b"\x08\x00", b"\x86\xdd"})
_VLAN = frozenset({b"\x81\x00", b"\x88\xa8", b"\x91\x00"})

# Bytes. No frame is larger; a length beyond it means that the file is damaged.
_MOST = 64 << 20
_SNAPLEN = 262_144  # what tcpdump writes for "everything"
_SECOND = 10**9  # nanoseconds
_LAST_SECOND = 0xFFFFFFFF

# Byte order, nanoseconds a tick, record header.
_MAGICS = {
    b"\xa1\xb2\xc3\xd4": (">", 1000, "IIII"),
    b"\xd4\xc3\xb2\xa1": ("<", 1000, "IIII"),
    b"\xa1\xb2\x3c\x4d": (">", 1, "IIII"),
    b"\x4d\x3c\xb2\xa1": ("<", 1, "IIII"),
    # Kuznetzov's libpcap: interface, protocol and packet type behind the lengths.
    b"\xa1\xb2\xcd\x34": (">", 1000, "IIIIIHBB"),
    b"\x34\xcd\xb2\xa1": ("<", 1000, "IIIIIHBB"),
}
_GZIP = b"\x1f\x8b"

_SECTION = b"\x0a\x0d\x0d\x0a"
_BYTE_ORDERS = {b"\x1a\x2b\x3c\x4d": ">", b"\x4d\x3c\x2b\x1a": "<"}
_INTERFACE, _OLD_PACKET, _SIMPLE_PACKET, _PACKET = 1, 2, 3, 6
_TSRESOL, _TSOFFSET = 9, 14


class CaptureError(Exception):
    """The file cannot be used. The text is what is wrong with it and what to do."""


class CutShort(CaptureError):
    """The file ends inside a record; the records before it are good."""

    def __init__(self) -> None:
        super().__init__("ends inside a packet; what is before it has been read")


@dataclass(frozen=True, slots=True)
class Record:
    """One frame: `length` is what it had on the wire, more than `data` has if it was cut."""

    time_ns: int
    link_type: int
    data: bytes
    length: int

    @property
    def truncated(self) -> bool:
        """Whether the capture kept only the beginning of the frame."""
        return len(self.data) < self.length


def read_records(stream: BinaryIO) -> Iterator[Record]:
    """Every frame of a capture, in its order. Raises CutShort behind the last, and CaptureError.

    `stream.read(n)` gives less than n bytes only at the end, as buffered files do.
    """
    magic = stream.read(4)
    if magic in _MAGICS:
        yield from _read_pcap(stream, *_MAGICS[magic])
    elif magic == _SECTION:
        yield from _read_pcapng(stream)
    elif not magic:
        raise CaptureError("is empty; tcpdump -w and Wireshark write what is wanted here")
    elif magic.startswith(_GZIP):
        raise CaptureError("is compressed: zcat it into `gateway translate - OUT`")
    else:
        raise CaptureError("is neither pcap nor pcapng; tcpdump -w and Wireshark write these")


def _exactly(stream: BinaryIO, count: int) -> bytes:
    data = stream.read(count)
    if len(data) < count:
        raise CutShort
    return data


def _read_pcap(stream: BinaryIO, order: str, tick_ns: int, fields: str) -> Iterator[Record]:
    # The upper bits of the link type tell of a frame check sequence, which lies behind the packet.
    link_type = struct.unpack(order + "16xI", _exactly(stream, 20))[0] & 0xFFFF
    if link_type not in LINK_TYPES:
        raise CaptureError(f"has link type {link_type}; {KNOWN_LINKS} can be read")
    header = struct.Struct(order + fields)
    while head := stream.read(header.size):
        if len(head) < header.size:
            raise CutShort
        seconds, ticks, kept, length = header.unpack(head)[:4]
        _check_size(kept)
        time_ns = seconds * _SECOND + ticks * tick_ns
        yield Record(time_ns, link_type, _exactly(stream, kept), length)


def _check_size(size: int) -> None:
    if size > _MOST:
        raise CaptureError(f"is damaged: it claims a record of {size} bytes; capture again")


@dataclass(slots=True)
class _Interface:
    """A pcapng interface, with its ticks a second, which begin at `offset_ns`."""

    link_type: int
    snaplen: int
    rate: int = 10**6
    offset_ns: int = 0

    def nanoseconds(self, ticks: int) -> int:
        return max(0, self.offset_ns + ticks * _SECOND // self.rate)


@dataclass(slots=True)
class _Section:
    """What blocks of one section share. `time_ns`: of the packet before."""

    order: str
    interfaces: list[_Interface] = field(default_factory=list)
    time_ns: int = 0


def _read_pcapng(stream: BinaryIO) -> Iterator[Record]:
    section = _Section(">")
    head = _SECTION + _exactly(stream, 4)
    while head:
        if len(head) < 8:
            raise CutShort
        is_section = head[:4] == _SECTION
        order_mark = b""
        if is_section:
            order_mark = _exactly(stream, 4)
            if order_mark not in _BYTE_ORDERS:
                raise CaptureError("is damaged: a pcapng section without byte order; capture again")
            section = _Section(_BYTE_ORDERS[order_mark], time_ns=section.time_ns)
        kind, size = struct.unpack(section.order + "II", head)
        _check_size(size)
        if size < 12 + len(order_mark):
            raise CaptureError(f"is damaged: a pcapng block of {size} bytes; capture again")
        body = _exactly(stream, size - 12 - len(order_mark))
        _exactly(stream, 4)
        if not is_section:
            try:
                record = _read_block(section, kind, body)
            except (struct.error, IndexError):
                raise CaptureError(
                    f"is damaged: a pcapng block of type {kind} contradicts itself; capture again"
                ) from None
            if record is not None:
                section.time_ns = record.time_ns
                yield record
        head = stream.read(8)


def _read_block(section: _Section, kind: int, body: bytes) -> Record | None:
    """The packet of a block, None for a block without. struct.error, IndexError when damaged."""
    order, interfaces = section.order, section.interfaces
    if kind == _INTERFACE:
        interfaces.append(_read_interface(order, body))
        return None
    if kind == _SIMPLE_PACKET:
        (length,) = struct.unpack_from(order + "I", body)
        interface = interfaces[0]
        kept = min(length, interface.snaplen or length)
        return Record(section.time_ns, interface.link_type, _cut(body[4:], kept), length)
    if kind not in (_PACKET, _OLD_PACKET):
        return None
    layout = "IIIII" if kind == _PACKET else "HxxIIII"
    number, high, low, kept, length = struct.unpack_from(order + layout, body)
    interface = interfaces[number]
    time_ns = interface.nanoseconds(high << 32 | low)
    return Record(time_ns, interface.link_type, _cut(body[20:], kept), length)


def _cut(data: bytes, kept: int) -> bytes:
    if kept > len(data):
        raise IndexError
    return data[:kept]


def _read_interface(order: str, body: bytes) -> _Interface:
    link_type, snaplen = struct.unpack_from(order + "HxxI", body)
    interface = _Interface(link_type, snaplen)
    at = 8
    while at + 4 <= len(body):
        code, size = struct.unpack_from(order + "HH", body, at)
        value = body[at + 4 : at + 4 + size]
        if code == 0:
            break
        if code == _TSRESOL:
            interface.rate = int((2 if value[0] & 0x80 else 10) ** (value[0] & 0x7F))
        elif code == _TSOFFSET:
            interface.offset_ns = struct.unpack(order + "q", value)[0] * _SECOND
        at += 4 + (size + 3 & ~3)
    return interface


def ip_packet(link_type: int, frame: bytes) -> bytes | None:
    """The IP packet in a frame, without what pads the frame; None where there is none.

    `link_type` is one of LINK_TYPES. VLAN tags are walked over.
    """
    if link_type in _RAW:
        return without_padding(frame)
    if link_type in (_NULL, _LOOP):
        # The address family is written in the byte order and numbering of the sender's system.
        data = frame[4:]
        return without_padding(data) if data and data[0] >> 4 in (4, 6) else None
    if link_type == _ETHERNET:
        kind, data = frame[12:14], frame[14:]
    elif link_type == _SLL:
        kind, data = frame[14:16], frame[16:]
    else:
        kind, data = frame[0:2], frame[20:]
    while kind in _VLAN:
        kind, data = data[2:4], data[4:]
    return without_padding(data) if kind in _IP else None


class PacketWriter:
    """Writes IP packets as a pcap of link type raw IP, with nanoseconds."""

    def __init__(self, stream: BinaryIO) -> None:
        self._writer = pcap.Writer(stream, _SNAPLEN, _OUT_LINK_TYPE, nano=True)

    def write(self, packet: bytes, time_ns: int) -> None:
        """Adds one packet. Times after the year 2106, which pcap cannot tell, become its end."""
        seconds, rest = divmod(time_ns, _SECOND)
        time = Decimal(min(seconds, _LAST_SECOND)) + Decimal(rest).scaleb(-9)
        self._writer.writepkt_time(packet, time)
