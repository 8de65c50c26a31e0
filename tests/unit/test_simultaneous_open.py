"""SYNs from IPv4 that come before the client's (RFC 6146 §3.5.2.2, CLOSED)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.oracle import (
    ICMP,
    OTHER_SERVER,
    OTHER_SERVER6,
    POOL,
    SERVER,
    TCP,
    Bench,
    IPv6,
    checksum_right,
    read,
    tcp4,
    tcp6,
)
from translate.reasons import Reason
from translate.settings import Filtering, Limits, Timeouts
from translate.tcp_states import State


@pytest.fixture
def strict():
    return Bench(filtering=Filtering.ADDRESS_DEPENDENT)


def expired(bench, seconds):
    bench.now += seconds
    return bench.nat.expire(bench.now)


def state_with(bench, server):
    return {
        State(s.state)
        for s in bench.nat.state.sessions()
        if ".".join(map(str, s.server4)) == server
    }


def test_rfc6146_3_5_2_2_both_syns_meet(strict):
    port = strict.connect()
    syn = tcp4("S", port, src=OTHER_SERVER, sport=999)
    assert strict.refused(syn, Reason.SYN_STORED) == []
    out = strict.one(tcp6("S", dst=OTHER_SERVER6, dport=999))
    assert (out.dst, out[TCP].dport, out[TCP].sport) == (OTHER_SERVER, 999, port)
    assert state_with(strict, OTHER_SERVER) == {State.ESTABLISHED}
    assert strict.one(syn).src == OTHER_SERVER6
    assert expired(strict, 7) == []
    assert state_with(strict, OTHER_SERVER) == {State.ESTABLISHED}


@pytest.mark.parametrize("other", [{"sport": 998}, {"src": SERVER, "sport": 999}])
def test_rfc6146_3_5_2_2_another_syn_does_not_meet(other):
    bench = Bench(filtering=Filtering.ADDRESS_DEPENDENT)
    port = bench.one(tcp6("S", dst="fec0:0:0:ffff::808:808"))[TCP].sport
    bench.refused(tcp4("S", port, **{"src": OTHER_SERVER, **other}), Reason.SYN_STORED)
    bench.one(tcp6("S", dst=OTHER_SERVER6, dport=999))
    assert state_with(bench, OTHER_SERVER) == {State.V6_INIT}


@pytest.mark.parametrize("filtering", Filtering)
def test_rfc6146_3_5_2_2_not_met_is_answered_unreachable(filtering):
    bench = Bench(filtering=filtering)
    syn = tcp4("S", 50000, options=[("MSS", 1460)])
    assert bench.refused(syn, Reason.SYN_STORED) == []
    assert bench.nat.next_deadline() == bench.now + 6
    assert expired(bench, 5.99) == []
    (answer,) = expired(bench, 0.01)
    out = read(answer.data)
    assert (out.src, out.dst, out[ICMP].type, out[ICMP].code) == (POOL, SERVER, 3, 3)
    assert bytes(out[ICMP])[8:] == bytes(syn)
    assert checksum_right(answer.data)
    assert bench.nat.counters[Reason.SYN_TIMEOUT] == 1
    assert expired(bench, 60) == []
    assert bench.nat.next_deadline() is None


def test_rfc6146_3_5_2_2_a_retransmission_changes_nothing(strict):
    strict.refused(tcp4("S", 50000), Reason.SYN_STORED)
    assert expired(strict, 3) == []
    strict.refused(tcp4("S", 50000), Reason.SYN_STORED)
    assert len(expired(strict, 3)) == 1
    assert expired(strict, 6) == []


def test_limit_of_stored_syns():
    bench = Bench(limits=replace(Limits(), stored_syns=2))
    for sport in (1, 2):
        bench.refused(tcp4("S", 50000, sport=sport), Reason.SYN_STORED)
    assert bench.refused(tcp4("S", 50000, sport=3), Reason.SYN_LIMIT) == []
    bench.refused(tcp4("S", 50000, sport=2), Reason.SYN_STORED)
    assert len(expired(bench, 6)) == 2
    bench.refused(tcp4("S", 50000, sport=3), Reason.SYN_STORED)


def test_lifetime_of_a_stored_syn():
    bench = Bench(timeouts=replace(Timeouts(), tcp_incoming_syn=10.0))
    bench.refused(tcp4("S", 50000), Reason.SYN_STORED)
    assert expired(bench, 9.99) == []
    assert len(expired(bench, 0.01)) == 1


@pytest.mark.parametrize("flags", ["SA", "R", "RS", "A", "F", "FA"])
def test_rfc6146_3_5_2_2_only_a_syn_is_stored(strict, flags):
    strict.refused(tcp4(flags, 50000), Reason.NO_MAPPING)
    port = strict.connect()
    strict.refused(tcp4(flags, port, src=OTHER_SERVER), Reason.FILTERED)
    bench_now = strict.now
    assert all(isinstance(read(p.data), IPv6) for p in expired(strict, 7))
    assert strict.now > bench_now


def test_each_stored_syn_has_its_own_six_seconds(strict):
    strict.refused(tcp4("S", 50000, sport=1), Reason.SYN_STORED)
    strict.now += 3
    strict.refused(tcp4("S", 50000, sport=2), Reason.SYN_STORED)
    (answer,) = expired(strict, 3)
    assert int.from_bytes(answer.data[48:50], "big") == 1
    (answer,) = expired(strict, 3)
    assert int.from_bytes(answer.data[48:50], "big") == 2


def test_no_more_are_answered_at_once_than_were_asked_for(strict):
    for sport in range(1, 6):
        strict.refused(tcp4("S", 50000, sport=sport), Reason.SYN_STORED)
    strict.now += 6
    assert len(strict.nat.expire(strict.now, 2)) == 2
    assert strict.nat.next_deadline() == strict.now
    assert len(strict.nat.expire(strict.now, 1000)) == 3
