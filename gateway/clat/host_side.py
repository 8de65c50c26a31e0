"""The host's part of the CLAT: what is changed while it is up, and taken back when it is not.

Theory of operation. The device, its addresses and neighbours are there as long as the program
(gateway/host/setup.py). The rest comes and goes with the uplink, in this order, and is undone in
reverse:

    192.0.0.1/32 on the tap, the neighbour 192.0.0.8
    nftables table, IPv4 forwarding of the tap and of LAN interfaces
    accept_ra = 2 where RAs would be lost, then IPv6 forwarding
    proxy_ndp and proxy_delay on the uplink, then a proxy neighbour for each CLAT address
    a /128 route into the tap for each CLAT address
    the IPv4 default route: from here on packets flow

IPv6 forwarding is on only while the CLAT is up: an uplink that has not heard a router yet would
otherwise never listen to one (gateway/host/ra_guard.py). IPv4 forwarding is turned on for single
interfaces, because Linux asks the interface where a packet came in.

Each change is in the journal before it is made and leaves it after it was undone. What is wanted
is compared with what is there at every look: an interface that went down and came up again has
lost its proxy neighbours, and a LAN interface may come later than we. When it is up, what of the
host's firewall is in the way is named, once (obstacles.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from socket import AF_INET6
from typing import Protocol

from pyroute2 import IPRoute

from gateway.clat.obstacles import obstacles
from gateway.clat.states import LOCAL4, Wanted
from gateway.host import links, nft, router_advertisements, routes, sysctl
from gateway.host.clat import DefaultRoute4, LanNat, LocalAddress4, ProxyNeighbour
from gateway.host.journal import Journal, RecordedChange, undo_recorded
from gateway.host.links import GATEWAY4, Neighbour
from gateway.host.netlink import explaining
from gateway.host.plan import HostError
from gateway.host.routes import Route
from gateway.host.sysctl import Forwarding, Sysctl

_log = logging.getLogger("gateway")


class HostSide(Protocol):
    """What the CLAT asks of the host; tests bring their own. Called in a thread."""

    def bring_up(self, wanted: Wanted) -> None:
        """Makes the host so, also from another `wanted`. Raises HostError, all undone then."""

    def repair(self, wanted: Wanted) -> None:
        """Makes again what somebody else has taken away. Raises HostError."""

    def take_down(self) -> None:
        """Undoes all of it. Never raises."""


@dataclass(slots=True)
class LinuxHost:
    """One CLAT's changes of this host.

    `device`, `index`: where IPv4 goes; `mac`: of the gateway's end of it, "" where it is a tun.
    """

    journal: Journal
    device: str
    index: int
    mac: str
    metric: int
    lan: Sequence[str] = ()
    _done: list[RecordedChange] = field(default_factory=list)
    _nat: LanNat | None = None
    _absent: set[str] = field(default_factory=set)
    _named: list[str] = field(default_factory=list)

    def bring_up(self, wanted: Wanted) -> None:
        try:
            self._remove_unwanted(wanted)
            self.repair(wanted)
        except BaseException:
            self.take_down()
            raise
        self._name_obstacles(wanted)

    def repair(self, wanted: Wanted) -> None:
        with explaining("look at the host's network"), IPRoute() as ipr:
            missing = list(self._missing(ipr, wanted))
        for change in missing:
            self._apply(change)

    def take_down(self) -> None:
        while self._done:
            self._undo(self._done.pop())
        self._nat = None

    def _name_obstacles(self, wanted: Wanted) -> None:
        addresses = [address6 for _, address6 in wanted.hosts]
        found = obstacles(self.device, wanted.uplink.name, self.lan, wanted.plat.prefix, addresses)
        for line in found:
            if line not in self._named:
                _log.warning("%s", line)
        self._named = found

    def _apply(self, change: RecordedChange) -> None:
        known = any(done.identity == change.identity for done in self._done)
        if not known:
            self.journal.add(change)
            # Noted first: an interrupt between the two must not lose an applied change.
            self._done.append(change)
        try:
            change.apply()
        except HostError:
            if not known:
                self._done.pop()
                self.journal.forget(change.identity)
            raise
        _log.info("%s", change.describe())

    def _undo(self, change: RecordedChange) -> None:
        try:
            if undo_recorded(change, self.journal, _log.info) != "failed":
                self.journal.forget(change.identity)
        except HostError as error:
            _log.error("clat: %s", error)

    def _remove_unwanted(self, wanted: Wanted) -> None:
        """Undoes what the former state had and this one has not, newest first."""
        keep = {change.identity for change in self._of_addresses(wanted)}
        defence = _defence(wanted)
        for change in [*reversed(self._done)]:
            is_ours = isinstance(change, ProxyNeighbour | Route)
            of_other = isinstance(change, Sysctl) and change.key not in defence
            of_other = of_other and change.identity.endswith(_DEFENCE)
            if (is_ours and change.identity not in keep) or of_other:
                self._done.remove(change)
                self._undo(change)

    # -- what is wanted and is not there -------------------------------------------------------

    def _missing(self, ipr: IPRoute, wanted: Wanted) -> Iterator[RecordedChange]:
        local = LocalAddress4(self.device, self.index, str(LOCAL4))
        if not local.is_there(ipr):
            yield local
        if self.mac:
            # It went with the last IPv4 address of the device.
            now = links.permanent_neighbour(ipr, self.index, GATEWAY4)
            if now != self.mac:
                yield Neighbour(self.device, self.index, GATEWAY4, now, self.mac)
        yield from self._lan(wanted)
        yield from self._forwarding6(ipr, wanted)
        for key, value in _defence(wanted).items():
            yield from _set(key, value)
        for change in self._of_addresses(wanted):
            if isinstance(change, ProxyNeighbour):
                there = change.is_there(ipr)
            else:
                there = self._has_route(ipr, change)
            if not there:
                yield change
        default = DefaultRoute4(
            self.device, self.index, str(LOCAL4), self.metric, wanted.mtu4, bool(self.mac)
        )
        if not default.is_there(ipr):
            yield default

    def _of_addresses(self, wanted: Wanted) -> list[ProxyNeighbour | Route]:
        changes: list[ProxyNeighbour | Route] = []
        for _, address6 in wanted.hosts:
            if wanted.uplink.mac:
                # Without a link layer nobody asks for neighbours.
                name, index = wanted.uplink.name, wanted.uplink.index
                changes.append(ProxyNeighbour(name, index, str(address6)))
            changes.append(Route(f"{address6}/128", self.device, self.index, bool(self.mac)))
        return changes

    def _has_route(self, ipr: IPRoute, change: Route) -> bool:
        address = change.destination.partition("/")[0]
        return any(
            message.get_attr("RTA_DST") == address and message.get_attr("RTA_OIF") == self.index
            for message in ipr.get_routes(family=AF_INET6, proto=routes.PROTOCOL, oif=self.index)
        )

    def _lan(self, wanted: Wanted) -> Iterator[RecordedChange]:
        if not self.lan:
            return
        nat = LanNat(self.device, self.index, [str(local4) for local4, _ in wanted.hosts])
        if nat != self._nat or self.device not in nft.our_tables():
            self._nat = nat
            yield nat
        for name in (self.device, *self.lan):
            key = f"ipv4/conf/{name}/forwarding"
            if sysctl.read(key) is not None:
                self._absent.discard(name)
                yield from _set(key, "1")
            elif name not in self._absent:
                self._absent.add(name)
                _log.warning("clat.lan: there is no %s yet", name)

    def _forwarding6(self, ipr: IPRoute, wanted: Wanted) -> Iterator[RecordedChange]:
        uplink = wanted.uplink.name
        if sysctl.read(sysctl.switch("ipv6")) == "0":
            names = router_advertisements.interfaces_living_on_them(ipr)
            for name in dict.fromkeys([*names, uplink]):
                if name != self.device and router_advertisements.would_stop_accepting(name):
                    yield router_advertisements.keep_accepting(name)
            yield Forwarding("ipv6", sysctl.touched_values("ipv6"))
            return
        for name in (uplink, self.device):
            key = f"ipv6/conf/{name}/forwarding"
            if sysctl.read(key) == "0" and sysctl.read(sysctl.accept_ra(name)) == "1":
                yield router_advertisements.keep_accepting(name)
            yield from _set(key, "1")


_DEFENCE = ("/proxy_ndp", "/proxy_delay")


def _defence(wanted: Wanted) -> dict[str, str]:
    """What the uplink needs for the kernel to answer for others.

    At once: the delay of up to 0.8 s is meant for several proxies (RFC 4861 §7.2.8), keeps every
    first packet waiting, and comes too close to the second that duplicate address detection waits.
    """
    name = wanted.uplink.name
    return {f"ipv6/conf/{name}/proxy_ndp": "1", f"ipv6/neigh/{name}/proxy_delay": "0"}


def _set(key: str, value: str) -> Iterator[Sysctl]:
    now = sysctl.read(key)
    if now is not None and now != value:
        yield Sysctl(key, now, value)


def problems_of_host(device: str) -> list[str]:
    """What would be in the way of a CLAT at start, one line each. Raises HostError."""
    with explaining("look at addresses"), IPRoute() as ipr:
        names = {link.index: link.name for link in links.all_links(ipr)}
        return [
            f"{LOCAL4} is an address of {names.get(message['index'], '?')} already: another CLAT"
            " runs on this host; stop it"
            for message in ipr.get_addr(local=str(LOCAL4))
            if message.get_attr("IFA_LOCAL") == str(LOCAL4)
            and names.get(message["index"]) != device
        ]
