"""One's complement arithmetic for Internet checksums (RFC 1071, RFC 1624).

A sum is 0..0xffff, big-endian 16-bit words added with end-around carry, not complemented.
Sums of the same words are equal modulo 0xffff, so 0 and 0xffff stand for the same thing
except where a field gives 0 a meaning (UDP); each function says which one it returns.
"""

from __future__ import annotations


def ones_sum(data: bytes) -> int:
    """The one's complement sum of `data`, padded with a zero byte to a whole word.

    0 only when every byte is zero, as the loop of RFC 1071 §4.1 would have it.
    """
    if len(data) & 1:
        data += b"\0"
    # 2**16 is 1 modulo 0xffff, so the number that the words spell is congruent to their sum.
    total = int.from_bytes(data, "big")
    return total % 0xFFFF or (0xFFFF if total else 0)


def fold(total: int) -> int:
    """A non-negative integer folded to 0..0xffff with end-around carry; 0 only for 0."""
    return total % 0xFFFF or (0xFFFF if total else 0)


def internet_checksum(data: bytes) -> int:
    """The complemented sum, as it stands in a header whose checksum field was zero."""
    return 0xFFFF - ones_sum(data)


def subtract(new: int, old: int) -> int:
    """`new - old` in one's complement: what must be added to a sum that held `old`."""
    return fold(new + (0xFFFF - old))


def adjust(checksum: int, delta: int) -> int:
    """A checksum field after `delta` was added to the covered words (RFC 1624 eqn. 3)."""
    return 0xFFFF - fold(0xFFFF - checksum + delta)


def pseudo_header_sum(src: bytes, dst: bytes, length: int, protocol: int) -> int:
    """The pseudo-header's sum of either family (RFC 9293 §3.1, RFC 8200 §8.1).

    `length`: bytes of the transport header and its payload.
    """
    return fold(ones_sum(src + dst) + (length >> 16) + (length & 0xFFFF) + protocol)
