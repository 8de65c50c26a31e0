"""BIB and session tables (RFC 6146 §3.1, §3.2) and the flow tables of the fast path.

Theory of operation. A client (an IPv6 host) owns BIB entries, a BIB entry owns sessions; each
counts what hangs below it and goes when the last one has gone. Keys are the bytes as they lie in
a packet, so a lookup needs no conversion:

    TCP, UDP  key6  src6 dst6 sport dport (36)    key4  src4 dst4 sport dport (12)
    ICMP      key6  src6 dst6 id          (34)    key4  src4 dst4 id          (10)

`key6` is what a packet from the client carries, `key4` what one from the server does. Everything
that is the same for all packets of a session in one direction is computed once, when it is made,
and put into one record for each direction (translate/flow_records.py):

    from v6   key6, tail4, header4_sum, delta_addresses, delta_full, ident, stamp
    from v4   key4, tail6, delta_addresses, delta_full, link, stamp

    tail4, tail6     addresses and ports (or id) as the packet leaves
    header4_sum      sum of the constant words of the IPv4 header that leaves
    delta_addresses  what the pseudo-header's sum gains from v6 to v4; none for ICMP
    delta_full       the same with ports (or ICMP identifier)
    ident            which counter of identifications (translate/identifications.py)
    link             where in `ClientLinks.by_number` the client's link address stands

All state changes of a flow go through `FlowTable.install` and `remove`, and `last_seen` says when
a packet came: that seam is where a second data plane can be told, and asked.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterator

from translate.flow_records import SLOW, RecordTable, stamp_of, time_of
from translate.identifications import Identifications
from translate.packets import Protocol
from translate.pool4 import PortBlock
from translate.tcp_states import State, Timer

# Record layouts: key6, tail4 (ICMP: in two parts) and so on as above; key4, tail6 likewise.
LAYOUT6 = "36s12sHHHHQ"
LAYOUT6_ICMP = "34s2x8s2s2xH2xHHQ"
LAYOUT4 = "12s36sHHIQ"
LAYOUT4_ICMP = "10s2x32s2s4xHIQ"

# The same with the tails in the parts that they are made of.
_pack6 = struct.Struct("36s8s2s2sHHHHQ").pack_into
_pack6_icmp = struct.Struct(LAYOUT6_ICMP).pack_into
_pack4 = struct.Struct("12s16s16s2s2sHHIQ").pack_into
_pack4_icmp = struct.Struct("10s2x16s16s2s4xHIQ").pack_into

# One object for each checksum, shared by all sessions: 32 bytes less for each number.
_NUMBERS = tuple(range(65_536))

_number = int.from_bytes


class ClientLinks:
    """The link addresses of clients by number, so that a record can name one that may change.

    The list `by_number` is the same for ever.
    """

    __slots__ = ("_free", "by_number")

    def __init__(self) -> None:
        self.by_number: list[bytes] = []
        self._free: list[int] = []

    def add(self, link: bytes) -> int:
        """A number for a client."""
        if self._free:
            number = self._free.pop()
            self.by_number[number] = link
        else:
            number = len(self.by_number)
            self.by_number.append(link)
        return number

    def remove(self, number: int) -> None:
        """Gives the number of a client back that has no session any more."""
        self.by_number[number] = b""
        self._free.append(number)


class Client:
    """One IPv6 host. `addr4`: its pool address for each protocol (RFC 4787 REQ-2).

    `bibs`: its BIB entries, `statics` those of them that are static. `blocks`: its port blocks
    for each protocol, None before the first. `number`: its own in the `ClientLinks`, while it is
    among the clients.
    """

    __slots__ = ("_links", "addr4", "addr6", "bibs", "blocks", "number", "sessions", "statics")

    def __init__(self, addr6: bytes, link: bytes) -> None:
        self.addr6 = addr6
        self._links = [link]
        self.number = 0
        self.addr4: dict[int, bytes] = {}
        self.bibs = 0
        self.statics = 0
        self.blocks: dict[int, list[PortBlock]] | None = None
        self.sessions = 0

    @property
    def link(self) -> bytes:
        """Its link address, b"" where it has none."""
        return self._links[self.number]

    @link.setter
    def link(self, link: bytes) -> None:
        self._links[self.number] = link

    def enter(self, links: ClientLinks) -> None:
        """Takes a number, from now on."""
        self.number = links.add(self.link)
        self._links = links.by_number

    def leave(self, links: ClientLinks) -> None:
        """Gives its number back."""
        link, number = self.link, self.number
        self._links, self.number = [link], 0
        links.remove(number)


class BibEntry:
    """One mapping: an IPv6 transport address to a pool4 transport address.

    `key6` = addr6 + port (18 bytes), `key4` = addr4 + port (6 bytes). `servers` counts its
    sessions by IPv4 address; kept only under address-dependent filtering. `members`: the sessions
    of a static one, which ends with all of them; None for a dynamic one, which ends with the last.
    """

    __slots__ = ("client", "key4", "key6", "members", "protocol", "servers", "sessions", "static")

    def __init__(
        self, protocol: int, client: Client, key6: bytes, key4: bytes, *, static: bool = False
    ) -> None:
        self.protocol = protocol
        self.client = client
        self.key6 = key6
        self.key4 = key4
        self.sessions = 0
        self.static = static
        self.servers: dict[bytes, int] | None = None
        self.members: set[Session] | None = set() if static else None

    def enter(self, session: Session) -> None:
        """Takes a new session."""
        self.sessions += 1
        if self.members is not None:
            self.members.add(session)

    def leave(self, session: Session) -> None:
        """Gives one of its sessions up."""
        self.sessions -= 1
        if self.members is not None:
            self.members.discard(session)


class Session:
    """One flow between a client and a server.

    `timer`, `tick`, `before`, `after` belong to the expiry wheel. `last`: when the slow path, or
    the wheel, saw a packet, in the caller's seconds; `FlowTable.last_seen` knows of all packets.
    `key6`: what a packet from the client carries, `key4`: what one from the server does.
    `delta_addresses`, `delta_full`, `ident`: as in the records; `FlowTable.ident` gives the latter.

    There can be a million of them: what follows from other fields in a few steps and is not
    needed for every packet is computed when asked for.
    """

    __slots__ = (
        "after",
        "before",
        "bib",
        "delta_addresses",
        "delta_full",
        "ident",
        "key4",
        "key6",
        "last",
        "state",
        "tick",
        "timer",
    )

    def __init__(
        self, bib: BibEntry, key6: bytes, server4: bytes, timer: Timer, now: float
    ) -> None:
        pool = bib.key4
        self.bib = bib
        self.key6 = key6
        self.key4 = key4 = server4 + pool[:4] + key6[34:] + pool[4:]
        # Congruent to the words' sums (translate/checksum.py). What leaves is never all zero, so
        # neither is a difference.
        words6, words4 = _number(key6[:32]), _number(key4[:8])
        self.delta_addresses = _NUMBERS[(words4 - words6) % 0xFFFF or 0xFFFF]
        if bib.protocol == Protocol.ICMP:
            # ICMPv4 has no pseudo-header; its length is no constant and is left to the packet.
            words4, words6 = 0, words6 + Protocol.ICMPV6
        delta = words4 + _number(pool[4:]) - words6 - _number(key6[32:34])
        self.delta_full = _NUMBERS[delta % 0xFFFF or 0xFFFF]
        self.ident = -1
        self.state: State = State.CLOSED
        self.last = now
        self.timer = timer
        self.tick = 0
        self.before: Session | None = None
        self.after: Session | None = None

    @property
    def client(self) -> Client:
        """Whose it is."""
        return self.bib.client

    @property
    def protocol(self) -> int:
        """The IP protocol number, that of ICMPv4 for both kinds of ICMP."""
        return self.bib.protocol

    @property
    def tail4(self) -> bytes:
        """Addresses and ports (or id) as packets leave for the server."""
        key4 = self.key4
        return key4[4:8] + key4[:4] + key4[-2:] + key4[8:-2]

    @property
    def tail6(self) -> bytes:
        """Addresses and ports (or id) as packets leave for the client."""
        key6 = self.key6
        return key6[16:32] + key6[:16] + key6[34:] + key6[32:34]

    @property
    def client6(self) -> bytes:
        """The client's IPv6 address."""
        return self.key6[:16]

    @property
    def server6(self) -> bytes:
        """The server's address in the form that the client used."""
        return self.key6[16:32]

    @property
    def server4(self) -> bytes:
        """The server's IPv4 address."""
        return self.key4[:4]

    @property
    def pool4(self) -> bytes:
        """The pool4 address the server sees."""
        return self.key4[4:8]


