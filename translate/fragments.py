"""Fragments of either family (RFC 6146 §3.4, RFC 7915 §4.1, §5.1.1).

Theory of operation. Only the first fragment of a datagram names the ports, so it decides what
happens to all of them. Once it has been translated its session is remembered under the
datagram's identification and the others follow one by one, in whatever order they come; those
that came before it wait. Two kinds have to be whole before anything can be said about them:
ICMP, whose IPv6 checksum covers the length of the whole, and UDP without a checksum from IPv4,
which IPv6 needs computed. They wait until the last piece is there.

What waits is limited in number, bytes, time and for each sender. At a limit of number a first
fragment takes the place of the oldest datagram that has no session, of this sender or of all: so
nobody who sends pieces without their firsts, or firsts that go nowhere, in whoever's name, is in
the way of fragments that come in order (RFC 4787 REQ-14 a). A datagram whose pieces
overlap is given up altogether (RFC 5722 §4), and so is one whose first fragment does not hold
the whole transport header (RFC 1858 §3): both are ways past a firewall. Together they leave no
piece that reaches into the header (RFC 1858 §4). An exact repetition of a piece is dropped alone.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from translate.packets import Fragment, IPv4View, IPv6View
from translate.reasons import Discard, Reason
from translate.sessions import Session
from translate.settings import Limits

View = TypeVar("View", IPv4View, IPv6View)

# What follows the header of the largest IPv4 packet.
_MAX_DATAGRAM = 65515
# Pieces of one datagram: a path with an MTU of 296 bytes makes 240 of the largest.
_MAX_PIECES = 512
# Bookkeeping for one held fragment besides its bytes, roughly.
_OVERHEAD = 200


@dataclass(slots=True)
class Datagram(Generic[View]):
    """What is known of one fragmented datagram.

    `session`: where its pieces go, once the first has been translated; set by the table. `dead`:
    why all of its pieces are dropped, once they are. `held`: pieces that wait.
    """

    key: bytes
    sender: bytes
    born: float
    session: Session | None = None
    dead: Reason | None = None
    is_whole: bool = False
    end: int | None = None
    covered: int = 0
    pieces: list[tuple[int, int]] = field(default_factory=list)
    held: list[View] = field(default_factory=list)
    held_bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether every byte has been seen."""
        return self.end is not None and self.covered == self.end


