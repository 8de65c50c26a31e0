"""The backhaul's part of the host on a real kernel: tap, address, rule, table, probes, repair.

192.0.0.6 (lo of nobody) -> rule -> table -> tapN ── WireLink: a far end in this process
"""

from __future__ import annotations

import logging
import os
import socket
import time
from ipaddress import IPv4Interface, IPv6Network

import pytest
import trio
from pyroute2 import IPRoute

from gateway.backhaul.link import LinkFailed, LinkWish
from gateway.backhaul.states import State
from gateway.backhaul.supervisor import Supervisor
from gateway.backhaul.way import HostWay
from gateway.config_backhaul import BackhaulTable
from gateway.host.journal import Journal, KeepJournal
from gateway.host.leftovers import undo_leftovers
from gateway.host.plan import Plan
from gateway.host.setup import HostSpec, plan_host
from gateway.host.uplink import (
    ALIAS,
    RULE_PRIORITY,
    PoolRule,
    Unreachable,
    table_of,
)
from tests.host.backhaul_bench import BEYOND, POOL, Bench, WireLink, until, way_of


def test_up_and_down_and_nothing_left(tmp_path, run, snapshot) -> None:
    before = snapshot()
    link = WireLink()
    bench = Bench(tmp_path, link)
    table = table_of(bench.index)
    assert f"{RULE_PRIORITY}:\tfrom 192.0.0.6 lookup {table}" in run("ip rule")
    assert "No route to host" in way_of(run)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            tap = bench.supervisor.status.device
            assert "dev " + tap in way_of(run)
            assert "unreachable default" in run(f"ip route show table {table}")
            assert "mtu 1400" in run(f"ip link show {tap}")
            assert bench.changes == [True]
            link.end = LinkFailed("the connection was closed")
            await until(lambda: bench.changes == [True, False])
            await until(lambda: bench.changes == [True, False, True])
            assert link.taps == [tap, tap]  # the tap survives
        assert "No route to host" in way_of(run)

    trio.run(scenario)
    assert "tap1" not in run("ip -o link")
    bench.stop()
    assert snapshot() == before
    assert not os.path.exists(bench.run_dir)
    assert "6400" not in run("ip rule")


def test_silence_is_down_and_down_is_unreachable(tmp_path, run) -> None:
    link = WireLink()
    bench = Bench(tmp_path, link, probes_missed=2)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            assert link.abandoned == 0
            link.deaf = True
            started = time.monotonic()
            await until(lambda: bench.changes == [True, False])
            assert time.monotonic() - started < 3
            await until(lambda: "No route to host" in way_of(run))
            await until(lambda: link.abandoned == 1)  # not told to undo
            link.deaf = False
            await bench.until(State.UP)

    trio.run(scenario)
    bench.stop()


def test_a_deleted_tap_is_made_again(tmp_path, run) -> None:
    link = WireLink()
    bench = Bench(tmp_path, link)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            tap = bench.supervisor.status.device
            run(f"ip link del {tap}")
            await until(lambda: link.runs == 2)
            await bench.until(State.UP)
            assert "dev " + bench.supervisor.status.device in way_of(run)

    trio.run(scenario)
    bench.stop()


def test_carrier_loss_is_down_before_any_probe_is_missed(tmp_path, run) -> None:
    link = WireLink()
    bench = Bench(tmp_path, link, probe_interval=30.0)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            run(f"ip link set {bench.supervisor.status.device} carrier off")
            await until(lambda: bench.changes == [True, False])

    trio.run(scenario)
    bench.stop()


def test_strict_reverse_path_filter_lets_answers_in(tmp_path, run, sysctl) -> None:
    """A packet from the far end for pool4 is routed into the gateway's tap with rp_filter=1."""
    for name in ("all", "default"):
        sysctl(f"ipv4/conf/{name}/rp_filter", "1")
        sysctl(f"ipv4/conf/{name}/src_valid_mark", "1")
    link = WireLink()
    bench = Bench(tmp_path, link)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            tap = bench.supervisor.status.device
            assert "dev tap0" in run(f"ip route get 192.0.0.6 from 203.0.113.9 iif {tap}")
            peer = bench.way.remote4.ip
            assert "dev tap0" in run(f"ip route get 192.0.0.6 from {peer} iif {tap}")

    trio.run(scenario)
    bench.stop()


@pytest.mark.parametrize("forwards", [True, False])
def test_a_peer_that_does_not_forward_is_named(tmp_path, forwards) -> None:
    link = WireLink()
    link.forwards = forwards
    bench = Bench(tmp_path, link)
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("gateway").addHandler(handler)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)

            def asked() -> int:
                return sum(frame[30:34] == BEYOND.packed for frame in link.seen)

            await until(lambda: asked() >= (1 if forwards else 3))
            await trio.sleep(0.5)

    trio.run(scenario)
    bench.stop()
    assert any("forwards nothing" in line for line in lines) is not forwards


