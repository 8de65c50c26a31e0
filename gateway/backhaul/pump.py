"""Moves frames between a tap and a stream, and bytes between two streams.

Theory of operation. All descriptors are non-blocking. A task per direction waits until its
source is readable, then takes as much as there is, up to one buffer, in one go: frames of the
tap are read into the buffer one behind the other, each behind its length, and leave with one
write; what the stream brought is cut where it lies and written to the tap frame by frame. trio
is asked once for each buffer, not for each frame.

Memory is bounded by construction, one buffer for each direction. While the stream takes no more,
the tap is not read; then the kernel's queue of the tap (txqueuelen, 1000 frames) fills and drops,
which its TX dropped counter tells. Frames that the tap refuses are counted here and dropped,
as a network card would.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import trio

from gateway.backhaul.framing import HEADER, HEADER_SIZE, MAX_FRAME, MIN_FRAME, Decoder

BUFFER_SIZE = 256 * 1024  # bytes for each direction
_FULL = BUFFER_SIZE - HEADER_SIZE - MAX_FRAME  # behind this another frame might not fit


class StreamEnded(Exception):
    """The stream has ended; str() says how, as far as that can be seen."""


class TapGone(Exception):
    """The tap was removed under us."""


@dataclass(slots=True)
class PumpCounters:
    """Frames since the link began. `refused`: from the stream, not taken by the tap."""

    to_stream: int = 0
    to_tap: int = 0
    refused: int = 0


async def tap_to_stream(tap_fd: int, stream_fd: int, counters: PumpCounters) -> None:
    """Never returns. Raises StreamEnded and TapGone."""
    buffer = bytearray(BUFFER_SIZE)
    view = memoryview(buffer)
    while True:
        await trio.lowlevel.wait_readable(tap_fd)
        end = _gather(tap_fd, buffer, view, counters)
        if end:
            await write_all(stream_fd, view[:end])


def _gather(tap_fd: int, buffer: bytearray, view: memoryview, counters: PumpCounters) -> int:
    """Fills the buffer with frames behind their lengths: bytes used. The hot loop one way."""
    readv, pack = os.readv, HEADER.pack_into
    end = frames = 0
    try:
        while end <= _FULL:
            size = readv(tap_fd, [view[end + HEADER_SIZE :]])
            if MIN_FRAME <= size <= MAX_FRAME:
                pack(buffer, end, size)
                end += HEADER_SIZE + size
                frames += 1
    except BlockingIOError:
        pass
    except OSError as error:
        if error.errno == errno.EBADFD:
            raise TapGone from error
        if error.errno != errno.EIO:  # EIO: somebody set it down; it may come up again
            raise
    counters.to_stream += frames
    return end


async def stream_to_tap(stream_fd: int, tap_fd: int, counters: PumpCounters) -> None:
    """Never returns. Raises StreamEnded, TapGone and FramingError."""
    decoder = Decoder()
    while True:
        count = await _read(stream_fd, decoder.room())
        if not count:
            inside = ", in the middle of a frame" if decoder.inside_frame else ""
            raise StreamEnded(f"the far end closed the link{inside}")
        decoder.filled(count)
        _deliver(tap_fd, decoder, counters)


def _deliver(tap_fd: int, decoder: Decoder, counters: PumpCounters) -> None:
    """Writes what is complete to the tap. The hot loop the other way."""
    write = os.write
    frames = 0
    try:
        for frame in decoder.frames():
            try:
                write(tap_fd, frame)
                frames += 1
            except OSError as error:
                if error.errno == errno.EBADFD:
                    raise TapGone from error
                counters.refused += 1
    finally:
        counters.to_tap += frames


async def copy(from_fd: int, to_fd: int) -> None:
    """Bytes from one stream to another, unread. Never returns. Raises StreamEnded."""
    view = memoryview(bytearray(BUFFER_SIZE))
    while True:
        count = await _read(from_fd, view)
        if not count:
            raise StreamEnded("the far end closed the link")
        await write_all(to_fd, view[:count])


async def write_all(fd: int, data: memoryview) -> None:
    """Writes everything, waiting where the descriptor takes no more. Raises StreamEnded."""
    while data:
        try:
            data = data[os.write(fd, data) :]
        except BlockingIOError:
            await trio.lowlevel.wait_writable(fd)
        except OSError as error:
            raise StreamEnded(_in_words(error)) from error


async def _read(fd: int, room: memoryview) -> int:
    """Bytes read, 0 at the end of the stream. Always lets other tasks run. Raises StreamEnded."""
    while True:
        await trio.lowlevel.wait_readable(fd)
        try:
            return os.readv(fd, [room])
        except BlockingIOError:
            continue
        except OSError as error:
            raise StreamEnded(_in_words(error)) from error


def _in_words(error: OSError) -> str:
    match error.errno:
        case errno.EPIPE | errno.ECONNRESET:
            return "the far end closed the link"
        case errno.ETIMEDOUT | errno.EHOSTUNREACH | errno.ENETUNREACH:
            return "the far end does not answer any more"
        case errno.EIO:  # of a terminal: the other side has closed it
            return "the far end closed the terminal"
    return f"the link broke: {os.strerror(error.errno or 0)}"
