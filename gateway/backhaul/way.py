"""The host's part of the backhaul while the gateway runs: the tap, its address, the route.

Theory of operation. Links come and go, the tap stays: it is made before the first link and
outlives all of them, with its address and the far end's MAC in the neighbour table; a tap that
somebody deleted is made again. The route through it is there only while the backhaul is up, over
one that says unreachable (gateway/host/uplink.py). Whatever is done here is in the journal, which
a stop empties, and from which `gateway undo` and the next start repair what a killed run left.

Everything is done in a thread, one thing at a time: the supervisor waits for each.
"""

from __future__ import annotations

import logging
import os
import pwd
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from socket import AF_INET
from typing import Protocol

import trio
from pyroute2 import IPRoute

from gateway.backhaul import naming
from gateway.backhaul.link import Carries, LinkFailed, Patience
from gateway.backhaul.probe import PEER6, US6, DeviceProbe
from gateway.backhaul.taps import make_tap
from gateway.host import links, sysctl
from gateway.host.journal import RecordedChange
from gateway.host.links import LinkMtu
from gateway.host.netlink import explaining
from gateway.host.plan import HostError
from gateway.host.sysctl import Sysctl
from gateway.host.uplink import ALIAS, UplinkAddress, UplinkRoute, UplinkTap, table_of
from gateway.tap import DeviceError

_log = logging.getLogger("gateway")

_US6 = f"{US6}/64"
_PEER6 = str(PEER6)
_NONE = IPv4Interface("0.0.0.0/32")


class Notes(Protocol):
    """What is used of gateway.host.journal.Journal."""

    def add(self, change: RecordedChange) -> None: ...
    def forget(self, identity: str) -> None: ...


