"""RFC 4884, RFC 5837: what ICMP errors carry behind the packet inside, from either family."""

from __future__ import annotations

from ipaddress import ip_address

from tests.oracle import IP, UDP, IPv6, Layer, Raw, words
from tests.vectors.build import (
    C6,
    CP,
    DNS,
    P4,
    PP,
    ROUTER4,
    ROUTER4_AS6,
    ROUTER6,
    S4,
    S6,
    Step,
    Vector,
    icmp4,
    icmp6,
    opened,
    step,
)

FREE = ("identification", "inner-identification")

# RFC 4950: a label stack. Nobody but its reader has to understand it.
LABELS = bytes((0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40))


def interface(address: str, *, index: int | None = None, rest: bytes = b"", has: int = 0) -> bytes:
    """Interface information (RFC 5837 §4.1) with an address; `rest` with the bits `has` behind."""
    packed = ip_address(address).packed
    kind = 4 | has | (0 if index is None else 8)
    body = b"" if index is None else index.to_bytes(4, "big")
    body += (1 if len(packed) == 4 else 2).to_bytes(2, "big") + bytes(2) + packed + rest
    return (4 + len(body)).to_bytes(2, "big") + bytes((2, kind)) + body


def extension(*objects: bytes) -> bytes:
    """An extension structure (RFC 4884 §7)."""
    body = b"\x20\0\0\0" + b"".join(objects)
    return b"\x20\0" + (0xFFFF - words(body)).to_bytes(2, "big") + body[4:]


def behind(original: Layer | bytes, length: int, *objects: bytes) -> bytes:
    """The original datagram, cut or padded to `length` bytes, and an extension."""
    return bytes(original)[:length].ljust(length, b"\0") + extension(*objects)


def sent4(data: bytes = b"query") -> Layer:
    """What an IPv4 router saw of the client's packet."""
    return IP(src=P4, dst=S4, ttl=60, id=0x1111) / UDP(sport=PP, dport=DNS) / Raw(data)


def sent4_as_6(data: bytes = b"query") -> Layer:
    """The same as the client sent it."""
    return IPv6(src=C6, dst=S6, hlim=60) / UDP(sport=CP, dport=DNS) / Raw(data)


def sent6(data: bytes = b"answer") -> Layer:
    """What an IPv6 router saw of the server's packet."""
    return IPv6(src=S6, dst=C6, hlim=50) / UDP(sport=DNS, dport=CP) / Raw(data)


def sent6_as_4(data: bytes = b"answer", **ip: object) -> Layer:
    """The same as the server sent it."""
    return IP(src=S4, dst=P4, ttl=50, id=0, **ip) / UDP(sport=DNS, dport=PP) / Raw(data)


def to_client(kind: int, code: int, rest: int, body: Layer | bytes) -> Layer:
    """The error as the client gets it."""
    return icmp6(kind, code, rest, body, src=ROUTER4_AS6, dst=C6, hlim=63)


def to_server(kind: int, code: int, rest: int, body: Layer | bytes) -> Layer:
    """The error as the server gets it, from the client's pool address."""
    return icmp4(kind, code, rest, body, src=P4, dst=S4, ttl=63, id=0)


def words32(length: int) -> int:
    """The second word of an ICMPv4 error with this length attribute, in bytes (RFC 4884 §4.1)."""
    return length // 4 << 16


def words64(length: int) -> int:
    """The second word of an ICMPv6 error with this length attribute (RFC 4884 §4.4)."""
    return length // 8 << 24


def vectors() -> list[Vector]:
    """All of them."""
    return [
        Vector(name, clause, (opened(), *steps))
        for name, clause, steps in (*_from_v4(), *_from_v6())
    ]


Case = tuple[str, str, tuple[Step, ...]]


