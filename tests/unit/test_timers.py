"""Lifetimes of sessions (RFC 6146 §3.5, §4): there just before, gone a granule after."""

from __future__ import annotations

import pytest

from tests.oracle import (
    ICMP,
    OTHER_SERVER,
    OTHER_SERVER6,
    TCP,
    UDP,
    Bench,
    echo4,
    echo6,
    tcp4,
    tcp6,
    udp4,
)
from translate.expiry import GRANULARITY
from translate.reasons import Reason
from translate.settings import Timeouts

UDP_DEFAULT, ICMP_DEFAULT, TCP_EST, TCP_TRANS = 300.0, 60.0, 7440.0, 240.0
EPSILON = 1 / 64  # exact in binary


@pytest.fixture
def bench():
    return Bench()


def lasts(bench, lifetime):
    """Asserts that the only session has exactly this lifetime left, up to a granule."""
    assert bench.nat.state.session_count == 1
    bench.advance(lifetime - EPSILON)
    assert bench.nat.state.session_count == 1, "gone too early"
    bench.advance(EPSILON + GRANULARITY)
    assert bench.nat.state.session_count == 0, "there too long"
    assert bench.nat.state.bib_count == 0
    assert not bench.nat.state.clients
    assert bench.nat.next_deadline() is None


def test_rfc6146_4_defaults():
    assert Timeouts() == Timeouts(
        udp_default=300, tcp_est=7440, tcp_trans=240, tcp_incoming_syn=6, icmp_default=60
    )


def test_rfc6146_3_5_1_udp(bench):
    bench.udp()
    lasts(bench, UDP_DEFAULT)


def test_rfc6146_3_5_3_icmp(bench):
    bench.one(echo6())
    lasts(bench, ICMP_DEFAULT)


@pytest.mark.parametrize("from_v6", [True, False])
def test_rfc6146_3_5_1_every_datagram_of_either_side_starts_it_again(bench, from_v6):
    port = bench.udp()[UDP].sport
    bench.advance(299)
    if from_v6:
        bench.udp()
    else:
        bench.one(udp4(port))
    lasts(bench, UDP_DEFAULT)


@pytest.mark.parametrize("from_v6", [True, False])
def test_rfc6146_3_5_3_every_echo_of_either_side_starts_it_again(bench, from_v6):
    ident = bench.one(echo6())[ICMP].id
    bench.advance(59)
    bench.one(echo6() if from_v6 else echo4(ident))
    lasts(bench, ICMP_DEFAULT)


def test_rfc6146_3_5_3_an_echo_that_a_server_begins_lives_as_long(bench):
    ident = bench.one(echo6())[ICMP].id
    bench.advance(30)
    bench.one(echo4(ident, kind=8, src=OTHER_SERVER))
    bench.advance(ICMP_DEFAULT - 29)
    lasts(bench, 29)


def test_rfc6146_3_5_2_2_v6_init_lives_for_tcp_trans(bench):
    bench.one(tcp6("S"))
    lasts(bench, TCP_TRANS)


def test_rfc6146_3_5_2_2_v6_init_a_repeated_syn_starts_it_again(bench):
    bench.one(tcp6("S"))
    bench.advance(200)
    bench.one(tcp6("S"))
    lasts(bench, TCP_TRANS)


@pytest.mark.parametrize("flags", ["A", "F", "R"])
def test_rfc6146_3_5_2_2_v6_init_anything_else_does_not(bench, flags):
    port = bench.one(tcp6("S"))[TCP].sport
    bench.advance(100)
    bench.one(tcp6(flags))
    bench.one(tcp4(flags, port))
    lasts(bench, TCP_TRANS - 100)


def test_rfc6146_3_5_2_2_v4_init_lives_for_tcp_trans(bench):
    port = bench.one(tcp6("S", dst=OTHER_SERVER6))[TCP].sport
    bench.advance(200)
    bench.one(tcp4("S", port))
    bench.advance(50)
    assert bench.nat.state.session_count == 1, "the first one is over"
    lasts(bench, TCP_TRANS - 50)


def test_rfc6146_3_5_2_2_established_lives_for_tcp_est(bench):
    bench.connect()
    bench.advance(TCP_EST - EPSILON)
    assert bench.nat.state.session_count == 1
    # A probe and another TCP_TRANS may follow.
    bench.advance(EPSILON + GRANULARITY)
    bench.advance(TCP_TRANS + GRANULARITY)
    assert bench.nat.state.session_count == 0


