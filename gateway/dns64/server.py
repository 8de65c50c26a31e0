"""Queries in and answers out: UDP and TCP on one address (RFC 1035 §4.2, RFC 7766).

Theory of operation. A UDP socket that is readable is read until it is empty or a budget is used
up. Most queries of most clients repeat each other byte for byte but for the id, so what was sent
from the cache is remembered under the bytes of the query behind the id, in the view's `hot` dict,
for the rest of the second in which its TTLs are right: answering again is one look-up and one
send. Everything else waits for its turn in a short line of its client's, and the lines are served
in turns, so that one client that asks more than can be answered delays its own questions and
nobody else's. It then goes through the engine, and needs no task either: the answer is sent by
whoever brings it. TCP connections have a task each for reading and writing; how many there are,
how long they may be silent and how many answers may wait on one of them is bounded.

What all clients have together cannot be taken by some of them, though each keeps to his limits. Of
places in lines and among the questions that wait, a network gets no more than it leaves: two that
take what they can leave a third, and so on, and whoever comes finds some. Of TCP connections, which
can be ended, a new one displaces that which has been silent longest in the network that has most.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from gateway.dns64.clients import SHARE, ClientState, ClientTable
from gateway.dns64.engine import Engine, View
from gateway.dns64.messages import (
    QR,
    REFUSED,
    SERVFAIL,
    Query,
    build_error,
    parse_query,
    udp_limit,
)
from gateway.dns64.settings import Limits

_log = logging.getLogger(__name__)

_BURST = 512  # datagrams read at a time, most of which cost little: more than come meanwhile
_TURNS = 16  # questions for the engine at a time; the data plane waits for them
_LINE = 256  # questions of one client that wait for their turn
_LARGEST_QUERY = 4_096  # bytes; what is longer is cut and so malformed
HOT_LIMIT = 8_192  # queries remembered in one view, each with an answer of at most udp_size
HOT_QUERY = 320  # bytes: the longest name, EDNS and a cookie; options could fill 4 KiB
_PIPELINE = 64  # questions on one connection that wait for their answer (RFC 7766 §6.2.1.1)
_REFUSALS_PER_SECOND = 50


@dataclass(slots=True)
class ServerCounters:
    """Since start."""

    udp: int = 0
    tcp: int = 0
    hot: int = 0
    not_allowed: int = 0
    over_rate: int = 0
    over_limit: int = 0
    ignored: int = 0
    unsent: int = 0
    connections: int = 0
    connections_refused: int = 0
    connections_displaced: int = 0


class Server:
    """What the listeners of all addresses share."""

    def __init__(
        self, engine: Engine, clients: ClientTable, limits: Limits, *, udp_size: int, idle: float
    ) -> None:
        self.engine = engine
        self.clients = clients
        self.counters = ServerCounters()
        self._limits = limits
        self._udp_size = udp_size
        self._idle = idle
        self._open: set[_Connection] = set()
        self._waiting = 0
        self._turns: deque[ClientState] = deque()  # whose line is not empty
        self._in_line = 0
        self._refusals = 0
        self._refusals_since = 0.0

    async def serve_udp(self, sock: socket.socket) -> None:
        """Answers on a non-blocking socket until cancelled."""
        while True:
            if not self._turns:
                await trio.lowlevel.wait_readable(sock)
            self._burst(sock)
            self._take_turns()
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _burst(self, sock: socket.socket) -> None:
        """The hot loop: reads what is there, answers what was asked before."""
        receive, send = sock.recvfrom, sock.sendto
        clients, counters = self.clients, self.counters
        states, take = clients.states, clients.take
        now = time.monotonic()
        for _ in range(_BURST):
            try:
                data, address = receive(_LARGEST_QUERY)
            except BlockingIOError:
                return
            except OSError:
                continue  # an ICMP error for an earlier answer
            counters.udp += 1
            state = states.get(address[0])
            if state is None or now >= state.check_at:
                state = clients.get(address[0], now)
            if not state.allowed:
                self._refuse(sock, data, address, now)
                continue
            if not take(state, now):
                counters.over_rate += 1
                continue
            view = state.view or self.engine.next_view()
            known = view.hot.get(data[2:])
            if known is not None and now < known[0]:
                counters.hot += 1
                try:
                    send(data[:2] + known[1], address)
                except OSError:
                    counters.unsent += 1
                continue
            line, network = state.line, state.network
            if (
                len(line) >= _LINE
                or network.in_line >= SHARE * _LINE
                or network.in_line >= self._limits.queries - self._in_line
            ):
                counters.over_limit += 1
                continue
            if not line:
                self._turns.append(state)
            line.append((sock, address, data, view))
            network.in_line += 1
            self._in_line += 1

    def _take_turns(self) -> None:
        """One question of each client in turn, a few at a time."""
        turns = self._turns
        for _ in range(_TURNS):
            if not turns:
                return
            state = turns.popleft()
            sock, address, data, view = state.line.popleft()
            state.network.in_line -= 1
            self._in_line -= 1
            if state.line:
                turns.append(state)
            self._ask(sock, address, data, view, state)

    def _ask(
        self, sock: socket.socket, address: Any, data: bytes, view: View, state: ClientState
    ) -> None:
        query = parse_query(data)
        if query is None:
            self.counters.ignored += 1
            return
        if not self.may_wait(state):
            self._send(sock, build_error(query, SERVFAIL), address)
            return
        reply = partial(self._reply, sock, address, data, view.hot, state)
        self.engine.respond(query, view, udp_limit(query, self._udp_size), reply)

    def _reply(
        self,
        sock: socket.socket,
        address: Any,
        data: bytes,
        hot: dict[bytes, tuple[float, bytes]],
        state: ClientState,
        answer: bytes,
        until: float,
    ) -> None:
        self.waited(state)
        if until and len(data) <= HOT_QUERY:
            if len(hot) >= HOT_LIMIT:
                hot.clear()
            hot[data[2:]] = (until, answer[2:])
        self._send(sock, answer, address)

    def may_wait(self, state: ClientState) -> bool:
        """Whether the client's query may wait for its answer; `waited` when it is there."""
        limits = self._limits
        if (
            state.waiting >= limits.queries_per_client
            or state.network.waiting >= SHARE * limits.queries_per_client
            or state.network.waiting >= limits.queries - self._waiting
        ):
            self.counters.over_limit += 1
            return False
        state.waiting += 1
        state.network.waiting += 1
        self._waiting += 1
        return True

    def waited(self, state: ClientState) -> None:
        state.waiting -= 1
        state.network.waiting -= 1
        self._waiting -= 1

    def _send(self, sock: socket.socket, answer: bytes, address: Any) -> None:
        try:
            sock.sendto(answer, address)
        except (OSError, ValueError):
            # No room, no way back, or closed since: the client asks again.
            self.counters.unsent += 1

    def _refuse(self, sock: socket.socket, data: bytes, address: Any, now: float) -> None:
        """REFUSED, so that it is seen what is wrong; only so often, as sources can be forged."""
        self.counters.not_allowed += 1
        if now - self._refusals_since >= 1.0:
            self._refusals_since, self._refusals = now, 0
        self._refusals += 1
        if self._refusals <= _REFUSALS_PER_SECOND:
            query = parse_query(data)
            if query is not None:
                self._send(sock, build_error(query, query.error or REFUSED), address)

    async def serve_tcp(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        """Accepts connections until cancelled; they live in the nursery."""
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:
                # Out of descriptors, or the client has gone already.
                _log.debug("dns64: accept: %s", error)
                await trio.sleep(0.1)
                continue
            nursery.start_soon(self._connection, stream)

    async def _connection(self, stream: trio.SocketStream) -> None:
        async with stream:
            try:
                host = stream.socket.getpeername()[0]
            except OSError:
                return
            state = self.clients.get(host, time.monotonic())
            if not state.allowed or not self._has_room(state):
                self.counters.connections_refused += 1
                return
            self.counters.connections += 1
            connection = _Connection(self, stream, state, self._idle)
            self._open.add(connection)
            state.connections += 1
            state.network.connections += 1
            try:
                await connection.run()
            finally:
                self._left(connection)

    def _has_room(self, state: ClientState) -> bool:
        """Whether the client may have one connection more; somebody else may lose one by that."""
        limits, network = self._limits, state.network
        if (
            state.connections >= limits.tcp_per_client
            or network.connections >= SHARE * limits.tcp_per_client
        ):
            return False
        if len(self._open) < limits.tcp_connections:
            return True
        other = max(self._open, key=lambda one: (one.state.network.connections, -one.heard))
        if other.state.network.connections <= network.connections:
            return False
        self.counters.connections_displaced += 1
        other.close()
        self._left(other)
        return True

    def _left(self, connection: _Connection) -> None:
        if connection in self._open:
            self._open.remove(connection)
            connection.state.connections -= 1
            connection.state.network.connections -= 1


class _Connection:
    """One TCP connection of a client. `heard`: when its last question came."""

    def __init__(
        self, server: Server, stream: trio.SocketStream, state: ClientState, idle: float
    ) -> None:
        self._server = server
        self._stream = stream
        self.state = state
        self.heard = trio.current_time()
        self._idle = idle
        self._pending = 0
        self._scope = trio.CancelScope()
        self._send, self._receive = trio.open_memory_channel[bytes](2 * _PIPELINE)

    async def run(self) -> None:
        """Until the client closes, breaks the rules, has been silent for too long, or `close`."""
        with self._scope:
            await self._serve()

    def close(self) -> None:
        """Ends it as soon as it has its turn."""
        self._scope.cancel()

    async def _serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, nursery.cancel_scope)
            await self._read()
            # The answers that are still to come are written, within the time of one.
            with trio.move_on_after(self._idle):
                while self._pending:
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()

    async def _read(self) -> None:
        buffer = bytearray()
        deadline = self.heard + self._idle
        while True:
            with trio.move_on_at(deadline) as scope:
                try:
                    data = await self._stream.receive_some(_LARGEST_QUERY)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    return
            if scope.cancelled_caught:
                if self._pending and not buffer:
                    deadline = trio.current_time() + self._idle
                    continue
                return
            if not data:
                return
            buffer += data
            while len(buffer) >= 2:
                size = int.from_bytes(buffer[:2], "big")
                if size > _LARGEST_QUERY:
                    return
                if len(buffer) < 2 + size:
                    break
                message = bytes(buffer[2 : 2 + size])
                del buffer[: 2 + size]
                while self._pending >= _PIPELINE:
                    await trio.sleep(0.01)
                self.heard = trio.current_time()
                if not self._answer(message):
                    return
                deadline = self.heard + self._idle

    def _answer(self, message: bytes) -> bool:
        """False ends the connection."""
        server, state = self._server, self.state
        server.counters.tcp += 1
        query: Query | None = parse_query(message)
        if query is None:
            server.counters.ignored += 1
            return False
        if not server.clients.take(state, time.monotonic()):
            server.counters.over_rate += 1
            return False
        self._pending += 1
        if not server.may_wait(state):
            self._queue(build_error(query, SERVFAIL))
            return True
        view = state.view or server.engine.next_view()
        server.engine.respond(query, view, None, self._reply)
        return True

    def _reply(self, answer: bytes, until: float) -> None:
        assert answer[2] & QR >> 8
        self._server.waited(self.state)
        self._queue(answer)

    def _queue(self, answer: bytes) -> None:
        try:
            self._send.send_nowait(answer)
        except (trio.WouldBlock, trio.BrokenResourceError):
            self._pending -= 1
            self._server.counters.unsent += 1

    async def _write(self, scope: trio.CancelScope) -> None:
        """Writes answers; a client that does not read them is left."""
        async for answer in self._receive:
            try:
                with trio.fail_after(self._idle):
                    await self._stream.send_all(len(answer).to_bytes(2, "big") + answer)
            except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()
                return
            finally:
                self._pending -= 1
