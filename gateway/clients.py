"""Who may use the gateway, and how large a packet fits on the way to them.

Theory of operation. A NAT64 that serves everybody is an open relay, and a list of clients that
must be typed in before the first packet is a nuisance. So the routing table is taken at its
word: a client is whoever the host has a *specific* way back to. Refused is a source whose route
is the default route, or a default in disguise (2000::/3, ::/1: anything shorter than /16), or
one that comes from a table of the whole internet:

- RTPROT_BGP (FRR's bgpd) says so itself;
- BIRD and Zebra/Quagga put one number (RTPROT_BIRD, RTPROT_ZEBRA) on everything they install,
  so a full table cannot be told from a handful of OSPF routes. Guessing wrong in one direction
  makes an open relay, in the other a line at start that names `--allow`; so they are refused.

Accepted without asking are addresses that are never routed globally: link-local (it can only
have come from a neighbour on our device), fc00::/7 (RFC 4193), fec0::/10 (RFC 3879). The host's
own addresses have a route of type RTN_LOCAL. `allow`, once given, alone decides. Addresses that
are no client's whatever anybody configures (::, ::1, multicast, IPv4-mapped and -compatible, and
the gateway's own prefixes, whose packets would go in circles) are refused before all that.

Answers are kept until the routes change; the caller invokes `flush` for each netlink event of
routes, addresses, rules or links. The cache is bounded and drops the least recently used, so a
flood of made-up sources costs a route look-up each and no memory. Path MTUs are kept for a few
seconds only, because the kernel reports no event when it learns one from ICMP.
"""

from __future__ import annotations

import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from ipaddress import IPv6Address, IPv6Network
from typing import Final, Protocol

from gateway.route_query import (
    RT_TABLE_MAIN,
    RTN_LOCAL,
    RTN_UNICAST,
    RTPROT_BGP,
    RTPROT_BIRD,
    RTPROT_GATEWAY,
    RTPROT_ZEBRA,
    RouteInfo,
)

# Shorter than this, a route is a default in disguise: the largest allocation to one operator
# is a /19, and the registries' own blocks are /12 and /23.
SHORTEST_CLIENT_ROUTE: Final = 16  # bits

# Without a route there is no MTU to ask for: what every path carries (RFC 8200 §5), and what
# every IPv4 host accepts (RFC 791 §3.1).
IPV6_MTU_WITHOUT_ROUTE: Final = 1280  # bytes
IPV4_MTU_WITHOUT_ROUTE: Final = 576  # bytes

# No IPv6 path is narrower (RFC 8200 §5); IPv4 routers forward 68 bytes unfragmented (RFC 791 §3.2).
_LEAST_MTU: Final = {16: 1280, 4: 68}

PATH_MTU_LIFETIME: Final = 10.0  # seconds

_INTERNET_TABLES: Final = {RTPROT_BGP: "BGP", RTPROT_BIRD: "BIRD", RTPROT_ZEBRA: "Zebra"}
_LINK_LOCAL: Final = IPv6Network("fe80::/10")
_NEVER_GLOBAL: Final = (IPv6Network("fc00::/7"), IPv6Network("fec0::/10"))
_NO_CLIENT: Final = (
    IPv6Network("::/96"),  # unspecified, loopback, IPv4-compatible
    IPv6Network("::ffff:0:0/96"),
    IPv6Network("ff00::/8"),
)
_LINES_AT_MOST: Final = 32


class Routes(Protocol):
    """What is asked of gateway.route_query.RouteQuery; tests bring their own."""

    def route6(self, addr: bytes) -> RouteInfo | None: ...
    def path_mtu(self, addr: bytes) -> int | None: ...
    def link_mtu(self, name: str, family: int) -> int: ...
    def routes(self, family: int) -> list[RouteInfo]: ...
    def flush(self) -> None: ...


class _Ranges:
    """IPv6 prefixes as pairs of integers: a test of membership without objects."""

    __slots__ = ("_pairs",)

    def __init__(self, networks: Sequence[IPv6Network]) -> None:
        self._pairs = [
            (int.from_bytes(net.netmask.packed), int.from_bytes(net.network_address.packed))
            for net in networks
        ]

    def __contains__(self, addr6: int) -> bool:
        return any(addr6 & mask == network for mask, network in self._pairs)


