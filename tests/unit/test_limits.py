"""Limits: at each one new work is refused with its own reason, and old work goes on.

RFC 6146 §3.5.1, §3.5.2.2, §3.5.3: where no mapping can be made the client is answered with
ICMPv6 destination unreachable, address unreachable (1/3).
"""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from tests.oracle import (
    CLIENT,
    ICMP,
    OTHER_CLIENT,
    OTHER_SERVER,
    OTHER_SERVER6,
    POOL,
    TCP,
    UDP,
    Bench,
    echo6,
    read,
    tcp4,
    tcp6,
    udp4,
    udp6,
)
from translate.limits import TokenBucket
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Limits


def assert_unreachable(answers, client=CLIENT):
    (answer,) = answers
    out = read(answer.data)
    assert (out.dst, out.payload.type, out.payload.code) == (client, 1, 3)


def sizes(bench):
    state = bench.nat.state
    return (
        state.session_count,
        state.bib_count,
        len(state.clients),
        sum(len(table) for table in state.bib6.values()),
        sum(len(table) for table in state.bib4.values()),
        sum(pool.free_ports(b"\xcb\x00\x71\x08") for pool in state.allocators.values()),
    )


def test_sessions_in_total():
    bench = Bench(limits=Limits(sessions=3))
    port = bench.udp(dport=1)[UDP].sport
    bench.udp(dport=2)
    bench.one(tcp6("S", src=OTHER_CLIENT))
    before = sizes(bench)
    assert_unreachable(bench.refused(udp6(dport=3), Reason.SESSION_LIMIT))
    assert_unreachable(bench.refused(udp6(sport=40001), Reason.SESSION_LIMIT))
    assert_unreachable(bench.refused(tcp6("S", sport=40001), Reason.SESSION_LIMIT))
    assert_unreachable(bench.refused(echo6(), Reason.SESSION_LIMIT))
    assert bench.refused(udp4(port, src=OTHER_SERVER), Reason.SESSION_LIMIT) == []
    assert sizes(bench) == before
    bench.udp(dport=1)
    bench.one(udp4(port, sport=2))
    bench.advance(302)
    bench.udp(dport=3)


def test_sessions_of_a_client():
    bench = Bench(limits=Limits(sessions_per_client=2))
    port = bench.udp(dport=1)[UDP].sport
    bench.one(tcp6("S"))
    before = sizes(bench)
    assert_unreachable(bench.refused(udp6(dport=3), Reason.CLIENT_SESSION_LIMIT))
    assert_unreachable(bench.refused(udp6(sport=40001), Reason.CLIENT_SESSION_LIMIT))
    assert_unreachable(bench.refused(echo6(), Reason.CLIENT_SESSION_LIMIT))
    assert bench.refused(udp4(port, src=OTHER_SERVER), Reason.CLIENT_SESSION_LIMIT) == []
    assert sizes(bench) == before
    bench.udp(src=OTHER_CLIENT)
    bench.udp(dport=1)
    bench.advance(302)
    bench.udp(dport=3)


def test_bib_entries():
    bench = Bench(limits=Limits(bib=2))
    bench.udp()
    bench.one(echo6())
    before = sizes(bench)
    assert_unreachable(bench.refused(udp6(sport=40001), Reason.BIB_LIMIT))
    assert_unreachable(bench.refused(tcp6("S"), Reason.BIB_LIMIT))
    assert sizes(bench) == before
    bench.udp(dst=OTHER_SERVER6)
    bench.advance(302)
    bench.udp(sport=40001)


def test_clients():
    bench = Bench(limits=Limits(clients=1))
    bench.udp()
    before = sizes(bench)
    refused = bench.refused(udp6(src=OTHER_CLIENT), Reason.CLIENT_LIMIT)
    assert_unreachable(refused, OTHER_CLIENT)
    assert sizes(bench) == before
    bench.udp(sport=40001)
    bench.advance(302)
    bench.udp(src=OTHER_CLIENT)


@pytest.mark.parametrize("kind", ["udp", "tcp", "icmp"])
def test_ports_of_the_pool(kind):
    def packet(number):
        if kind == "udp":
            return udp6(sport=40000 + number)
        if kind == "tcp":
            return tcp6("S", sport=40000 + number)
        return echo6(ident=40000 + number)

    pool = PoolRange(IPv4Network(POOL + "/32"), first_port=5000, last_port=5003)
    bench = Bench(pool4=(pool,))
    used = set()
    for number in range(4):
        out = bench.one(packet(number))
        used.add(out[ICMP].id if kind == "icmp" else out.payload.sport)
    assert used == {5000, 5001, 5002, 5003}
    before = sizes(bench)
    assert_unreachable(bench.refused(packet(4), Reason.POOL4_EXHAUSTED))
    assert sizes(bench) == before
    bench.one(packet(0))
    bench.advance(302)
    bench.one(packet(4))


def test_a_protocol_without_pool():
    pool = PoolRange(IPv4Network(POOL + "/32"), protocols=frozenset({6}))
    bench = Bench(pool4=(pool,))
    bench.one(tcp6("S"))
    assert_unreachable(bench.refused(udp6(), Reason.POOL4_EXHAUSTED))


def test_another_pool_address_is_tried_while_the_client_has_none():
    pool = PoolRange(IPv4Network("203.0.113.8/31"), first_port=5000, last_port=5000)
    bench = Bench(pool4=(pool,))
    first = bench.udp()
    second = bench.udp(src=OTHER_CLIENT)
    assert {first.src, second.src} == {"203.0.113.8", "203.0.113.9"}


def test_at_the_limit_a_form_change_still_works():
    bench = Bench(limits=Limits(sessions=1))
    bench.udp()
    bench.udp(dst="fec0:0:0:ffff:c6:3364:5000:0")
    assert bench.nat.state.session_count == 1


def test_an_established_connection_outlives_a_full_table():
    bench = Bench(limits=Limits(sessions=1))
    port = bench.connect()
    assert_unreachable(bench.refused(tcp6("S", sport=40001), Reason.SESSION_LIMIT))
    assert bench.one(tcp4("PA", port, data=b"x"))[TCP].dport == 40000


def test_rfc4443_2_4_f_token_bucket():
    bucket = TokenBucket(10.0, 5)
    assert [bucket.take(100.0) for _ in range(6)] == [True] * 5 + [False]
    assert not bucket.take(100.09)
    assert bucket.take(100.11)
    assert not bucket.take(100.11)
    assert [bucket.take(200.0) for _ in range(6)] == [True] * 5 + [False]


def test_rfc4443_2_4_f_the_long_run_rate():
    bucket = TokenBucket(10.0, 5)
    taken = sum(bucket.take(1000 + n / 1000) for n in range(10_000))
    assert 104 <= taken <= 106


@pytest.mark.parametrize("rate", [0.0])
def test_rfc4443_2_4_f_a_rate_of_zero_means_none_after_the_burst(rate):
    bucket = TokenBucket(rate, 2)
    assert [bucket.take(n * 1000.0) for n in range(4)] == [True, True, False, False]
