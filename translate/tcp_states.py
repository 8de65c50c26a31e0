"""The TCP state machine of one session, as a table (RFC 6146 §3.5.2.2).

Theory of operation. A packet is reduced to an `Event` (which side sent it, and the one flag
that matters); `step` looks up state and event and returns the next state together with the
timer that starts now. A missing row means: no change, the running timer goes on. Creating a
session (leaving CLOSED) is the table's owner's business, because it needs a mapping.
"""

from __future__ import annotations

from enum import IntEnum


class State(IntEnum):
    """States of RFC 6146 §3.5.2.1. CLOSED is fictional: there is no session then."""

    CLOSED = 0
    V4_INIT = 1
    V6_INIT = 2
    ESTABLISHED = 3
    V4_FIN_RCV = 4
    V6_FIN_RCV = 5
    V4_FIN_V6_FIN_RCV = 6
    TRANS = 7


class Event(IntEnum):
    """What a packet means to the machine: V6 ones are 0..3, V4 ones 4..7."""

    V6_SYN = 0
    V6_FIN = 1
    V6_RST = 2
    V6_OTHER = 3
    V4_SYN = 4
    V4_FIN = 5
    V4_RST = 6
    V4_OTHER = 7


class Timer(IntEnum):
    """Which lifetime a session runs on; the values index the owner's expiry queues."""

    UDP_DEFAULT = 0
    ICMP_DEFAULT = 1
    TCP_EST = 2
    TCP_TRANS = 3
    TCP_INCOMING_SYN = 4


FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10

# A state in which a segment without SYN, FIN or RST changes nothing but restarts TCP_EST:
# exactly these may be carried by the fast path.
FAST_STATES = frozenset({State.ESTABLISHED, State.V4_FIN_RCV, State.V6_FIN_RCV})

_EST, _TRANS = Timer.TCP_EST, Timer.TCP_TRANS

_TABLE: dict[tuple[State, Event], tuple[State, Timer]] = {
    (State.V4_INIT, Event.V6_SYN): (State.ESTABLISHED, _EST),
    (State.V6_INIT, Event.V4_SYN): (State.ESTABLISHED, _EST),
    (State.V6_INIT, Event.V6_SYN): (State.V6_INIT, _TRANS),
    (State.ESTABLISHED, Event.V4_FIN): (State.V4_FIN_RCV, _EST),
    (State.ESTABLISHED, Event.V6_FIN): (State.V6_FIN_RCV, _EST),
    (State.ESTABLISHED, Event.V4_RST): (State.TRANS, _TRANS),
    (State.ESTABLISHED, Event.V6_RST): (State.TRANS, _TRANS),
    (State.ESTABLISHED, Event.V4_SYN): (State.ESTABLISHED, _EST),
    (State.ESTABLISHED, Event.V6_SYN): (State.ESTABLISHED, _EST),
    (State.ESTABLISHED, Event.V4_OTHER): (State.ESTABLISHED, _EST),
    (State.ESTABLISHED, Event.V6_OTHER): (State.ESTABLISHED, _EST),
    (State.V4_FIN_RCV, Event.V6_FIN): (State.V4_FIN_V6_FIN_RCV, _TRANS),
    (State.V6_FIN_RCV, Event.V4_FIN): (State.V4_FIN_V6_FIN_RCV, _TRANS),
    **{
        (State.V4_FIN_RCV, event): (State.V4_FIN_RCV, _EST)
        for event in Event
        if event is not Event.V6_FIN
    },
    **{
        (State.V6_FIN_RCV, event): (State.V6_FIN_RCV, _EST)
        for event in Event
        if event is not Event.V4_FIN
    },
    **{
        (State.TRANS, event): (State.ESTABLISHED, _EST)
        for event in Event
        if event not in (Event.V6_RST, Event.V4_RST)
    },
}


def event(flags: int, *, from_v6: bool) -> Event:
    """The event a segment with these TCP flags is.

    RST outranks SYN, which outranks FIN: a reset ends the connection whatever else is set.
    """
    base = Event.V6_SYN if from_v6 else Event.V4_SYN
    if flags & RST:
        return Event(base + 2)
    if flags & SYN:
        return Event(base)
    if flags & FIN:
        return Event(base + 1)
    return Event(base + 3)


def is_syn(flags: int) -> bool:
    """Whether a segment with these flags opens a connection."""
    return flags & (SYN | RST) == SYN


def step(state: State, seen: Event) -> tuple[State, Timer | None]:
    """Next state, and the timer to (re)start, or None when the running one goes on."""
    return _TABLE.get((state, seen), (state, None))
