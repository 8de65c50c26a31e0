"""From the wish to the plan: looks at the host and lists what has to be changed, in order.

    journal                 old values on disk, before anything else
    leftovers not wanted    what a killed run changed and this one does not want
    accept_ra = 2           where RAs would be lost, before ...
    forwarding              ... IPv6 and IPv4 forwarding
    the device              MTU, up, fe80::1/64, neighbours
    nftables table          before the routes that bring packets to it
    the backhaul's table    likewise: where there is a backhaul, pool4 has no other way
    routes                  pool4, then the prefixes: from here on packets flow

The plan is undone in reverse. What is right already is no part of it, and so is never undone,
unless a killed run's journal says that that run made it so: then it is taken over with that
run's old value.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network

from pyroute2 import IPRoute

from gateway.host import links, router_advertisements, routes, sysctl, uplink
from gateway.host.clat import DefaultRoute4, LocalAddress4, ProxyNeighbour
from gateway.host.journal import (
    CorruptJournal,
    Journal,
    KeepJournal,
    RecordedChange,
    Shared,
    SharedChange,
    undo_order,
)
from gateway.host.leftovers import undo_leftovers
from gateway.host.links import HostAddress, Link, LinkMtu, LinkUp, Neighbour
from gateway.host.netlink import explaining
from gateway.host.nft import Masquerade
from gateway.host.plan import Change, HostError, Plan
from gateway.host.preflight import preflight
from gateway.host.routes import Route
from gateway.host.spec import HostSpec
from gateway.host.sysctl import Family, Forwarding, Sysctl
from gateway.host.uplink import PoolRule, Unreachable, UplinkAddress, UplinkRoute, UplinkTap

__all__ = [
    "HostError",
    "HostSpec",
    "Plan",
    "device_mac",
    "layer3_device",
    "masquerade_of",
    "plan_host",
    "preflight",
    "undo_leftovers",
]

Log = Callable[[str], None]

# Stands for the device in a dry run that does not exist yet; what it would be born as.
_UNBORN_MTU = 1500


def layer3_device(tap: str) -> tuple[str, int, bytes]:
    """Name, index and MAC (6 bytes; empty for a tun) of the device the kernel routes through.

    It is the bridge when `tap` is a bridge port, else the tap. Raises HostError.
    """
    with explaining(f"look at {tap}"), IPRoute() as ipr:
        link = links.layer3_link(ipr, _find(ipr, tap))
        return link.name, link.index, link.mac


def device_mac(name: str) -> bytes:
    """The 6 bytes of the device's MAC, empty when it has none (tun). Raises HostError."""
    with explaining(f"look at {name}"), IPRoute() as ipr:
        return _find(ipr, name).mac


def masquerade_of(spec: HostSpec) -> Masquerade:
    """The nftables table for this wish; `apply` puts it in place of the one that is there."""
    return Masquerade(spec.tap, [str(network) for network in spec.pool4], spec.forwards)


def plan_host(spec: HostSpec, *, dry_run: bool = False, log: Log | None = None) -> Plan:
    """The plan for this host as it is now. Raises HostError.

    The device must exist, unless `dry_run`: that plan is for printing only. Nothing is changed
    here but a corrupt journal's name. `log` defaults to the logger `gateway`, level info.
    """
    log = log or logging.getLogger("gateway").info
    journal = Journal(spec.run_dir, spec.tap)
    left = _leftovers(journal, dry_run, log)
    with explaining("look at the host's network"), IPRoute() as ipr:
        tap = links.find_link(ipr, name=spec.tap)
        if tap is None and not dry_run and spec.device:
            raise HostError(f"there is no device {spec.tap}: it was removed meanwhile")
        wanted = _Wanted(ipr, spec, tap, left)
        changes = list(wanted.changes())
        unwanted = [c for c in left.values() if _still_there(ipr, c)]
    undone_first = [_UndoLeft(change, journal) for change in unwanted]
    recorded = [*reversed(unwanted), *changes]
    plan: list[Change] = [KeepJournal(journal, recorded, log), *undone_first]
    for change in changes:
        undoable = Shared(change, journal) if isinstance(change, SharedChange) else change
        done = change.identity in wanted.taken_over
        plan.append(_TakenOver(undoable) if done else undoable)
    if tap is None and spec.device:
        plan.insert(0, _MakeDevice(spec))
    return Plan(plan, log)


