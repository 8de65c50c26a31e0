"""Creating, finding and ending BIB entries and sessions, within limits (RFC 6146 §3.5).

The one owner of translation state. It decides what may exist; what a packet of a protocol
means to it is decided by its callers (translate/from_v6.py, translate/from_v4.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from ipaddress import collapse_addresses

from translate.client_ports import BlockEvent, ClientPorts
from translate.expiry import ExpiryWheel
from translate.identifications import Identifications
from translate.packets import Protocol
from translate.pool4 import REST
from translate.reasons import Discard, Reason
from translate.sessions import BibEntry, Client, ClientLinks, FlowTable, Session
from translate.settings import Filtering, Settings
from translate.sharded import ShardedDict
from translate.static_bib import StaticEntry
from translate.tcp_states import FAST_STATES, Event, State, Timer, step

PROTOCOLS = (Protocol.TCP, Protocol.UDP, Protocol.ICMP)


class StateTables:
    """All clients, BIB entries and sessions of one translator."""

    def __init__(
        self,
        settings: Settings,
        randbelow: Callable[[int], int],
        on_block: Callable[[BlockEvent], None] = lambda _: None,
    ) -> None:
        """`on_block` is called when a client is assigned a block of ports or gives it back."""
        self._randbelow = randbelow
        self.idents = Identifications(randbelow)
        self._links = ClientLinks()
        self.flows: dict[int, FlowTable] = {
            p: FlowTable(p, self.idents, self._links) for p in PROTOCOLS
        }
        self.bib6: dict[int, ShardedDict[BibEntry]] = {p: ShardedDict() for p in PROTOCOLS}
        self.bib4: dict[int, ShardedDict[BibEntry]] = {p: ShardedDict() for p in PROTOCOLS}
        self.allocators: dict[int, ClientPorts] = {
            p: ClientPorts(settings, p, randbelow, on_block) for p in PROTOCOLS
        }
        # When the ports that have rested are free again.
        self._period_ends = 0.0
        # The first and the last address of each network, once.
        networks = collapse_addresses(item.network for item in settings.pool4)
        self._pool4 = [(int(net[0]), int(net[-1])) for net in networks]
        self.clients: ShardedDict[Client] = ShardedDict()
        self.session_count = 0
        self.bib_count = 0
        # Dynamic mappings that had to make way for static ones.
        self.displaced = 0
        self._static: dict[StaticEntry, BibEntry] = {}
        self.wheel = ExpiryWheel([0.0] * len(Timer), self._last_seen)
        self.configure(settings)

    def configure(self, settings: Settings) -> None:
        """Takes over limits, lifetimes and filtering; running sessions stay."""
        self._settings = settings
        timeouts = settings.timeouts
        lifetimes = self.wheel.lifetimes
        lifetimes[Timer.UDP_DEFAULT] = timeouts.udp_default
        lifetimes[Timer.ICMP_DEFAULT] = timeouts.icmp_default
        lifetimes[Timer.TCP_EST] = timeouts.tcp_est
        lifetimes[Timer.TCP_TRANS] = timeouts.tcp_trans
        lifetimes[Timer.TCP_INCOMING_SYN] = timeouts.tcp_incoming_syn
        for allocator in self.allocators.values():
            allocator.configure(settings)
        self._configure_static(settings.static)

    def in_pool4(self, addr4: bytes) -> bool:
        """Whether the address belongs to pool4, for any protocol."""
        value = int.from_bytes(addr4, "big")
        for first, last in self._pool4:  # noqa: SIM110 - several times a session
            if first <= value <= last:
                return True
        return False

    def sessions(self) -> Iterator[Session]:
        """Every session, in no particular order."""
        for table in self.flows.values():
            yield from table.sessions()

    # -- mappings ---------------------------------------------------------------------

    def mapping_for(
        self, protocol: int, key6: bytes, link: bytes, addr4: bytes | None = None
    ) -> BibEntry:
        """The BIB entry of a client's transport address (18 bytes), made if need be.

        `addr4`: where the client's own port is wanted, if it may have it.
        Endpoint-independent: the same for every destination (RFC 6146 §3.5.1).
        Raises Discard at a limit, and when the client's pool address has no port left.
        """
        entry = self.bib6[protocol].get(key6)
        if entry is not None:
            return entry
        limits = self._settings.limits
        if self.bib_count >= limits.bib:
            raise Discard(Reason.BIB_LIMIT)
        addr6 = key6[:16]
        client = self.clients.get(addr6)
        if client is None:
            if len(self.clients) >= limits.clients:
                raise Discard(Reason.CLIENT_LIMIT)
            client = Client(addr6, link)
        elif limits.bib_per_client and client.bibs - client.statics >= limits.bib_per_client:
            raise Discard(Reason.CLIENT_BIB_LIMIT)
        ports = self.allocators[protocol]
        port = int.from_bytes(key6[16:18], "big")
        if addr4 is not None and ports.take_given(client, addr4, port):
            return self.add_mapping(protocol, client, key6, addr4 + key6[16:18])
        key4 = ports.take(client, port)
        return self.add_mapping(protocol, client, key6, key4)

    def add_mapping(self, protocol: int, client: Client, key6: bytes, key4: bytes) -> BibEntry:
        """Enters a mapping whose pool4 port has been taken from the allocator already."""
        entry = BibEntry(protocol, client, key6, key4)
        if self._settings.filtering is Filtering.ADDRESS_DEPENDENT:
            entry.servers = {}
        if client.bibs == 0:
            self._enter(client)
        client.bibs += 1
        client.addr4[protocol] = key4[:4]
        self.bib6[protocol][key6] = entry
        self.bib4[protocol][key4] = entry
        self.bib_count += 1
        return entry

    # -- static mappings --------------------------------------------------------------

    def _configure_static(self, wanted: tuple[StaticEntry, ...]) -> None:
        """Makes the static mappings those that are wanted; unchanged ones keep their sessions.

        A dynamic mapping that has the pool4 port, or the IPv6 transport address, is ended with
        its sessions and counts in `displaced`: the operator's word comes first, and what was
        ended can begin anew.
        """
        for gone in self._static.keys() - set(wanted):
            self._end_static(self._static.pop(gone))
        new = [item for item in wanted if item not in self._static]
        self._displace(new)
        for item in new:
            self._static[item] = self._add_static(item)

    def _displace(self, items: list[StaticEntry]) -> None:
        """Ends the dynamic mappings in the way of these, all with one look at all sessions."""
        in_the_way: set[BibEntry] = set()
        for item in items:
            tables = (self.bib4[item.protocol], item.key4), (self.bib6[item.protocol], item.key6)
            found = [table.get(key) for table, key in tables]
            in_the_way |= {entry for entry in found if entry is not None and entry.sessions}
        for protocol in {entry.protocol for entry in in_the_way}:
            for session in list(self.flows[protocol].sessions()):
                if session.bib in in_the_way:
                    self.end_session(session)
        self.displaced += len(in_the_way)

    def _add_static(self, item: StaticEntry) -> BibEntry:
        protocol, key4, key6 = item.protocol, item.key4, item.key6
        taken = self.allocators[protocol].reserve(key4[:4], int.from_bytes(key4[4:], "big"))
        assert taken, "a static mapping outside pool4, or two of them with one port"
        client = self.clients.get(key6[:16])
        if client is None:
            client = Client(key6[:16], b"")
            self._enter(client)
        entry = BibEntry(protocol, client, key6, key4, static=True)
        client.bibs += 1
        client.statics += 1
        self.bib6[protocol][key6] = entry
        self.bib4[protocol][key4] = entry
        self.bib_count += 1
        return entry

    def _end_static(self, entry: BibEntry) -> None:
        for session in list(entry.members or ()):
            self.end_session(session)
        self._end_mapping(entry)

    def _end_mapping(self, entry: BibEntry, *, used: bool = True) -> None:
        del self.bib6[entry.protocol][entry.key6]
        del self.bib4[entry.protocol][entry.key4]
        self.bib_count -= 1
        port = int.from_bytes(entry.key4[4:], "big")
        client, ports = entry.client, self.allocators[entry.protocol]
        if entry.static:
            ports.unreserve(entry.key4[:4], port)
            client.statics -= 1
        else:
            ports.release(client, entry.key4[:4], port, used=used)
        client.bibs -= 1
        if client.bibs == 0:
            del self.clients[client.addr6]
            client.leave(self._links)

    def _enter(self, client: Client) -> None:
        self.clients[client.addr6] = client
        client.enter(self._links)

    # -- sessions ---------------------------------------------------------------------

    def add_session(
        self, entry: BibEntry, key6: bytes, server4: bytes, timer: Timer, now: float
    ) -> Session:
        """A new session under a mapping. Raises Discard at a limit, leaving no empty mapping.

        The fast path carries it at once where the protocol has no states.
        """
        limits = self._settings.limits
        client = entry.client
        if self.session_count >= limits.sessions:
            self._drop_if_empty(entry, used=False)
            raise Discard(Reason.SESSION_LIMIT)
        if client.sessions >= limits.sessions_per_client:
            self._drop_if_empty(entry, used=False)
            raise Discard(Reason.CLIENT_SESSION_LIMIT)
        session = Session(entry, key6, server4, timer, now)
        # A hairpinned packet has to pass both directions' steps, which only the slow path does.
        carried = entry.protocol != Protocol.TCP and not self.in_pool4(server4)
        self.flows[entry.protocol].insert(session, carried=carried)
        self.wheel.add(session)
        entry.enter(session)
        if entry.servers is not None:
            entry.servers[server4] = entry.servers.get(server4, 0) + 1
        client.sessions += 1
        self.session_count += 1
        return session

    def _drop_if_empty(self, entry: BibEntry, *, used: bool) -> None:
        if entry.sessions == 0 and not entry.static:
            self._end_mapping(entry, used=used)

    def passing(self, entry: BibEntry, key6: bytes, server4: bytes, now: float) -> Session:
        """A session for one packet, in no table: it passes through the mapping and is gone."""
        return Session(entry, key6, server4, Timer.TCP_TRANS, now)

    def take_ident(self, session: Session, count: int) -> int:
        """The first of `count` identifications in a row for packets of a session."""
        return self.idents.take(self.flows[session.protocol].ident(session), count)

    def next_ident(self, pool4: bytes, server4: bytes, protocol: int) -> int:
        """The next identification of packets from a pool address to a server."""
        return self.idents.take(self.idents.index(pool4 + server4, protocol))

    def update_tcp(self, session: Session, seen: Event, now: float) -> None:
        """Moves a TCP session through its states (RFC 6146 §3.5.2.2)."""
        if session.state == State.CLOSED:
            return
        before = session.state
        state, timer = step(before, seen)
        session.state = state
        if timer is not None:
            self.restart(session, timer, now)
        flows = self.flows[Protocol.TCP]
        # A hairpinned packet has to pass both directions' steps, which only the slow path does.
        if state in FAST_STATES:
            if before not in FAST_STATES and not self.in_pool4(session.server4):
                flows.install(session)
        elif before in FAST_STATES:
            flows.remove(session)

    def restart(self, session: Session, timer: Timer, now: float) -> None:
        """Runs the session on this lifetime from `now` on."""
        session.last = now
        if session.timer != timer:
            self.wheel.remove(session)
            session.timer = timer
            self.wheel.add(session)

    def _last_seen(self, session: Session) -> float:
        return self.flows[session.protocol].last_seen(session)

    def end_session(self, session: Session) -> None:
        """Removes a session, its mapping if it was the last, and so on upwards."""
        self.wheel.remove(session)
        self._forget(session)

    def expire(self, now: float, limit: int) -> list[Session]:
        """Removes sessions whose lifetime is over, after at most `limit` looks.

        Returns those that get a last chance instead: an established TCP session goes to TRANS
        and its client has to be probed (RFC 6146 §3.5.2.2).
        """
        if now >= self._period_ends:
            period = int(now // REST)
            self._period_ends = (period + 1) * REST
            for allocator in self.allocators.values():
                allocator.begin(period)
        silent: list[Session] = []
        for session in self.wheel.pop_due(now, limit):
            if session.protocol == Protocol.TCP and session.state == State.ESTABLISHED:
                session.state = State.TRANS
                session.timer = Timer.TCP_TRANS
                session.last = now
                self.flows[Protocol.TCP].remove(session)
                self.wheel.add(session)
                silent.append(session)
            else:
                self._forget(session)
        return silent

    def _forget(self, session: Session) -> None:
        entry = session.bib
        self.flows[entry.protocol].delete(session)
        session.state = State.CLOSED
        self.session_count -= 1
        entry.client.sessions -= 1
        entry.leave(session)
        if entry.servers is not None:
            server4 = session.server4
            entry.servers[server4] -= 1
            if not entry.servers[server4]:
                del entry.servers[server4]
        self._drop_if_empty(entry, used=True)

    def deadline(self) -> float | None:
        """When the next session has to be looked at, or None."""
        return self.wheel.deadline()