@pytest.mark.parametrize("from_v6", [True, False])
def test_rfc6146_3_5_2_2_established_data_starts_it_again(bench, from_v6):
    port = bench.connect()
    bench.advance(TCP_EST - 10)
    bench.one(tcp6("PA", data=b"x") if from_v6 else tcp4("PA", port, data=b"x"))
    bench.advance(TCP_EST - EPSILON)
    assert bench.nat.state.session_count == 1


@pytest.mark.parametrize("from_v6", [True, False])
def test_rfc6146_3_5_2_2_reset_leaves_tcp_trans(bench, from_v6):
    port = bench.connect()
    bench.advance(100)
    bench.one(tcp6("R") if from_v6 else tcp4("R", port))
    lasts(bench, TCP_TRANS)


def test_rfc6146_3_5_2_2_more_resets_do_not_prolong_it(bench):
    port = bench.connect()
    bench.one(tcp6("R"))
    bench.advance(200)
    bench.one(tcp6("R"))
    bench.one(tcp4("R", port))
    lasts(bench, TCP_TRANS - 200)


def test_rfc6146_3_5_2_2_data_after_a_reset_establishes_again(bench):
    port = bench.connect()
    bench.one(tcp4("R", port))
    bench.advance(200)
    bench.one(tcp6("A"))
    bench.advance(TCP_EST - EPSILON)
    assert bench.nat.state.session_count == 1


@pytest.mark.parametrize("v6_first", [True, False])
def test_rfc6146_3_5_2_2_both_fins_leave_tcp_trans(bench, v6_first):
    port = bench.connect()
    fins = [tcp6("FA"), tcp4("FA", port)]
    bench.one(fins[not v6_first])
    bench.advance(TCP_TRANS + 10)
    assert bench.nat.state.session_count == 1, "one side may go on sending"
    bench.one(fins[v6_first])
    bench.one(tcp6("A"))
    bench.advance(100)
    bench.one(tcp4("A", port))
    lasts(bench, TCP_TRANS - 100)


def test_rfc6146_3_5_2_2_one_fin_and_data_go_on_for_tcp_est(bench):
    port = bench.connect()
    bench.one(tcp6("FA"))
    bench.advance(TCP_EST - 10)
    bench.one(tcp4("A", port, data=b"more"))
    bench.advance(TCP_EST - EPSILON)
    assert bench.nat.state.session_count == 1


def test_rfc6146_3_1_a_mapping_lives_as_long_as_its_last_session(bench):
    port = bench.udp(dport=1)[UDP].sport
    bench.advance(200)
    bench.udp(dport=2)
    bench.advance(200)
    assert (bench.nat.state.session_count, bench.nat.state.bib_count) == (1, 1)
    assert bench.udp(dport=1)[UDP].sport == port
    bench.advance(302)
    bench.refused(udp4(port, src=OTHER_SERVER), Reason.NO_MAPPING)


def test_other_lifetimes_can_be_set():
    timeouts = Timeouts(udp_default=20, tcp_est=200, tcp_trans=30, icmp_default=5)
    for packet, lifetime in ((None, 20), (echo6(), 5), (tcp6("S"), 30)):
        bench = Bench(timeouts=timeouts)
        if packet is None:
            bench.udp()
        else:
            bench.one(packet)
        lasts(bench, lifetime)


def test_expire_looks_at_most_so_often():
    bench = Bench()
    for number in range(50):
        bench.udp(sport=40000 + number)
    bench.now += 400
    left = []
    for _ in range(5):
        bench.nat.expire(bench.now, 10)
        left.append(bench.nat.state.session_count)
    assert left == [40, 30, 20, 10, 0]


def test_next_deadline_is_when_there_is_something_to_do():
    bench = Bench()
    assert bench.nat.next_deadline() is None
    bench.one(tcp6("S"))
    bench.one(echo6())
    at = bench.nat.next_deadline() or 0.0
    assert bench.now + ICMP_DEFAULT <= at <= bench.now + ICMP_DEFAULT + GRANULARITY
    bench.nat.expire(at)
    assert bench.nat.state.session_count == 1
    at = bench.nat.next_deadline() or 0.0
    assert bench.now + TCP_TRANS <= at <= bench.now + TCP_TRANS + GRANULARITY
