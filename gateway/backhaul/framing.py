"""Ethernet frames in a byte stream: a 4-byte big-endian length, then the frame. Pure.

     0                   1                   2                   3
     0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |                    length (14 to 65549)                       |
    +-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+-+
    |             Ethernet frame of so many bytes, without FCS ...  |

A stream has no marks to find the next frame by, so that a length out of range, which only a
damaged or foreign stream has, ends the link.

`Decoder` owns one buffer of fixed size. Its user reads into `room()`, says how much came with
`filled`, and iterates over `frames()`: views into the buffer, valid until the next `room()`.
Whatever the stream does, no more than the buffer is ever kept.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

HEADER_SIZE = 4
MIN_FRAME = 14  # bytes; a bare Ethernet header
MAX_FRAME = 65549  # bytes; an Ethernet header and the largest packet
BUFFER_SIZE = 4 * (HEADER_SIZE + MAX_FRAME)

HEADER = struct.Struct("!I")


class FramingError(Exception):
    """The stream carries no frames of ours. str() says what came instead."""


class Decoder:
    """Cuts a stream into frames, however it arrives."""

    def __init__(self, size: int = BUFFER_SIZE) -> None:
        assert size >= HEADER_SIZE + MAX_FRAME
        self._buffer = bytearray(size)
        self._view = memoryview(self._buffer)
        self._start = 0  # of what is not cut yet
        self._end = 0

    def room(self) -> memoryview:
        """Where the next bytes are to be read into; never empty."""
        left = self._end - self._start
        if self._start:
            # Less than one frame: by bytes(), as source and destination may overlap.
            self._view[:left] = bytes(self._view[self._start : self._end])
            self._start, self._end = 0, left
        return self._view[left:]

    def filled(self, count: int) -> None:
        """`count` bytes were put into `room()`."""
        self._end += count

    def frames(self) -> Iterator[memoryview]:
        """The frames that are complete. Raises FramingError at a length out of range."""
        view, unpack = self._view, HEADER.unpack_from
        start, end = self._start, self._end
        try:
            while end - start >= HEADER_SIZE:
                (length,) = unpack(view, start)
                if not MIN_FRAME <= length <= MAX_FRAME:
                    raise FramingError(_foreign(bytes(view[start : start + HEADER_SIZE]), length))
                stop = start + HEADER_SIZE + length
                if stop > end:
                    break
                frame = view[start + HEADER_SIZE : stop]
                start = stop
                yield frame
        finally:
            self._start = start

    @property
    def inside_frame(self) -> bool:
        """Whether the stream would end in the middle of a frame if it ended now."""
        return self._end > self._start


def encode(frame: bytes) -> bytes:
    """The frame as it goes over a stream. Raises ValueError when no stream may carry it."""
    if not MIN_FRAME <= len(frame) <= MAX_FRAME:
        raise ValueError(f"a frame has {MIN_FRAME} to {MAX_FRAME} bytes, not {len(frame)}")
    return HEADER.pack(len(frame)) + frame


def _foreign(header: bytes, length: int) -> str:
    seen = (
        f", the text {header.decode('ascii')!r}" if header.isascii() and _printable(header) else ""
    )
    return (
        f"not a frame but a length of {length}{seen}: only {MIN_FRAME} to {MAX_FRAME} can be;"
        " the stream is damaged, or something else writes to it"
    )


def _printable(header: bytes) -> bool:
    return header.decode("ascii").isprintable()