class Clients:
    """Admission of IPv6 sources, and path MTUs towards both sides.

    Belongs to the thread of the data plane. Both caches hold at most `cache_limit` entries.
    """

    def __init__(
        self,
        query: Routes,
        *,
        prefixes: Sequence[IPv6Network],
        allow: Sequence[IPv6Network],
        tap: str,
        l3_device: str,
        cache_limit: int,
        clock: Callable[[], float],
    ) -> None:
        """`tap`: the gateway's device; `l3_device`: that, or the bridge it is a port of.

        `cache_limit`: configuration key limits.clients, at least 1. `clock`: seconds, monotonic.
        """
        self._query = query
        self._prefixes = tuple(prefixes)
        self._allow = tuple(allow)
        self._tap = tap
        self._l3_device = l3_device
        self._limit = max(1, cache_limit)
        self._clock = clock
        self._no_client = _Ranges((*_NO_CLIENT, *prefixes))
        self._link_local = _Ranges((_LINK_LOCAL,))
        self._never_global = _Ranges(_NEVER_GLOBAL)
        self._allowed = _Ranges(allow)
        self._admitted: OrderedDict[bytes, bool] = OrderedDict()
        self._path_mtus: OrderedDict[bytes, tuple[int, float]] = OrderedDict()

    def admit(self, addr6: bytes) -> bool:
        """Whether a client with this 16-byte address may open sessions. Never raises.

        A source about which the kernel gives no answer is refused, and asked about again.
        """
        cached = self._admitted.get(addr6)
        if cached is not None:
            self._admitted.move_to_end(addr6)
            return cached
        try:
            answer = self._decide(addr6)
        except OSError:
            return False
        self._admitted[addr6] = answer
        if len(self._admitted) > self._limit:
            self._admitted.popitem(last=False)
        return answer

    def path_mtu(self, addr: bytes) -> int:
        """What fits on the way to a 4- or 16-byte address, in bytes of IP packet. Never raises.

        IPV6_MTU_WITHOUT_ROUTE or IPV4_MTU_WITHOUT_ROUTE where there is no route or no answer.
        The host's own addresses have the loopback device's MTU.
        """
        now = self._clock()
        cached = self._path_mtus.get(addr)
        if cached is not None and now < cached[1]:
            return cached[0]
        mtu = self._ask_path_mtu(addr)
        self._path_mtus[addr] = (mtu, now + PATH_MTU_LIFETIME)
        self._path_mtus.move_to_end(addr)
        if len(self._path_mtus) > self._limit:
            self._path_mtus.popitem(last=False)
        return mtu

    def flush(self) -> None:
        """Forgets every answer; to be called when routes, rules, addresses or links change."""
        self._admitted.clear()
        self._path_mtus.clear()
        self._query.flush()

    def served(self) -> list[str]:
        """Lines for people: who is a client by the routes of this moment.

        A line that deserves attention begins with "warning: ". Only the main table is listed;
        admission itself follows the host's routing rules through all tables. Raises OSError
        when the kernel gives no answer.
        """
        if self._allow:
            return [f"serves {network} (allow)" for network in self._allow]
        lines = [
            f"serves this host, link-local neighbours on {self._l3_device}, fc00::/7, fec0::/10"
        ]
        routes = [r for r in self._query.routes(socket.AF_INET6) if r.type == RTN_UNICAST]
        lines += _limited(self._served_prefixes(routes))
        for protocol, name in _INTERNET_TABLES.items():
            count = sum(r.protocol == protocol and r.table == RT_TABLE_MAIN for r in routes)
            if count:
                lines.append(
                    f"warning: does not serve {count} prefix{'es' * (count > 1)} learnt by "
                    f"{name}, which may be the whole internet; --allow PREFIX names clients there"
                )
        return lines

    def _decide(self, addr6: bytes) -> bool:
        number = int.from_bytes(addr6)
        if number in self._no_client:
            return False
        if self._allow:
            return number in self._allowed
        if number in self._link_local or number in self._never_global:
            return True
        route = self._query.route6(addr6)
        if route is None:
            return False
        if route.type == RTN_LOCAL:
            return True
        return self._is_client_route(route)

    def _is_client_route(self, route: RouteInfo) -> bool:
        return (
            route.type == RTN_UNICAST
            and route.prefixlen >= SHORTEST_CLIENT_ROUTE
            and route.protocol not in _INTERNET_TABLES
            # Another gateway's prefix: behind it is the IPv4 internet.
            and route.protocol != RTPROT_GATEWAY
            # Behind the tap is nobody but the gateway; behind a bridge there are clients.
            and route.oif_name != self._tap
        )

    def _ask_path_mtu(self, addr: bytes) -> int:
        least = _LEAST_MTU[len(addr)]
        without_route = IPV6_MTU_WITHOUT_ROUTE if len(addr) == 16 else IPV4_MTU_WITHOUT_ROUTE
        try:
            if len(addr) == 16 and int.from_bytes(addr) in self._link_local:
                # Every link has fe80::/64; the question would be answered for any of them.
                mtu = self._query.link_mtu(self._l3_device, socket.AF_INET6)
            else:
                mtu = self._query.path_mtu(addr) or 0
        except OSError:
            mtu = 0
        return max(mtu, least) if mtu else without_route

    def _served_prefixes(self, routes: list[RouteInfo]) -> list[str]:
        uplinks = {r.oif_name for r in routes if r.prefixlen < SHORTEST_CLIENT_ROUTE}
        seen: dict[tuple[IPv6Network, str], None] = {}
        for route in routes:
            network = IPv6Network((IPv6Address(route.destination), route.prefixlen))
            number = int.from_bytes(route.destination)
            if (
                route.table == RT_TABLE_MAIN
                and self._is_client_route(route)
                and number not in self._no_client
                and number not in self._link_local
            ):
                seen[network, route.oif_name] = None
        lines = []
        for network, device in sorted(seen):
            if device in uplinks and not any(network.subnet_of(n) for n in _NEVER_GLOBAL):
                lines.append(
                    f"warning: serves {network} on {device}, the interface of a default route: "
                    "all hosts of that network are clients; --allow PREFIX names fewer"
                )
            else:
                lines.append(f"serves {network} on {device}")
        return lines


def _limited(lines: list[str]) -> list[str]:
    """The lines, or the first of them and how many more there are; warnings always stay."""
    quiet = [line for line in lines if not line.startswith("warning: ")]
    if len(quiet) <= _LINES_AT_MOST:
        return lines
    kept = set(quiet[:_LINES_AT_MOST])
    shown = [line for line in lines if line.startswith("warning: ") or line in kept]
    return [*shown, f"serves {len(quiet) - _LINES_AT_MOST} more prefixes"]