def _find(ipr: IPRoute, name: str) -> Link:
    link = links.find_link(ipr, name=name)
    if link is None:
        raise HostError(f"there is no device {name}: it was removed meanwhile")
    return link


def _leftovers(journal: Journal, dry_run: bool, log: Log) -> dict[str, RecordedChange]:
    """What a killed run of this device left, by identity, in the order of undoing."""
    try:
        content = journal.read()
    except CorruptJournal as error:
        if dry_run:
            log(str(error))
        else:
            log(f"{error}; moved to {journal.set_aside()}, what it knew will not be undone")
        return {}
    if content is None:
        return {}
    if content.owner_alive():
        raise HostError(
            f"process {content.pid} serves {journal.device} already: stop it, or choose another"
            " name with --tap"
        )
    log(f"taking over what a killed run (process {content.pid}) left on {journal.device}")
    in_order = [*reversed(content.changes), *undo_order(content.later)]
    return {change.identity: change for change in in_order}


_OF_A_DEVICE = (
    LinkMtu
    | LinkUp
    | HostAddress
    | Neighbour
    | Route
    | UplinkTap
    | UplinkAddress
    | UplinkRoute
    | LocalAddress4
    | ProxyNeighbour
    | DefaultRoute4
)


def _still_there(ipr: IPRoute, change: RecordedChange) -> bool:
    """Whether there is anything to undo: what was done to a device goes with the device."""
    if isinstance(change, _OF_A_DEVICE):
        return links.find_link(ipr, index=change.index) is not None
    return True


@dataclass(frozen=True)
class _UndoLeft:
    """Undoes, at start, what a killed run changed and this one does not want."""

    change: RecordedChange
    journal: Journal

    def describe(self) -> str:
        return f"undo what a killed run left: {self.change.describe()}"

    def apply(self) -> None:
        self.change.undo()
        self.journal.forget(self.change.identity)

    def undo(self) -> str | None:
        return "it is undone"


@dataclass(frozen=True)
class _TakenOver:
    """What a killed run did and is still right: nothing to apply, but ours to undo."""

    change: Change

    def describe(self) -> str:
        return f"{self.change.describe()}, as the killed run did"

    def apply(self) -> None:
        pass

    def undo(self) -> str | None:
        return self.change.undo()


@dataclass(frozen=True)
class _MakeDevice:
    """Says in a dry run what opening the device would do."""

    spec: HostSpec

    def describe(self) -> str:
        return f"create {self.spec.kind} device {self.spec.tap}"

    def apply(self) -> None:
        raise HostError("a dry run cannot be applied")

    def undo(self) -> str | None:
        return None


