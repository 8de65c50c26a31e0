"""What the translator is told once, at start or at a reload.

A plain value: the program's configuration (gateway/config.py) is turned into one `Settings`;
tests build it directly. Durations are seconds and carry RFC 6146's names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network

from translate.addresses import Prefix6
from translate.pool4 import PoolRange


class Filtering(Enum):
    """Which IPv4 packets may enter through an existing mapping (RFC 6146 §3.5.1.1, §3.5.2.2)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Session lifetimes in seconds, named as in RFC 6146 §4."""

    udp_default: float = 300.0
    tcp_est: float = 7440.0
    tcp_trans: float = 240.0
    tcp_incoming_syn: float = 6.0
    icmp_default: float = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on everything that a peer can make grow; counts, unless named otherwise."""

    sessions: int = 1_000_000
    sessions_per_client: int = 8_192
    bib: int = 500_000
    clients: int = 65_536
    stored_syns: int = 4_096
    icmp_errors_per_second: float = 100.0
    icmp_errors_burst: int = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `translate.nat64.Nat64` needs to know.

    `mss_clamp`: None clamps to the path (RFC 6146 leaves it to implementations), 0 switches
    it off, any other value is the MSS itself in bytes.
    `icmp6_source`: 16 bytes, source of the translator's own ICMPv6 errors.
    `icmp4_source`: 4 bytes, source of its own ICMPv4 errors.
    `mtu`: of the device, in bytes of IP packet.
    """

    prefixes: tuple[Prefix6, ...]
    pool4: tuple[PoolRange, ...]
    icmp6_source: bytes
    icmp4_source: bytes
    deny4: tuple[IPv4Network, ...] = ()
    wkp_strict: bool = True
    filtering: Filtering = Filtering.ENDPOINT_INDEPENDENT
    mtu: int = 1500
    lowest_ipv6_mtu: int = 1280
    mss_clamp: int | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
