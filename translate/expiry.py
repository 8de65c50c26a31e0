"""Expiry of sessions: a timing wheel with buckets of one second, looked at lazily.

Theory of operation. A packet only writes down when it came. A session lies in the bucket of the
second in which it would be over if nothing more came; when that second has passed it is looked
at once and is either over, or moves to the bucket that its last packet asks for by then. So a
packet costs nothing here, entering and leaving are O(1), nothing is sorted or swept, and a
session ends less than `GRANULARITY` after its lifetime, counted from what `last_seen` says.
Buckets are doubly linked lists through the sessions themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from operator import attrgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from translate.sessions import Session

# Seconds.
GRANULARITY = 1.0


class ExpiryWheel:
    """All sessions of a translator by when they have to be looked at.

    `lifetimes`: seconds, by `Timer` value. Time does not run backwards: each `now` is at least
    the one before. `last_seen(session)`: when its last packet came; `Session.last` may be older.
    """

    __slots__ = ("_buckets", "_done", "_last_seen", "lifetimes")

    def __init__(
        self,
        lifetimes: list[float],
        last_seen: Callable[[Session], float] = attrgetter("last"),
    ) -> None:
        self.lifetimes = lifetimes
        self._last_seen = last_seen
        self._buckets: dict[int, Session] = {}
        # The last second whose bucket has been emptied; None before the first look.
        self._done: int | None = None

    def add(self, session: Session) -> None:
        """Puts a session, which is in no bucket, where `last` and `timer` ask for."""
        tick = int((session.last + self.lifetimes[session.timer]) / GRANULARITY) + 1
        if self._done is not None and tick <= self._done:
            tick = self._done + 1
        head = self._buckets.get(tick)
        session.before = None
        session.after = head
        if head is not None:
            head.before = session
            # The same number, and the same object: there may be a million.
            tick = head.tick
        session.tick = tick
        self._buckets[tick] = session

    def remove(self, session: Session) -> None:
        """Takes out a session that is in a bucket."""
        before, after = session.before, session.after
        if after is not None:
            after.before = before
        if before is not None:
            before.after = after
        elif after is not None:
            self._buckets[session.tick] = after
        else:
            del self._buckets[session.tick]
        session.before = session.after = None

    def pop_due(self, now: float, limit: int) -> list[Session]:
        """The sessions that are over, after at most `limit` looks; they are in no bucket."""
        over: list[Session] = []
        current = int(now / GRANULARITY)
        if not self._buckets:
            self._done = current
            return over
        if self._done is None:
            self._done = min(min(self._buckets) - 1, current)
        buckets = self._buckets
        while self._done < current:
            session = buckets.get(self._done + 1)
            if session is None:
                self._done += 1
                continue
            if not limit:
                break
            limit -= 1
            self.remove(session)
            session.last = self._last_seen(session)
            if session.last + self.lifetimes[session.timer] > now:
                self.add(session)
            else:
                over.append(session)
        return over

    def is_behind(self, now: float) -> bool:
        """Whether sessions are left that were due before `now`, because a limit ended the look."""
        if self._done is None:
            return bool(self._buckets)
        return bool(self._buckets) and self._done < int(now / GRANULARITY)

    def deadline(self) -> float | None:
        """When a session has to be looked at next, or None when there is none."""
        return min(self._buckets) * GRANULARITY if self._buckets else None
