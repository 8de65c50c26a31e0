"""The host is left as it was found, however the gateway ends.

    client ──────── gateway ──────── r4a ──────── server

`snapshot` compares links, addresses, routes of all tables, rules, permanent neighbours,
nftables and every IPv4 and IPv6 sysctl of the gateway's namespace.
"""

from __future__ import annotations

import signal
import time

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import EXIT_CLEAN, Gateway
from tests.e2e.namespaces import Lab
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import PREFIX, SERVER, Topology, line

SIGNALS = [signal.SIGTERM, signal.SIGINT]


def build(lab: Lab) -> Topology:
    topology = line(lab)
    topology.route_prefix()
    # What a user's own settings may look like; nothing of it may be lost.
    topology.gateway.sysctl(
        ipv4__conf__v4__accept_redirects=0,
        ipv4__conf__all__accept_redirects=1,
        ipv6__conf__v6__hop_limit=99,
    )
    topology.gateway.run(
        "nft", "add table inet mine { chain c { type filter hook input priority 0; } ; }"
    )
    return topology


def ping(topology: Topology) -> None:
    topology.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)


@pytest.mark.parametrize("signal_number", SIGNALS, ids=lambda number: number.name)
def test_host_is_as_it_was_after(
    lab: Lab, start_gateway: StartGateway, signal_number: signal.Signals
) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    ping(topology)
    # What undoing is about: it is there now.
    during = difference(before, snapshot(topology.gateway))
    for trace in (
        "net.ipv4.ip_forward = 1",
        "net.ipv6.conf.all.forwarding = 1",
        PREFIX,
        "tap64_tap0",
    ):
        assert trace in during
    gateway.stop_cleanly(signal_number)
    assert difference(before, snapshot(topology.gateway)) == ""
    assert not gateway.run_dir.exists()


def test_forwarding_that_was_on_stays_on(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    topology.gateway.sysctl(ipv6__conf__all__forwarding=1, ipv4__ip_forward=1)
    topology.gateway.sysctl(ipv4__conf__v4__forwarding=1)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    ping(topology)
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


@pytest.mark.parametrize("delay", [0.05, 0.3, 0.6, 0.9, 1.2, 1.5])
def test_stopped_while_it_starts(lab: Lab, delay: float) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = Gateway(topology.gateway)
    process = gateway.launch()
    time.sleep(delay)
    process.send(signal.SIGTERM)
    # Before its handlers are in place the signal itself ends it; then nothing is changed yet.
    assert process.wait(10) in (EXIT_CLEAN, -signal.SIGTERM), gateway.log()
    assert "Traceback" not in gateway.log()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_killed_run_is_taken_over_by_the_next(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    ping(topology)
    gateway.kill()
    left = difference(before, snapshot(topology.gateway))
    assert "net.ipv6.conf.all.forwarding = 1" in left
    assert "tap64_tap0" in left
    gateway.start()
    ping(topology)
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""
    assert not gateway.run_dir.exists()


def test_killed_run_on_a_persistent_device_is_taken_over(
    lab: Lab, start_gateway: StartGateway
) -> None:
    """The device stays, and with it address, routes and neighbours of the killed run."""
    topology = build(lab)
    topology.gateway.ip("tuntap", "add", "tap0", "mode", "tap")
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway, "--tap", "tap0")
    ping(topology)
    gateway.kill()
    assert PREFIX in difference(before, snapshot(topology.gateway))
    gateway.start()
    ping(topology)
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_killed_twice(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    for _ in range(2):
        gateway.kill()
        gateway.start()
    ping(topology)
    gateway.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


def test_killed_run_with_other_options_is_taken_over(lab: Lab, start_gateway: StartGateway) -> None:
    """The next run wants another prefix and no masquerade: what it does not want is undone."""
    topology = build(lab)
    topology.route_prefix("fd00:6464::/96")
    topology.route_pool("198.51.100.8/29")
    before = snapshot(topology.gateway)
    first = start_gateway(topology.gateway, name="first")
    first.kill()
    second = start_gateway(
        topology.gateway,
        *("--prefix", "fd00:6464::/96", "--pool4", "198.51.100.8/29"),
        name="second",
        run_dir=first.run_dir,
    )
    assert "tap64" not in topology.gateway.run("nft", "list", "ruleset").out
    topology.client.run("ping", "-n", "-c", "1", "-W", "2", "fd00:6464::192.0.2.1")
    second.stop_cleanly()
    assert difference(before, snapshot(topology.gateway)) == ""


@pytest.mark.parametrize("arguments", [(), ("--tap", "tap0")], ids=["all", "one-device"])
def test_undo_after_a_killed_run(
    lab: Lab, start_gateway: StartGateway, arguments: tuple[str, ...]
) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    gateway.kill()
    result = gateway.undo(*arguments)
    assert result.status == EXIT_CLEAN, result.text
    assert difference(before, snapshot(topology.gateway)) == ""
    # With nothing left it is no error either.
    assert gateway.undo(*arguments).status == EXIT_CLEAN


def test_undo_leaves_a_running_gateway_alone(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    during = snapshot(topology.gateway)
    gateway.undo()
    assert difference(during, snapshot(topology.gateway)) == ""
    ping(topology)


def test_dry_run_prints_the_plan_and_changes_nothing(lab: Lab) -> None:
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = Gateway(topology.gateway)
    result = gateway.run("--dry-run")
    assert result.status == EXIT_CLEAN, result.text
    for named in ("tap0", "fe80::1/64", PREFIX, "fe80::5", "192.0.0.6", "forward", "masquerade"):
        assert named in result.text, named
    assert difference(before, snapshot(topology.gateway)) == ""
    assert not gateway.run_dir.exists()


def test_what_is_changed_is_logged(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    log = gateway.log()
    for named in ("tap0", "fe80::1/64", PREFIX, "192.0.0.6", "forward"):
        assert named in log, named
    position = len(log)
    gateway.stop_cleanly()
    assert PREFIX in gateway.log()[position:]


def test_device_removed_under_it_ends_it(lab: Lab, start_gateway: StartGateway) -> None:
    """One line and a non-zero exit; the rest is undone all the same."""
    topology = build(lab)
    before = snapshot(topology.gateway)
    gateway = start_gateway(topology.gateway)
    topology.gateway.ip("link", "del", "tap0")
    assert gateway.process.wait(10) == 1, gateway.log()
    assert "tap0" in gateway.log()
    assert "Traceback" not in gateway.log()
    assert difference(before, snapshot(topology.gateway)) == ""
