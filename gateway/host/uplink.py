"""What the host is told so that pool4, and nothing else, leaves through the backhaul.

    rule        from POOL4 lookup TABLE      one for each network of pool4
    TABLE       unreachable default          worst metric: stays, so that pool4 never leaks
                default via REMOTE4 dev tapN  while the backhaul is up, by a better metric
    tapN        persistent, with LOCAL4/30   while the gateway runs, whatever becomes of links

Theory of operation. A rule on the source leaves the host's own IPv4, if it has any, as it is,
and is what reverse path filtering asks as well: for a packet that comes in from tapN the kernel
looks for a route back with source and destination swapped, so pool4 is the source of that
question and the answer is tapN, whatever rp_filter is. TABLE has a number that no other gateway
of this host has, because it is made of the index of the gateway's own device. Rules and routes
bear our protocol number, tapN an alias, so that `gateway undo` knows them without a journal.

With a peer that translates there is no pool4 here: then the prefixes themselves are routed, in
the main table, unreachable by the worst metric and through tapN by a better one.

Everything is a change in the manner of gateway/host/links.py: described, applied, undone, and
in the journal before it is done. Only tapN can be in the journal no sooner than it has an index.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass
from socket import AF_INET, AF_INET6
from typing import Any, Final, Literal

from pyroute2 import IPRoute

from gateway.host import links
from gateway.host.netlink import explaining, removed
from gateway.host.routes import PROTOCOL, RT_TABLE_MAIN, RTNH_F_ONLINK

# Between the kernel's own `local` (0) and `main` (32766), and before what people number from 1000.
RULE_PRIORITY: Final = 6400
TABLE_BASE: Final = 6_400_000

METRIC_DOWN: Final = 2**31 - 1
METRIC_UP: Final = 64

ALIAS: Final = "tap64 backhaul of "

_SCOPE_LINK: Final = 253
_RTN_UNREACHABLE: Final = 7


def table_of(index: int) -> int:
    """The routing table of the gateway whose device has this interface index."""
    return TABLE_BASE + index


def _family(destination: str) -> int:
    return AF_INET6 if ":" in destination else AF_INET


def _ip(destination: str) -> str:
    return "ip -6" if ":" in destination else "ip"


def _table(table: int) -> str:
    return "" if table == RT_TABLE_MAIN else f" table {table}"


@dataclass(frozen=True, slots=True)
class PoolRule:
    """Packets from `source` ask `table` for their way."""

    source: str
    table: int
    kind: Literal["pool-rule"] = "pool-rule"

    @property
    def identity(self) -> str:
        return f"rule {self.source} {self.table}"

    def describe(self) -> str:
        return f"add rule {self._words()}"

    def apply(self) -> None:
        remedies = {errno.EEXIST: f"`ip rule del {self._words()}`"}
        with explaining(self.describe(), remedies), IPRoute() as ipr:
            ipr.rule("add", **self._rule())

    def undo(self) -> str | None:
        return removed(f"delete rule {self._words()}", "rule", self._rule())

    def _words(self) -> str:
        return f"from {self.source} lookup {self.table} priority {RULE_PRIORITY} proto {PROTOCOL}"

    def _rule(self) -> dict[str, Any]:
        source, _, length = self.source.partition("/")
        return {
            "family": AF_INET,
            "src": source,
            "src_len": int(length),
            "table": self.table,
            "priority": RULE_PRIORITY,
            "protocol": PROTOCOL,
        }


@dataclass(frozen=True, slots=True)
class Unreachable:
    """What `destination` gets while no better route is there: an error at once, no way round."""

    destination: str
    table: int = RT_TABLE_MAIN
    kind: Literal["unreachable"] = "unreachable"

    @property
    def identity(self) -> str:
        return f"unreachable {self.destination} {self.table}"

    def describe(self) -> str:
        return f"add route {self._words()}"

    def apply(self) -> None:
        remedies = {errno.EEXIST: f"`{_ip(self.destination)} route del {self._words()}`"}
        with explaining(self.describe(), remedies), IPRoute() as ipr:
            ipr.route("add", **self._route())

    def undo(self) -> str | None:
        return removed(f"delete route {self._words()}", "route", self._route())

    def _words(self) -> str:
        where = _table(self.table)
        return f"unreachable {self.destination}{where} metric {METRIC_DOWN} proto {PROTOCOL}"

    def _route(self) -> dict[str, Any]:
        return {
            "family": _family(self.destination),
            "dst": self.destination,
            "table": self.table,
            "type": "unreachable",
            "priority": METRIC_DOWN,
            "proto": PROTOCOL,
        }


@dataclass(frozen=True, slots=True)
class UplinkTap:
    """The persistent tap that links attach to; applied by whoever makes it."""

    device: str
    index: int
    kind: Literal["uplink-tap"] = "uplink-tap"

    @property
    def identity(self) -> str:
        return f"uplink-tap {self.index}"

    def describe(self) -> str:
        return f"create tap {self.device} for the backhaul"

    def apply(self) -> None:
        """It exists: gateway/backhaul/way.py made it."""

    def undo(self) -> str | None:
        return removed(f"delete {self.device}", "link", {"index": self.index})


@dataclass(frozen=True, slots=True)
class UplinkAddress:
    """Our end's address on the link, with its length."""

    device: str
    index: int
    address: str
    kind: Literal["uplink-address"] = "uplink-address"

    @property
    def identity(self) -> str:
        return f"uplink-address {self.index} {self.address}"

    def describe(self) -> str:
        return f"add address {self.address} to {self.device}"

    def apply(self) -> None:
        with explaining(self.describe()), IPRoute() as ipr:
            # Replaced rather than added: it may be there already on a device that is not ours.
            ipr.addr("replace", **self._address())

    def undo(self) -> str | None:
        return removed(f"remove {self.address} from {self.device}", "addr", self._address())

    def _address(self) -> dict[str, Any]:
        address, _, length = self.address.partition("/")
        six = ":" in address
        what: dict[str, Any] = {
            "index": self.index,
            "family": AF_INET6 if six else AF_INET,
            "address": address,
            "prefixlen": int(length),
        }
        if six:
            what["flags"] = links.IFA_F_NODAD
        else:
            # Not to be chosen as the source of the host's own packets to elsewhere.
            what["scope"] = _SCOPE_LINK
        return what


