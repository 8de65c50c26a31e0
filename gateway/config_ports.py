"""Values of the configuration about ports: static mappings, and deterministic subscribers.

As in gateway/config_values.py, each function returns the value or raises `BadValue`.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from gateway.config_values import PROTOCOLS, BadValue, parse_items, parse_network6, shown, type_name
from translate.deterministic import Subscribers
from translate.static_bib import StaticEntry

A = TypeVar("A", IPv4Address, IPv6Address)

_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_ICMP = PROTOCOLS["icmp"]
_STATIC = re.compile(
    r"(?P<protocol>\S+)\s+(?P<addr4>[^\s:]+):(?P<port4>[0-9]{1,6})"
    r"\s*->\s*\[(?P<addr6>[^\s\]]+)\]:(?P<port6>[0-9]{1,6})"
)
_EXAMPLE_STATIC = '"tcp 198.51.100.8:80 -> [2001:db8::5]:8080"'
_EXAMPLE_DETERMINISTIC = '"2001:db8::/48 by 56"'
# Behind one address there have to be ports for everybody.
_MOST_SUBSCRIBER_BITS = 32


def parse_static(value: Any) -> tuple[StaticEntry, ...]:
    """The key `static`: mappings, no two with the same end of the same protocol."""
    parsed = parse_items(value, "a mapping", _EXAMPLE_STATIC, _parse_entry)
    faults = []
    for side, what in (("key4", "pool4 address and port"), ("key6", "IPv6 address and port")):
        seen: dict[tuple[int, bytes], StaticEntry] = {}
        for entry in parsed:
            key = (entry.protocol, getattr(entry, side))
            if key in seen:
                faults.append(
                    f"{shown(show_static(seen[key]))} and {shown(show_static(entry))} have the"
                    f" same {what}; each may be in one mapping only"
                )
            seen.setdefault(key, entry)
    if faults:
        raise BadValue(*faults)
    return tuple(parsed)


def _parse_entry(text: str) -> StaticEntry:
    """`PROTOCOL ADDRESS4:PORT -> [ADDRESS6]:PORT`."""
    match = _STATIC.fullmatch(text.strip())
    if match is None:
        raise BadValue(
            f"{shown(text)} is no mapping; PROTOCOL ADDRESS:PORT -> [ADDRESS]:PORT is,"
            f" e.g. {_EXAMPLE_STATIC}"
        )
    protocol = PROTOCOLS.get(match["protocol"].lower())
    faults = []
    if protocol is None:
        faults.append(f"{shown(text)} has no protocol that is translated; tcp, udp or icmp is")
    addr4 = _address(match["addr4"], IPv4Address)
    if addr4 is None:
        faults.append(f"{shown(text)}: {shown(match['addr4'])} is no IPv4 address of pool4")
    addr6 = _address(match["addr6"], IPv6Address)
    if addr6 is None or not _is_server(addr6):
        faults.append(
            f"{shown(text)}: {shown(match['addr6'])} is no IPv6 address of a server that can be"
            f" routed to; neither link-local, loopback, multicast nor IPv4-mapped is right"
        )
    for side in ("port4", "port6"):
        # Linux numbers its echo requests from 0 on.
        least = 0 if protocol == _ICMP and side == "port6" else 1
        if not least <= int(match[side]) <= 65_535:
            faults.append(f"{shown(text)}: {match[side]} is no port; {least} to 65535 is right")
    if faults:
        raise BadValue(*faults)
    assert protocol is not None
    assert addr4 is not None
    assert addr6 is not None
    key4 = addr4.packed + int(match["port4"]).to_bytes(2, "big")
    return StaticEntry(protocol, key4, addr6.packed + int(match["port6"]).to_bytes(2, "big"))


def _address(text: str, kind: type[A]) -> A | None:
    try:
        return None if "%" in text else kind(text)
    except ValueError:
        return None


def _is_server(address: IPv6Address) -> bool:
    return not (
        address.is_multicast
        or address.is_unspecified
        or address.is_loopback
        or address.is_link_local
        or address.ipv4_mapped is not None
    )


def show_static(entry: StaticEntry) -> str:
    """The mapping as the configuration writes it."""
    port4 = int.from_bytes(entry.key4[4:], "big")
    port6 = int.from_bytes(entry.key6[16:], "big")
    return (
        f"{_PROTOCOL_NAMES[entry.protocol]} {IPv4Address(entry.key4[:4])}:{port4}"
        f" -> [{IPv6Address(entry.key6[:16])}]:{port6}"
    )


def parse_deterministic(value: Any) -> Subscribers | None:
    """The key `deterministic`: `PREFIX by LENGTH`, or empty for none."""
    if not isinstance(value, str):
        raise BadValue(
            f"{shown(value)} is {type_name(value)}; give a string, e.g. {_EXAMPLE_DETERMINISTIC}"
        )
    if not value.strip():
        return None
    match = re.fullmatch(r"(\S+)\s+by\s+/?([0-9]{1,4})", value.strip())
    if match is None:
        raise BadValue(
            f"{shown(value)} does not say whose ports; PREFIX by LENGTH is right, the prefix of"
            f" all subscribers and the length of one's, e.g. {_EXAMPLE_DETERMINISTIC}"
        )
    prefix, length = parse_network6(match[1]), int(match[2])
    most = min(128, prefix.prefixlen + _MOST_SUBSCRIBER_BITS)
    if not prefix.prefixlen <= length <= most:
        raise BadValue(
            f"{shown(value)}: {length} is no length of a subscriber's prefix;"
            f" from {prefix.prefixlen} to {most} is right"
        )
    return Subscribers(prefix, length)
