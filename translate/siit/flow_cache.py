"""What the fast path knows of flows in stateless mode: a cache, never the truth.

Theory of operation. Nothing depends on a flow being here: it only lets the fast path carry what
the slow path would translate the same way. So a flow is entered only when its addresses are
mapped the same both ways; at the limit none is entered, and everything still passes. A flow goes
when nothing has come for a while, or all at once when mappings change.
"""

from __future__ import annotations

from collections.abc import Callable

from translate.bib import PROTOCOLS
from translate.expiry import ExpiryWheel
from translate.identifications import Identifications
from translate.sessions import BibEntry, Client, ClientLinks, FlowTable, Session
from translate.sharded import ShardedDict
from translate.tcp_states import State, Timer


class FlowCache:
    """All flows of a stateless translator."""

    def __init__(
        self,
        limit: int,
        lifetime: float,
        randbelow: Callable[[int], int],
        used: Callable[[Session], None],
    ) -> None:
        """`used` is told of flows, at least every `lifetime` seconds, with `last` up to date."""
        self.idents = Identifications(randbelow)
        self.bib_count = 0
        self._used = used
        self.limit = limit
        self.lifetime = lifetime
        self._begin()

    def _begin(self) -> None:
        self._links = ClientLinks()
        self.flows: dict[int, FlowTable] = {
            protocol: FlowTable(protocol, self.idents, self._links) for protocol in PROTOCOLS
        }
        self.clients: ShardedDict[Client] = ShardedDict()
        self.session_count = 0
        self.wheel = ExpiryWheel([self.lifetime] * len(Timer), self._last_seen)

    def _last_seen(self, session: Session) -> float:
        last = self.flows[session.protocol].last_seen(session)
        session.last = last
        self._used(session)
        return last

    def client(self, addr6: bytes, link: bytes) -> Client:
        """The client of an IPv6 address, known or new; `link` is where it was last seen."""
        client = self.clients.get(addr6)
        if client is None:
            return Client(addr6, link)
        if link:
            client.link = link
        return client

    def make(
        self, protocol: int, client: Client, key6: bytes, pool4: bytes, server4: bytes, now: float
    ) -> Session:
        """A flow that is in no table. The port, or identifier, is the same in both families."""
        port = key6[32:34]
        entry = BibEntry(protocol, client, key6[:16] + port, pool4 + port)
        session = Session(entry, key6, server4, Timer.UDP_DEFAULT, now)
        session.state = State.ESTABLISHED
        return session

    def enter(self, session: Session) -> None:
        """Lets the fast path carry the flow, unless there are too many or one is in its way."""
        flows, client = self.flows[session.protocol], session.client
        if self.session_count >= self.limit or flows.find4(session.key4) is not None:
            return
        if client.sessions == 0:
            self.clients[client.addr6] = client
            client.enter(self._links)
        client.sessions += 1
        flows.insert(session)
        flows.install(session)
        self.wheel.add(session)
        self.session_count += 1

    def expire(self, now: float, limit: int) -> None:
        """Forgets flows that have been silent, after at most `limit` looks."""
        for session in self.wheel.pop_due(now, limit):
            self._forget(session)

    def flush(self) -> None:
        """Forgets every flow; the next packet of each makes it anew.

        The tables are other ones from now on: a fast path has to be made again.
        """
        self._begin()

    def look(self) -> None:
        """Tells `used` of every flow, which takes a microsecond or two for each."""
        for flows in self.flows.values():
            for session in flows.sessions():
                self._last_seen(session)

    def _forget(self, session: Session) -> None:
        self.flows[session.protocol].delete(session)
        session.state = State.CLOSED
        self.session_count -= 1
        client = session.client
        client.sessions -= 1
        if client.sessions == 0:
            del self.clients[client.addr6]
            client.leave(self._links)
