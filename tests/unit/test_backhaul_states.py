"""When to try which destination, and what is worth saying."""

from __future__ import annotations

import pytest

from gateway.backhaul.link import LinkFailed, Patience
from gateway.backhaul.states import HELD, SPREAD, WAITS, BackOff, Choice

SHORT = LinkFailed("gone")
LONG = LinkFailed("wrong key", "add it", patience=Patience.LONG)


def middle() -> float:
    return 0.5  # no spread


def test_waits_double_up_to_the_most():
    back_off = BackOff(middle)
    waits = [back_off.failed(Patience.SHORT, 0.0) for _ in range(9)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]


def test_a_person_is_waited_for_longer():
    back_off = BackOff(middle)
    assert [back_off.failed(Patience.LONG, 0.0) for _ in range(5)] == [60, 120, 240, 300, 300]
    # Once that is mended, the network's failures begin anew.
    assert back_off.failed(Patience.SHORT, 0.0) == 0.5


@pytest.mark.parametrize("rand", [0.0, 0.25, 0.999999])
@pytest.mark.parametrize("patience", list(Patience))
def test_the_spread_stays_within_its_bounds(rand, patience):
    least, most = WAITS[patience]
    back_off, plain = BackOff(lambda: rand), BackOff(middle)
    for _ in range(8):
        wait, unspread = back_off.failed(patience, 0.0), plain.failed(patience, 0.0)
        assert least <= wait <= most
        assert wait == pytest.approx(
            min(max(unspread * (1 - SPREAD + 2 * SPREAD * rand), least), most)
        )


def test_many_gateways_do_not_come_back_in_step():
    waits = set()
    for rand in (0.1, 0.4, 0.7):
        back_off = BackOff(iter([0.5, rand]).__next__)
        back_off.failed(Patience.SHORT, 0.0)
        waits.add(back_off.failed(Patience.SHORT, 0.0))
    assert len(waits) == 3


@pytest.mark.parametrize(("held", "wait"), [(HELD, 0.5), (HELD - 0.01, 4.0)])
def test_a_link_that_held_is_tried_soon_again(held, wait):
    back_off = BackOff(middle)
    for _ in range(3):
        back_off.failed(Patience.SHORT, 0.0)
    assert back_off.failed(Patience.SHORT, held) == wait


def choice_of(*names: str) -> Choice:
    choice = Choice(middle)
    choice.configure(names)
    return choice


def attempt(choice: Choice, now: float, failure: LinkFailed = SHORT) -> tuple[str, bool]:
    name, _ = choice.next(now)
    choice.take(name)
    return name, choice.failed(failure, 0.0, now)


def test_one_destination_is_tried_again_when_due():
    choice = choice_of("a")
    assert choice.next(0.0) == ("a", 0.0)
    attempt(choice, 10.0)
    assert choice.next(10.0) == ("a", 10.5)


def test_the_next_one_is_tried_at_once():
    choice = choice_of("a", "b", "c")
    assert [attempt(choice, 0.1 * n)[0] for n in range(3)] == ["a", "b", "c"]
    assert choice.next(0.2) == ("a", 0.5)


def test_of_those_that_are_due_the_one_after_the_last():
    choice = choice_of("a", "b", "c")
    for _ in range(3):
        attempt(choice, 0.0)
    assert attempt(choice, 100.0)[0] == "a"
    # b was due before c is, and neither matters: both are.
    assert [attempt(choice, 100.0)[0] for _ in range(2)] == ["b", "c"]


def test_one_that_needs_a_person_does_not_hold_up_the_other():
    choice = choice_of("a", "b")
    attempt(choice, 0.0, LONG)
    tried = []
    now = 1.0
    while now < 50.0:
        name, due = choice.next(now)
        now = max(now, due)
        tried.append((name, now))
        choice.take(name)
        choice.failed(SHORT, 0.0, now)
        now += 0.1
    assert {name for name, at in tried if at < 60.0} == {"b"}
    assert len(tried) > 5


def test_the_same_cause_is_said_once():
    choice = choice_of("a")
    assert attempt(choice, 0.0) == ("a", True)
    assert attempt(choice, 1.0) == ("a", False)
    assert attempt(choice, 2.0, LinkFailed("gone", "another remedy"))[1]
    assert attempt(choice, 3.0, LONG)[1]
    assert not attempt(choice, 100.0, LONG)[1]
    # After it has been up the same cause is news.
    choice.take("a")
    assert choice.failed(LONG, 0.1, 200.0)


def test_each_destination_says_its_own_cause():
    choice = choice_of("a", "b")
    assert attempt(choice, 0.0) == ("a", True)
    assert attempt(choice, 0.0) == ("b", True)
    assert attempt(choice, 9.0) == ("a", False)


def test_hurry_leads_to_the_first():
    choice = choice_of("a", "b")
    attempt(choice, 0.0, LONG)
    choice.take("b")
    assert not choice.is_first
    choice.hurry()
    assert choice.next(1.0) == ("a", 0.0)
    assert choice.is_first


def test_another_list_keeps_what_is_known():
    choice = choice_of("a", "b")
    attempt(choice, 0.0, LONG)
    choice.configure(["c", "a"])
    assert choice.next(1.0)[0] == "c"
    choice.take("c")
    assert not attempt(choice, 60.0, LONG)[1]  # a, as before


def test_a_destination_that_was_taken_out_while_it_failed():
    choice = choice_of("a")
    choice.take("a")
    choice.configure(["b"])
    assert choice.failed(SHORT, 0.0, 0.0)
    assert choice.next(0.0) == ("b", 0.0)


@pytest.mark.parametrize("patience", list(Patience))
def test_a_destination_that_fails_for_years(patience):
    back_off = BackOff(lambda: 0.5)
    waits = [back_off.failed(patience, 0.0) for _ in range(3000)]
    assert waits == sorted(waits)
    assert waits[-1] == WAITS[patience][1]


def test_a_long_list_is_gone_through_once_and_then_waits():
    names = [f"host{n}" for n in range(500)]
    choice = Choice(lambda: 0.5)
    choice.configure(names)
    tried = []
    for _ in names:
        name, due = choice.next(100.0)
        assert due <= 100.0
        choice.take(name)
        tried.append(name)
        choice.failed(LinkFailed("no route"), 0.0, 100.0)
    assert tried == names
    assert choice.next(100.0)[1] == 100.5


def test_the_destination_in_use_again():
    choice = Choice(middle)
    choice.configure(["a", "b", "c"])
    choice.take("b")
    choice.again()
    assert choice.next(5.0) == ("b", 5.0)
    # It may fail while it is being ended; told is told.
    choice.failed(SHORT, 0.0, 5.0)
    assert choice.next(5.0) == ("b", 5.0)
    choice.take("b")
    assert choice.next(5.0)[0] == "c"


@pytest.mark.parametrize("told", ["hurry", "configure"])
def test_something_else_is_wanted_by_then(told):
    choice = Choice(middle)
    choice.configure(["a", "b", "c"])
    choice.take("b")
    choice.again()
    if told == "hurry":
        choice.hurry()
    else:
        choice.configure(["a", "c"])
    assert choice.next(5.0)[0] == "a"
