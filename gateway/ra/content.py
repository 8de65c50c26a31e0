"""What is to be advertised on an interface, from the wish and the interface's state. Pure.

Theory of operation. The gateway is advertised as default router only where it leads to the IPv6
internet: a router that has none itself, or whose own way out is the same link, would take its
clients' other traffic into nothing. There the router lifetime is 0 and the way to the NAT64
prefix is a route of its own (RFC 4191), so that clients need no configuration either way.

What is no longer true is not left to time out: `changed` gives the advertisement that takes it
back with lifetimes of zero, which also is the last word at the end (RFC 4861 §6.2.5).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import IPv6Address, IPv6Network
from itertools import islice
from typing import TypeVar

from gateway.ra.messages import (
    MAX_PREF64_LIFETIME,
    MAX_ROUTER_LIFETIME,
    Pref64,
    PrefixInformation,
    Rdnss,
    RouteInformation,
    RouterAdvertisement,
)
from translate.addresses import Layout, Prefix6

_VALID, _PREFERRED = 86_400, 14_400  # seconds, of prefixes that hosts make addresses in
# What is taken back at one time, of each kind: an interface whose addresses change without end
# must not make advertisements longer than the link's MTU.
_TAKEN_BACK = 8

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class AdvertiseWish:
    """What the configuration asks for.

    `interval`: seconds between unsolicited advertisements at most (MaxRtrAdvInterval, RFC 4861
    §6.2.1), 4 to 1800. `default_router`: None finds out. `dns`: servers to name; None names an
    address of the interface where the gateway answers DNS: on those named in `dns_interfaces` at
    all of them, elsewhere at the `dns_addresses`.
    """

    prefixes6: tuple[Prefix6, ...]
    interval: float = 600.0
    default_router: bool | None = None
    on_link: tuple[IPv6Network, ...] = ()
    dns: tuple[IPv6Address, ...] | None = None
    dns_interfaces: frozenset[str] = frozenset()
    dns_addresses: frozenset[IPv6Address] = frozenset()


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """An interface as it is. `addresses`: usable ones, link-local included.

    `leads_out`: the host has an IPv6 default route, and it goes through another interface.
    """

    name: str
    index: int
    mac: bytes
    addresses: tuple[IPv6Address, ...] = ()
    leads_out: bool = False


def lifetime_of(interval: float) -> int:
    """Seconds that things stay without a new one: three intervals, so that two can be lost."""
    return math.ceil(3 * interval)


def pref64_network(prefix: Prefix6) -> IPv6Network:
    """The prefix as PREF64 has to say it, so that clients embed addresses where we expect them.

    In the trailing layout the IPv4 address is in the last 32 bits: that is what RFC 6052 says of
    the /96 that begins with the prefix and goes on with zeros.
    """
    network = prefix.network
    if prefix.layout is Layout.TRAILING and network.prefixlen < 96:
        return IPv6Network((network.network_address, 96))
    return network


def advertisement(wish: AdvertiseWish, state: InterfaceState) -> RouterAdvertisement:
    """The advertisement for an interface in this state."""
    lifetime = lifetime_of(wish.interval)
    default = state.leads_out if wish.default_router is None else wish.default_router
    networks = tuple(prefix.network for prefix in wish.prefixes6)
    servers = wish.dns
    if servers is None:
        servers = _own_dns(wish, state)
    return RouterAdvertisement(
        router_lifetime=min(lifetime, MAX_ROUTER_LIFETIME) if default else 0,
        link=state.mac,
        prefixes=tuple(PrefixInformation(net, _VALID, _PREFERRED) for net in wish.on_link),
        routes=() if default else tuple(RouteInformation(net, lifetime) for net in networks),
        pref64=tuple(
            Pref64(pref64_network(prefix), min(lifetime, MAX_PREF64_LIFETIME))
            for prefix in wish.prefixes6
        ),
        rdnss=(Rdnss(servers, lifetime),) if servers else (),
    )


def _own_dns(wish: AdvertiseWish, state: InterfaceState) -> tuple[IPv6Address, ...]:
    """The address to name as DNS server: a global, else a unique local, else a link-local one.

    One is enough, and hosts may have room for no more than three in all (RFC 8106 §5.3.1). The
    lowest, so that the answer does not depend on the order in which they came.
    """
    everywhere = state.name in wish.dns_interfaces
    addresses = [a for a in state.addresses if everywhere or a in wish.dns_addresses]
    best = min(addresses, key=lambda a: (a.is_link_local, not a.is_global, a), default=None)
    return () if best is None else (best,)


def withdrawn(what: RouterAdvertisement) -> RouterAdvertisement:
    """The last advertisement of a router that stops (RFC 4861 §6.2.5).

    Addresses that hosts have made stay valid, but are not used for anything new.
    """
    return replace(
        what,
        router_lifetime=0,
        prefixes=tuple(replace(item, preferred=0) for item in what.prefixes),
        routes=tuple(replace(item, lifetime=0) for item in what.routes),
        pref64=tuple(replace(item, lifetime=0) for item in what.pref64),
        rdnss=tuple(replace(item, lifetime=0) for item in what.rdnss),
    )


def changed(before: RouterAdvertisement, now: RouterAdvertisement) -> RouterAdvertisement:
    """`now`, and what `before` said and is no longer true with lifetimes of zero.

    What `before` takes back itself is among it: it may not have been sent yet. The newest come
    first, and no more than a few are kept.
    """
    gone = withdrawn(before)
    routes = {item.prefix for item in now.routes}
    prefixes = {item.prefix for item in now.prefixes}
    pref64 = {item.prefix for item in now.pref64}
    servers = {server for item in now.rdnss for server in item.servers}
    old_servers = _few(s for item in before.rdnss for s in item.servers if s not in servers)
    return replace(
        now,
        prefixes=now.prefixes + _few(i for i in gone.prefixes if i.prefix not in prefixes),
        routes=now.routes + _few(i for i in gone.routes if i.prefix not in routes),
        pref64=now.pref64 + _few(i for i in gone.pref64 if i.prefix not in pref64),
        rdnss=now.rdnss + ((Rdnss(old_servers, 0),) if old_servers else ()),
    )


def _few(items: Iterable[_Item]) -> tuple[_Item, ...]:
    return tuple(islice(items, _TAKEN_BACK))
