"""gateway/backhaul/framing.py: lengths at the limits, and any stream however it arrives."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.backhaul.framing import (
    BUFFER_SIZE,
    HEADER_SIZE,
    MAX_FRAME,
    MIN_FRAME,
    Decoder,
    FramingError,
    encode,
)


def feed(decoder: Decoder, data: bytes) -> list[bytes]:
    """What the decoder cuts when it gets `data` in pieces as large as it has room for."""
    frames: list[bytes] = []
    while data:
        room = decoder.room()
        assert len(room) > 0
        count = min(len(room), len(data))
        room[:count] = data[:count]
        decoder.filled(count)
        frames.extend(bytes(frame) for frame in decoder.frames())
        data = data[count:]
    return frames


@pytest.mark.parametrize("size", [14, 15, 1514, 65548, 65549])
def test_a_frame_is_its_length_big_endian_and_itself(size):
    frame = bytes(i % 251 for i in range(size))
    assert encode(frame) == struct.pack(">I", size) + frame
    assert feed(Decoder(), encode(frame)) == [frame]


@pytest.mark.parametrize("size", [0, 13, 65550])
def test_a_frame_that_no_stream_may_carry(size):
    with pytest.raises(ValueError, match="14 to 65549"):
        encode(bytes(size))


@pytest.mark.parametrize("length", [0, 1, 13, 65550, 0xFFFFFFFF])
def test_a_length_out_of_range_ends_the_stream(length):
    with pytest.raises(FramingError, match=str(length)):
        feed(Decoder(), struct.pack(">I", length))


def test_what_came_before_the_damage_is_delivered():
    decoder = Decoder()
    data = encode(bytes(20)) + b"\0\0\0\1"
    decoder.room()[: len(data)] = data
    decoder.filled(len(data))
    frames = decoder.frames()
    assert bytes(next(frames)) == bytes(20)
    with pytest.raises(FramingError):
        next(frames)
    # It does not get past the damage either.
    with pytest.raises(FramingError):
        next(decoder.frames())


def test_text_in_the_stream_is_shown():
    with pytest.raises(FramingError, match="'SSH-'"):
        feed(Decoder(), b"SSH-2.0-OpenSSH")


def test_control_characters_are_not_shown():
    with pytest.raises(FramingError) as caught:
        feed(Decoder(), b"\x1b[2J")
    assert "\x1b" not in str(caught.value)


def test_split_at_every_byte():
    frames = [bytes([n]) * size for n, size in enumerate((14, 15, 60, 14))]
    stream = b"".join(map(encode, frames))
    for cut in range(len(stream) + 1):
        decoder = Decoder()
        assert feed(decoder, stream[:cut]) + feed(decoder, stream[cut:]) == frames
        assert not decoder.inside_frame


def test_byte_by_byte():
    frames = [bytes([n]) * size for n, size in enumerate((14, 200, 14))]
    decoder = Decoder()
    found = []
    for byte in b"".join(map(encode, frames)):
        found += feed(decoder, bytes([byte]))
    assert found == frames


@pytest.mark.parametrize("kept", [1, 3, 4, 17])
def test_an_end_inside_a_frame_is_seen(kept):
    decoder = Decoder()
    feed(decoder, encode(bytes(14))[:kept])
    assert decoder.inside_frame


def test_the_largest_frames_never_run_out_of_room():
    """Whatever is left over, there is room, and a frame of the largest size gets complete."""
    frame = b"x" * MAX_FRAME
    decoder = Decoder(HEADER_SIZE + MAX_FRAME)
    assert feed(decoder, encode(frame) * 3 + encode(b"y" * 14)) == [frame] * 3 + [b"y" * 14]
    assert len(decoder.room()) == HEADER_SIZE + MAX_FRAME


@given(
    st.lists(st.binary(min_size=MIN_FRAME, max_size=300), max_size=20),
    st.lists(st.integers(1, 400), min_size=1),
)
def test_any_frames_in_any_pieces(frames, pieces):
    stream = b"".join(map(encode, frames))
    decoder = Decoder(HEADER_SIZE + MAX_FRAME)
    found = []
    at = turn = 0
    while at < len(stream):
        size = pieces[turn % len(pieces)]
        found += feed(decoder, stream[at : at + size])
        at, turn = at + size, turn + 1
    assert found == frames
    assert not decoder.inside_frame


def naive(stream: bytes) -> tuple[list[bytes], bool]:
    """The same by slices: frames, and whether the stream is damaged."""
    frames: list[bytes] = []
    while len(stream) >= 4:
        length = int.from_bytes(stream[:4], "big")
        if length < 14 or length > 65549:
            return frames, True
        if len(stream) < 4 + length:
            break
        frames.append(stream[4 : 4 + length])
        stream = stream[4 + length :]
    return frames, False


@given(st.data())
def test_damaged_streams(data):
    """One byte anywhere is another one; what comes out is what a naive reader finds."""
    frames = data.draw(st.lists(st.binary(min_size=14, max_size=80), min_size=1, max_size=8))
    stream = bytearray(b"".join(map(encode, frames)))
    at = data.draw(st.integers(0, len(stream) - 1))
    stream[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(stream)))
    wanted, damaged = naive(bytes(stream))
    decoder = Decoder()
    found = []
    seen = False
    for piece in (bytes(stream[:cut]), bytes(stream[cut:])):
        room = decoder.room()
        room[: len(piece)] = piece
        decoder.filled(len(piece))
        try:
            for frame in decoder.frames():
                found.append(bytes(frame))
        except FramingError:
            seen = True
            break
    assert (found, seen) == (wanted, damaged)


def test_memory_is_bounded():
    assert BUFFER_SIZE < 300_000
