"""Questions over TCP and TLS: one connection to each upstream, many questions on it (RFC 7766).

Theory of operation. The connection is opened by the first question and closed when nothing has
been asked for a while (RFC 7766 §6.2.3). Questions are sent as they come and answers taken in
any order (§6.2.1.1), each by its id. When the connection breaks, everybody who waits on it is
told; a question that was sent on a connection already in use is repeated once on a new one, since
servers close idle connections at any time. One on which a question has waited in vain while
nothing else was answered is given up, as the far end may be gone without having said so. Over TLS
(RFC 7858) the certificate must name the upstream: there is no opportunistic mode.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address
from socket import AF_INET, AF_INET6, AI_NUMERICHOST, IPPROTO_TCP, SOCK_STREAM, TCP_NODELAY

import trio

from gateway.dns64.upstream_config import UpstreamAddress

IDLE = 10.0  # seconds
CONNECT_TIMEOUT = 3.0  # seconds
MAX_WAITING = 1_000  # questions on one connection


class StreamBroken(Exception):
    """The upstream closed the connection, or never opened it; str() says how."""


class _Waiter:
    __slots__ = ("answer", "event")

    def __init__(self) -> None:
        self.event = trio.Event()
        self.answer: bytes | None = None


class _Connection:
    """One open connection. `waiting`: by id; `broken`: why it cannot be used any more.

    `answered`: how many messages have come.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.waiting: dict[int, _Waiter] = {}
        self.broken = ""
        self.used = 0
        self.answered = 0
        self.send_lock = trio.Lock()
        self._reading = trio.CancelScope()

    async def run(self) -> None:
        """Reads answers until the connection ends or nobody needs it."""
        why = "closed by the upstream"
        buffer = bytearray()
        try:
            with self._reading:
                while True:
                    with trio.move_on_after(IDLE) as scope:
                        data = await self.stream.receive_some(65_536)
                    if scope.cancelled_caught:
                        if self.waiting:
                            continue
                        why = "idle"
                        return
                    if not data:
                        return
                    buffer += data
                    self._take(buffer)
        except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError) as error:
            why = str(error) or type(error).__name__
        finally:
            self.broken = self.broken or why
            for waiter in self.waiting.values():
                waiter.event.set()
            self.waiting.clear()
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self.stream)

    def _take(self, buffer: bytearray) -> None:
        while len(buffer) >= 2:
            size = int.from_bytes(buffer[:2], "big")
            if len(buffer) < 2 + size:
                return
            message = bytes(buffer[2 : 2 + size])
            del buffer[: 2 + size]
            self.answered += 1
            waiter = self.waiting.pop(int.from_bytes(message[:2], "big"), None)
            if waiter is not None:
                waiter.answer = message
                waiter.event.set()

    async def ask(self, build: Callable[[int], bytes]) -> bytes:
        """The answer; raises StreamBroken."""
        if len(self.waiting) >= MAX_WAITING:
            raise StreamBroken("too many questions are waiting")
        ident = int.from_bytes(os.urandom(2), "big")
        while ident in self.waiting:
            ident = int.from_bytes(os.urandom(2), "big")
        message = build(ident)
        waiter = self.waiting[ident] = _Waiter()
        self.used += 1
        answered = self.answered
        try:
            await self._send(len(message).to_bytes(2, "big") + message)
            await waiter.event.wait()
        except trio.Cancelled:
            if self.answered == answered:
                self._give_up("silent")
            raise
        finally:
            self.waiting.pop(ident, None)
        if waiter.answer is None:
            raise StreamBroken(self.broken or "closed")
        return waiter.answer

    def _give_up(self, why: str) -> None:
        self.broken = self.broken or why
        self._reading.cancel()

    async def _send(self, data: bytes) -> None:
        async with self.send_lock:
            if self.broken:
                raise StreamBroken(self.broken)
            try:
                await self.stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, ssl.SSLError, OSError) as e:
                self.broken = str(e) or type(e).__name__
                raise StreamBroken(self.broken) from e
            except trio.Cancelled:
                # A part of a message may have gone; nothing can follow it.
                self._give_up("given up while sending")
                raise


class StreamUpstream:
    """TCP or TLS to one upstream, opened when needed."""

    def __init__(
        self, address: UpstreamAddress, nursery: trio.Nursery, context: ssl.SSLContext | None
    ) -> None:
        self._address = address
        self._nursery = nursery
        self._context = context
        self._connection: _Connection | None = None
        self._opening = trio.Lock()

    async def ask(self, build: Callable[[int], bytes]) -> bytes:
        """The answer to the message that `build` makes for an id. Raises StreamBroken."""
        connection, is_new = await self._usable()
        try:
            return await connection.ask(build)
        except StreamBroken:
            if is_new:
                raise
        connection, _ = await self._usable()
        return await connection.ask(build)

    async def _usable(self) -> tuple[_Connection, bool]:
        async with self._opening:
            if self._connection is not None and not self._connection.broken:
                return self._connection, not self._connection.used
            try:
                with trio.fail_after(CONNECT_TIMEOUT):
                    stream = await self._open()
            except (OSError, ssl.SSLError, trio.BrokenResourceError, trio.TooSlowError) as error:
                cause = error.__cause__ or error
                raise StreamBroken(str(cause) or type(cause).__name__) from error
            self._connection = _Connection(stream)
            self._nursery.start_soon(self._connection.run)
            return self._connection, True

    async def _open(self) -> trio.abc.Stream:
        address = self._address
        family = AF_INET if isinstance(address.ip, IPv4Address) else AF_INET6
        info = await trio.socket.getaddrinfo(
            address.address, address.port, family, SOCK_STREAM, 0, AI_NUMERICHOST
        )
        sock = trio.socket.socket(family, SOCK_STREAM)
        try:
            await sock.connect(info[0][4])
        except BaseException:
            sock.close()
            raise
        plain = trio.SocketStream(sock)
        plain.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
        if self._context is None:
            return plain
        name = address.name or str(address.ip)
        secure = trio.SSLStream(plain, self._context, server_hostname=name, https_compatible=True)
        try:
            await secure.do_handshake()
        except BaseException:
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(secure)
            raise
        return secure
