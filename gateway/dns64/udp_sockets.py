"""UDP sockets towards upstreams: ports and ids that an attacker has to guess (RFC 5452).

Theory of operation. Towards each upstream a few connected sockets are open, each on a port drawn
at random; a question takes one of them at random and an id drawn at random among those that are
free there. A connected socket takes datagrams from its peer only and tells nothing to those who
look for open ports from elsewhere. A socket is used for a limited number of questions and time;
then another takes its place, and it closes when nobody waits for it any more. All of them sit
behind one epoll descriptor, so that the loop is woken once for many answers.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable
from contextlib import suppress
from ipaddress import IPv4Address
from typing import Any

from gateway.dns64.upstream_config import UpstreamAddress

SOCKETS = 8  # towards one upstream
MAX_USES = 1_000
MAX_AGE = 30.0  # seconds
_IDS = 1 << 16
_LARGEST = 65_535
_BURST = 512


class UdpSocket:
    """One socket on a port of its own. `pending`: who waits for which id."""

    __slots__ = ("born", "closed", "owner", "pending", "recv", "retired", "sock", "uses")

    def __init__(self, sock: socket.socket, owner: Any, now: float) -> None:
        self.sock = sock
        self.owner = owner
        self.recv = sock.recv
        self.pending: dict[int, Any] = {}
        self.uses = 0
        self.born = now
        self.retired = False
        self.closed = False


class UdpSockets:
    """All sockets towards upstreams. `fileno` is readable when one of them is."""

    def __init__(self, randbytes: Callable[[int], bytes] = os.urandom) -> None:
        self._epoll = select.epoll()
        self._by_fd: dict[int, UdpSocket] = {}
        self._open: dict[UpstreamAddress, list[UdpSocket]] = {}
        self._randbytes = randbytes

    def fileno(self) -> int:
        return self._epoll.fileno()

    def close(self) -> None:
        for place in list(self._by_fd.values()):
            self._close(place)
        self._open.clear()
        self._epoll.close()

    @property
    def count(self) -> int:
        return len(self._by_fd)

    def draw(self, address: UpstreamAddress, owner: Any, now: float) -> tuple[UdpSocket, int]:
        """A socket and a free id for one question. Raises OSError."""
        seed = int.from_bytes(self._randbytes(4), "big")
        opened = self._open.setdefault(address, [])
        index = (seed >> 16) % SOCKETS if len(opened) >= SOCKETS else len(opened)
        place = opened[index] if index < len(opened) else None
        if place is None or place.uses >= MAX_USES or now - place.born > MAX_AGE:
            place = self._renew(opened, index, address, owner, now)
        place.uses += 1
        ident = seed & 0xFFFF
        while ident in place.pending:  # at most half of 65536
            ident = int.from_bytes(self._randbytes(2), "big")
        return place, ident

    def _renew(
        self, opened: list[UdpSocket], index: int, address: UpstreamAddress, owner: Any, now: float
    ) -> UdpSocket:
        """A new socket in the place of the one at `index`, or behind the last."""
        try:
            place = self._new(address, owner, now)
        except OSError:
            # Out of descriptors, say: one that is open serves on, while it has ids enough.
            if not opened:
                raise
            place = min(opened, key=lambda place: len(place.pending))
            if len(place.pending) >= _IDS // 2:
                raise
            return place
        if index < len(opened):
            self._retire(opened[index])
        opened[index : index + 1] = [place]
        return place

    def forget(self, place: UdpSocket, ident: int) -> None:
        """Nobody waits for this id any more."""
        place.pending.pop(ident, None)
        if place.retired and not place.pending:
            self._close(place)

    def drop(self, address: UpstreamAddress) -> None:
        """The upstream is not asked any more."""
        for place in self._open.pop(address, []):
            self._retire(place)

    def read(
        self,
        received: Callable[[UdpSocket, bytes], None],
        failed: Callable[[UdpSocket, OSError], None],
    ) -> None:
        """Hands over all that has come, at most a burst of it."""
        budget = _BURST
        for fd, _ in self._epoll.poll(0):
            place = self._by_fd.get(fd)
            while place is not None and not place.closed and budget:
                try:
                    data = place.recv(_LARGEST)
                except BlockingIOError:
                    break
                except OSError as error:
                    failed(place, error)
                    break
                budget -= 1
                received(place, data)

    def _new(self, address: UpstreamAddress, owner: Any, now: float) -> UdpSocket:
        four = isinstance(address.ip, IPv4Address)
        family = socket.AF_INET if four else socket.AF_INET6
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._bind(sock, "" if four else "::")
            # A literal with its zone, so that nothing is looked up.
            info = socket.getaddrinfo(
                address.address, address.port, family, socket.SOCK_DGRAM, 0, socket.AI_NUMERICHOST
            )
            sock.connect(info[0][4])
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        except BaseException:
            sock.close()
            raise
        place = UdpSocket(sock, owner, now)
        self._by_fd[sock.fileno()] = place
        return place

    def _bind(self, sock: socket.socket, any_address: str) -> None:
        for _ in range(8):
            port = 1024 + int.from_bytes(self._randbytes(4), "big") % (65_536 - 1024)
            with suppress(OSError):
                sock.bind((any_address, port))
                return
        # Full, or forbidden: the kernel's own choice, which is random too.

    def _retire(self, place: UdpSocket) -> None:
        place.retired = True
        if not place.pending:
            self._close(place)

    def _close(self, place: UdpSocket) -> None:
        if place.closed:
            return
        place.closed = True
        fd = place.sock.fileno()
        self._by_fd.pop(fd, None)
        with suppress(OSError):
            self._epoll.unregister(fd)
        place.sock.close()
