"""One's complement arithmetic: RFC 1071's and RFC 1624's own numbers, and a plain loop."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from translate.checksum import (
    adjust,
    fold,
    internet_checksum,
    ones_sum,
    pseudo_header_sum,
    subtract,
)

word = st.integers(0, 0xFFFF)


def loop(data):
    """RFC 1071 §4.1, as it stands there."""
    total = 0
    for at in range(0, len(data) - 1, 2):
        total += data[at] << 8 | data[at + 1]
    if len(data) % 2:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def same(one, other):
    """Whether two sums are the same one's complement number: 0 and 0xffff are."""
    return one % 0xFFFF == other % 0xFFFF


def test_rfc1071_3_numerical_example():
    data = bytes.fromhex("0001f203f4f5f6f7")
    assert ones_sum(data) == 0xDDF2
    assert internet_checksum(data) == 0x220D


def test_ipv4_header():
    header = bytes.fromhex("450000730000400040110000c0a80001c0a800c7")
    assert internet_checksum(header) == 0xB861


def test_rfc1624_4_example_where_equation_2_gives_the_other_zero():
    # HC = 0xdd2f, m = 0x5555, m' = 0x3285; the checksum computed anew is 0x0000.
    assert adjust(0xDD2F, subtract(0x3285, 0x5555)) == 0x0000


@pytest.mark.parametrize("data", [b"", b"\0", bytes(20), bytes(65535)])
def test_rfc1071_the_sum_of_zeros_is_positive_zero(data):
    assert ones_sum(data) == 0
    assert internet_checksum(data) == 0xFFFF


@pytest.mark.parametrize("data", [b"\xff\xff", b"\xff\xff" * 3, b"\xff\xfe\0\1", b"\x80\0\x7f\xff"])
def test_rfc1071_another_sum_is_never_positive_zero(data):
    assert ones_sum(data) == 0xFFFF


def test_rfc1071_4_1_odd_length_is_padded_with_zero_on_the_right():
    assert ones_sum(b"\x01") == 0x0100
    assert ones_sum(b"\0\0\x01") == 0x0100


def test_a_whole_super_packet():
    assert ones_sum(b"\xff\xff" * 32767 + b"\xff") == loop(b"\xff\xff" * 32767 + b"\xff")


@settings(deadline=None)
@given(st.binary(max_size=400))
@example(b"\xff" * 40)
def test_equals_the_loop_of_rfc1071(data):
    assert ones_sum(data) == loop(data)
    assert internet_checksum(data) == ~loop(data) & 0xFFFF


@settings(deadline=None)
@given(st.binary(max_size=100), st.integers(0, 50))
def test_a_packet_with_its_checksum_sums_to_all_ones(data, at):
    data = bytearray(data + bytes(-len(data) % 2))
    at = min(at * 2, len(data))
    data[at:at] = b"\0\0"
    data[at : at + 2] = internet_checksum(bytes(data)).to_bytes(2, "big")
    assert loop(bytes(data)) == 0xFFFF


@settings(deadline=None)
@given(st.integers(0, 2**80))
def test_fold_keeps_the_residue_and_is_zero_only_for_zero(total):
    folded = fold(total)
    assert 0 <= folded <= 0xFFFF
    assert same(folded, total)
    assert (folded == 0) == (total == 0)


@settings(deadline=None)
@given(word, word)
@example(0, 0)
@example(0, 0xFFFF)
@example(0xFFFF, 0)
@example(0xFFFF, 0xFFFF)
def test_subtract_then_add_is_where_it_began(new, old):
    assert same(old + subtract(new, old), new)
    assert 0 <= subtract(new, old) <= 0xFFFF


@settings(deadline=None)
@given(st.binary(min_size=4, max_size=60), st.integers(0, 28), word)
def test_rfc1624_3_adjusted_equals_computed_anew(data, at, value):
    data = data + bytes(len(data) % 2)
    at = min(at * 2, len(data) - 2)
    changed = data[:at] + value.to_bytes(2, "big") + data[at + 2 :]
    delta = subtract(value, int.from_bytes(data[at : at + 2], "big"))
    adjusted = adjust(internet_checksum(data), delta)
    assert 0 <= adjusted <= 0xFFFF
    if any(changed) and any(data):
        # Both zeros cannot be told apart when nothing else is in the packet; headers never are.
        assert adjusted == internet_checksum(changed)


@settings(deadline=None)
@given(word, word)
def test_a_wrong_checksum_stays_as_wrong(checksum, delta):
    off = 0xFFFF - checksum
    assert same(0xFFFF - adjust(checksum, delta), off + delta)


def test_rfc9293_3_1_pseudo_header_of_ipv4():
    src, dst = IPv4Address("192.0.2.1").packed, IPv4Address("198.51.100.2").packed
    pseudo = src + dst + b"\0\x06" + (40).to_bytes(2, "big")
    assert pseudo_header_sum(src, dst, 40, 6) == loop(pseudo)


@pytest.mark.parametrize("length", [0, 8, 1440, 65535, 65536, 100_000])
def test_rfc8200_8_1_pseudo_header_of_ipv6_has_a_32_bit_length(length):
    src, dst = IPv6Address("2001:db8::1").packed, IPv6Address("64:ff9b::c000:201").packed
    pseudo = src + dst + length.to_bytes(4, "big") + b"\0\0\0\x3a"
    assert pseudo_header_sum(src, dst, length, 58) == loop(pseudo)