class FlowTable:
    """The sessions of one protocol by both keys.

    `find6(key6)`: the session of a packet from the client, or None; `find4(key4)`: that of one
    from the server.
    """

    __slots__ = ("_idents", "_protocol", "by_key4", "by_key6", "find4", "find6", "links")

    def __init__(self, protocol: int, idents: Identifications, links: ClientLinks) -> None:
        self._protocol = protocol
        self._idents = idents
        self.links = links
        if protocol == Protocol.ICMP:
            self.by_key6: RecordTable[Session] = RecordTable(LAYOUT6_ICMP, 34)
            self.by_key4: RecordTable[Session] = RecordTable(LAYOUT4_ICMP, 10)
        else:
            self.by_key6 = RecordTable(LAYOUT6, 36)
            self.by_key4 = RecordTable(LAYOUT4, 12)
        self.find6: Callable[[bytes], Session | None] = self.by_key6.find
        self.find4: Callable[[bytes], Session | None] = self.by_key4.find

    @property
    def count(self) -> int:
        """How many sessions there are."""
        return self.by_key6.count

    @property
    def identifications(self) -> array[int]:
        """The counters that records point into."""
        return self._idents.counters

    def sessions(self) -> Iterator[Session]:
        """Every session, in no particular order."""
        return self.by_key6.values()

    def ident(self, session: Session) -> int:
        """Which counter of identifications the session's packets use."""
        ident = session.ident
        if ident < 0:
            key4 = session.key4
            ident = _NUMBERS[self._idents.index(key4[4:8] + key4[:4], self._protocol)]
            session.ident = ident
        return ident

    def insert(self, session: Session, *, carried: bool = False) -> None:
        """Adds a session whose keys are both free; its client has its number.

        `carried`: the fast path may carry it at once, as after `install`.
        """
        key6, key4, protocol = session.key6, session.key4, self._protocol
        addresses4 = key4[4:8] + key4[:4]
        header4_sum = (0x4500 + protocol + _number(addresses4)) % 0xFFFF or 0xFFFF
        session.ident = ident = _NUMBERS[self._idents.index(addresses4, protocol)]
        addresses, full = session.delta_addresses, session.delta_full
        link = session.bib.client.number
        stamp = stamp_of(session.last) if carried else SLOW
        client, server, port6, port4 = key6[:16], key6[16:32], key6[32:34], key4[-2:]
        table6, at6 = self.by_key6.insert(key6, session)
        table4, at4 = self.by_key4.insert(key4, session)
        if protocol == Protocol.ICMP:
            _pack6_icmp(table6, at6, key6, addresses4, port4, header4_sum, full, ident, stamp)
            _pack4_icmp(table4, at4, key4, server, client, port6, full, link, stamp)
            return
        port = key6[34:]
        _pack6(
            table6, at6, key6, addresses4, port4, port, header4_sum, addresses, full, ident, stamp
        )
        _pack4(table4, at4, key4, server, client, port, port6, addresses, full, link, stamp)

    def delete(self, session: Session) -> None:
        """Takes a session out of both tables."""
        self.by_key6.delete(session.key6)
        self.by_key4.delete(session.key4)

    def install(self, session: Session) -> None:
        """Lets the fast path carry the session from now on."""
        stamp = stamp_of(session.last)
        self.by_key6.raise_stamp(session.key6, stamp)
        self.by_key4.raise_stamp(session.key4, stamp)

    def remove(self, session: Session) -> None:
        """Sends the session's packets through the slow path from now on."""
        stamp6 = self.by_key6.replace_stamp(session.key6, SLOW)
        stamp4 = self.by_key4.replace_stamp(session.key4, SLOW)
        session.last = max(session.last, time_of(max(stamp6, stamp4)))

    def last_seen(self, session: Session) -> float:
        """When a packet of the session was last seen by any data plane, or up to `STEP` later."""
        stamp = max(self.by_key6.stamp(session.key6), self.by_key4.stamp(session.key4))
        return max(session.last, time_of(stamp))