def _from_v4() -> list[Case]:
    # A name, padded to whole words, and an MTU (RFC 5837 §4.1, bits 0x02 and 0x01).
    more = b"\x08eth0\0\0\0" + (1500).to_bytes(4, "big")
    long = bytes(range(172))
    opaque = (196).to_bytes(2, "big") + b"\x01\x01" + bytes(range(192))
    full = bytes(range(250)) * 5
    no_room = 1280 - 48 - 200
    return [
        (
            "extension from IPv4: lengths in units of 64 bits",
            "RFC 4884 §4.1, §4.4; RFC 7915 §4.2",
            (
                step(
                    icmp4(11, 0, words32(128), behind(sent4(), 128, LABELS)),
                    to_client(3, 0, words64(128), behind(sent4_as_6(), 128, LABELS)),
                    free=(),
                ),
            ),
        ),
        (
            "extension from IPv4: the original grows and is padded",
            "RFC 4884 §4, §4.4; RFC 7915 §4.2",
            (
                step(
                    icmp4(3, 1, words32(136), behind(sent4(long), 136, LABELS)),
                    to_client(
                        1, 0, words64(160), behind(bytes(sent4_as_6(long))[:156], 160, LABELS)
                    ),
                    free=(),
                ),
            ),
        ),
        (
            "extension from IPv4: the address of an interface",
            "RFC 5837 §4.1, §4.2",
            (
                step(
                    icmp4(11, 0, words32(128), behind(sent4(), 128, interface(ROUTER4))),
                    to_client(
                        3, 0, words64(128), behind(sent4_as_6(), 128, interface(ROUTER4_AS6))
                    ),
                    free=(),
                ),
            ),
        ),
        (
            "extension from IPv4: index, address, name and MTU of an interface, and labels",
            "RFC 5837 §4.1",
            (
                step(
                    icmp4(
                        11,
                        0,
                        words32(128),
                        behind(sent4(), 128, interface(ROUTER4, index=9, rest=more, has=3), LABELS),
                    ),
                    to_client(
                        3,
                        0,
                        words64(128),
                        behind(
                            sent4_as_6(),
                            128,
                            interface(ROUTER4_AS6, index=9, rest=more, has=3),
                            LABELS,
                        ),
                    ),
                    free=(),
                ),
            ),
        ),
        (
            "extension from IPv4: the original is cut, the extension is whole",
            "RFC 4443 §2.4 (c), RFC 4884 §4",
            (
                step(
                    icmp4(11, 0, words32(1020), behind(sent4(full), 1020, opaque)),
                    to_client(3, 0, words64(no_room), behind(sent4_as_6(full), no_room, opaque)),
                    free=(),
                ),
            ),
        ),
        (
            "extension from IPv4: packet too big has no place for it",
            "RFC 4884 §4",
            (
                step(
                    icmp4(3, 4, words32(128) | 1400, behind(sent4(), 128, LABELS)),
                    to_client(2, 0, 1420, sent4_as_6()),
                    free=(),
                ),
            ),
        ),
        (
            "length from IPv4 with nothing behind it",
            "RFC 4884 §4",
            (
                step(
                    icmp4(11, 0, words32(128), bytes(sent4()).ljust(128, b"\0")),
                    to_client(3, 0, 0, sent4_as_6()),
                    free=(),
                ),
            ),
        ),
    ]


def _from_v6() -> list[Case]:
    long = bytes(range(220)) * 5
    opaque = interface(ROUTER4, index=9)
    room = 576 - 28 - len(extension(opaque))
    return [
        (
            "extension from IPv6: lengths in units of 32 bits",
            "RFC 4884 §4.1, §4.4; RFC 7915 §5.2",
            (
                step(
                    icmp6(3, 0, words64(128), behind(sent6(), 128, LABELS)),
                    to_server(11, 0, words32(128), behind(sent6_as_4(), 128, LABELS)),
                    free=FREE,
                ),
            ),
        ),
        (
            "extension from IPv6: the original shrinks",
            "RFC 4884 §4, §4.1; RFC 7915 §5.2",
            (
                step(
                    icmp6(1, 4, words64(168), behind(sent6(long[:300]), 168, LABELS)),
                    to_server(3, 3, words32(148), behind(sent6_as_4(long[:300]), 148, LABELS)),
                    free=FREE,
                ),
            ),
        ),
        (
            "extension from IPv6: the address of an interface",
            "RFC 5837 §4.1, §4.2",
            (
                step(
                    icmp6(3, 0, words64(128), behind(sent6(), 128, interface(ROUTER4_AS6))),
                    to_server(11, 0, words32(128), behind(sent6_as_4(), 128, interface(ROUTER4))),
                    free=FREE,
                ),
            ),
        ),
        (
            "extension from IPv6: an address that IPv4 cannot have is left out",
            "RFC 5837 §4.1; RFC 7915 §5.2",
            (
                step(
                    icmp6(3, 0, words64(128), behind(sent6(), 128, interface(ROUTER6), LABELS)),
                    to_server(11, 0, words32(128), behind(sent6_as_4(), 128, LABELS)),
                    free=FREE,
                ),
                step(
                    icmp6(3, 0, words64(128), behind(sent6(), 128, interface(ROUTER6))),
                    to_server(11, 0, 0, sent6_as_4()),
                    free=FREE,
                ),
            ),
        ),
        (
            "extension from IPv6: the original is cut, the extension is whole",
            "RFC 1812 §4.3.2.3, RFC 4884 §4",
            (
                step(
                    icmp6(
                        3,
                        0,
                        words64(1000),
                        behind(sent6(long), 1000, interface(ROUTER4_AS6, index=9)),
                    ),
                    to_server(11, 0, words32(room), behind(sent6_as_4(long), room, opaque)),
                    free=FREE,
                ),
            ),
        ),
        (
            "extension from IPv6: a parameter problem gets none",
            "RFC 4884 §4.4",
            (
                step(
                    icmp6(4, 0, 7, sent6()),
                    to_server(12, 0, 8 << 24, sent6_as_4()),
                    free=FREE,
                ),
            ),
        ),
    ]
