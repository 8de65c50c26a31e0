"""ICMP types, codes, pointers and MTUs, from one family to the other (RFC 7915 §4.2, §5.2).

Each table says what becomes of a message; a missing row means that it is dropped. Values of
the type tables are (type, code). Echo is not here: it has a session.
"""

from __future__ import annotations

from enum import IntEnum


class Icmp4(IntEnum):
    """ICMPv4 types (RFC 792)."""

    ECHO_REPLY = 0
    UNREACHABLE = 3
    ECHO = 8
    TIME_EXCEEDED = 11
    PARAMETER_PROBLEM = 12


class Icmp6(IntEnum):
    """ICMPv6 types (RFC 4443)."""

    UNREACHABLE = 1
    PACKET_TOO_BIG = 2
    TIME_EXCEEDED = 3
    PARAMETER_PROBLEM = 4
    ECHO = 128
    ECHO_REPLY = 129


ERRORS4 = frozenset({Icmp4.UNREACHABLE, Icmp4.TIME_EXCEEDED, Icmp4.PARAMETER_PROBLEM})
ERRORS6 = frozenset(
    {Icmp6.UNREACHABLE, Icmp6.PACKET_TOO_BIG, Icmp6.TIME_EXCEEDED, Icmp6.PARAMETER_PROBLEM}
)

# RFC 7915 §4.2.
UNREACHABLE_4_TO_6: dict[int, tuple[int, int]] = {
    0: (Icmp6.UNREACHABLE, 0),
    1: (Icmp6.UNREACHABLE, 0),
    2: (Icmp6.PARAMETER_PROBLEM, 1),
    3: (Icmp6.UNREACHABLE, 4),
    4: (Icmp6.PACKET_TOO_BIG, 0),
    5: (Icmp6.UNREACHABLE, 0),
    6: (Icmp6.UNREACHABLE, 0),
    7: (Icmp6.UNREACHABLE, 0),
    8: (Icmp6.UNREACHABLE, 0),
    9: (Icmp6.UNREACHABLE, 1),
    10: (Icmp6.UNREACHABLE, 1),
    11: (Icmp6.UNREACHABLE, 0),
    12: (Icmp6.UNREACHABLE, 0),
    13: (Icmp6.UNREACHABLE, 1),
    15: (Icmp6.UNREACHABLE, 1),
}

# RFC 7915 §4.2, figure 3: IPv4 header octet to IPv6 header octet.
POINTER_4_TO_6: dict[int, int] = {
    0: 0,
    1: 1,
    2: 4,
    3: 4,
    8: 7,
    9: 6,
    **dict.fromkeys(range(12, 16), 8),
    **dict.fromkeys(range(16, 20), 24),
}

# RFC 7915 §5.2.
UNREACHABLE_6_TO_4: dict[int, tuple[int, int]] = {
    0: (Icmp4.UNREACHABLE, 1),
    1: (Icmp4.UNREACHABLE, 10),
    2: (Icmp4.UNREACHABLE, 1),
    3: (Icmp4.UNREACHABLE, 1),
    4: (Icmp4.UNREACHABLE, 3),
}

# RFC 7915 §5.2, figure 6: IPv6 header octet to IPv4 header octet.
POINTER_6_TO_4: dict[int, int] = {
    0: 0,
    1: 1,
    4: 2,
    5: 2,
    6: 9,
    7: 8,
    **dict.fromkeys(range(8, 24), 12),
    **dict.fromkeys(range(24, 40), 16),
}

# RFC 1191 §7.1, for routers that report no MTU (RFC 7915 §4.2).
PLATEAUS = (65535, 32000, 17914, 8166, 4352, 2002, 1492, 1006, 508, 296, 68)

_MINIMUM_IPV6_MTU = 1280
_MINIMUM_IPV4_MTU = 68


def mtu_4_to_6(mtu: int, inner_length: int, *, mtu6: int) -> int:
    """The MTU of a Packet Too Big for an ICMPv4 3/4 (RFC 7915 §4.2), in bytes.

    `mtu`: as reported, 0 from routers before RFC 1191; `inner_length`: total length of the
    packet inside; `mtu6`: of the translator's own IPv6 side.
    """
    if mtu == 0:
        mtu = next((plateau for plateau in PLATEAUS if plateau < inner_length), PLATEAUS[-1])
    return max(_MINIMUM_IPV6_MTU, min(mtu + 20, mtu6))


def mtu_6_to_4(mtu: int, *, mtu6: int, fragmented: bool) -> int:
    """The MTU of an ICMPv4 3/4 for a Packet Too Big (RFC 7915 §5.2), in bytes.

    `fragmented`: the packet inside has a Fragment header, which takes 8 bytes more.
    """
    return max(_MINIMUM_IPV4_MTU, min(mtu, mtu6, 65535) - (28 if fragmented else 20))
