"""Where the DNS64 listens: addresses, and interfaces whose addresses come and go.

Theory of operation. The wish is a list of addresses and of names of interfaces. Every two seconds
the kernel is asked which IPv6 addresses the named interfaces have, sockets are opened for those
that are new and closed for those that have gone. One socket for each address means that answers
leave from the address that was asked, whatever the host's routes say. An address that is named
itself is bound whether the host has it yet or not (IPV6_FREEBIND), but for link-local ones. A port
that another program has ends the start where the address or interface was named; where it was
found (`*`) the others do without it.
"""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv6Address, ip_address

import trio

from gateway.dns64.places import (
    LAN,
    Place,
    interface_addresses,
    lan_interfaces,
    show_place,
    wanted_places,
)
from gateway.dns64.server import Server
from gateway.host.plan import HostError
from gateway.route_query import RouteQuery

_log = logging.getLogger(__name__)

LOOK_EVERY = 2.0  # seconds
# In 2000::/3 and assigned to nobody (RFC 4291 §2.4): a default route leads there.
_SOMEWHERE = IPv6Address("2000::").packed
_RECEIVE_BUFFER = 1 << 20  # bytes: a burst of ten thousand queries
_FREEBIND4, _FREEBIND6 = 15, 78
_MTU_DISCOVER4, _MTU_DISCOVER6 = 10, 23
_OMIT = 5  # IP_PMTUDISC_OMIT: a forged Packet Too Big changes nothing (RFC 9715 §3)


class Listeners:
    """Opens and closes sockets as addresses come and go."""

    def __init__(
        self, server: Server, listen: Iterable[tuple[str, int]], changed: Callable[[], None]
    ) -> None:
        """`changed` is called when `places` is another."""
        self._server = server
        self.listen = tuple(listen)
        self._changed = changed
        self._open: dict[Place, trio.CancelScope] = {}
        self._told: dict[Place, str] = {}
        self._told_alone = False

    @property
    def places(self) -> list[Place]:
        return list(self._open)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises HostError when a port is taken by another program at start."""
        async with trio.open_nursery() as nursery:
            await self._look(nursery, first=True)
            task_status.started()
            while True:
                await trio.sleep(LOOK_EVERY)
                await self._look(nursery, first=False)

    async def _look(self, nursery: trio.Nursery, *, first: bool) -> None:
        try:
            text = await trio.Path("/proc/net/if_inet6").read_text()
        except OSError:
            text = ""  # no IPv6 here
        addresses = interface_addresses(text)
        found = any(name == LAN for name, _ in self.listen)
        uplink = _uplink() if found else ""
        wanted = wanted_places(self.listen, addresses, uplink)
        named = [item for item in self.listen if item[0] != LAN]
        must = set(wanted_places(named, addresses)) if first else set()
        if found and not self._told_alone and not lan_interfaces(addresses, uplink):
            self._told_alone = True
            _log.warning(
                "dns64: only this host is answered: no interface%s has an IPv6 address; where the"
                " clients are is said by --advertise or dns64.listen",
                f" but {uplink}, which leads to the IPv6 internet," if uplink else "",
            )
        for place in [place for place in self._open if place not in wanted]:
            self._open.pop(place).cancel()
            _log.info("dns64: %s has gone", show_place(place))
            self._changed()
        for place in wanted:
            if place in self._open:
                continue
            try:
                udp, tcp = _open_sockets(place)
            except OSError as error:
                self._tell(place, error, fatal=place in must)
                continue
            self._told.pop(place, None)
            scope = self._open[place] = trio.CancelScope()
            nursery.start_soon(self._serve, udp, tcp, scope)
            _log.info("dns64: answers on %s", show_place(place))
            self._changed()

    def _tell(self, place: Place, error: OSError, *, fatal: bool) -> None:
        if error.errno == errno.EADDRINUSE and fatal:
            raise HostError(
                f"dns64: another program listens on {show_place(place)}: stop it"
                f" (ss -ulnp 'sport = {place[1]}' names it), or set dns64.listen"
            )
        if error.errno in (errno.EACCES, errno.EPERM) and fatal:
            raise HostError(
                f"dns64: may not listen on {show_place(place)}: root or CAP_NET_BIND_SERVICE"
                " is needed for ports below 1024"
            )
        text = error.strerror or str(error)
        if self._told.get(place) != text:
            self._told[place] = text
            _log.warning("dns64: cannot listen on %s yet: %s", show_place(place), text)

    async def _serve(self, udp: socket.socket, tcp: socket.socket, scope: trio.CancelScope) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(tcp))
        try:
            with scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._server.serve_udp, udp)
                    nursery.start_soon(self._server.serve_tcp, listener, nursery)
        finally:
            udp.close()
            tcp.close()


def _uplink() -> str:
    """The interface by which the IPv6 internet is reached, "" without one."""
    try:
        query = RouteQuery()
    except OSError:
        return ""
    try:
        route = query.route6(_SOMEWHERE)
    except OSError:
        return ""
    finally:
        query.close()
    return route.oif_name if route is not None else ""


def _open_sockets(place: Place) -> tuple[socket.socket, socket.socket]:
    """A UDP and a listening TCP socket. Raises OSError."""
    address, port = place
    four = isinstance(ip_address(address.partition("%")[0]), IPv4Address)
    family = socket.AF_INET if four else socket.AF_INET6
    info = socket.getaddrinfo(address, port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST)
    opened = []
    try:
        for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
            sock = socket.socket(family, kind | socket.SOCK_NONBLOCK)
            opened.append(sock)
            level = socket.IPPROTO_IP if four else socket.IPPROTO_IPV6
            if not four:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(level, _FREEBIND4 if four else _FREEBIND6, 1)
            if kind == socket.SOCK_DGRAM:
                sock.setsockopt(level, _MTU_DISCOVER4 if four else _MTU_DISCOVER6, _OMIT)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
            else:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(info[0][4])
        opened[1].listen(128)
    except BaseException:
        for sock in opened:
            sock.close()
        raise
    return opened[0], opened[1]