class FragmentTable(Generic[View]):
    """The datagrams of one family that have been seen in part."""

    def __init__(self, limits: Limits, lifetime: float) -> None:
        self._datagrams: OrderedDict[bytes, Datagram[View]] = OrderedDict()
        # Those of them without a session, in no particular order but that the first is old.
        self._without: dict[bytes, Datagram[View]] = {}
        self._bytes = 0
        self._senders: dict[bytes, dict[bytes, Datagram[View]]] = {}
        self._lost = 0
        self.configure(limits, lifetime)

    def configure(self, limits: Limits, lifetime: float) -> None:
        """Takes over limits, and the lifetime in seconds (FRAGMENT_MIN, RFC 6146 §4)."""
        self._limits = limits
        self._lifetime = lifetime

    def __len__(self) -> int:
        return len(self._datagrams)

    def add(self, key: bytes, sender: bytes, view: View, now: float) -> Datagram[View]:
        """Notes one more piece; the datagram it belongs to. Raises Discard.

        `key` identifies the datagram, `sender` whoever is to be charged for it.
        """
        piece = view.fragment
        assert piece is not None
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._new(key, sender, now, is_first=not piece.offset)
        if datagram.dead is not None:
            raise Discard(datagram.dead)
        self._note(datagram, piece, len(view.payload))
        return datagram

    def _new(self, key: bytes, sender: bytes, now: float, *, is_first: bool) -> Datagram[View]:
        limits = self._limits
        own = self._senders.get(sender, {})
        if len(own) >= limits.fragments_per_client:
            self._make_way(own, is_first=is_first)
        elif len(self._datagrams) >= limits.fragments:
            self._make_way(self._without, is_first=is_first)
        datagram: Datagram[View] = Datagram(key, sender, now)
        self._datagrams[key] = self._without[key] = datagram
        self._senders.setdefault(sender, {})[key] = datagram
        return datagram

    def _make_way(self, datagrams: dict[bytes, Datagram[View]], *, is_first: bool) -> None:
        """Forgets one of these that has no session, for a first fragment. Raises Discard."""
        if is_first:
            for datagram in datagrams.values():
                if datagram.session is None:
                    self._lost += len(datagram.held)
                    self.forget(datagram)
                    return
        raise Discard(Reason.FRAGMENT_LIMIT)

    def settle(self, datagram: Datagram[View], session: Session) -> None:
        """Notes where the pieces of a datagram go, whose first has been translated."""
        datagram.session = session
        self._without.pop(datagram.key, None)

    def _note(self, datagram: Datagram[View], piece: Fragment, length: int) -> None:
        start, stop = piece.offset, piece.offset + length
        if (start, stop) in datagram.pieces:
            raise Discard(Reason.FRAGMENT_REPEATED)
        overlaps = any(start < other[1] and other[0] < stop for other in datagram.pieces)
        end = datagram.end
        beyond = end is not None and (stop > end or not piece.more)
        if not piece.more and any(other[1] > stop for other in datagram.pieces):
            beyond = True
        if len(datagram.pieces) >= _MAX_PIECES:
            raise Discard(self.give_up(datagram, Reason.FRAGMENT_LIMIT))
        if overlaps or beyond or stop > _MAX_DATAGRAM or length == 0:
            raise Discard(self.give_up(datagram, Reason.FRAGMENT_OVERLAP))
        datagram.pieces.append((start, stop))
        datagram.covered += length
        if not piece.more:
            datagram.end = stop

    def hold(self, datagram: Datagram[View], view: View) -> None:
        """Keeps a piece until the first, or all, are there. Raises Discard at a limit."""
        size = len(view.payload) + _OVERHEAD
        if self._bytes + size > self._limits.fragment_bytes:
            raise Discard(self.give_up(datagram, Reason.FRAGMENT_LIMIT))
        datagram.held.append(view)
        datagram.held_bytes += size
        self._bytes += size

    def release(self, datagram: Datagram[View]) -> list[View]:
        """The pieces that waited, which wait no more."""
        held = datagram.held
        self._bytes -= datagram.held_bytes
        datagram.held, datagram.held_bytes = [], 0
        return held

    def give_up(self, datagram: Datagram[View], reason: Reason) -> Reason:
        """Drops the datagram's pieces, those that wait and those to come; returns `reason`."""
        self.release(datagram)
        datagram.dead = reason
        datagram.session = None
        self._without[datagram.key] = datagram
        return reason

    def forget(self, datagram: Datagram[View]) -> None:
        """Removes a datagram that is complete, or that nothing more is wanted of."""
        self.release(datagram)
        del self._datagrams[datagram.key]
        self._without.pop(datagram.key, None)
        own = self._senders[datagram.sender]
        del own[datagram.key]
        if not own:
            del self._senders[datagram.sender]

    def deadline(self) -> float | None:
        """When the oldest datagram is given up, or None when there is none."""
        for datagram in self._datagrams.values():
            return datagram.born + self._lifetime
        return None

    def expire(self, now: float) -> int:
        """Removes what is older than the lifetime; how many pieces have waited in vain since."""
        lost, self._lost = self._lost, 0
        while self._datagrams:
            datagram = next(iter(self._datagrams.values()))
            if datagram.born + self._lifetime > now:
                break
            lost += len(datagram.held)
            self.forget(datagram)
        return lost


def reassemble(views: list[View]) -> bytes:
    """The payload of a complete datagram from all of its pieces, in any order."""
    return b"".join(view.payload for view in sorted(views, key=_offset))


def _offset(view: IPv4View | IPv6View) -> int:
    return view.fragment.offset if view.fragment is not None else 0
