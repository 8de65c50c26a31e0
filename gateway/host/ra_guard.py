"""Follows the kernel's link, address and route events while the gateway runs.

Two things depend on them.

Router advertisements. With forwarding on and accept_ra=1 an interface ignores RAs
(gateway/host/router_advertisements.py). Where forwarding is on because of us, an interface
that comes up later, whether new or with a cable plugged in at last, would so be denied the
default route that it would have had without the gateway. Whether it lives on RAs cannot be
seen any more, since the kernel ignores them. So accept_ra=2 is set at once, before duplicate
address detection ends and the kernel decides whether to ask for an RA: the interface is
treated exactly as the host would have treated it with forwarding off. Exempt are the loopback,
our own devices, those of backhauls included, and ports of a bridge, where RAs belong to the
bridge. The change goes to the journal first, and is forgotten with the interface. Not covered: an
interface that was up when the gateway started, without a trace of an RA, on which the first
router appears later.

Routes. `changed` is called after each batch of events that may change what a route lookup
answers, so that answers kept can be dropped. A BGP table in motion sends thousands a second:
the caller limits the rate. Events may be lost when the socket's buffer runs over (ENOBUFS);
then everything is looked at anew and `changed` is called.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import trio
from pyroute2 import IPRoute

from gateway.host import links
from gateway.host.journal import Journal
from gateway.host.netlink import explaining
from gateway.host.plan import HostError
from gateway.host.router_advertisements import keep_accepting, stopped_accepting
from gateway.host.sysctl import Forwarding
from gateway.host.uplink import ALIAS

# linux/rtnetlink.h: group n of RTNLGRP_* is bit n-1.
_GROUPS = sum(1 << (group - 1) for group in (1, 5, 7, 8, 9, 11, 19))
RTM_NEWLINK, RTM_DELLINK = 16, 17
_MESSAGE = struct.Struct("=IHHII")
_IFINFO = struct.Struct("=BxHiII")
_RECEIVE_BUFFER = 1 << 20  # bytes
_READ_SIZE = 1 << 16  # bytes
_READS = 64  # at most, before other tasks have their turn


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """One RTM_NEWLINK or RTM_DELLINK."""

    index: int
    operational: bool
    removed: bool


def parse_events(data: bytes) -> Iterator[LinkEvent | None]:
    """A LinkEvent for each message about a link, None for one about anything else."""
    offset = 0
    while offset + _MESSAGE.size <= len(data):
        length, message_type, _, _, _ = _MESSAGE.unpack_from(data, offset)
        body = offset + _MESSAGE.size
        end = offset + max(length, _MESSAGE.size)
        if message_type not in (RTM_NEWLINK, RTM_DELLINK):
            yield None
        elif body + _IFINFO.size <= min(end, len(data)):
            family, _, index, flags, _ = _IFINFO.unpack_from(data, body)
            # Family bridge is about a port in its bridge and says DELLINK when it leaves it.
            if family == socket.AF_UNSPEC:
                up = links.IFF_UP | links.IFF_LOWER_UP
                yield LinkEvent(index, flags & up == up, message_type == RTM_DELLINK)
        offset = (end + 3) & ~3


class RaGuard:
    """One per gateway. `own`: names of its devices (the tap, its bridge)."""

    def __init__(
        self,
        journal: Journal,
        *,
        own: Iterable[str],
        changed: Callable[[], None],
        log: Callable[[str], None] | None = None,
    ) -> None:
        self._journal = journal
        self._own = frozenset(own)
        self._changed = changed
        self._log = log or logging.getLogger("gateway").info
        self._operational: set[int] = set()
        self._kept: dict[int, str] = {}  # identity of the change made for an interface

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follow the events until cancelled. Raises HostError when they cannot be had.

        Started once `plan.apply` is done. An interface that comes up in between is one that
        was up at the start, as far as this is concerned.
        """
        with _event_socket() as sock:
            self._operational = await trio.to_thread.run_sync(_operational_links)
            task_status.started()
            while True:
                await trio.lowlevel.wait_readable(sock)
                await self._handle(sock)

    async def _handle(self, sock: socket.socket) -> None:
        came_up: list[int] = []
        removed: list[int] = []
        try:
            for _ in range(_READS):
                for event in parse_events(sock.recv(_READ_SIZE, socket.MSG_DONTWAIT)):
                    if event is not None and event.removed:
                        removed.append(event.index)
                    if event is not None and self._note(event):
                        came_up.append(event.index)
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise HostError(f"cannot follow the kernel's events: {error}") from error
            now = await trio.to_thread.run_sync(_operational_links)
            came_up = sorted(now - self._operational)
            self._operational = now
        self._changed()
        for index in came_up:
            await trio.to_thread.run_sync(self._guarded, self._keep_accepting, index)
        for index in removed:
            await trio.to_thread.run_sync(self._guarded, self._forget, index)

    def _note(self, event: LinkEvent) -> bool:
        """Keep account of the link; whether it has just become operational."""
        if event.removed or not event.operational:
            self._operational.discard(event.index)
            return False
        new = event.index not in self._operational
        self._operational.add(event.index)
        return new

    def _guarded(self, action: Callable[[int], None], index: int) -> None:
        """A host that refuses costs this interface its RAs, not everybody the gateway."""
        try:
            action(index)
        except HostError as error:
            self._log(str(error))

    def _keep_accepting(self, index: int) -> None:
        with IPRoute() as ipr:
            link = links.find_link(ipr, index=index)
            if link is None or link.name == "lo" or link.name in self._devices_of_gateways():
                return
            if links.layer3_link(ipr, link) is not link or link.alias.startswith(ALIAS):
                return
        if not stopped_accepting(link.name) or not self._forwarding_is_ours():
            return
        change = keep_accepting(link.name)
        self._journal.add(change)
        change.apply()
        self._kept[index] = change.identity
        self._log(f"{link.name} came up: {change.describe()}, so that it accepts RAs")

    def _forget(self, index: int) -> None:
        identity = self._kept.pop(index, None)
        if identity is not None:
            self._journal.forget(identity)

    def _devices_of_gateways(self) -> frozenset[str]:
        return self._own | {journal.device for journal in self._journal.others()}

    def _forwarding_is_ours(self) -> bool:
        content = self._journal.read()
        if content is None:
            return False
        changes = [*content.changes, *content.later]
        return any(isinstance(c, Forwarding) and c.family == "ipv6" for c in changes)


def _event_socket() -> socket.socket:
    with explaining("follow the kernel's events"):
        sock = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC,
            socket.NETLINK_ROUTE,
        )
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            sock.bind((0, _GROUPS))
        except BaseException:
            sock.close()
            raise
        return sock


def _operational_links() -> set[int]:
    with explaining("look at the network devices"), IPRoute() as ipr:
        return {link.index for link in links.all_links(ipr) if link.operational}
