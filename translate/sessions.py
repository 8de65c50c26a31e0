"""BIB and session tables (RFC 6146 §3.1, §3.2) and the flow tables of the fast path.

Theory of operation. A client (an IPv6 host) owns BIB entries, a BIB entry owns sessions; each
counts what hangs below it and goes when the last one has gone. Everything that is the same for
all packets of a session is computed once, when it is made: lookup keys, the header tails and
checksum deltas that the fast path writes. Keys are the bytes as they lie in a packet, so a
lookup needs no conversion:

    TCP, UDP  key6  src6 dst6 sport dport (36)    key4  src4 dst4 sport dport (12)
    ICMP      key6  src6 dst6 id          (34)    key4  src4 dst4 id          (10)

`key6` is what a packet from the client carries, `key4` what one from the server does. The flow
tables are split 256 ways by the low byte of the client's port (`key6[33]`) or of the pool's
(`key4[-1]`): a dict that grows is copied whole, and this bounds the pause.

All state changes of a flow go through `FlowTable.install` and `remove`: that seam is where a
second data plane can be told.
"""

from __future__ import annotations

from translate.checksum import fold, ones_sum, subtract
from translate.packets import Protocol
from translate.pool4 import PortBlock
from translate.tcp_states import State, Timer

SHARDS = 256

# One object for each checksum and index, shared by all sessions: a million sessions have
# 32 bytes less for each number, and the processor's cache holds what all of them use.
_NUMBERS = tuple(range(65_536))


def shared_number(number: int) -> int:
    """The same number (0..65535), as the object that all sessions share."""
    return _NUMBERS[number]


class Client:
    """One IPv6 host. `addr4`: its pool address for each protocol (RFC 4787 REQ-2).

    `bibs`: its BIB entries, `statics` those of them that are static. `blocks`: its port blocks
    for each protocol, None before the first.
    """

    __slots__ = ("addr4", "addr6", "bibs", "blocks", "link", "sessions", "statics")

    def __init__(self, addr6: bytes, link: bytes) -> None:
        self.addr6 = addr6
        self.link = link
        self.addr4: dict[int, bytes] = {}
        self.bibs = 0
        self.statics = 0
        self.blocks: dict[int, list[PortBlock]] | None = None
        self.sessions = 0


class BibEntry:
    """One mapping: an IPv6 transport address to a pool4 transport address.

    `key6` = addr6 + port (18 bytes), `key4` = addr4 + port (6 bytes). `servers` counts its
    sessions by IPv4 address; kept only under address-dependent filtering.
    """

    __slots__ = ("client", "key4", "key6", "protocol", "servers", "sessions", "static")

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


class _Carried:
    """What the fast path reads of a session, side by side in memory.

    Slots of a class lie in the order of their names, those of a base class in front.
    """

    __slots__ = (
        "client",
        "delta_addresses",
        "delta_full",
        "fast",
        "header4_sum",
        "ident",
        "last",
        "tail4",
        "tail6",
    )


class Session(_Carried):
    """One flow between a client and a server.

    `timer`, `tick`, `before`, `after` belong to the expiry wheel.
    `last`: when a packet was seen, in the caller's seconds. `fast`: the fast path may carry
    it. `tail4`: src4 dst4 sport dport (or id) as packets leave for the server; `tail6` the same
    towards the client. `header4_sum`: sum of the constant words of the IPv4 header that leaves
    (version, protocol, addresses). `delta_addresses`: what the pseudo-header sum gains from
    v6 to v4, `delta_full` the same with ports (or ICMP identifier). `ident`: which counter of
    identifications its packets use (translate/identifications.py).

    There can be a million of them: what follows from other fields in a few steps and is not
    needed for every packet is computed when asked for.
    """

    __slots__ = ("after", "before", "bib", "key6", "state", "tick", "timer")

    def __init__(
        self, bib: BibEntry, key6: bytes, server4: bytes, timer: Timer, now: float
    ) -> None:
        pool4, pool_port = bib.key4[:4], bib.key4[4:]
        client_port = key6[32:34]
        server_port = key6[34:36]
        self.bib = bib
        self.client = bib.client
        self.key6 = key6
        self.tail4 = pool4 + server4 + pool_port + server_port
        self.tail6 = key6[16:32] + key6[:16] + (server_port + client_port)
        sum6 = ones_sum(key6[:32])
        sum4 = ones_sum(pool4 + server4)
        self.header4_sum = _NUMBERS[fold(0x4500 + bib.protocol + sum4)]
        self.delta_addresses = _NUMBERS[subtract(sum4, sum6)]
        if bib.protocol == Protocol.ICMP:
            # ICMPv4 has no pseudo-header; its length is no constant and is left to the packet.
            delta = subtract(
                ones_sum(pool_port), fold(sum6 + Protocol.ICMPV6 + ones_sum(client_port))
            )
        else:
            delta = subtract(fold(sum4 + ones_sum(pool_port)), fold(sum6 + ones_sum(client_port)))
        self.delta_full = _NUMBERS[delta]
        self.ident = 0
        self.state = State.CLOSED
        self.fast = False
        self.last = now
        self.timer = timer
        self.tick = 0
        self.before: Session | None = None
        self.after: Session | None = None

    @property
    def protocol(self) -> int:
        """The IP protocol number, that of ICMPv4 for both kinds of ICMP."""
        return self.bib.protocol

    @property
    def key4(self) -> bytes:
        """What a packet from the server carries."""
        tail4 = self.tail4
        return tail4[4:8] + tail4[:4] + tail4[10:] + tail4[8:10]

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
        return self.tail4[4:8]

    @property
    def pool4(self) -> bytes:
        """The pool4 address the server sees."""
        return self.tail4[:4]


Flows = list[dict[bytes, Session]]


class FlowTable:
    """The sessions of one protocol by both keys."""

    __slots__ = ("by_key4", "by_key6", "count", "identifications")

    def __init__(self, identifications: list[int]) -> None:
        """`identifications`: the counters that `Session.ident` points into."""
        self.identifications = identifications
        self.by_key6: Flows = [{} for _ in range(SHARDS)]
        self.by_key4: Flows = [{} for _ in range(SHARDS)]
        self.count = 0

    def find6(self, key6: bytes) -> Session | None:
        """The session of a packet from the client."""
        return self.by_key6[key6[33]].get(key6)

    def find4(self, key4: bytes) -> Session | None:
        """The session of a packet from the server."""
        return self.by_key4[key4[-1]].get(key4)

    def insert(self, session: Session) -> None:
        """Adds a session whose keys are both free."""
        self.by_key6[session.key6[33]][session.key6] = session
        key4 = session.key4
        self.by_key4[key4[-1]][key4] = session
        self.count += 1

    def delete(self, session: Session) -> None:
        """Takes a session out of both tables."""
        self.remove(session)
        del self.by_key6[session.key6[33]][session.key6]
        key4 = session.key4
        del self.by_key4[key4[-1]][key4]
        self.count -= 1

    def install(self, session: Session) -> None:
        """Lets the fast path carry the session from now on."""
        session.fast = True

    def remove(self, session: Session) -> None:
        """Sends the session's packets through the slow path from now on."""
        session.fast = False

    def last_seen(self, session: Session) -> float:
        """When a packet of the session was last seen by any data plane."""
        return session.last
