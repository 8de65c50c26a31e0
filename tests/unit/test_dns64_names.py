"""Names in wire form, at every limit and one beyond."""

from __future__ import annotations

import pytest

from gateway.dns64.names import (
    MAX_POINTERS,
    Malformed,
    is_below,
    name_end,
    name_end_within,
    name_from_text,
    plain_name_end,
    read_name,
    rebased_name,
)


def labels(*sizes: int) -> bytes:
    """A name without its end."""
    return b"".join(bytes((size,)) + b"a" * size for size in sizes)


def pointer(target: int) -> bytes:
    return bytes((0xC0 | target >> 8, target & 255))


LONGEST = labels(63, 63, 63, 61) + b"\0"  # 255 bytes
TOO_LONG = labels(63, 63, 63, 62) + b"\0"
FAR = 0x1FF  # a target that needs both bytes of a pointer


@pytest.mark.parametrize("read", [plain_name_end, name_end])
def test_where_a_name_ends(read):
    for name in (b"\0", labels(1) + b"\0", labels(63) + b"\0", LONGEST):
        assert read(b"xx" + name + b"xx", 2) == 2 + len(name)


@pytest.mark.parametrize("length", [64, 0x80, 0xBF])
@pytest.mark.parametrize("read", [plain_name_end, name_end, read_name])
def test_rfc1035_4_1_4_labels_of_other_kinds(read, length):
    with pytest.raises(Malformed):
        read(labels(3) + bytes((length,)) + b"a" * length + b"\0", 0)


def test_rfc1035_3_1_a_name_in_a_question_has_255_bytes_and_no_pointer():
    for bad in (TOO_LONG, labels(1) + pointer(0)):
        with pytest.raises(Malformed):
            plain_name_end(bad, 0)


@pytest.mark.parametrize("at", [FAR, FAR + 1])
def test_rfc1035_4_1_4_a_pointer_leads_to_an_earlier_place(at):
    data = bytes(at)
    for target in (0, at - 1):
        assert name_end(data + pointer(target), at) == at + 2
        assert read_name(data + pointer(target), at) == b"\0"
    for target in (at, at + 1):
        for read in (name_end, read_name):
            with pytest.raises(Malformed):
                read(data + pointer(target) + bytes(8), at)


def test_a_name_is_read_through_pointers_and_in_lower_case():
    data = b"\4TEST\0" + b"\3wWw" + pointer(0) + b"\1x" + pointer(6)
    assert read_name(data, 6) == b"\3www\4test\0"
    assert read_name(data, 12) == b"\1x\3www\4test\0"


def test_each_pointer_leads_to_before_where_the_last_one_led():
    """Else a name could be read from its own middle, in another way."""
    data = b"xxxx" + b"\1\0" + pointer(5) + pointer(4)
    with pytest.raises(Malformed):
        read_name(data, 8)


def test_a_name_is_no_longer_when_it_is_compressed():
    assert read_name(LONGEST, 0) == LONGEST
    assert read_name(bytes(1) + LONGEST[:-1] + pointer(0), 1) == LONGEST
    for bad in (b"\0" + TOO_LONG, b"\0" + TOO_LONG[:-1] + pointer(0)):
        with pytest.raises(Malformed):
            read_name(bad, 1)


@pytest.mark.parametrize("data", [b"", b"\1", b"\1a", b"\3aa", b"\xc0"])
def test_a_name_that_is_cut_off(data):
    for read in (read_name, lambda data, at: rebased_name(labels(2) + data, at, 0)):
        with pytest.raises(Malformed):
            read(data, 0)
    for end in (plain_name_end, name_end):
        with pytest.raises((IndexError, Malformed)):
            end(data, 0)


def test_the_end_of_a_name_inside_a_record():
    data = labels(3, 2) + b"\0" + b"\1a" + pointer(0) + b"xx"
    assert name_end_within(data, 0, len(data)) == 8
    assert name_end_within(data, 8, len(data)) == 12
    # What runs over the end of its record ends behind it, and is read no further.
    assert name_end_within(data, 0, 4) == 5
    assert name_end_within(data, 0, 5) == 8


def test_pointers_to_what_stays_are_kept_and_others_are_written_out():
    one, two, three, four = FAR, FAR + 6, FAR + 10, FAR + 14
    data = bytes(one) + b"\4test\0" + b"\1b" + pointer(one) + b"\1c" + pointer(two) + pointer(three)
    assert rebased_name(data, three, one) == b"\1c\1b\4test\0"
    assert rebased_name(data, three, one + 1) == b"\1c\1b" + pointer(one)
    assert rebased_name(data, three, two) == b"\1c\1b" + pointer(one)
    assert rebased_name(data, three, two + 1) == b"\1c" + pointer(two)
    # A name that is nothing but a pointer.
    assert rebased_name(data, four, one) == b"\1c\1b\4test\0"
    assert rebased_name(data, four, three) == b"\1c" + pointer(two)
    assert rebased_name(data, four, three + 1) == pointer(three)


def test_a_long_row_of_pointers_is_not_written_out():
    row = labels(1) + b"\0" + b"".join(pointer(2 * n + 1 if n else 0) for n in range(MAX_POINTERS))
    assert rebased_name(row, len(row) - 2, 0) == labels(1) + b"\0"
    row += pointer(len(row) - 2)
    with pytest.raises(Malformed):
        rebased_name(row, len(row) - 2, 0)


@pytest.mark.parametrize(
    "name",
    [pointer(4), pointer(5), labels(1) + pointer(4), labels(1) + pointer(6), b"\x40" + b"a" * 64],
)
def test_what_cannot_be_written_out(name):
    with pytest.raises(Malformed):
        rebased_name(bytes(4) + name + bytes(8), 4, 4)


def test_what_would_grow_without_end_is_not_written_out():
    with pytest.raises(Malformed):
        rebased_name(labels(*[63] * 8) + b"\0", 0, 0)


def test_below_a_zone():
    assert is_below(b"\0", b"\0")
    assert is_below(b"\1a\0", b"\0")
    assert not is_below(b"\0", b"\1a\0")
    assert is_below(b"\1a\1b\0", b"\1b\0")
    assert not is_below(b"\2ab\0", b"\1b\0")


@pytest.mark.parametrize("text", ["a..b", ".a", "x" * 64 + ".test", "ä.test"])
def test_names_that_are_none(text):
    with pytest.raises(Malformed):
        name_from_text(text)


def test_names_from_text():
    assert name_from_text("Ipv4Only.arpa.") == b"\x08ipv4only\4arpa\0"
    assert name_from_text(".") == name_from_text("") == b"\0"
    longest = ".".join("a" * size for size in (63, 63, 63, 61))
    assert name_from_text(longest) == LONGEST
    with pytest.raises(Malformed):
        name_from_text(longest + "a")
