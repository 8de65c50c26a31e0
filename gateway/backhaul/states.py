"""When to try which destination, and what to say about it. Pure: time and chance are passed in.

    DOWN ──due──► CONNECTING ──Ready──► PROVING ──answered probe──► UP
      ▲               │                    │                        │
      └───────────────┴── LinkFailed, probes missed, told to leave ─┘

Each destination waits for itself: half a second after the first failure, twice as long after each
further one, at most 30 s; a minute to five where only a person can mend it. Every wait is spread
by a quarter either way, so that many gateways do not come back in step. A link that held for a
while has earned the short wait again; one that comes and goes has not.

Of the destinations that are due, the one after the last is next, so that a failure leads to the
next of the list at once; where none is due, the one that will be first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gateway.backhaul.link import LinkFailed, Patience

# Least and most, in seconds.
WAITS: Final = {Patience.SHORT: (0.5, 30.0), Patience.LONG: (60.0, 300.0)}
SPREAD: Final = 0.25
HELD: Final = 30.0  # seconds of UP that make the next failure a first one


class State(Enum):
    """Of the backhaul as a whole."""

    DOWN = "down"
    CONNECTING = "connecting"
    PROVING = "proving"
    UP = "up"


@dataclass(frozen=True, slots=True)
class BackhaulStatus:
    """For the status line. `device` and `remote` are empty while there is no link."""

    state: State
    destination: str
    device: str
    remote: str

    def word(self) -> str:
        """`up,root@peer,tap1:tap0`; `-` for what is not known."""
        devices = f"{self.device}:{self.remote or '-'}" if self.device else "-"
        # Spaces separate words of the status line, and commands have them.
        return f"{self.state.value},{self.destination.replace(' ', '_') or '-'},{devices}"


@dataclass(slots=True)
class BackOff:
    """The waits of one destination. `rand()` gives 0 <= x < 1."""

    rand: Callable[[], float]
    _failures: int = 0
    _patience: Patience = Patience.SHORT

    def failed(self, patience: Patience, held: float) -> float:
        """Seconds to wait after a failure of this kind; `held`: how long it had been up."""
        if held >= HELD or patience is not self._patience:
            self._failures = 0
        self._patience = patience
        least, most = WAITS[patience]
        wait = min(least * 2.0 ** min(self._failures, 16), most)
        self._failures += 1
        spread = wait * (1 - SPREAD + 2 * SPREAD * self.rand())
        return min(max(spread, least), most)


@dataclass(slots=True)
class _Destination:
    name: str
    back_off: BackOff
    due: float = 0.0
    said: tuple[str, str] | None = None


@dataclass(slots=True)
class Choice:
    """Which destination is next, and when. `rand()` gives 0 <= x < 1."""

    rand: Callable[[], float]
    _destinations: list[_Destination] = field(default_factory=list)
    _last: int = -1
    _again: str = ""

    def configure(self, names: Sequence[str]) -> None:
        """Takes over the list; destinations that stay keep what is known of them."""
        known = {item.name: item for item in self._destinations}
        last = self._destinations[self._last].name if self._last >= 0 else ""
        self._destinations = [known.get(n) or _Destination(n, BackOff(self.rand)) for n in names]
        self._last = next((i for i, n in enumerate(names) if n == last), -1)
        if self._again not in names:
            self._again = ""

    @property
    def is_first(self) -> bool:
        """Whether the destination in use, or last tried, is the first of the list."""
        return self._last <= 0

    def next(self, now: float) -> tuple[str, float]:
        """The destination to try next, and the time at which it is due."""
        if self._again:
            return self._again, now
        count = len(self._destinations)
        order = [(self._last + 1 + step) % count for step in range(count)]
        chosen = min(order, key=lambda at: max(self._destinations[at].due, now))
        return self._destinations[chosen].name, self._destinations[chosen].due

    def take(self, name: str) -> None:
        """Notes that this destination is tried now."""
        self._last = self._find(name)
        self._again = ""

    def failed(self, failure: LinkFailed, held: float, now: float) -> bool:
        """Notes a failure of the destination last taken; whether it is worth a line in the log.

        The same cause is said once, and again after the destination has been up.
        """
        if self._last < 0:
            return True  # meanwhile it was taken out of the list
        item = self._destinations[self._last]
        item.due = now + item.back_off.failed(failure.patience, held)
        what = (failure.cause, failure.remedy)
        is_new = held > 0 or what != item.said
        item.said = what
        return is_new

    def again(self) -> None:
        """Makes the destination in use, or that would be next, the next one, at once."""
        self._again = self._destinations[self._last].name if self._last >= 0 else ""
        for item in self._destinations:
            item.due = 0.0

    def hurry(self) -> None:
        """Makes the first destination the next one, at once."""
        self._last, self._again = -1, ""
        for item in self._destinations:
            item.due = 0.0

    def _find(self, name: str) -> int:
        return next(i for i, item in enumerate(self._destinations) if item.name == name)
