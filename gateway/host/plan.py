"""A plan: host changes that are printed, applied in order and undone in reverse.

A change knows how to say what it does, to do it and to take it back. Taking back must be safe
at any time: before it was applied, twice, after its object has gone, after somebody else has
changed the same thing. It then does nothing and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol


class HostError(Exception):
    """The host refuses. str() is one line that names the thing and the remedy."""


class Change(Protocol):
    """One thing done to the host."""

    def describe(self) -> str:
        """One line, without the device's history: `add address fe80::1/64 to tap0`."""

    def apply(self) -> None:
        """Do it. Raises HostError, having changed nothing."""

    def undo(self) -> str | None:
        """Take it back; the reason when it is left alone instead. Raises HostError."""


class Plan:
    """Changes in the order in which they are applied.

    `log` gets one line for each change that is applied or undone. Neither `apply` nor `undo`
    may run twice at the same time; `undo` after `undo` does nothing.
    """

    def __init__(self, changes: Sequence[Change], log: Callable[[str], None]) -> None:
        self._changes = list(changes)
        self._done: list[Change] = []
        self._log = log

    def describe(self) -> list[str]:
        """What `apply` would do, one line each."""
        return [change.describe() for change in self._changes]

    def apply(self) -> None:
        """Apply every change; on a failure undo those done and re-raise (HostError)."""
        try:
            for change in self._changes:
                # Noted first: an interrupt between the two must not lose an applied change.
                self._done.append(change)
                try:
                    change.apply()
                except HostError:
                    self._done.pop()  # it has changed nothing
                    raise
                self._log(change.describe())
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Undo what was applied, in reverse. A change that cannot be undone is logged."""
        while self._done:
            change = self._done.pop()
            try:
                left_alone = change.undo()
            except HostError as error:
                self._log(f"cannot undo: {change.describe()}: {error}")
                continue
            if left_alone is None:
                self._log(f"undone: {change.describe()}")
            else:
                self._log(f"left alone: {change.describe()} ({left_alone})")
