"""gateway/host/plan.py with changes that only take notes."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from gateway.host.plan import HostError, Plan


@dataclass
class Note:
    """A change that notes what is done to it; it fails where told to."""

    name: str
    notes: list[str]
    fail: str = ""
    error: BaseException = field(default_factory=lambda: HostError("no: do this"))
    left_alone: str | None = None

    def describe(self) -> str:
        return self.name

    def apply(self) -> None:
        self._do("apply")

    def undo(self) -> str | None:
        self._do("undo")
        return self.left_alone

    def _do(self, what: str) -> None:
        self.notes.append(f"{what} {self.name}")
        if self.fail == what:
            raise self.error


def test_applied_in_order_and_undone_in_reverse() -> None:
    notes: list[str] = []
    said: list[str] = []
    plan = Plan([Note("a", notes), Note("b", notes, left_alone="it is gone")], said.append)
    assert plan.describe() == ["a", "b"]
    plan.apply()
    plan.undo()
    assert notes == ["apply a", "apply b", "undo b", "undo a"]
    assert said == ["a", "b", "left alone: b (it is gone)", "undone: a"]
    plan.undo()
    assert len(notes) == 4


def test_refused_change_has_changed_nothing_and_is_not_undone() -> None:
    notes: list[str] = []
    plan = Plan(
        [Note("a", notes), Note("b", notes, fail="apply"), Note("c", notes)], lambda line: None
    )
    with pytest.raises(HostError, match="no: do this"):
        plan.apply()
    assert notes == ["apply a", "apply b", "undo a"]


def test_interrupted_change_is_undone_too() -> None:
    notes: list[str] = []
    interrupted = Note("b", notes, fail="apply", error=KeyboardInterrupt())
    plan = Plan([Note("a", notes), interrupted], lambda line: None)
    with pytest.raises(KeyboardInterrupt):
        plan.apply()
    assert notes == ["apply a", "apply b", "undo b", "undo a"]


def test_undo_goes_on_after_one_that_fails() -> None:
    notes: list[str] = []
    said: list[str] = []
    plan = Plan([Note("a", notes), Note("b", notes, fail="undo")], said.append)
    plan.apply()
    plan.undo()
    assert notes[-2:] == ["undo b", "undo a"]
    assert said[-2:] == ["cannot undo: b: no: do this", "undone: a"]