class _Wanted:
    """Lists the changes; takes out of `left` what it carries on with.

    `taken_over`: the identities of those that a killed run has applied already.
    """

    def __init__(
        self, ipr: IPRoute, spec: HostSpec, tap: Link | None, left: dict[str, RecordedChange]
    ) -> None:
        self._ipr = ipr
        self._spec = spec
        self._left = left
        self.taken_over: set[str] = set()
        self._exists = tap is not None
        self._tap = tap or Link(spec.tap, 0, b"", _UNBORN_MTU, 0, None, "tun")
        self._l3 = links.layer3_link(ipr, self._tap)

    def changes(self) -> Iterator[RecordedChange]:
        if self._spec.forwarding:
            yield from self._forwarding()
        if not self._spec.device:
            for prefix in self._spec.prefixes:
                change = Unreachable(str(prefix))
                yield from self._unless(uplink.has_unreachable(self._ipr, change), change)
            return
        yield from self._device()
        if self._spec.kind == "tap":
            yield from self._neighbours()
        if self._spec.masquerade and self._spec.pool4:
            # Replaced in one transaction whatever is there: the name is ours alone.
            yield from self._unless(False, masquerade_of(self._spec))
        if self._spec.uplink:
            yield from self._uplink()
        networks: list[IPv4Network | IPv6Network] = [*self._spec.pool4, *self._spec.prefixes]
        for network in networks:
            yield from self._route(network)

    def _forwarding(self) -> Iterator[RecordedChange]:
        turn_on6 = sysctl.read(sysctl.switch("ipv6")) == "0"
        for change in list(self._left.values()):
            if _protects_ra(change):
                yield self._take_over(self._left.pop(change.identity))
        if turn_on6:
            for name in router_advertisements.interfaces_living_on_them(self._ipr):
                if self._ours(name) or not router_advertisements.would_stop_accepting(name):
                    continue
                yield from self._unless(False, router_advertisements.keep_accepting(name))
        for family in _FAMILIES if self._spec.device else _FAMILIES[:1]:
            on = sysctl.read(sysctl.switch(family)) != "0"
            yield from self._unless(on, Forwarding(family, sysctl.touched_values(family)))

    def _ours(self, name: str) -> bool:
        return name in (self._tap.name, self._l3.name)

    def _device(self) -> Iterator[RecordedChange]:
        tap, l3, mtu = self._tap, self._l3, self._spec.mtu
        name = l3.name
        # With the switch on already, the device has what `default` or its owner gave it.
        switched_on = sysctl.read(sysctl.switch("ipv4")) == "1"
        if switched_on:
            yield from self._sysctl(f"ipv4/conf/{name}/forwarding", "0", "1")
        yield from self._sysctl(f"ipv6/conf/{name}/disable_ipv6", "1", "0")
        yield from self._unless(tap.mtu == mtu, LinkMtu(tap.name, tap.index, tap.mtu, mtu))
        for link in dict.fromkeys([tap, l3]):
            yield from self._unless(link.up, LinkUp(link.name, link.index))
        has_address = self._exists and links.has_host_address(self._ipr, l3.index)
        yield from self._unless(has_address, HostAddress(name, l3.index))

    def _sysctl(self, key: str, wrong: str, right: str) -> Iterator[RecordedChange]:
        now = sysctl.read(key)
        if now is not None:
            yield from self._unless(now != wrong, Sysctl(key, now, right))

    def _neighbours(self) -> Iterator[RecordedChange]:
        mac = self._spec.gateway_mac.hex(":")
        for address in (links.GATEWAY6, links.GATEWAY4):
            now = None
            if self._exists:
                now = links.permanent_neighbour(self._ipr, self._l3.index, address)
            change = Neighbour(self._l3.name, self._l3.index, address, now, mac)
            yield from self._unless(now == mac, change)

    def _route(self, network: IPv4Network | IPv6Network) -> Iterator[RecordedChange]:
        found = routes.find_exact(self._ipr, network) if self._exists else None
        right = found is not None and found.oif == self._l3.index
        next_hop = self._spec.kind == "tap"
        change = Route(str(network), self._l3.name, self._l3.index, next_hop)
        yield from self._unless(right, change)

    def _uplink(self) -> Iterator[RecordedChange]:
        """Before the routes: from the first packet on, pool4 has no way but the backhaul."""
        table = uplink.table_of(self._tap.index)
        default = Unreachable("0.0.0.0/0", table)
        has = self._exists and uplink.has_unreachable(self._ipr, default)
        yield from self._unless(has, default)
        for network in self._spec.pool4:
            rule = PoolRule(str(network), table)
            has = self._exists and uplink.has_rule(self._ipr, rule)
            yield from self._unless(has, rule)

    def _unless(self, right: bool, change: RecordedChange) -> Iterator[RecordedChange]:
        """The change, or the killed run's in its place when that one made it right."""
        left = self._left.pop(change.identity, None)
        if right:
            if left is not None and _made_it(left, change):
                yield self._take_over(left)
        elif left is not None:
            yield _with_original(change, left)
        else:
            yield change

    def _take_over(self, left: RecordedChange) -> RecordedChange:
        self.taken_over.add(left.identity)
        return left


_FAMILIES: tuple[Family, ...] = ("ipv6", "ipv4")


def _protects_ra(change: RecordedChange) -> bool:
    """Whether it is an accept_ra=2 that is in force."""
    if not isinstance(change, Sysctl) or not change.key.endswith("/accept_ra"):
        return False
    return sysctl.read(change.key) == change.new


def _made_it(left: RecordedChange, change: RecordedChange) -> bool:
    """Whether what is right now is what the killed run wrote."""
    if isinstance(left, LinkMtu | Neighbour) and isinstance(change, LinkMtu | Neighbour):
        return left.new == change.new
    return True


def _with_original(change: RecordedChange, left: RecordedChange) -> RecordedChange:
    """The change with the value from before the killed run, where that run wrote today's."""
    if isinstance(change, LinkMtu) and isinstance(left, LinkMtu) and change.old == left.new:
        return replace(change, old=left.old)
    if isinstance(change, Neighbour) and isinstance(left, Neighbour) and change.old == left.new:
        return replace(change, old=left.old)
    return change
