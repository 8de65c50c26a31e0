"""A look at the host: which device leads to the IPv6 internet, and is there native IPv4.

The uplink is the device of the route that 2000:: takes, by default the IPv6 default route, or the
one that is configured. Its /64 is that of an address on it: a globally routed one before a unique
local one, a stable one before a temporary one (RFC 8981), and the one in use for as long as an
address in it is preferred (RFC 4862 §5.5.4); a deprecated one where there is no other, as long as
it is valid. Native IPv4 is a default route in the main table that is not ours, over a
device with a carrier.
"""

from __future__ import annotations

from contextlib import closing
from ipaddress import IPv6Address, IPv6Network
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2 import IPRoute

from gateway.clat.states import Situation, Uplink
from gateway.host import links
from gateway.host.links import Link
from gateway.host.netlink import explaining
from gateway.route_query import RT_TABLE_MAIN, RTN_UNICAST, RTPROT_GATEWAY, RouteQuery

# In 2000::/3 and assigned to nobody (RFC 4291 §2.4): a default route leads there, or 2000::/3.
_SOMEWHERE = IPv6Address("2000::").packed
_SCOPE_UNIVERSE = 0
_TEMPORARY = 0x01
_DEPRECATED = 0x20
_UNFIT = 0x40 | 0x08  # tentative, failed duplicate address detection
_IFF_NOARP = 0x80


def look(configured: str, tap: str, keep: IPv6Network | None) -> Situation:
    """What is there now. Raises HostError.

    `configured`: name of the uplink, "" to find it. `keep`: the /64 in use. Nothing of the device
    `tap` counts, it is ours.
    """
    with (
        explaining("look at the host's network"),
        IPRoute() as ipr,
        closing(RouteQuery()) as query,
    ):
        return Situation(_uplink(ipr, query, configured, tap, keep), _native4(ipr, query, tap))


def _uplink(
    ipr: IPRoute, query: RouteQuery, configured: str, tap: str, keep: IPv6Network | None
) -> Uplink | None:
    route = query.route6(_SOMEWHERE)
    link: Link | None = None
    if configured:
        link = links.find_link(ipr, name=configured)
    elif route is not None and route.type == RTN_UNICAST and route.oif:
        link = links.find_link(ipr, index=route.oif)
    if link is None or not link.operational or link.name == tap:
        return None
    if route is not None and route.oif == link.index:
        mtu = route.mtu
    else:
        mtu = query.link_mtu(link.name, AF_INET6)
    mac = b"" if link.flags & _IFF_NOARP else link.mac
    address = _address(list(ipr.get_addr(family=AF_INET6, index=link.index)), link.index, keep)
    network = None if address is None else _network(address)
    return Uplink(link.name, link.index, mac, mtu, network, address)


def _address(messages: list[Any], index: int, keep: IPv6Network | None) -> IPv6Address | None:
    """The address whose /64 is used, None without one."""
    best: tuple[bool, bool, bool, bool, bytes] | None = None
    for message in messages:
        # On a point-to-point link IFA_ADDRESS is the other end's.
        address = IPv6Address(message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"))
        flags = message.get_attr("IFA_FLAGS") or message["flags"]
        if message["index"] != index or message["scope"] != _SCOPE_UNIVERSE or flags & _UNFIT:
            continue
        rank = (
            bool(flags & _DEPRECATED),
            _network(address) != keep,
            not address.is_global,
            bool(flags & _TEMPORARY),
            address.packed,
        )
        if best is None or rank < best:
            best = rank
    return None if best is None else IPv6Address(best[-1])


def _network(address: IPv6Address) -> IPv6Network:
    return IPv6Network((address, 64), strict=False)


def _native4(ipr: IPRoute, query: RouteQuery, tap: str) -> str:
    for route in query.routes(AF_INET):
        if route.prefixlen or route.table != RT_TABLE_MAIN or route.type != RTN_UNICAST:
            continue
        if route.protocol == RTPROT_GATEWAY or route.oif_name in (tap, ""):
            continue
        link = links.find_link(ipr, index=route.oif)
        if link is not None and link.operational:
            return link.name
    return ""
