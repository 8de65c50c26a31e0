"""Asking the upstreams: whom, how often, and which answers are believed.

Theory of operation. A question goes to the first upstream that is not known to be dead; when no
answer has come after `try_timeout` it goes to the next (or again to the only one), each time
waiting twice as long, until `timeout` has passed. An answer to an earlier try is still taken. An
upstream that has left several questions in a row unanswered is not asked for `pause` seconds, as
long as there is another. One that answers with a failure is passed over for this question only,
but for a failure of DNSSEC validation, which is final.

An answer is believed when it comes from the address asked, to the port and with the id of the
question, and repeats the question (RFC 5452 §4), with `use_0x20` to the letter. Others are
counted and otherwise ignored; the right one may still come. A truncated answer, and one in which
only upper and lower case differ, is asked for again over TCP. An upstream that does not know EDNS
is asked without (RFC 6891 §6.2.2).
"""

from __future__ import annotations

import heapq
import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field

import trio

from gateway.dns64.messages import (
    BADVERS,
    FORMERR,
    HEADER_SIZE,
    NOERROR,
    NOTIMP,
    NXDOMAIN,
    Answer,
    build_query,
    parse_answer,
)
from gateway.dns64.names import Malformed
from gateway.dns64.streams import StreamBroken, StreamUpstream
from gateway.dns64.synthesis import is_bogus
from gateway.dns64.udp_sockets import UdpSocket, UdpSockets
from gateway.dns64.upstream_config import UpstreamAddress

_log = logging.getLogger(__name__)

_DEAD_AFTER = 5  # questions in a row without an answer
_STREAM_TRY = 3.0  # seconds for one try over TCP or TLS
_PLAIN_FOR = 600.0  # seconds for which an upstream is taken not to know EDNS
_TICK = 0.02  # seconds

Done = Callable[[Answer | None], None]


@dataclass(slots=True)
class UpstreamCounters:
    """Since start, over all upstreams."""

    sent: int = 0
    answers: int = 0
    timeouts: int = 0
    truncated: int = 0
    unexpected: int = 0  # no question with this id there
    mismatched: int = 0  # another question, or bytes that are no answer
    failures: int = 0  # RCODEs other than NOERROR and NXDOMAIN


class Upstream:
    """One upstream and its health."""

    def __init__(self, address: UpstreamAddress, stream: StreamUpstream, trusted: bool) -> None:
        self.address = address
        self.stream = stream
        self.trusted = trusted
        self.unanswered = 0
        self.paused_until = 0.0
        self.plain_until = 0.0


@dataclass(slots=True, eq=False)
class _Exchange:
    """One question on its way. `places`: where answers may still come in."""

    question: bytes
    sent: bytes
    do: bool
    cd: bool
    done: Done
    deadline: float
    order: list[Upstream]
    position: int = -1
    tries: int = 0
    spent: set[Upstream] = field(default_factory=set)
    places: list[tuple[UdpSocket, int]] = field(default_factory=list)
    failure: Answer | None = None
    streaming: Upstream | None = None  # who is being asked by TCP
    finished: bool = False


