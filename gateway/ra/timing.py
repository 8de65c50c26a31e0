"""When router advertisements are due (RFC 4861 §6.2.4, §6.2.6). Pure: time comes in, time goes out.

Unsolicited ones come at random intervals between a third of and the whole maximum, the first
three after at most 16 seconds. A solicitation is answered after a random delay of up to half a
second; all of them within that time by one multicast, and multicasts keep three seconds apart,
so that a flood of solicitations costs no more than one message in three seconds.
"""

from __future__ import annotations

from collections.abc import Callable

# RFC 4861 §10, seconds.
_INITIAL_INTERVAL = 16.0
_INITIAL_COUNT = 3
_MIN_BETWEEN = 3.0
_ANSWER_DELAY = 0.5


class Schedule:
    """The times of one interface's advertisements. `uniform(a, b)`: a random number between.

    `interval` may change before `start`.
    """

    def __init__(self, interval: float, uniform: Callable[[float, float], float]) -> None:
        self.interval = interval
        self._uniform = uniform
        self._sent = 0
        self._last: float | None = None
        self.due = 0.0

    def start(self, now: float) -> None:
        """The first is due at once, as after every change of what is advertised."""
        self._sent = 0
        self.due = now if self._last is None else max(now, self._last + _MIN_BETWEEN)

    def solicited(self, now: float) -> None:
        """A valid solicitation has come."""
        wanted = now + self._uniform(0.0, _ANSWER_DELAY)
        if self._last is not None:
            wanted = max(wanted, self._last + _MIN_BETWEEN)
        self.due = min(self.due, wanted)

    def sent(self, now: float) -> None:
        """One has been sent to all nodes."""
        self._last = now
        self._sent += 1
        wait = self._uniform(max(3.0, self.interval / 3), self.interval)
        if self._sent < _INITIAL_COUNT:
            wait = min(wait, _INITIAL_INTERVAL)
        self.due = now + wait
