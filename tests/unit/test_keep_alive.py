"""The probe of a silent TCP session (RFC 6146 §3.5.2.2)."""

from __future__ import annotations

import pytest

from tests.oracle import (
    CLIENT,
    LINK,
    SERVER6,
    TCP,
    Bench,
    check_form,
    checksum_right,
    fast_path_of,
    read,
    tcp4,
    tcp6,
    udp6,
)
from translate.tcp_states import State

EST, TRANS = 7440, 240
GRANULE = 2


def expired(bench, seconds):
    bench.now += seconds
    return bench.nat.expire(bench.now, 1000)


def states(bench):
    return [State(s.state) for s in bench.nat.state.sessions()]


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def port(bench):
    port = bench.one(tcp6("S"), link=LINK)[TCP].sport
    bench.one(tcp4("SA", port))
    bench.one(tcp6("A"), link=LINK)
    return port


def test_rfc6146_3_5_2_2_a_silent_session_is_probed_once(bench, port):
    assert expired(bench, EST - 1) == []
    (probe,) = expired(bench, 1 + GRANULE)
    check_form(probe.data)
    assert checksum_right(probe.data)
    assert probe.link == LINK
    assert (probe.partial, probe.gso_type) == (False, 0)
    out = read(probe.data)
    assert (out.src, out.dst) == (SERVER6, CLIENT)
    assert (out[TCP].sport, out[TCP].dport) == (80, 40000)
    assert (out[TCP].flags, out[TCP].seq, out[TCP].ack) == ("A", 0, 0)
    assert (out.tc, out[TCP].dataofs, len(probe.data)) == (0, 5, 60)
    assert states(bench) == [State.TRANS]
    assert expired(bench, TRANS - GRANULE) == []


@pytest.mark.parametrize("side", [4, 6])
def test_rfc6146_3_5_2_2_a_sign_of_life_establishes_it_again(bench, port, side):
    expired(bench, EST + GRANULE)
    out = bench.one(tcp6("A") if side == 6 else tcp4("A", port))
    assert port in (out[TCP].sport, out[TCP].dport) or side == 4
    assert states(bench) == [State.ESTABLISHED]
    assert expired(bench, EST - GRANULE) == []
    assert len(expired(bench, 2 * GRANULE)) == 1


def test_rfc6146_3_5_2_2_silence_ends_it(bench, port):
    expired(bench, EST + GRANULE)
    assert expired(bench, TRANS - 1) == []
    assert states(bench) == [State.TRANS]
    assert expired(bench, 1 + GRANULE) == []
    assert states(bench) == []
    assert bench.nat.state.bib_count == 0


def test_rfc6146_3_5_2_2_a_reset_does_not_establish_it(bench, port):
    expired(bench, EST + GRANULE)
    bench.one(tcp6("R"))
    assert states(bench) == [State.TRANS]


def test_rfc6146_3_5_2_2_a_reset_of_the_server_does_not_establish_it(bench, port):
    expired(bench, EST + GRANULE)
    bench.one(tcp4("R", port))
    assert states(bench) == [State.TRANS]


@pytest.mark.parametrize("side", [4, 6])
def test_rfc6146_3_5_2_2_the_sign_of_life_is_not_for_the_fast_path(bench, port, side):
    """It would pass unseen, and the session would end four minutes later."""
    fast = fast_path_of(bench)
    packet = tcp6("A") if side == 6 else tcp4("A", port)
    assert fast(packet) is not None
    expired(bench, EST + GRANULE)
    assert fast(packet) is None
    bench.one(packet)
    assert states(bench) == [State.ESTABLISHED]
    assert fast(packet) is not None


@pytest.mark.parametrize("side", [4, 6])
def test_rfc6146_3_5_2_2_half_closed_sessions_are_not_probed(bench, port, side):
    bench.one(tcp6("FA") if side == 6 else tcp4("FA", port))
    assert expired(bench, EST + GRANULE) == []
    assert states(bench) == []


@pytest.mark.parametrize("packet", [tcp6("S"), udp6()])
def test_rfc6146_3_5_2_2_others_are_not_probed(bench, packet):
    bench.one(packet)
    assert expired(bench, EST) == []
    assert states(bench) == []