class Upstreams:
    """Asks. `run` must be running; everything else is called from its thread."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        randbytes: Callable[[int], bytes],
        timeout: float,
        try_timeout: float,
        pause: float,
        use_0x20: bool = False,
        trust_ad: bool = False,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._clock = clock
        self._randbytes = randbytes
        self._timeout = timeout
        self._try_timeout = try_timeout
        self._pause = pause
        self._use_0x20 = use_0x20
        self._trust_ad = trust_ad
        self._tls = tls
        self._sockets = UdpSockets(randbytes)
        self._upstreams: list[Upstream] = []
        self._timers: list[tuple[float, int, _Exchange, int]] = []
        self._sequence = 0
        self._wake = trio.Event()
        self._nursery: trio.Nursery | None = None
        self.counters = UpstreamCounters()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Reads answers and repeats questions until cancelled."""
        try:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._repeat)
                task_status.started()
                while True:
                    await trio.lowlevel.wait_readable(self._sockets)
                    self._sockets.read(self._received, self._refused)
                    await trio.lowlevel.cancel_shielded_checkpoint()
        finally:
            self._nursery = None
            self._sockets.close()

    def use(self, addresses: list[UpstreamAddress]) -> None:
        """From now on these, best first; what is known of those that stay is kept."""
        assert self._nursery is not None
        known = {upstream.address: upstream for upstream in self._upstreams}
        for address in known.keys() - set(addresses):
            self._sockets.drop(address)
        made = []
        for address in addresses:
            context = None
            if address.tls:
                context = self._tls = self._tls or ssl.create_default_context()
            made.append(
                known.get(address)
                or Upstream(
                    address,
                    StreamUpstream(address, self._nursery, context),
                    self._trust_ad or address.tls or address.ip.is_loopback,
                )
            )
        self._upstreams = made

    @property
    def addresses(self) -> list[UpstreamAddress]:
        return [upstream.address for upstream in self._upstreams]

    def ask(self, question: bytes, do: bool, cd: bool, done: Done) -> None:
        """Calls `done` once, with the answer or with None when there was none in time."""
        if self._nursery is None:  # being stopped
            done(None)
            return
        now = self._clock()
        alive = [u for u in self._upstreams if now >= u.paused_until]
        dead = [u for u in self._upstreams if now < u.paused_until]
        sent = self._with_random_case(question) if self._use_0x20 else question
        exchange = _Exchange(question, sent, do, cd, done, now + self._timeout, alive + dead)
        self._next(exchange)

    def _with_random_case(self, question: bytes) -> bytes:
        bits = int.from_bytes(self._randbytes(len(question) // 8 + 1), "big")
        mixed = bytearray(question)
        for index in range(len(question) - 4):
            # A byte of a length is at most 63 and never a letter.
            if 97 <= mixed[index] <= 122 and bits >> index & 1:
                mixed[index] -= 32
        return bytes(mixed)

    def _next(self, exchange: _Exchange) -> None:
        """The next try, at the next upstream that has not failed."""
        count, last = len(exchange.order), exchange.position
        for step in range(1, count + 1):
            position = (last + step) % count
            if exchange.order[position] not in exchange.spent:
                exchange.position = position
                if self._try(exchange, exchange.order[position]):
                    return
        self._finish(exchange, exchange.failure)

    def _try(self, exchange: _Exchange, upstream: Upstream) -> bool:
        """Sends the question; False when that cannot be done, so that the next is asked."""
        assert self._nursery is not None
        now = self._clock()
        if upstream.address.tls:
            exchange.tries += 1
            self._nursery.start_soon(self._by_stream, exchange, upstream)
            self._time(exchange, now, _STREAM_TRY)
            return True
        try:
            place, ident = self._sockets.draw(upstream.address, upstream, now)
            message = self._build(exchange, upstream, ident, now)
            place.sock.send(message)
        except OSError as error:
            _log.debug("dns64: %s cannot be asked: %s", upstream.address, error)
            exchange.spent.add(upstream)
            self._unanswered(upstream, now)
            return False
        place.pending[ident] = exchange
        exchange.places.append((place, ident))
        self.counters.sent += 1
        exchange.tries += 1
        self._time(exchange, now, self._try_timeout * 2 ** min(exchange.tries - 1, 6))
        return True

    def _build(self, exchange: _Exchange, upstream: Upstream, ident: int, now: float) -> bytes:
        edns = now >= upstream.plain_until
        return build_query(ident, exchange.sent, edns=edns, do=exchange.do, cd=exchange.cd)

    def _time(self, exchange: _Exchange, now: float, seconds: float) -> None:
        self._sequence += 1
        due = min(now + seconds, exchange.deadline)
        heapq.heappush(self._timers, (due, self._sequence, exchange, exchange.tries))
        if len(self._timers) == 1:
            self._wake.set()

    async def _repeat(self) -> None:
        while True:
            if not self._timers:
                self._wake = trio.Event()
                await self._wake.wait()
            await trio.sleep(_TICK)
            now = self._clock()
            while self._timers and (self._timers[0][2].finished or self._timers[0][0] <= now):
                _, _, exchange, tries = heapq.heappop(self._timers)
                if exchange.finished or exchange.tries != tries:
                    continue
                self.counters.timeouts += 1
                self._unanswered(exchange.order[exchange.position], now)
                if now >= exchange.deadline:
                    self._finish(exchange, exchange.failure)
                else:
                    self._next(exchange)

    def _received(self, place: UdpSocket, data: bytes) -> None:
        """One datagram from the upstream's address. Nothing in it can raise."""
        exchange = place.pending.get(int.from_bytes(data[:2], "big")) if len(data) > 11 else None
        if exchange is None:
            self.counters.unexpected += 1
            return
        upstream = place.owner
        asked = exchange.sent
        end = HEADER_SIZE + len(asked)
        if data[HEADER_SIZE:end] != asked:
            if data[HEADER_SIZE:end].lower() == asked.lower():
                self._retry_by_stream(exchange, upstream)
            elif _knows_no_edns(data, now_edns=self._clock() >= upstream.plain_until):
                self._without_edns(exchange, upstream)
            else:
                self.counters.mismatched += 1
            return
        self._take(exchange, upstream, data, by_stream=False)

    def _take(
        self, exchange: _Exchange, upstream: Upstream, data: bytes, *, by_stream: bool
    ) -> None:
        """An answer to the question from the right place."""
        if exchange.finished:
            return
        try:
            answer = parse_answer(data)
        except Malformed:
            # Bytes of our id and question that are no answer: not ours to guess at.
            self.counters.mismatched += 1
            return
        self._answered(upstream)
        if answer.truncated:
            self.counters.truncated += 1
            if by_stream:  # RFC 2181 §9 leaves no way to get the rest
                exchange.spent.add(upstream)
                self._next(exchange)
            else:
                self._retry_by_stream(exchange, upstream)
            return
        if answer.rcode in (NOERROR, NXDOMAIN):
            answer.question = exchange.question
            answer.ad = answer.ad and upstream.trusted
            self.counters.answers += 1
            self._finish(exchange, answer)
            return
        asked_with_edns = self._clock() >= upstream.plain_until
        if answer.rcode in (FORMERR, NOTIMP, BADVERS) and not answer.edns and asked_with_edns:
            self._without_edns(exchange, upstream)
            return
        self.counters.failures += 1
        answer.question = exchange.question
        answer.ad = False
        exchange.failure = answer
        exchange.spent.add(upstream)
        if is_bogus(answer):
            self._finish(exchange, answer)
        else:
            self._next(exchange)

    def _without_edns(self, exchange: _Exchange, upstream: Upstream) -> None:
        upstream.plain_until = self._clock() + _PLAIN_FOR
        if not self._try(exchange, upstream):
            self._next(exchange)

    def _retry_by_stream(self, exchange: _Exchange, upstream: Upstream) -> None:
        assert self._nursery is not None
        if exchange.finished or exchange.streaming is upstream:
            return  # the same answer once more
        exchange.streaming = upstream
        exchange.tries += 1
        self._time(exchange, self._clock(), _STREAM_TRY)
        self._nursery.start_soon(self._by_stream, exchange, upstream)

    async def _by_stream(self, exchange: _Exchange, upstream: Upstream) -> None:
        tries = exchange.tries
        edns = self._clock() >= upstream.plain_until
        with trio.move_on_after(max(0.0, exchange.deadline - self._clock())):
            try:
                data = await upstream.stream.ask(
                    lambda ident: build_query(
                        ident, exchange.sent, edns=edns, do=exchange.do, cd=exchange.cd
                    )
                )
            except StreamBroken as error:
                _log.debug("dns64: %s by TCP: %s", upstream.address, error)
                if not exchange.finished and exchange.tries == tries:
                    exchange.spent.add(upstream)
                    self._unanswered(upstream, self._clock())
                    self._next(exchange)
                return
            end = HEADER_SIZE + len(exchange.sent)
            if data[HEADER_SIZE:end].lower() != exchange.sent.lower():
                self.counters.mismatched += 1
                return
            self._take(exchange, upstream, data, by_stream=True)

    def _refused(self, place: UdpSocket, error: OSError) -> None:
        """The kernel says that the upstream cannot be reached: no use waiting for it."""
        upstream = place.owner
        _log.debug("dns64: %s: %s", upstream.address, error)
        for exchange in list(place.pending.values()):
            if exchange.finished or exchange.order[exchange.position] is not upstream:
                continue
            exchange.spent.add(upstream)
            self._unanswered(upstream, self._clock())
            self._next(exchange)

    def _answered(self, upstream: Upstream) -> None:
        if upstream.paused_until:
            _log.info("dns64: upstream %s answers again", upstream.address)
        upstream.unanswered = 0
        upstream.paused_until = 0.0

    def _unanswered(self, upstream: Upstream, now: float) -> None:
        upstream.unanswered += 1
        if upstream.unanswered >= _DEAD_AFTER:
            if not upstream.paused_until:
                _log.warning("dns64: upstream %s does not answer", upstream.address)
            upstream.paused_until = now + self._pause

    def _finish(self, exchange: _Exchange, answer: Answer | None) -> None:
        if exchange.finished:
            return
        exchange.finished = True
        for place, ident in exchange.places:
            self._sockets.forget(place, ident)
        exchange.places.clear()
        exchange.done(answer)


def _knows_no_edns(data: bytes, *, now_edns: bool) -> bool:
    """A bare header with FORMERR or NOTIMP, as old servers answer EDNS; the id was right."""
    return (
        now_edns
        and len(data) == HEADER_SIZE
        and bool(data[2] & 0x80)
        and data[3] & 15 in (FORMERR, NOTIMP)
    )
