"""What the translator is told once, at start or at a reload.

A plain value: the program's configuration (gateway/config.py) is turned into one `Settings`;
tests build it directly. Durations are seconds and carry RFC 6146's names.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Network

from translate.addresses import Prefix6
from translate.deterministic import Subscribers
from translate.pool4 import PoolRange
from translate.static_bib import StaticEntry


class Filtering(Enum):
    """Which IPv4 packets may enter through an existing mapping (RFC 6146 §3.5.1, §3.5.2.2)."""

    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"


class ZeroChecksum(Enum):
    """What becomes of UDP from IPv4 that has no checksum (RFC 7915 §4.5)."""

    CALCULATE = "calculate"
    DROP = "drop"
    REJECT = "reject"
    FORWARD = "forward"


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Session lifetimes in seconds, named as in RFC 6146 §4."""

    udp_default: float = 300.0
    tcp_est: float = 7440.0
    tcp_trans: float = 240.0
    tcp_incoming_syn: float = 6.0
    icmp_default: float = 60.0
    fragment_min: float = 2.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds on everything that a peer can make grow; counts, unless named otherwise."""

    sessions: int = 1_000_000
    sessions_per_client: int = 8_192
    bib: int = 500_000
    # Dynamic mappings of one client; 0: no limit but the others.
    bib_per_client: int = 0
    clients: int = 65_536
    stored_syns: int = 4_096
    fragments: int = 4_096
    fragments_per_client: int = 256
    fragment_bytes: int = 4 << 20
    icmp_errors_per_second: float = 100.0
    icmp_errors_burst: int = 50


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything `translate.nat64.Nat64` needs to know.

    `mss_clamp`: None clamps to the path (RFC 6146 leaves it to implementations), 0 switches
    it off, any other value is the MSS itself in bytes.
    `icmp6_source`: 16 bytes, source of the translator's own ICMPv6 errors.
    `icmp4_source`: 4 bytes, source of its own ICMPv4 errors.
    `icmp4_error_pool`: sources of errors that come from IPv6 routers (RFC 6791 §3.2); empty: the
    pool4 address of the session.
    `tos`, `traffic_class`: what IPv4 and IPv6 packets leave with, None for what they came with
    (RFC 7915 §4.1, §5.1).
    `mtu`: of the device, in bytes of IP packet.
    `verify_header4`: check the IPv4 header checksum of what comes in, as RFC 1812 §5.2.2 wants of
    a router; the host's kernel has done so for what comes from a device, but not for a capture.
    `static`: mappings that are always there; no two have the same key4, or the same key6, for a
    protocol, and every key4 is in pool4.
    `port_block_size`: 0, or how many ports a block has (translate/client_ports.py).
    """

    prefixes: tuple[Prefix6, ...]
    pool4: tuple[PoolRange, ...]
    icmp6_source: bytes
    icmp4_source: bytes
    icmp4_error_pool: tuple[IPv4Network, ...] = ()
    deny4: tuple[IPv4Network, ...] = ()
    wkp_strict: bool = True
    filtering: Filtering = Filtering.ENDPOINT_INDEPENDENT
    mtu: int = 1500
    lowest_ipv6_mtu: int = 1280
    mss_clamp: int | None = None
    udp_zero_checksum: ZeroChecksum = ZeroChecksum.CALCULATE
    tos: int | None = None
    traffic_class: int | None = None
    verify_header4: bool = False
    static: tuple[StaticEntry, ...] = ()
    port_block_size: int = 0
    port_blocks_per_client: int = 4
    deterministic: Subscribers | None = None
    timeouts: Timeouts = field(default_factory=Timeouts)
    limits: Limits = field(default_factory=Limits)
