"""The network in which the cases of other translators' suites are told (test_peer_cases_*).

Jool's graybox suite and TAYGA's tests describe packets and what has to come out. Their facts are
told here again, for a stateful translator: where a suite expects a stateless one, a session is
opened first. The addresses are those of graybox's NAT64 network:

    n6 2001:db8::5 ──┐
                     ├─ ::1 [ 64:ff9b::/96 | 192.0.2.2, ports 1 to 3000 ] .2 ── n4 192.0.2.5
    m6 2001:db8:1::5 ┘
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from tests.oracle import ICMP, IP, TCP, UDP, Bench, IPv6, Layer, Raw
from translate.addresses import Layout, Prefix6
from translate.pool4 import PoolRange
from translate.static_bib import StaticEntry

N6 = "2001:db8::5"
M6 = "2001:db8:1::5"
OWN6 = "2001:db8::1"
POOL = "192.0.2.2"
N4 = "192.0.2.5"
POOL_AS6 = "64:ff9b::c000:202"
N4_AS6 = "64:ff9b::c000:205"


def static(protocol: int, port4: int, addr6: str, port6: int) -> StaticEntry:
    """A mapping of the pool address by hand."""
    key4 = IPv4Address(POOL).packed + port4.to_bytes(2, "big")
    return StaticEntry(protocol, key4, IPv6Address(addr6).packed + port6.to_bytes(2, "big"))


def graybox(**changes: Any) -> Bench:
    """graybox's NAT64, with its mappings."""
    values: dict[str, Any] = {
        "prefixes": (Prefix6(IPv6Network("64:ff9b::/96"), Layout.RFC6052),),
        "wkp_strict": False,
        "pool4": (PoolRange(IPv4Network(POOL), first_port=1, last_port=3000),),
        "icmp6_source": IPv6Address(OWN6).packed,
        "icmp4_source": IPv4Address(POOL).packed,
        "static": (
            static(6, 2000, N6, 2000),
            static(17, 2000, N6, 2000),
            static(1, 1, N6, 1),
            static(17, 1000, M6, 1001),
            static(17, 1002, N6, 1003),
        ),
        **changes,
    }
    return Bench(**values)


def to_n4(upper: Layer, **ip: Any) -> Layer:
    """What n6 sends to n4."""
    return IPv6(src=N6, dst=N4_AS6, **ip) / upper


def to_n6(upper: Layer, **ip: Any) -> Layer:
    """What n4 sends to the pool address."""
    return IP(src=N4, dst=POOL, **ip) / upper


def icmp4(kind: int, code: int, body: Layer | bytes, *, mtu: int = 0) -> Layer:
    """An ICMPv4 error, its checksum for scapy to compute."""
    return ICMP(type=kind, code=code, nexthopmtu=mtu, unused=0) / Raw(bytes(body))


def freed(data: bytes, like: bytes, *at: int) -> bytes:
    """The IPv4 packet with the identification of `like`, and those of packets inside it at `at`.

    RFC 7915 §5.1 leaves it to the translator. Header checksums are made right again; an ICMP
    checksum too, which covers what is inside.
    """
    out = bytearray(data)
    for start in (0, *at):
        out[start + 4 : start + 6] = like[start + 4 : start + 6]
        out[start + 10 : start + 12] = b"\0\0"
        head = IP(bytes(out[start : start + 20]))
        del head.chksum
        out[start : start + 20] = bytes(head)[:20]
    if at and out[9] == 1:
        out[22:24] = b"\0\0"
        message = bytes(out[20:])
        total = sum(
            int.from_bytes(message[n : n + 2].ljust(2, b"\0"), "big")
            for n in range(0, len(message), 2)
        )
        while total >> 16:
            total = (total & 0xFFFF) + (total >> 16)
        out[22:24] = (0xFFFF - total).to_bytes(2, "big")
    return bytes(out)


def same(got: bytes, expected: Layer | bytes, *inside: int, free: bool = False) -> None:
    """Asserts that the packets are the same to the byte.

    `free`: but for the identification; `inside`: where packets lie whose identification is free.
    """
    want = bytes(expected)
    if free or inside:
        want = freed(want, got, *inside)
    assert got.hex() == want.hex(), f"{got!r} is not {want!r}"


__all__ = ["ICMP", "IP", "TCP", "UDP", "IPv6", "Raw"]