@dataclass(frozen=True, slots=True)
class UplinkRoute:
    """`destination` by way of the peer: there while the backhaul is up."""

    destination: str
    via: str
    device: str
    index: int
    table: int = RT_TABLE_MAIN
    kind: Literal["uplink-route"] = "uplink-route"

    @property
    def identity(self) -> str:
        return f"uplink-route {self.index} {self.destination} {self.table}"

    def describe(self) -> str:
        return f"add route {self._words()}"

    def apply(self) -> None:
        # Without a single IPv4 address of wider scope Linux takes no next hop for a valid one.
        remedies = {errno.EINVAL: "if this host has no IPv4 address at all, `ip link set lo up`"}
        with explaining(self.describe(), remedies), IPRoute() as ipr:
            ipr.route("replace", **self._route())

    def undo(self) -> str | None:
        return removed(f"delete route {self._words()}", "route", self._route())

    def _words(self) -> str:
        where = _table(self.table)
        return (
            f"{self.destination} via {self.via} dev {self.device} onlink{where}"
            f" metric {METRIC_UP} proto {PROTOCOL}"
        )

    def _route(self) -> dict[str, Any]:
        return {
            "family": _family(self.destination),
            "dst": self.destination,
            "gateway": self.via,
            "oif": self.index,
            "flags": RTNH_F_ONLINK,
            "table": self.table,
            "priority": METRIC_UP,
            "proto": PROTOCOL,
        }


def has_rule(ipr: IPRoute, change: PoolRule) -> bool:
    """Whether exactly this rule is there."""
    return (change.source, change.table) in _rules(ipr)


def has_unreachable(ipr: IPRoute, change: Unreachable) -> bool:
    """Whether exactly this route is there."""
    return any(found == change for found in _unreachables(ipr, _family(change.destination)))


def left_without_journal(
    ipr: IPRoute, alive: set[str], only: str | None
) -> list[PoolRule | Unreachable | UplinkTap]:
    """What bears our marks and belongs to no live gateway; `only`: of this device alone.

    `alive`: devices that are served. A table of a device that has gone is nobody's.
    """
    names = {link.index: link.name for link in links.all_links(ipr)}
    found: list[PoolRule | Unreachable | UplinkTap] = []
    for source, table in _rules(ipr):
        if _is_left(names.get(table - TABLE_BASE), alive, only):
            found.append(PoolRule(source, table))
    for route in _unreachables(ipr, AF_INET):
        if route.table > TABLE_BASE and _is_left(names.get(route.table - TABLE_BASE), alive, only):
            found.append(route)
    for link in links.all_links(ipr):
        if link.alias.startswith(ALIAS) and _is_left(link.alias.removeprefix(ALIAS), alive, only):
            found.append(UplinkTap(link.name, link.index))
    return found


def _is_left(device: str | None, alive: set[str], only: str | None) -> bool:
    return device not in alive and only in (None, device)


def _rules(ipr: IPRoute) -> list[tuple[str, int]]:
    return [
        (f"{message.get_attr('FRA_SRC')}/{message['src_len']}", message.get_attr("FRA_TABLE"))
        for message in ipr.get_rules(family=AF_INET)
        if message.get_attr("FRA_PROTOCOL") == PROTOCOL
        and message.get_attr("FRA_PRIORITY") == RULE_PRIORITY
    ]


def _unreachables(ipr: IPRoute, family: int) -> list[Unreachable]:
    default = "::" if family == AF_INET6 else "0.0.0.0"
    return [
        Unreachable(
            f"{message.get_attr('RTA_DST') or default}/{message['dst_len']}",
            message.get_attr("RTA_TABLE"),
        )
        for message in ipr.get_routes(family=family, proto=PROTOCOL)
        if message["proto"] == PROTOCOL and message["type"] == _RTN_UNREACHABLE
    ]
