"""Router advertisements and solicitations as bytes, both ways (RFC 4861 §4.1, §4.2). Pure.

Options that are built and read:

    1   source link-layer address                  RFC 4861 §4.6.1
    3   prefix information                         RFC 4861 §4.6.2
    24  route information                          RFC 4191 §2.3
    25  recursive DNS servers (RDNSS)              RFC 8106 §5.1
    38  NAT64 prefix (PREF64)                      RFC 8781 §4

Others are stepped over. The ICMPv6 checksum is the kernel's work and stays zero.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv6Address, IPv6Network

SOLICITATION, ADVERTISEMENT = 133, 134
INFINITY = 0xFFFF_FFFF  # seconds, RFC 4861 §4.6.2
MAX_PREF64_LIFETIME = 65_528  # seconds: 13 bits of 8 s each, RFC 8781 §4.1
MAX_ROUTER_LIFETIME = 9_000  # seconds, RFC 4861 §6.2.1

_SOURCE_LINK, _PREFIX, _ROUTE, _RDNSS, _PREF64 = 1, 3, 24, 25, 38
_HEADER = struct.Struct(">BBHBBHII")
_ON_LINK, _AUTONOMOUS = 0x80, 0x40
# RFC 8781 §4: the prefix length code.
_LENGTH_CODES = {96: 0, 64: 1, 56: 2, 48: 3, 40: 4, 32: 5}
_CODE_LENGTHS = {code: length for length, code in _LENGTH_CODES.items()}
# RFC 4191 §2.1: the preference of a route, of two bits; one value is for nobody.
_PREFERENCE = 0x18
_MEDIUM, _RESERVED = 0x00, 0x10


class BadMessage(Exception):
    """Bytes from the network that are no valid message; str() says why."""


@dataclass(frozen=True, slots=True)
class PrefixInformation:
    """Hosts make addresses in it (RFC 4862); lifetimes in seconds."""

    prefix: IPv6Network
    valid: int
    preferred: int
    on_link: bool = True
    autonomous: bool = True


@dataclass(frozen=True, slots=True)
class RouteInformation:
    """A route through the sender; `lifetime` in seconds, 0 takes it back."""

    prefix: IPv6Network
    lifetime: int


@dataclass(frozen=True, slots=True)
class Pref64:
    """A NAT64 prefix; `lifetime` in seconds, 0 takes it back."""

    prefix: IPv6Network
    lifetime: int


@dataclass(frozen=True, slots=True)
class Rdnss:
    """DNS servers; `lifetime` in seconds, 0 takes them back."""

    servers: tuple[IPv6Address, ...]
    lifetime: int


@dataclass(frozen=True, slots=True)
class RouterAdvertisement:
    """What one says. `router_lifetime`: seconds, 0: the sender is no default router."""

    router_lifetime: int = 0
    link: bytes = b""
    prefixes: tuple[PrefixInformation, ...] = ()
    routes: tuple[RouteInformation, ...] = ()
    pref64: tuple[Pref64, ...] = ()
    rdnss: tuple[Rdnss, ...] = ()
    hop_limit: int = 64
    managed: bool = False
    other: bool = False


def build_advertisement(what: RouterAdvertisement) -> bytes:
    """The ICMPv6 message, checksum zero.

    Raises ValueError for a NAT64 prefix of a length that PREF64 cannot express.
    """
    flags = 0x80 * what.managed | 0x40 * what.other
    lifetime = min(what.router_lifetime, 0xFFFF)
    parts = [_HEADER.pack(ADVERTISEMENT, 0, 0, what.hop_limit, flags, lifetime, 0, 0)]
    if what.link:
        parts.append(_option(_SOURCE_LINK, what.link))
    parts.extend(_prefix(item) for item in what.prefixes)
    parts.extend(_route(item) for item in what.routes)
    parts.extend(_rdnss(item) for item in what.rdnss if item.servers)
    parts.extend(_pref64(item) for item in what.pref64)
    return b"".join(parts)


def _option(kind: int, body: bytes) -> bytes:
    """Type, length in units of 8 bytes, body padded with zeros (RFC 4861 §4.6)."""
    size = (len(body) + 2 + 7) // 8
    return bytes((kind, size)) + body.ljust(size * 8 - 2, b"\0")


def _prefix(item: PrefixInformation) -> bytes:
    flags = _ON_LINK * item.on_link | _AUTONOMOUS * item.autonomous
    body = struct.pack(
        ">BBIII16s",
        item.prefix.prefixlen,
        flags,
        item.valid,
        item.preferred,
        0,
        item.prefix.network_address.packed,
    )
    return _option(_PREFIX, body)


def _route(item: RouteInformation) -> bytes:
    length = item.prefix.prefixlen
    # RFC 4191 §2.3: no more of the prefix than its length needs.
    octets = 16 if length > 64 else 8 if length else 0
    head = struct.pack(">BBI", length, _MEDIUM, item.lifetime)
    return _option(_ROUTE, head + item.prefix.network_address.packed[:octets])


def _rdnss(item: Rdnss) -> bytes:
    servers = b"".join(server.packed for server in item.servers)
    return _option(_RDNSS, struct.pack(">HI", 0, item.lifetime) + servers)


def _pref64(item: Pref64) -> bytes:
    code = _LENGTH_CODES.get(item.prefix.prefixlen)
    if code is None:
        raise ValueError(f"{item.prefix}: PREF64 has no code for this prefix length")
    # RFC 8781 §4.1: rounded up, so that it does not end before the next advertisement.
    scaled = min(-(-item.lifetime // 8), MAX_PREF64_LIFETIME // 8)
    head = struct.pack(">H", scaled << 3 | code)
    return _option(_PREF64, head + item.prefix.network_address.packed[:12])


def parse_advertisement(data: bytes) -> RouterAdvertisement:
    """What an ICMPv6 message of type 134 says; unknown options are stepped over.

    A malformed option of a known kind is ignored, as RFC 4861 §6.1.2 asks receivers to ignore
    what they do not understand. Raises BadMessage when the message is none, or an option has
    length zero or runs over the end (§6.1.2).
    """
    if len(data) < _HEADER.size:
        raise BadMessage("too short")
    kind, code, _, hop_limit, flags, lifetime, _, _ = _HEADER.unpack_from(data)
    if kind != ADVERTISEMENT or code:
        raise BadMessage("no router advertisement")
    link = b""
    prefixes: list[PrefixInformation] = []
    routes: list[RouteInformation] = []
    pref64: list[Pref64] = []
    rdnss: list[Rdnss] = []
    for option, body in _options(data, _HEADER.size):
        if option == _SOURCE_LINK:
            link = body[:6]
        elif option == _PREFIX and len(body) == 30:
            prefixes.append(_parse_prefix(body))
        elif option == _ROUTE and (route := _parse_route(body)) is not None:
            routes.append(route)
        elif option == _RDNSS and len(body) >= 22 and len(body) % 16 == 6:
            servers = tuple(IPv6Address(body[at : at + 16]) for at in range(6, len(body), 16))
            rdnss.append(Rdnss(servers, int.from_bytes(body[2:6], "big")))
        elif option == _PREF64 and (prefix := _parse_pref64(body)) is not None:
            pref64.append(prefix)
    return RouterAdvertisement(
        router_lifetime=lifetime,
        link=link,
        prefixes=tuple(prefixes),
        routes=tuple(routes),
        pref64=tuple(pref64),
        rdnss=tuple(rdnss),
        hop_limit=hop_limit,
        managed=bool(flags & 0x80),
        other=bool(flags & 0x40),
    )


def _options(data: bytes, at: int) -> list[tuple[int, bytes]]:
    """Kind and body (without kind and length) of each option. Raises BadMessage."""
    found = []
    while at < len(data):
        size = data[at + 1] * 8 if at + 1 < len(data) else 0
        if size == 0 or at + size > len(data):
            raise BadMessage("an option's length is wrong")
        found.append((data[at], data[at + 2 : at + size]))
        at += size
    return found


def _network(head: bytes, length: int) -> IPv6Network:
    return IPv6Network((int.from_bytes(head.ljust(16, b"\0"), "big"), length), strict=False)


def _parse_prefix(body: bytes) -> PrefixInformation:
    length, flags, valid, preferred, _, address = struct.unpack(">BBIII16s", body)
    return PrefixInformation(
        _network(address, min(length, 128)),
        valid,
        preferred,
        on_link=bool(flags & _ON_LINK),
        autonomous=bool(flags & _AUTONOMOUS),
    )


def _parse_route(body: bytes) -> RouteInformation | None:
    length, flags, lifetime = struct.unpack_from(">BBI", body)
    head = body[6:]
    if length > 128 or not (16 if length > 64 else 8 if length else 0) <= len(head) <= 16:
        return None
    if flags & _PREFERENCE == _RESERVED:  # RFC 4191 §2.3
        return None
    return RouteInformation(_network(head, length), lifetime)


def _parse_pref64(body: bytes) -> Pref64 | None:
    if len(body) != 14:
        return None
    word = int.from_bytes(body[:2], "big")
    length = _CODE_LENGTHS.get(word & 7)
    # RFC 8781 §4: a code that nobody has defined makes the option one to ignore.
    return None if length is None else Pref64(_network(body[2:], length), (word >> 3) * 8)


def check_solicitation(data: bytes, hop_limit: int, source: IPv6Address) -> None:
    """Raises BadMessage unless it is a valid router solicitation (RFC 4861 §6.1.1).

    `data`: the ICMPv6 message, whose checksum the kernel has verified.
    """
    if len(data) < 8 or data[0] != SOLICITATION or data[1]:
        raise BadMessage("no router solicitation")
    if hop_limit != 255:
        raise BadMessage("not from this link")
    kinds = [kind for kind, _ in _options(data, 8)]
    if source.is_unspecified and _SOURCE_LINK in kinds:
        raise BadMessage("a link-layer address without an address")
