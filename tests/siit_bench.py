"""One stateless translator for tests, with a clock that the test moves.

HOST 2001:db8:aaaa::1 = 192.0.2.1 ─┐
NEAR 2001:db8:bbbb::1 = 192.0.2.2 ─┤
2001:db8:cccc::/124 = 192.0.2.16/28┼─ [ 2001:db8:64::/96 | routed 192.0.2.0/24 ] ─ SERVER
2001:db8:dddd::/64  = 192.0.2.128/26                                            203.0.113.80
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from tests.oracle import (
    IP,
    START,
    Bench,
    IPv6,
    Layer,
    Raw,
    read,
    transport_sum,
    words,
)
from translate.addresses import Layout, Prefix6
from translate.eam import Eam, EamTable
from translate.settings import Settings
from translate.siit.addresses import SiitSettings
from translate.siit.translator import Siit

PREFIX = Prefix6(IPv6Network("2001:db8:64::/96"), Layout.RFC6052)
HOST, HOST4 = "2001:db8:aaaa::1", "192.0.2.1"
NEAR, NEAR4 = "2001:db8:bbbb::1", "192.0.2.2"
IN_NET, IN_NET4 = "2001:db8:cccc::5", "192.0.2.21"
ROUTED = IPv4Network("192.0.2.0/24")
SERVER4, ROUTER4, OWN4 = "203.0.113.80", "198.18.7.1", "192.0.0.8"
ROUTER, STRANGER = "2001:db8:ffff::1", "2001:db8:9999::1"
MAPPINGS = (
    ("192.0.2.1/32", "2001:db8:aaaa::1/128"),
    ("192.0.2.2/32", "2001:db8:bbbb::1/128"),
    ("192.0.2.16/28", "2001:db8:cccc::/124"),
    ("192.0.2.128/26", "2001:db8:dddd::/64"),
)


def embedded(addr4: str) -> str:
    """The address in the prefix."""
    return str(IPv6Address(int(IPv6Network("2001:db8:64::/96")[0]) | int(IPv4Address(addr4))))


SERVER = embedded(SERVER4)
OWN6 = embedded(OWN4)


def table(*pairs: tuple[str, str]) -> EamTable:
    """Mappings from pairs of networks as text."""
    return EamTable(Eam.of(IPv4Network(one), IPv6Network(two)) for one, two in pairs)


def make_settings(common: dict[str, Any] | None = None, **changes: Any) -> SiitSettings:
    """Settings of the bench; `common` are keys of the translator's common settings."""
    settings = Settings(
        prefixes=(PREFIX,),
        pool4=(),
        icmp6_source=IPv6Address(OWN6).packed,
        icmp4_source=IPv4Address(OWN4).packed,
    )
    settings = replace(settings, **(common or {}))
    return SiitSettings(**{"common": settings, "mappings": table(*MAPPINGS), **changes})


class SiitBench(Bench):
    """A stateless translator with the ways of `Bench` to push packets through it."""

    def __init__(
        self,
        common: dict[str, Any] | None = None,
        *,
        admit: Callable[[bytes], bool] = lambda _: True,
        path_mtu: Callable[[bytes], int] = lambda _: 1500,
        seed: int = 1,
        **changes: Any,
    ) -> None:
        self.nat: Any = Siit(
            make_settings(common, **changes),
            randbelow=random.Random(seed).randrange,
            path_mtu=path_mtu,
            admit=admit,
        )
        self.now = START

    @property
    def flows(self) -> int:
        """How many flows the fast path knows."""
        count: int = self.nat.state.session_count
        return count

    def one_plain(self, packet: Layer | bytes) -> Layer:
        """The only packet that comes out, of a protocol whose checksum nobody looks at."""
        (out,) = self.send(packet)
        return read(out.data)

    def hexes(self, packet: Layer | bytes, **about: Any) -> list[bytes]:
        """What comes out, with identifications that are free set to zero."""
        return [without_ident(out.data) for out in self.send(packet, **about)]


def without_ident(data: bytes) -> bytes:
    """The packet; an IPv4 header that is no fragment's gets identification 0."""
    if data[0] >> 4 == 6 or int.from_bytes(data[6:8], "big") & 0x3FFF:
        return data
    return with_header_sum(data[:4] + b"\0\0" + data[6:])


def with_header_sum(data: bytes) -> bytes:
    """The IPv4 packet with a right header checksum."""
    zeroed = data[:10] + b"\0\0" + data[12:]
    return zeroed[:10] + (0xFFFF - words(zeroed[:20])).to_bytes(2, "big") + zeroed[12:]


def error4(kind: int, code: int, rest: int, inner: Any, *, src: str, dst: str, **ip: Any) -> Layer:
    """An ICMPv4 message about `inner`; `rest` is its second word."""
    body = rest.to_bytes(4, "big") + bytes(inner)
    checksum = 0xFFFF - words(bytes((kind, code)) + body)
    message = bytes((kind, code)) + checksum.to_bytes(2, "big") + body
    return IP(src=src, dst=dst, proto=1, **ip) / Raw(message)


def error6(kind: int, code: int, rest: int, inner: Any, *, src: str, dst: str, **ip: Any) -> Layer:
    """An ICMPv6 message about `inner`; `rest` is its second word."""
    body = rest.to_bytes(4, "big") + bytes(inner)
    head = IPv6(src=src, dst=dst, nh=58, **ip)
    checksum = 0xFFFF - transport_sum(bytes(head / Raw(bytes((kind, code, 0, 0)) + body)))
    return head / Raw(bytes((kind, code)) + checksum.to_bytes(2, "big") + body)
