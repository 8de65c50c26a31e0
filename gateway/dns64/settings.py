"""What the DNS64 is configured to do, as one immutable value.

The options are those that administrators know from BIND (`clients`, `mapped`, `exclude`) and
Unbound (`synthall`, `ignore_aaaa`). Prefixes and layouts are the translator's own, so that every
address made here is one that it translates.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network, IPv6Network

from gateway.dns64.messages import OUR_UDP_SIZE
from gateway.dns64.places import LAN
from translate.addresses import Prefix6

# RFC 6147 §5.1.4: addresses that no IPv6-only host can use.
DEFAULT_EXCLUDE = (IPv6Network("::ffff:0:0/96"),)

Network = IPv4Network | IPv6Network


class Choice(Enum):
    """Which of several prefixes a synthesised answer has."""

    FIRST = "first"
    ALL = "all"
    ROUND_ROBIN = "round-robin"
    BY_CLIENT = "by-client"


class Reverse(Enum):
    """What becomes of PTR questions about addresses in a prefix (RFC 6147 §5.3.1)."""

    CNAME = "cname"
    TRANSLATE = "translate"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds on everything that clients and upstreams can make grow."""

    cache_entries: int = 50_000
    cache_bytes: int = 64 << 20
    queries: int = 4_096  # waiting for an upstream, in total
    queries_per_client: int = 512
    queries_per_second: float = 2_000.0  # of one client; 0: any number
    burst: int = 4_000
    clients: int = 65_536  # addresses remembered for admission and rate
    tcp_connections: int = 256
    tcp_per_client: int = 32


@dataclass(frozen=True, slots=True)
class Dns64Settings:
    """Everything that can be configured. Times in seconds, sizes in bytes.

    `listen`: addresses, `ADDRESS@PORT`, or names of interfaces whose addresses are followed, `*`
    for those of the LAN (places.py).
    `upstreams`: `ADDRESS`, `ADDRESS@PORT` or `tls://ADDRESS[@PORT][#NAME]`, best first; empty
    takes them from `resolv_conf`. `clients`: who gets synthesised answers; empty means everyone
    who is answered at all. `mapped`: IPv4 addresses that are synthesised; empty means all.
    """

    prefixes: tuple[Prefix6, ...]
    listen: tuple[str, ...] = ("::1", LAN)
    upstreams: tuple[str, ...] = ()
    resolv_conf: str = "/etc/resolv.conf"
    choice: Choice = Choice.FIRST
    clients: tuple[Network, ...] = ()
    mapped: tuple[IPv4Network, ...] = ()
    exclude: tuple[IPv6Network, ...] = DEFAULT_EXCLUDE
    exclude4: tuple[IPv4Network, ...] = ()
    synthall: bool = False
    ignore_aaaa: tuple[str, ...] = ()
    break_dnssec: bool = True
    reverse: Reverse = Reverse.CNAME
    max_ttl: int = 86_400
    max_negative_ttl: int = 900
    serve_stale: int = 0  # how long after its end an answer may stand in for a dead upstream
    timeout: float = 4.5  # until a client is told SERVFAIL
    try_timeout: float = 0.5  # until a question is repeated the first time; doubles
    pause: float = 15.0  # how long an upstream that is dead is not asked
    use_0x20: bool = False
    trust_ad: bool = False
    tls_ca_file: str = ""
    udp_size: int = OUR_UDP_SIZE
    tcp_idle: float = 10.0
    limits: Limits = Limits()
