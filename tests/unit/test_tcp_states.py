"""The TCP state machine: RFC 6146 §3.5.2.2, sentence by sentence."""

from __future__ import annotations

import pytest

from translate.tcp_states import FAST_STATES, FIN, RST, SYN, Event, State, Timer, event, step

S, E, T = State, Event, Timer
PSH, ACK, URG, ECE, CWR = 0x08, 0x10, 0x20, 0x40, 0x80

# What the RFC says of each state and event: next state, and the lifetime that is set. None:
# the text sets none, so the running one goes on.
RFC: dict[tuple[State, Event], tuple[State, Timer | None]] = {
    # V4 INIT: a V6 SYN establishes; any other packet passes and changes nothing.
    (S.V4_INIT, E.V6_SYN): (S.ESTABLISHED, T.TCP_EST),
    **{(S.V4_INIT, e): (S.V4_INIT, None) for e in Event if e is not E.V6_SYN},
    # V6 INIT: a V4 SYN establishes, a V6 SYN restarts TCP_TRANS, others change nothing.
    (S.V6_INIT, E.V4_SYN): (S.ESTABLISHED, T.TCP_EST),
    (S.V6_INIT, E.V6_SYN): (S.V6_INIT, T.TCP_TRANS),
    **{(S.V6_INIT, e): (S.V6_INIT, None) for e in Event if e not in (E.V4_SYN, E.V6_SYN)},
    # ESTABLISHED: FIN and RST move on, any other packet restarts TCP_EST.
    (S.ESTABLISHED, E.V4_FIN): (S.V4_FIN_RCV, None),
    (S.ESTABLISHED, E.V6_FIN): (S.V6_FIN_RCV, None),
    (S.ESTABLISHED, E.V4_RST): (S.TRANS, T.TCP_TRANS),
    (S.ESTABLISHED, E.V6_RST): (S.TRANS, T.TCP_TRANS),
    **{
        (S.ESTABLISHED, e): (S.ESTABLISHED, T.TCP_EST)
        for e in (E.V4_SYN, E.V6_SYN, E.V4_OTHER, E.V6_OTHER)
    },
    # V4 FIN RCV: any packet other than a V6 FIN restarts TCP_EST.
    (S.V4_FIN_RCV, E.V6_FIN): (S.V4_FIN_V6_FIN_RCV, T.TCP_TRANS),
    **{(S.V4_FIN_RCV, e): (S.V4_FIN_RCV, T.TCP_EST) for e in Event if e is not E.V6_FIN},
    # V6 FIN RCV: the same the other way round.
    (S.V6_FIN_RCV, E.V4_FIN): (S.V4_FIN_V6_FIN_RCV, T.TCP_TRANS),
    **{(S.V6_FIN_RCV, e): (S.V6_FIN_RCV, T.TCP_EST) for e in Event if e is not E.V4_FIN},
    # V4 FIN + V6 FIN RCV: all packets pass, the lifetime runs out.
    **{(S.V4_FIN_V6_FIN_RCV, e): (S.V4_FIN_V6_FIN_RCV, None) for e in Event},
    # TRANS: any packet other than a RST goes back to ESTABLISHED.
    **{(S.TRANS, e): (S.ESTABLISHED, T.TCP_EST) for e in Event if e not in (E.V4_RST, E.V6_RST)},
    (S.TRANS, E.V4_RST): (S.TRANS, None),
    (S.TRANS, E.V6_RST): (S.TRANS, None),
}
# A FIN in ESTABLISHED: the text sets no lifetime; restarting the running one is the same.
RESTART_IS_THE_SAME = {(S.ESTABLISHED, E.V4_FIN), (S.ESTABLISHED, E.V6_FIN)}


def test_the_table_here_is_complete():
    assert set(RFC) == {(s, e) for s in State if s is not S.CLOSED for e in Event}


@pytest.mark.parametrize(("state", "seen"), RFC, ids=[f"{s.name}-{e.name}" for s, e in RFC])
def test_rfc6146_3_5_2_2(state, seen):
    expected, timer = RFC[state, seen]
    got, got_timer = step(state, seen)
    assert got is expected
    if (state, seen) in RESTART_IS_THE_SAME:
        assert got_timer in (None, T.TCP_EST)
    else:
        assert got_timer == timer


@pytest.mark.parametrize("from_v6", [True, False])
@pytest.mark.parametrize(
    ("flags", "kind"),
    [
        (SYN, 0),
        (SYN | ACK, 0),
        (SYN | ECE | CWR, 0),
        (FIN, 1),
        (FIN | ACK, 1),
        (FIN | PSH | ACK, 1),
        (RST, 2),
        (RST | ACK, 2),
        (RST | SYN, 2),
        (RST | FIN, 2),
        (ACK, 3),
        (PSH | ACK, 3),
        (URG | ACK | ECE, 3),
        (0, 3),
    ],
)
def test_the_flag_that_matters(flags, kind, from_v6):
    expected = [
        (E.V4_SYN, E.V6_SYN),
        (E.V4_FIN, E.V6_FIN),
        (E.V4_RST, E.V6_RST),
        (E.V4_OTHER, E.V6_OTHER),
    ][kind][from_v6]
    assert event(flags, from_v6=from_v6) is expected


@pytest.mark.parametrize("state", State)
def test_the_fast_path_has_the_states_where_data_changes_nothing(state):
    """Exactly there a segment without SYN, FIN and RST only restarts TCP_EST, both ways."""
    plain = [RFC.get((state, seen)) for seen in (E.V4_OTHER, E.V6_OTHER)]
    assert (plain == [(state, T.TCP_EST)] * 2) == (state in FAST_STATES)
