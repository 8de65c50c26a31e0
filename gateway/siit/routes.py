"""Routes of IPv4 networks that come and go while the gateway runs, when mappings change."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network

from gateway.host.journal import Journal
from gateway.host.plan import HostError
from gateway.host.routes import Route

_log = logging.getLogger("gateway")


@dataclass(frozen=True, slots=True)
class LiveRoutes:
    """Routes into one device. `next_hop`: False where it is a tun."""

    journal: Journal
    device: str
    index: int
    next_hop: bool

    def change(self, before: Iterable[IPv4Network], after: Iterable[IPv4Network]) -> None:
        """Adds what is new, then deletes what is no more. What the host refuses is logged."""
        old, new = set(before), set(after)
        for network in sorted(new - old):
            self._add(self._route(network))
        for network in sorted(old - new):
            self._delete(self._route(network))

    def _route(self, network: IPv4Network) -> Route:
        return Route(str(network), self.device, self.index, self.next_hop)

    def _add(self, route: Route) -> None:
        try:
            # On disk first: a killed run's routes are found there.
            self.journal.add(route)
            try:
                route.apply()
            except HostError:
                self.journal.forget(route.identity)
                raise
        except HostError as error:
            _log.error("%s", error)
        else:
            _log.info("%s", route.describe())

    def _delete(self, route: Route) -> None:
        try:
            left = route.undo()
            self.journal.forget(route.identity)
        except HostError as error:
            _log.error("%s", error)
        else:
            _log.info("%s: %s", "left alone" if left else "undone", route.describe())
