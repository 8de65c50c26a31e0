"""The settings that the header of an input asks for, and the hosts that they are about.

byte 0: prefixes; 0x20 stateless (tests/fuzz/stateless.py); 0x40 the uplink comes and goes
byte 1: ports, limits, well-known prefix, MTU, MSS, lowest IPv6 MTU
byte 2: two bits for each enumeration of Settings; 0x80 a reload in the middle
byte 3: fragments, error pool, blocks, marks, static mappings, deterministic, ranges
"""

from __future__ import annotations

from dataclasses import fields, replace
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from translate.addresses import Layout, Prefix6
from translate.deterministic import Subscribers
from translate.pool4 import PoolRange
from translate.settings import Limits, Settings, Timeouts
from translate.static_bib import StaticEntry

HEADER_SIZE = 4

CLIENTS = [bytes.fromhex("20010db80001000000000000000000" + end) for end in ("10", "20", "30")]
SERVERS = [bytes((198, 51, 100, 80)), bytes((198, 51, 100, 81)), bytes((8, 8, 8, 8))]
_POOL = IPv4Network("203.0.113.8/31")
_ERROR_POOL = IPv4Network("203.0.113.64/30")
OWN4 = bytes((203, 0, 113, 8))
# Ranges by protocol and by client, in place of one for all.
_RANGES = (
    ("203.0.113.8/32", frozenset({6, 17}), None),
    ("203.0.113.9/32", frozenset({1, 6, 17}), None),
    ("203.0.113.10/31", frozenset({1, 6, 17}), IPv6Network("2001:db8:1::20/128")),
)
# A server of its own, and a port that a client also uses by itself.
STATIC = (
    StaticEntry(17, OWN4 + (1030).to_bytes(2, "big"), CLIENTS[2] + (53).to_bytes(2, "big")),
    StaticEntry(6, OWN4 + (1031).to_bytes(2, "big"), CLIENTS[0] + (40000).to_bytes(2, "big")),
    StaticEntry(1, OWN4[:3] + b"\x09\x04\x08", CLIENTS[2] + (7).to_bytes(2, "big")),
)
STATIC_LATER = (
    STATIC[0],
    StaticEntry(6, OWN4 + (1031).to_bytes(2, "big"), CLIENTS[2] + (80).to_bytes(2, "big")),
    StaticEntry(17, OWN4 + (1025).to_bytes(2, "big"), CLIENTS[1] + (40001).to_bytes(2, "big")),
)
# 16 subscribers, of which the clients are numbers 1, 2 and 3.
SUBSCRIBERS = Subscribers(IPv6Network("2001:db8:1::/120"), 124)
PREFIXES = [
    (IPv6Network("fec0:0:0:ffff::/64"), Layout.TRAILING),
    (IPv6Network("64:ff9b::/96"), Layout.RFC6052),
    (IPv6Network("2001:db8:6464::/48"), Layout.RFC6052),
]
# Lifetimes lie between the points of the grid of time (tests/fuzz/scenario.py).
_LIFETIMES = Timeouts(udp_default=300.1, tcp_est=600.1, tcp_trans=240.1, icmp_default=60.1)


def is_stateless(head: bytes) -> bool:
    """Whether an input is for the stateless translator."""
    return bool(head[:1] and head[0] & 0x20)


def uplink_breaks(head: bytes) -> bool:
    """Whether the way to the IPv4 internet comes and goes."""
    return bool(head[:1] and head[0] & 0x40)


def choose_settings(head: bytes) -> Settings:
    """The settings that the first bytes of an input ask for."""
    head = head.ljust(HEADER_SIZE, b"\0")
    first = head[0] % len(PREFIXES)
    network, layout = PREFIXES[first]
    prefixes = [Prefix6(network, layout)]
    if head[0] & 0x80:
        prefixes.append(Prefix6(*PREFIXES[(first + 1) % len(PREFIXES)]))
    first_port, last_port = (1, 65535) if head[1] & 1 else (1024, 1039)
    limits = Limits()
    if head[1] & 2:
        limits = replace(limits, sessions=6, sessions_per_client=4, bib=5, clients=2)
    if head[3] & 1:
        limits = replace(limits, fragments=3, fragments_per_client=2, fragment_bytes=1500)
    pool4 = [PoolRange(_POOL, first_port=first_port, last_port=last_port)]
    if head[3] & 0x80 and not head[3] & 0x40:
        pool4 = [
            PoolRange(IPv4Network(network4), protocols, first_port, last_port, clients)
            for network4, protocols, clients in _RANGES
        ]
    settings = Settings(
        prefixes=tuple(prefixes),
        pool4=tuple(pool4),
        static=STATIC if head[3] & 0x20 else (),
        deterministic=SUBSCRIBERS if head[3] & 0x40 else None,
        icmp6_source=prefixes[0].embed(bytes((192, 0, 0, 8))),
        icmp4_source=OWN4,
        wkp_strict=not head[1] & 4,
        icmp4_error_pool=(_ERROR_POOL,) if head[3] & 2 else (),
        port_block_size=8 if head[3] & 4 and not head[3] & 0x40 else 0,
        tos=0 if head[3] & 8 else None,
        traffic_class=0xE0 if head[3] & 16 else None,
        mtu=(1500, 1500, 9000, 1280)[head[1] >> 3 & 3],
        mss_clamp=(None, None, 0, 1000)[head[1] >> 5 & 3],
        lowest_ipv6_mtu=1280 if head[1] & 0x80 else 1400,
        limits=limits,
        # Not the two hours of TCP_EST: the wheel turns through each second.
        timeouts=_LIFETIMES,
    )
    # Choices that are enumerations: two bits of the header for each, by default the first value.
    # So the fuzzer learns new ones without being told.
    changes: dict[str, object] = {}
    defaults = [(f.name, f.default) for f in fields(settings)]
    choices = [(name, type(default)) for name, default in defaults if isinstance(default, Enum)]
    for index, (name, choice) in enumerate(choices):
        values = list(choice)
        changes[name] = values[(head[2] >> index * 2 & 3) % len(values)]
    return replace(settings, **changes)  # type: ignore[arg-type]


def reloaded(settings: Settings) -> Settings:
    """What these settings become when an input has a reload in its middle (SIGHUP)."""
    limits = replace(settings.limits, fragments=2, fragment_bytes=2500, sessions=5)
    timeouts = replace(settings.timeouts, udp_default=120.1, fragment_min=1.0)
    static = STATIC_LATER if settings.static else ()
    return replace(settings, static=static, limits=limits, timeouts=timeouts)
