"""Single values of the configuration, as people write them, turned into what the program uses.

Each function takes what TOML gave, of any type, and returns the value or raises `BadValue`,
which carries one line for each fault: what is wrong, a semicolon, what would be right. A list
is read to its end, so that its faults are found at once. Nothing here looks at the host.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from datetime import date, time
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
)
from itertools import combinations
from typing import Any, Literal, TypeVar

from translate.addresses import PREFIX_LENGTHS
from translate.pool4 import PoolRange

T = TypeVar("T")
Network = TypeVar("Network", IPv4Network, IPv6Network)

# RFC 7600: the dummy IPv4 address; the gateway's own, and the next hop of the pool's route.
GATEWAY_IPV4 = IPv4Address("192.0.0.8")

PROTOCOLS = {"tcp": 6, "udp": 17, "icmp": 1}
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}

# RFC 9293 §3.7.1: 536 is what every IPv4 host takes; 65495 fills the largest IPv4 packet.
MSS_RANGE = (536, 65_495)

# IFNAMSIZ is 16 with the final zero; the kernel refuses '/', ':' and space, expands '%d'.
_DEVICE_NAME = re.compile(r"[!-~]{1,15}")
_DEVICE_NAME_REFUSED = frozenset("/:%")

_EXAMPLE_PREFIX = '"64:ff9b::/96"'
_EXAMPLE_POOL = '"198.51.100.8/29" or "198.51.100.8/29 tcp 1024-65535"'

_NO_PREFIX_HERE = {
    IPv6Network("::/96"): "the unspecified, loopback and IPv4-compatible addresses",
    IPv6Network("::ffff:0:0/96"): "the IPv4-mapped addresses, which no kernel routes",
    IPv6Network("fe80::/10"): "the link-local addresses, which no router forwards",
    IPv6Network("ff00::/8"): "the multicast addresses",
}
_NO_POOL_HERE = {
    IPv4Network("0.0.0.0/8"): "this network",
    IPv4Network("127.0.0.0/8"): "loopback",
    IPv4Network("169.254.0.0/16"): "link-local",
    IPv4Network("224.0.0.0/4"): "multicast",
    IPv4Network("240.0.0.0/4"): "reserved",
}


class BadValue(ValueError):
    """A value that cannot be used; `lines` has a line for each fault, without the key."""

    def __init__(self, *lines: str) -> None:
        super().__init__("\n".join(lines))
        self.lines = lines


def shown(value: object) -> str:
    """The value as TOML would write it, on one line, cut when long."""
    if isinstance(value, str | bool):
        text = json.dumps(value, ensure_ascii=False)
    elif isinstance(value, list | tuple):
        text = "[" + ", ".join(shown(item) for item in value) + "]"
    elif isinstance(value, dict):
        text = "{" + ", ".join(f"{key} = {shown(item)}" for key, item in value.items()) + "}"
    else:
        text = str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def type_name(value: object) -> str:
    """What TOML calls the type of the value, with its article."""
    names: Sequence[tuple[type | tuple[type, ...], str]] = (
        (bool, "a boolean"),
        (int, "an integer"),
        (float, "a float"),
        (str, "a string"),
        (list, "a list"),
        (dict, "a table"),
        ((date, time), "a date or time"),
    )
    for kinds, name in names:
        if isinstance(value, kinds):
            return name
    return type(value).__name__


def parse_network6(text: str) -> IPv6Network:
    """An IPv6 prefix of any length; an address alone is a /128."""
    return _parse_network(text, IPv6Address, IPv6Network)


def parse_network4(text: str) -> IPv4Network:
    """An IPv4 prefix of any length; an address alone is a /32."""
    return _parse_network(text, IPv4Address, IPv4Network)


def _parse_network(
    text: str,
    address_type: type[IPv4Address] | type[IPv6Address],
    network_type: type[Network],
) -> Network:
    family = "IPv4" if address_type is IPv4Address else "IPv6"
    example = "192.0.2.0/24" if family == "IPv4" else "2001:db8::/32"
    address_text, slash, length_text = text.partition("/")
    try:
        address = address_type(address_text)
        if "%" in address_text:
            raise ValueError
    except ValueError:
        what = f"{shown(text)} is no {family} prefix"
        if _is_other_family(address_text, address_type):
            what = f"{shown(text)} is not {family}"
        raise BadValue(f"{what}; write ADDRESS/LENGTH, e.g. {example}") from None
    bits: int = address.max_prefixlen
    length = bits
    if slash:
        if not (length_text.isascii() and length_text.isdecimal() and int(length_text) <= bits):
            raise BadValue(f"{shown(text)} has no valid length; a number from 0 to {bits} is")
        length = int(length_text)
    network = network_type((int(address), length), strict=False)
    if int(network.network_address) != int(address):
        raise BadValue(f"{shown(text)} has bits set behind its /{length}; {network} has none")
    return network


def _is_other_family(text: str, address_type: type) -> bool:
    try:
        return not isinstance(ip_address(text), address_type)
    except ValueError:
        return False


def parse_items(value: Any, what: str, example: str, parse: Callable[[str], T]) -> list[T]:
    """Every item of a list (or one string) through `parse`; all faults in one BadValue."""
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        raise BadValue(
            f"{shown(value)} is {type_name(value)}; give {what} as a string, or a list of "
            f"strings, e.g. {example}"
        )
    parsed: list[T] = []
    faults: list[str] = []
    for item in items:
        if not isinstance(item, str):
            faults.append(f"{shown(item)} is {type_name(item)}; give a string, e.g. {example}")
            continue
        try:
            parsed.append(parse(item))
        except BadValue as bad:
            faults.extend(bad.lines)
    faults.extend(_overlaps(parsed))
    if faults:
        raise BadValue(*faults)
    return parsed


def _overlaps(parsed: Sequence[object]) -> list[str]:
    """Pairs that claim the same prefix or transport addresses (lists where that matters)."""
    faults = []
    for one, other in combinations(parsed, 2):
        if isinstance(one, _NatPrefix) and isinstance(other, _NatPrefix):
            if one.overlaps(other):
                faults.append(f"{one} and {other} overlap; each address may be in one only")
        elif (
            isinstance(one, PoolRange)
            and isinstance(other, PoolRange)
            and _pool_ranges_overlap(one, other)
        ):
            faults.append(
                f"{shown(show_pool_range(one))} and {shown(show_pool_range(other))} overlap; "
                f"each address and port of a protocol may be in one only"
            )
    return faults


def _pool_ranges_overlap(one: PoolRange, other: PoolRange) -> bool:
    return bool(
        one.protocols & other.protocols
        and one.network.overlaps(other.network)
        and one.first_port <= other.last_port
        and other.first_port <= one.last_port
    )


class _NatPrefix(IPv6Network):
    """A prefix of the key `prefix`: these must not overlap, unlike those of `allow`."""


def parse_prefixes(value: Any) -> tuple[IPv6Network, ...]:
    """The key `prefix`: at least one, of a length and place that RFC 6052 allows, disjoint."""
    parsed = parse_items(value, "an IPv6 prefix", _EXAMPLE_PREFIX, _parse_nat_prefix)
    if not parsed:
        raise BadValue(f"the list is empty; give at least one prefix, e.g. {_EXAMPLE_PREFIX}")
    return tuple(IPv6Network(prefix) for prefix in parsed)


def _parse_nat_prefix(text: str) -> _NatPrefix:
    allowed = ", ".join(f"/{length}" for length in PREFIX_LENGTHS)
    network = parse_network6(text)
    if "/" not in text:
        raise BadValue(f"{shown(text)} has no length; allowed are {allowed}")
    if network.prefixlen not in PREFIX_LENGTHS:
        raise BadValue(
            f"{network} has the length /{network.prefixlen}; "
            f"the lengths of RFC 6052 are right: {allowed}"
        )
    for reserved, what in _NO_PREFIX_HERE.items():
        if network.overlaps(reserved):
            raise BadValue(
                f"{network} overlaps {reserved}, {what}; "
                f"take 64:ff9b::/96 or a prefix of your own network"
            )
    if network.network_address.packed[8]:
        raise BadValue(
            f"{network} has bits set in bits 64 to 71; RFC 6052 §2.2 wants them to be zero"
        )
    return _NatPrefix(network)


def parse_allow(value: Any) -> tuple[IPv6Network, ...]:
    """The key `allow`: IPv6 prefixes of clients, of any length."""
    return tuple(parse_items(value, "an IPv6 prefix", '"2001:db8::/32"', parse_network6))


def parse_deny4(value: Any) -> tuple[IPv4Network, ...]:
    """The key `deny4`: IPv4 prefixes, of any length."""
    return tuple(parse_items(value, "an IPv4 prefix", '"10.0.0.0/8"', parse_network4))


def parse_pool4(value: Any) -> tuple[PoolRange, ...]:
    """The key `pool4`: ranges of IPv4 transport addresses that do not overlap; may be empty."""
    return tuple(parse_items(value, "a range", _EXAMPLE_POOL, _parse_pool_range))


def _parse_pool_range(text: str) -> PoolRange:
    """`NETWORK [tcp|udp|icmp] [FIRST-LAST] [for PREFIX6]`."""
    words = text.split()
    clients = None
    if len(words) > 2 and words[-2].lower() == "for":
        clients = parse_network6(words[-1])
        words = words[:-2]
    if not words:
        raise BadValue(f"{shown(text)} is no range; e.g. {_EXAMPLE_POOL} is")
    network = parse_network4(words.pop(0))
    for reserved, what in _NO_POOL_HERE.items():
        if network.overlaps(reserved):
            raise BadValue(
                f"{network} overlaps {reserved} ({what}); take addresses that are routed to "
                f"this host, or leave pool4 empty"
            )
    if GATEWAY_IPV4 in network:
        raise BadValue(f"{network} contains {GATEWAY_IPV4}, the gateway's own address; take others")
    protocols = frozenset(PROTOCOLS.values())
    if words and words[0].lower() in PROTOCOLS:
        protocols = frozenset({PROTOCOLS[words.pop(0).lower()]})
    first, last = 1, 65_535
    if words:
        first, last = _parse_ports(words.pop(0))
    if words:
        raise BadValue(
            f"{shown(text)} has {shown(' '.join(words))} at its end; "
            f"NETWORK, then tcp, udp or icmp, then FIRST-LAST, then for PREFIX is right"
        )
    return PoolRange(network, protocols, first, last, clients)


def _parse_ports(text: str) -> tuple[int, int]:
    match = re.fullmatch(r"([0-9]{1,6})(?:-([0-9]{1,6}))?", text)
    if match is None:
        raise BadValue(
            f"{shown(text)} is no protocol and no range of ports; "
            f"tcp, udp or icmp, then FIRST-LAST is right, e.g. 1024-65535"
        )
    first = int(match[1])
    last = int(match[2] or match[1])
    if not 1 <= first <= last <= 65_535:
        raise BadValue(
            f"{shown(text)} is no range of ports; FIRST-LAST is right, "
            f"from 1 to 65535 and not descending"
        )
    return first, last


def show_pool_range(pool: PoolRange) -> str:
    """The range as the configuration writes it, without what is the default."""
    words = [str(pool.network)]
    if pool.protocols != frozenset(PROTOCOLS.values()):
        words.append(",".join(_PROTOCOL_NAMES[number] for number in sorted(pool.protocols)))
    if (pool.first_port, pool.last_port) != (1, 65_535):
        words.append(f"{pool.first_port}-{pool.last_port}")
    if pool.clients is not None:
        words.append(f"for {pool.clients}")
    return " ".join(words)


def parse_device_name(value: Any) -> str:
    """The key `tap`: a device name that Linux accepts, or empty for the first free one."""
    if not isinstance(value, str):
        raise BadValue(f'{shown(value)} is {type_name(value)}; give a string, e.g. "tap0"')
    if value and (
        not _DEVICE_NAME.fullmatch(value)
        or not _DEVICE_NAME_REFUSED.isdisjoint(value)
        or value in (".", "..")
    ):
        raise BadValue(
            f"{shown(value)} is no name of a device; up to 15 ASCII characters without "
            f"space, '/', ':' and '%' are, e.g. \"tap0\""
        )
    return value


def parse_mss_clamp(value: Any) -> Literal["auto", "off"] | int:
    """The key `mss_clamp`."""
    low, high = MSS_RANGE
    if value == "auto":
        return "auto"
    if value == "off":
        return "off"
    if isinstance(value, int) and low <= value <= high:
        return value
    raise BadValue(f'{shown(value)} is no MSS; "auto", "off" or an integer from {low} to {high} is')


def parse_tos(value: Any) -> Literal["copy"] | int:
    """The keys `tos` and `traffic_class`: one octet."""
    if value == "copy":
        return "copy"
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255:
        return value
    raise BadValue(f'{shown(value)} is no traffic class; "copy" or an integer from 0 to 255 is')


def parse_masquerade(value: Any) -> Literal["auto"] | bool:
    """The key `masquerade`."""
    if isinstance(value, bool):
        return value
    if value == "auto":
        return "auto"
    raise BadValue(f'{shown(value)} is no choice; true, false or "auto" is')


def parse_icmp6_source(value: Any) -> Literal["auto"] | IPv6Address:
    """The key `icmp6_source`: an address that routers forward as a source."""
    example = '"auto" or an IPv6 address, e.g. "2001:db8::1"'
    if value == "auto":
        return "auto"
    try:
        if not isinstance(value, str) or "%" in value:
            raise ValueError
        address = IPv6Address(value)
    except ValueError:
        raise BadValue(f"{shown(value)} is no IPv6 address; give {example}") from None
    if (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.ipv4_mapped is not None
    ):
        raise BadValue(
            f"{shown(value)} is no source that routers forward; give {example}, "
            f"neither link-local, loopback, multicast nor IPv4-mapped"
        )
    return address


def parse_icmp4_source(value: Any) -> Literal["auto"] | IPv4Address:
    """The key `icmp4_source`: an address that routers forward as a source."""
    example = '"auto" or an IPv4 address, e.g. "198.51.100.8"'
    if value == "auto":
        return "auto"
    try:
        if not isinstance(value, str):
            raise ValueError
        address = IPv4Address(value)
    except ValueError:
        raise BadValue(f"{shown(value)} is no IPv4 address; give {example}") from None
    for reserved, what in _NO_POOL_HERE.items():
        if address in reserved:
            raise BadValue(
                f"{shown(value)} is {what} ({reserved}), no source that routers forward; "
                f"give {example}"
            )
    return address


def parse_icmp4_error_pool(value: Any) -> tuple[IPv4Network, ...]:
    """The key `icmp4_error_pool`: prefixes of addresses that routers forward as a source."""
    return tuple(parse_items(value, "an IPv4 prefix", '"198.51.100.0/28"', _parse_source4))


def _parse_source4(text: str) -> IPv4Network:
    network = parse_network4(text)
    for reserved, what in _NO_POOL_HERE.items():
        if network.overlaps(reserved):
            raise BadValue(
                f"{network} overlaps {reserved} ({what}), no source that routers forward; "
                f"take others"
            )
    return network


def parse_run_dir(value: Any) -> str:
    """The key `run_dir`: an absolute path below the root."""
    if (
        not isinstance(value, str)
        or not value.startswith("/")
        or not value.strip("/")
        or "\0" in value
    ):
        raise BadValue(f'{shown(value)} is no absolute path; one is right, e.g. "/run/tap64"')
    return value.rstrip("/")
