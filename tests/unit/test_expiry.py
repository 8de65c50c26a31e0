"""The expiry wheel: never before the lifetime, less than one granule after it, in order."""

from __future__ import annotations

import random

import pytest

from translate.expiry import GRANULARITY, ExpiryWheel
from translate.sessions import BibEntry, Client, Session
from translate.tcp_states import Timer

LIFETIMES = [0.0] * len(Timer)
LIFETIMES[Timer.UDP_DEFAULT] = 300.0
LIFETIMES[Timer.ICMP_DEFAULT] = 60.0
LIFETIMES[Timer.TCP_EST] = 7440.0
LIFETIMES[Timer.TCP_TRANS] = 240.0
LIFETIMES[Timer.TCP_INCOMING_SYN] = 6.0
ALL = 1_000_000


def wheel():
    return ExpiryWheel(list(LIFETIMES))


def session(now, timer=Timer.UDP_DEFAULT):
    client = Client(bytes(16), b"")
    entry = BibEntry(17, client, bytes(18), bytes(6))
    return Session(entry, bytes(36), bytes(4), timer, now)


@pytest.mark.parametrize("timer", Timer)
@pytest.mark.parametrize("now", [0.0, 0.25, 0.999, 1000.0, 1000.5, 123456.75])
def test_lives_for_its_lifetime_and_less_than_a_granule_more(timer, now):
    timers, one = wheel(), session(now, timer)
    timers.add(one)
    end = now + LIFETIMES[timer]
    assert timers.pop_due(now, ALL) == []
    assert timers.pop_due(end - 0.001, ALL) == []
    assert timers.pop_due(end + GRANULARITY, ALL) == [one]
    assert timers.deadline() is None


@pytest.mark.parametrize("timer", Timer)
def test_at_its_deadline_it_is_over(timer):
    timers, one = wheel(), session(1000.3, timer)
    timers.add(one)
    at = timers.deadline()
    end = 1000.3 + LIFETIMES[timer]
    assert end <= at <= end + GRANULARITY
    assert timers.pop_due(at, ALL) == [one]


def test_a_refreshed_session_is_looked_at_and_kept():
    timers, one = wheel(), session(0.5)
    timers.add(one)
    one.last = 200.5
    assert timers.pop_due(301.0, ALL) == []
    assert timers.pop_due(500.4, ALL) == []
    assert timers.pop_due(501.5, ALL) == [one]


def test_a_session_refreshed_at_the_last_moment_lives_on():
    timers, one = wheel(), session(0.0)
    timers.add(one)
    one.last = 300.9
    assert timers.pop_due(301.0, ALL) == []
    assert timers.pop_due(601.9, ALL) == [one]


def test_nothing_to_look_at_has_no_deadline():
    timers = wheel()
    assert timers.deadline() is None
    assert timers.pop_due(5.0, ALL) == []


def test_deadline_is_the_earliest():
    timers = wheel()
    for timer in Timer:
        timers.add(session(100.0, timer))
    assert 106.0 <= timers.deadline() <= 107.0


def test_each_look_counts_against_the_limit():
    timers = wheel()
    for _ in range(10):
        timers.add(session(0.0))
    refreshed = [session(0.0) for _ in range(5)]
    for one in refreshed:
        timers.add(one)
        one.last = 250.0
    found: list[Session] = []
    looks = []
    while len(found) < 10:
        batch = timers.pop_due(400.0, 4)
        looks.append(len(batch))
        assert len(batch) <= 4
        found += batch
    assert len(looks) <= 5
    assert not set(map(id, found)) & set(map(id, refreshed))


def test_no_look_allowed_ends_nothing():
    timers, one = wheel(), session(0.0)
    timers.add(one)
    assert timers.pop_due(1000.0, 0) == []
    assert timers.pop_due(1000.0, 1) == [one]


def test_after_an_unfinished_turn_the_deadline_is_not_in_the_future():
    timers = wheel()
    for _ in range(3):
        timers.add(session(0.0))
    timers.pop_due(400.0, 1)
    assert timers.deadline() <= 400.0


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2), (1, 2, 0)])
def test_a_removed_session_is_never_over(order):
    timers = wheel()
    same = [session(7.0) for _ in range(3)]
    for one in same:
        timers.add(one)
    for count, index in enumerate(order, 1):
        timers.remove(same[index])
        left = [one for i, one in enumerate(same) if i not in order[:count]]
        assert (timers.deadline() is None) == (not left)
    assert timers.pop_due(10_000.0, ALL) == []


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_removing_one_keeps_its_neighbours(gone):
    timers = wheel()
    same = [session(7.0) for _ in range(3)]
    for one in same:
        timers.add(one)
    timers.remove(same.pop(gone))
    assert {id(one) for one in timers.pop_due(10_000.0, ALL)} == {id(one) for one in same}


def test_another_timer_from_now_on():
    timers, one = wheel(), session(0.0, Timer.TCP_EST)
    timers.add(one)
    timers.remove(one)
    one.timer, one.last = Timer.TCP_TRANS, 10.0
    timers.add(one)
    assert timers.pop_due(249.9, ALL) == []
    assert timers.pop_due(251.0, ALL) == [one]


def test_a_lifetime_that_is_over_already_ends_at_the_next_turn():
    timers = wheel()
    timers.add(session(0.0))
    timers.pop_due(1000.0, ALL)
    late = session(0.0)
    timers.add(late)
    assert timers.pop_due(1000.0 + GRANULARITY, ALL) == [late]


def test_a_shorter_lifetime_after_the_first_look_is_not_late():
    timers = wheel()
    timers.add(session(1000.0, Timer.TCP_EST))
    assert timers.pop_due(1000.0, ALL) == []
    short = session(1000.0, Timer.ICMP_DEFAULT)
    timers.add(short)
    assert timers.deadline() <= 1061.0
    assert timers.pop_due(1061.0, ALL) == [short]


def test_a_long_silence_is_caught_up_with():
    timers = wheel()
    for at in range(0, 1000, 7):
        timers.add(session(float(at)))
    assert len(timers.pop_due(1_000_000.0, ALL)) == 143


def test_against_a_plain_list():
    rng = random.Random(3)
    timers, now = wheel(), 0.0
    plain: list[Session] = []
    for _ in range(3000):
        now += rng.choice([0.0, 0.1, 0.5, 3.0, 50.0])
        for one in timers.pop_due(now, ALL):
            assert one.last + LIFETIMES[one.timer] <= now
            plain.remove(one)
        for one in plain:
            assert one.last + LIFETIMES[one.timer] + GRANULARITY > now
        one = session(now, rng.choice(list(Timer)))
        plain.append(one)
        timers.add(one)
        for _ in range(3):
            rng.choice(plain).last = now
        if rng.random() < 0.2:
            timers.remove(plain.pop(rng.randrange(len(plain))))
    assert timers.deadline() is not None
