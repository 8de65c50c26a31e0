"""No way to the IPv4 internet: who is told what, and what stays (Nat64.uplink)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.data_plane import DataPlane
from tests.oracle import (
    ICMP,
    OTHER_CLIENT,
    POOL,
    SERVER,
    TCP,
    UDP,
    Bench,
    echo6,
    error4,
    error6,
    read,
    tcp4,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from tests.unit import fakes
from translate.reasons import Reason

POOL6 = trailing(POOL)


@pytest.fixture
def bench():
    return Bench()


def down(bench: Bench) -> None:
    bench.nat.uplink(False)


def unreachable(packet) -> tuple[int, int]:
    return packet.payload.type, packet.payload.code


@pytest.mark.parametrize("packet", [udp6(), tcp6("S"), echo6()], ids=["udp", "tcp", "echo"])
def test_new_flows_are_told_that_there_is_no_route(bench, packet):
    down(bench)
    assert unreachable(bench.one(packet)) == (1, 0)  # RFC 4443 §3.1
    assert bench.nat.counters[Reason.UPLINK_DOWN] == 1
    assert bench.nat.state.session_count == bench.nat.state.bib_count == 0


def test_sessions_stay_and_go_on(bench):
    port = bench.udp(sport=5000)[UDP].sport
    down(bench)
    assert unreachable(bench.one(udp6(sport=5000))) == (1, 0)
    bench.nat.uplink(True)
    assert bench.udp(sport=5000)[UDP].sport == port
    assert bench.nat.state.session_count == 1


def test_what_a_client_still_uses_does_not_expire(bench):
    bench.udp(sport=5000)
    down(bench)
    lifetime = bench.nat.settings.timeouts.udp_default
    for _ in range(4):
        bench.advance(lifetime * 0.6)
        bench.send(udp6(sport=5000))
    assert bench.nat.state.session_count == 1
    bench.advance(lifetime + 1)
    assert bench.nat.state.session_count == 0


def test_the_errors_are_limited(bench):
    down(bench)
    answers = sum(len(bench.send(udp6(sport=5000 + n))) for n in range(300))
    assert answers == bench.nat.settings.limits.icmp_errors_burst
    assert bench.nat.counters[Reason.UPLINK_DOWN] == 300


def test_clients_still_meet_each_other(bench):
    theirs = bench.udp(src=OTHER_CLIENT, sport=6000)[UDP].sport
    down(bench)
    out = bench.one(udp6(sport=5000, dst=POOL6, dport=theirs))
    assert (out.dst, out[UDP].dport) == (OTHER_CLIENT, 6000)
    assert bench.nat.counters[Reason.UPLINK_DOWN] == 0


def test_who_is_refused_is_refused_as_ever(bench):
    down(bench)
    bench.refused(udp6(dst=trailing("127.0.0.1")), Reason.DESTINATION_REFUSED)
    bench = Bench(admit=lambda _: False)
    down(bench)
    (answer,) = bench.refused(udp6(), Reason.CLIENT_REFUSED)
    assert unreachable(read(answer.data)) == (1, 1)


def test_errors_of_clients_are_not_answered(bench):
    sent = bench.udp(sport=5000)
    back = bench.one(udp4(sent[UDP].sport))
    error = error6(1, 4, 0, back)
    assert bench.one(error).dst == SERVER
    down(bench)
    assert bench.refused(error, Reason.UPLINK_DOWN) == []


def test_routers_of_the_link_appear_as_ourselves(bench):
    """169.254/16 has no address that a client may see: the source is our own."""
    sent = bench.udp(sport=5000)
    out = bench.one(error4(11, 0, 0, sent, src="169.254.7.1"))
    assert (out.src, unreachable(out)) == (trailing("192.0.0.8"), (3, 0))


def test_what_still_comes_in_is_translated(bench):
    port = bench.udp(sport=5000)[UDP].sport
    down(bench)
    assert bench.one(udp4(port))[UDP].dport == 5000


def test_tcp_in_the_middle(bench):
    port = bench.connect(sport=5000)
    down(bench)
    assert unreachable(bench.one(tcp6("PA", sport=5000))) == (1, 0)
    assert unreachable(bench.one(tcp6("FA", sport=5000))) == (1, 0)
    bench.nat.uplink(True)
    out = bench.one(tcp6("PA", sport=5000))
    assert out[TCP].sport == port
    assert bench.one(tcp4("PA", port))[TCP].dport == 5000


def test_up_at_first():
    assert Bench().nat.has_uplink


@pytest.mark.trio
async def test_the_fast_path_is_bypassed():
    with fakes.wire() as link:
        translator = fakes.make_translator()
        plane = DataPlane(link.fd, link.frames, translator, fakes.make_neighbours())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plane.run)

            async def exchange() -> list[bytes]:
                link.send(link.frame(fakes.udp6()))
                await trio.testing.wait_all_tasks_blocked()
                return list(link.received())

            await exchange()
            await exchange()
            assert plane.counters.fast_packets == 1
            translator.uplink(False)
            plane.configure()
            (answer,) = await exchange()
            assert link.parsed(answer)[1].payload.type != ICMP
            assert plane.counters.fast_packets == 1
            assert translator.counters[Reason.UPLINK_DOWN] == 1
            translator.uplink(True)
            plane.configure()
            await exchange()
            assert plane.counters.fast_packets == 2
            nursery.cancel_scope.cancel()