@dataclass(slots=True)
class HostWay:
    """What one gateway's backhaul has of this host.

    `device`, `index`: the gateway's own, which gives the journal its name and the table its
    number. `addresses`: None chooses by `tag`. `user`: who runs ssh; "" is ourselves.
    """

    journal: Notes
    device: str
    index: int
    tag: str
    mtu: int
    user: str = ""
    carries: Carries = "ipv4"
    prefixes: Sequence[IPv6Network] = ()
    addresses: tuple[IPv4Interface, IPv4Interface] | None = None
    make: Callable[..., str] = make_tap
    # The tap that is ours, or the one of a link that owns it.
    tap: str = ""
    local4: IPv4Interface = _NONE
    remote4: IPv4Interface = _NONE
    _tap_index: int = 0
    _own: bool = True
    _attempt: int = 0
    _routes: list[UplinkRoute] = field(default_factory=list)
    _device: list[RecordedChange] = field(default_factory=list)

    async def prepare(self) -> str:
        """The name of our tap, made if it is not there; `local4`, `remote4` are known then.

        Raises LinkFailed.
        """
        return await self._in_thread(self._prepare, None)

    async def choose_addresses(self) -> None:
        """`local4` and `remote4` before the device of a link is known. Raises LinkFailed."""
        await self._in_thread(self._choose)

    async def adopt(self, name: str) -> None:
        """Uses a device that belongs to the link. Raises LinkFailed."""
        await self._in_thread(self._prepare, name)

    async def open(self) -> None:
        """Routes through the link. Raises LinkFailed."""
        await self._in_thread(self._open)

    async def shut(self) -> None:
        """Takes the routes back. Never raises."""
        await trio.to_thread.run_sync(self._shut)

    async def remove(self) -> None:
        """Takes everything back, the tap last. Never raises."""
        await trio.to_thread.run_sync(self._remove)

    def other_addresses(self) -> bool:
        """Chooses others next time, because the far end has these in use; False if it cannot."""
        if self.addresses is not None:
            return False
        self._attempt += 1
        return True

    def open_probe(self, device: str) -> DeviceProbe:
        """Raises LinkFailed."""
        try:
            remote4 = self.remote4.ip if self.carries == "ipv4" else None
            return DeviceProbe(device, self.local4.ip, remote4)
        except OSError as error:
            raise LinkFailed(f"cannot send probes on {device}: {error.strerror}") from error

    async def _in_thread(self, work: Callable[..., str], *arguments: object) -> str:
        try:
            return await trio.to_thread.run_sync(work, *arguments)
        except (HostError, DeviceError) as error:
            raise LinkFailed(str(error)) from error

    # -- in the thread ------------------------------------------------------------------------

    def _prepare(self, adopted: str | None) -> str:
        with explaining("look at the host's network"), IPRoute() as ipr:
            if adopted is None and not (self._own and self._is_there(ipr)):
                self._forget_device()
                self._make()
            elif adopted is not None and (
                self._own or adopted != self.tap or not self._is_there(ipr)
            ):
                self._undo_device()
                self._adopt(ipr, adopted)
            if self.carries == "ipv4":
                self._choose_addresses(ipr)
        if not self._routes:
            self._address()
        return self.tap

    def _choose(self) -> str:
        if self.carries == "ipv4":
            with explaining("look at the host's network"), IPRoute() as ipr:
                self._choose_addresses(ipr)
        return self.tap

    def _is_there(self, ipr: IPRoute) -> bool:
        if not self.tap:
            return False
        link = links.find_link(ipr, index=self._tap_index)
        return link is not None and link.name == self.tap

    def _make(self) -> None:
        # The alias is a mark for `gateway undo`, should the journal be lost.
        name = self.make(self._owner(), self.mtu, alias=f"{ALIAS}{self.device}")
        with explaining(f"look at {name}"), IPRoute() as ipr:
            link = links.find_link(ipr, name=name)
            if link is None:
                raise HostError(f"there is no device {name}: it was removed meanwhile")
            change = UplinkTap(name, link.index)
            self._device.append(change)
            self.journal.add(change)
            self.tap, self._tap_index, self._own = name, link.index, True
        self._set_sysctls()
        _log.info("made %s for the backhaul", name)

    def _owner(self) -> int:
        if not self.user:
            return os.geteuid()
        try:
            return pwd.getpwnam(self.user).pw_uid
        except KeyError:
            raise LinkFailed(
                f"this host has no user {self.user}",
                "set backhaul.user to one that it has",
                patience=Patience.LONG,
            ) from None

    def _adopt(self, ipr: IPRoute, name: str) -> None:
        link = links.find_link(ipr, name=name)
        if link is None:
            raise HostError(f"there is no device {name}: it was removed meanwhile")
        self.tap, self._tap_index, self._own = name, link.index, False
        if link.mtu != self.mtu:
            self._do(LinkMtu(name, link.index, link.mtu, self.mtu))
        if not link.up:
            # Never set down again: ssh may write to it, and would not survive that.
            ipr.link("set", index=link.index, state="up")
        for key, right in self._wanted_sysctls().items():
            now = sysctl.read(key)
            if now not in (None, right):
                assert now is not None
                self._do(Sysctl(key, now, right))

    def _wanted_sysctls(self) -> dict[str, str]:
        wanted = {
            # The switch is on, but a device that comes later has what `default` says.
            f"ipv4/conf/{self.tap}/forwarding": "1",
            # Without a carrier the route is dead at once, and `unreachable` answers.
            f"ipv4/conf/{self.tap}/ignore_routes_with_linkdown": "1",
            # The far end tells us nothing about our IPv6.
            f"ipv6/conf/{self.tap}/accept_ra": "0",
        }
        if self.carries == "ipv4":
            wanted[f"ipv6/conf/{self.tap}/disable_ipv6"] = "1"
        return wanted

    def _set_sysctls(self) -> None:
        for key, right in self._wanted_sysctls().items():
            if sysctl.read(key) not in (None, right):
                sysctl.write(key, right)

    def _choose_addresses(self, ipr: IPRoute) -> None:
        taken = _networks(ipr, besides=self._tap_index)
        if self.addresses is not None:
            self.local4, self.remote4 = self.addresses
            for network, where in taken.items():
                if network.overlaps(self.local4.network):
                    raise LinkFailed(
                        f"{self.local4.network} is in use on {where}",
                        "set backhaul.addresses to others, or leave it empty",
                        patience=Patience.LONG,
                    )
            return
        near = [network for network in taken if network.prefixlen > 16]
        try:
            self.local4, self.remote4 = naming.link_addresses(self.tag, near, self._attempt)
        except ValueError as error:
            raise LinkFailed(str(error), patience=Patience.LONG) from None

    def _address(self) -> None:
        text = str(self.local4) if self.carries == "ipv4" else _US6
        wanted = UplinkAddress(self.tap, self._tap_index, text)
        if wanted in self._device:
            return
        for change in [c for c in self._device if isinstance(c, UplinkAddress)]:
            self._device.remove(change)
            self._undo(change)
        self._do(wanted)

    def _open(self) -> str:
        if self._routes:
            return self.tap
        for route in self._wanted_routes():
            self.journal.add(route)
            self._routes.append(route)
            route.apply()
        return self.tap

    def _wanted_routes(self) -> list[UplinkRoute]:
        if self.carries == "ipv6":
            return [
                UplinkRoute(str(prefix), _PEER6, self.tap, self._tap_index)
                for prefix in self.prefixes
            ]
        table = table_of(self.index)
        return [UplinkRoute("0.0.0.0/0", str(self.remote4.ip), self.tap, self._tap_index, table)]

    def _shut(self) -> None:
        while self._routes:
            self._undo(self._routes.pop())

    def _remove(self) -> None:
        self._shut()
        self._undo_device()

    def _undo_device(self) -> None:
        while self._device:
            self._undo(self._device.pop())
        self.tap, self._tap_index = "", 0

    def _forget_device(self) -> None:
        """The tap has gone, or is another: what was on it went with it."""
        self._shut()
        if self.tap and self._own:
            _log.warning("%s was deleted while the gateway was using it: making another", self.tap)
        self._undo_device()

    def _do(self, change: RecordedChange) -> None:
        self.journal.add(change)
        try:
            change.apply()
        except HostError:
            self.journal.forget(change.identity)
            raise
        self._device.append(change)

    def _undo(self, change: RecordedChange) -> None:
        try:
            change.undo()
            self.journal.forget(change.identity)
        except HostError as error:
            _log.warning("cannot undo: %s: %s", change.describe(), error)


def _networks(ipr: IPRoute, besides: int) -> dict[IPv4Network, str]:
    """IPv4 networks of this host's addresses and routes, but a default, and their devices."""
    names = {link.index: link.name for link in links.all_links(ipr)}
    found: dict[IPv4Network, str] = {}
    for message in ipr.get_addr(family=AF_INET):
        if message["index"] != besides:
            text = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
            network = IPv4Interface(f"{text}/{message['prefixlen']}").network
            found[network] = names.get(message["index"], "?")
    for message in ipr.get_routes(family=AF_INET, table=254):
        index = message.get_attr("RTA_OIF")
        if message["dst_len"] and index != besides:
            address = IPv4Address(message.get_attr("RTA_DST"))
            found[IPv4Network((address, message["dst_len"]))] = names.get(index or 0, "?")
    return found
