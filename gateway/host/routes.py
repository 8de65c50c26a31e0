"""Routes for the prefixes and for pool4, marked with a protocol number of our own.

The kernel is asked for the one route that matches (RTM_F_FIB_MATCH) and never for all of
them: a router with a full BGP table has a million. A route of exactly our destination that a
longer one hides from that question is found when the kernel refuses ours with EEXIST.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_network
from socket import AF_INET, AF_INET6
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.host.links import GATEWAY4, GATEWAY6
from gateway.host.netlink import explaining, removed
from gateway.route_query import RTPROT_GATEWAY

PROTOCOL = RTPROT_GATEWAY
RTM_F_FIB_MATCH = 0x2000
RTNH_F_ONLINK = 4
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
_SCOPE_LINK = 253


@dataclass(frozen=True, slots=True)
class Route:
    """`destination` into the device; by way of the gateway's next hop unless it is a tun."""

    destination: str
    device: str
    index: int
    next_hop: bool
    kind: Literal["route"] = "route"

    @property
    def identity(self) -> str:
        return f"route {self.index} {self.destination}"

    def describe(self) -> str:
        return f"add route {self._words()}"

    def apply(self) -> None:
        remedy = (
            "there is one already: `gateway undo` removes one that a killed run left (proto 64),"
            f" `{_ip(self.destination)} route del {self.destination}` any other"
        )
        # Without a single IPv4 address Linux takes no next hop for a valid one.
        loopback = "if this host has no IPv4 address at all, `ip link set lo up`"
        remedies = {errno.EEXIST: remedy, errno.EINVAL: loopback}
        with explaining(self.describe(), remedies), IPRoute() as ipr:
            ipr.route("add", **self._route())

    def undo(self) -> str | None:
        return removed(f"delete route {self._words()}", "route", self._route())

    def _words(self) -> str:
        six = ":" in self.destination
        via = f" via {GATEWAY6 if six else GATEWAY4}" if self.next_hop else ""
        onlink = " onlink" if self.next_hop and not six else ""
        return f"{self.destination}{via} dev {self.device}{onlink} proto {PROTOCOL}"

    def _route(self) -> dict[str, Any]:
        six = ":" in self.destination
        route: dict[str, Any] = {
            "family": AF_INET6 if six else AF_INET,
            "dst": self.destination,
            "oif": self.index,
            "proto": PROTOCOL,
        }
        if self.next_hop:
            route["gateway"] = GATEWAY6 if six else GATEWAY4
        if self.next_hop and not six:
            route["flags"] = RTNH_F_ONLINK
        if not self.next_hop and not six:
            route["scope"] = _SCOPE_LINK
        return route


@dataclass(frozen=True, slots=True)
class Found:
    """A route that exists for exactly the destination asked for."""

    oif: int
    protocol: int
    type: int
    gateway: str | None


def find_exact(ipr: IPRoute, network: IPv4Network | IPv6Network) -> Found | None:
    """The route of exactly this network that packets for its first address take, or None."""
    family = AF_INET if network.version == 4 else AF_INET6
    try:
        messages = list(
            ipr.route(
                "get",
                family=family,
                dst=str(network.network_address),
                flags=RTM_F_FIB_MATCH,
            )
        )
    except NetlinkError:
        # No route at all, or one that says unreachable, of whatever length.
        return None
    for message in messages:
        if message["dst_len"] == network.prefixlen:
            return Found(
                oif=message.get_attr("RTA_OIF") or 0,
                protocol=message["proto"],
                type=message["type"],
                gateway=message.get_attr("RTA_GATEWAY"),
            )
    return None


def marked_routes(ipr: IPRoute, index: int) -> list[str]:
    """Destinations of the routes with our protocol number that lead into the device."""
    destinations = []
    for family, default in ((AF_INET6, "::"), (AF_INET, "0.0.0.0")):
        for message in ipr.get_routes(family=family, proto=PROTOCOL, oif=index):
            if message["proto"] == PROTOCOL and message.get_attr("RTA_OIF") == index:
                address = message.get_attr("RTA_DST") or default
                destinations.append(f"{address}/{message['dst_len']}")
    return destinations


def _ip(destination: str) -> str:
    return "ip -6" if ip_network(destination).version == 6 else "ip"