def test_undo_after_a_kill(tmp_path, run, snapshot) -> None:
    before = snapshot()
    rules = run("ip rule")
    pid = os.fork()
    if pid == 0:
        killed = Bench(tmp_path, WireLink())

        async def scenario() -> None:
            async with killed.running():
                await killed.until(State.UP)
                os.kill(os.getpid(), 9)

        trio.run(scenario)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    assert "tap1" in run("ip -o link")
    said: list[str] = []
    undo_leftovers(str(tmp_path / "run"), None, said.append)
    assert snapshot() == before
    assert run("ip rule") == rules
    assert any("rule from 192.0.0.6/32" in line for line in said)


def test_start_after_a_kill(tmp_path, run, snapshot) -> None:
    before = snapshot()
    rules = run("ip rule")
    pid = os.fork()
    if pid == 0:
        killed = Bench(tmp_path, WireLink())

        async def scenario() -> None:
            async with killed.running():
                await killed.until(State.UP)
                os.kill(os.getpid(), 9)

        trio.run(scenario)
        os._exit(1)
    os.waitpid(pid, 0)
    bench = Bench(tmp_path, WireLink())
    assert len([line for line in run("ip rule").splitlines() if "6400" in line]) == 1

    async def again() -> None:
        async with bench.running():
            await bench.until(State.UP)
            assert "dev " + bench.supervisor.status.device in way_of(run)

    trio.run(again)
    bench.stop()
    assert snapshot() == before
    assert run("ip rule") == rules


def test_undo_without_a_journal_goes_by_the_marks(tmp_path, run) -> None:
    run("ip tuntap add tap7 mode tap")
    run("ip tuntap add tap8 mode tap")
    with IPRoute() as ipr:
        ipr.link("set", index=socket.if_nametoindex("tap8"), ifalias=f"{ALIAS}tap99")
    Plan([Unreachable("0.0.0.0/0", table_of(99)), PoolRule(POOL, table_of(99))], print).apply()
    undo_leftovers(str(tmp_path), None, print)
    assert "6400" not in run("ip rule")
    assert "unreachable" not in run("ip route show table all")
    assert "tap7" in run("ip -o link")
    assert "tap8" not in run("ip -o link")


def test_rule_and_route_are_undone_twice_without_harm(tmp_path) -> None:
    journal = Journal(str(tmp_path / "run"), "tap0")
    changes: list[Unreachable | PoolRule] = [
        Unreachable("0.0.0.0/0", 6_400_009),
        PoolRule(POOL, 6_400_009),
    ]
    plan = Plan([KeepJournal(journal, changes, print), *changes], print)
    plan.apply()
    assert [c.undo() for c in reversed(changes)] == [None, None]
    assert [c.undo() for c in reversed(changes)] == ["it is gone", "it is gone"]
    plan.undo()


def test_untranslated_prefixes_go_to_the_peer_or_nowhere(tmp_path, run, snapshot) -> None:
    """`carries = "ipv6"`: without a device and a translator."""
    before = snapshot()
    prefix = "64:ff9b:1::/96"
    run_dir = str(tmp_path / "run")
    link = WireLink()
    spec = HostSpec(
        "backhaul", "tap", 1500, bytes(6), [IPv6Network(prefix)], [], False, run_dir,
        uplink=True, device=False,
    )  # fmt: skip
    plan = plan_host(spec, log=lambda line: None)
    plan.apply()
    assert f"unreachable {prefix}" in run("ip -6 route show table main")
    way = HostWay(
        Journal(run_dir, "backhaul"), "backhaul", 0, "tap64-x", 1500,
        carries="ipv6", prefixes=[IPv6Network(prefix)],
    )  # fmt: skip
    table = BackhaulTable.model_validate({"to": "root@peer", "carries": "ipv6"})

    def wish(local4: IPv4Interface, remote4: IPv4Interface) -> LinkWish:
        return LinkWish((), local4, remote4, 1500, False, "tap64-x", 10, 300, "ipv6")

    supervisor = Supervisor(table, way, link_to=lambda _: link, wish=wish, changed=lambda up: None)

    async def scenario() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(supervisor.run)
            await until(lambda: supervisor.status.state is State.UP)
            found = run("ip -6 route get 64:ff9b:1::c000:201")
            assert f"via fe80::2 dev {supervisor.status.device}" in found
            nursery.cancel_scope.cancel()

    trio.run(scenario)
    assert "tap0" not in run("ip -o link")
    plan.undo()
    assert snapshot() == before
