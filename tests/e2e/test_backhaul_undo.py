"""What the gateway does on its peer, and that nothing of it stays.

Undone in two stages. When the connection ends in whatever way but a clean stop, address and
route go and the masquerade stays for `linger`, with a blackhole in place of the route: without
it the peer's own stack would reset every running connection at the server's next segment. After
that, or at once on a clean stop, nothing is left: links, addresses, routes, rules, nftables,
sysctls, processes and files are as before.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable
from functools import partial

import pytest

from tests.e2e.backhaul_chat import Chat
from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import SERVER

POOL = "192.0.0.6"
PING = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)


def build(lab: Lab) -> BackhaulNet:
    net = backhaul_net(lab)
    # What a user's own settings may look like; nothing of it may be lost.
    net.peer.namespace.sysctl(
        ipv4__conf__v4__accept_redirects=0, ipv4__conf__wan__forwarding=1, ipv4__ip_default_ttl=99
    )
    net.peer.run(
        "nft", "add table ip nat { chain mine { type nat hook postrouting priority 99; }; }"
    )
    net.peer.start_sshd()
    return net


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_clean_stop_leaves_nothing_at_once(lab: Lab, signal_number: signal.Signals) -> None:
    net = build(lab)
    before, gateway_before = net.peer.before(), snapshot(net.gateway)
    gateway = BackhaulGateway(net, heartbeat=20, linger=300).start_up()
    net.client.run(*PING)
    during = net.peer.traces(before)
    for trace in (POOL, "169.254.", "masquerade", "forwarding = 1", "process", "file /run/tap64-"):
        assert trace in during, during
    during = difference(gateway_before, snapshot(net.gateway))
    for trace in (f"from {POOL} lookup", "169.254.", "default via 169.254."):
        assert trace in during, during
    gateway.stop_cleanly(signal_number)
    # Long before the heartbeat is missed.
    net.peer.wait_untouched(before, 2)
    assert difference(gateway_before, snapshot(net.gateway)) == ""
    assert not gateway.run_dir.exists()


def test_stopped_while_it_connects(lab: Lab) -> None:
    net = build(lab)
    before, gateway_before = net.peer.before(), snapshot(net.gateway)
    for wait_for in ("ready", "ssh"):
        gateway = BackhaulGateway(net, heartbeat=20, linger=300)
        gateway.start()
        if wait_for == "ssh":
            wait_until(partial(gateway.children, "ssh"), 5, "ssh is started")
        gateway.stop_cleanly()
        net.peer.wait_untouched(before, 3)
        assert difference(gateway_before, snapshot(net.gateway)) == ""


def kill_gateway(net: BackhaulNet, gateway: BackhaulGateway) -> None:
    gateway.kill()


def kill_ssh_without_a_way_back(net: BackhaulNet, gateway: BackhaulGateway) -> None:
    # The listener goes first, so that nobody can come back.
    net.peer.kill(r"^sshd: .*\[listener\]")
    os.kill(gateway.ssh_pid(), signal.SIGKILL)


def kill_sshd(net: BackhaulNet, gateway: BackhaulGateway) -> None:
    net.peer.kill_sshd()


def cut_the_network(net: BackhaulNet, gateway: BackhaulGateway) -> None:
    net.cut()


def come_back(net: BackhaulNet, gateway: BackhaulGateway) -> None:
    """Takes away what each of these has done."""
    net.mend()
    if not net.peer.listens():
        net.peer.start_sshd()
    if gateway.process.status is not None:
        gateway.start()
    gateway.hurry()


ENDS: list[Callable[[BackhaulNet, BackhaulGateway], None]] = [
    kill_gateway,
    kill_ssh_without_a_way_back,
    kill_sshd,
    cut_the_network,
]


def lingers(net: BackhaulNet) -> bool:
    """Whether the first stage is done: no address and no route, masquerade and blackhole stay."""
    host = net.peer.namespace
    return (
        "169.254." not in host.ip("-4", "addr")
        and re.search(rf"^blackhole {POOL}", host.ip("route"), re.M) is not None
        and "masquerade" in net.peer.ruleset()
    )


@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
def test_two_stages_without_a_clean_stop(
    lab: Lab, end: Callable[[BackhaulNet, BackhaulGateway], None]
) -> None:
    net = build(lab)
    before = net.peer.before()
    gateway = BackhaulGateway(net, heartbeat=2, linger=2).start_up()
    net.client.run(*PING)
    end(net, gateway)
    ended = time.monotonic()
    wait_until(lambda: lingers(net), 5, "the first stage")
    # No later than the heartbeat; a clean end of the connection is seen at once.
    limit = 4.0 if end is cut_the_network else 2.0
    assert time.monotonic() - ended < limit
    wait_until(lambda: not net.peer.taps(), 2, "the device is gone")
    net.peer.wait_untouched(before, 8)
    assert time.monotonic() - ended > 2, "linger was not kept"
    come_back(net, gateway)
    gateway.wait_up(20)
    net.client.run(*PING)
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 2)


@pytest.mark.parametrize("end", [kill_gateway, cut_the_network], ids=lambda end: end.__name__)
def test_what_lingers_is_taken_over(
    lab: Lab, end: Callable[[BackhaulNet, BackhaulGateway], None]
) -> None:
    net = build(lab)
    before = net.peer.before()
    gateway = BackhaulGateway(net, heartbeat=2, linger=60).start_up()
    chat = Chat(net)
    end(net, gateway)
    wait_until(lambda: lingers(net), 6, "the first stage")
    come_back(net, gateway)
    gateway.wait_up(20)
    if end is not kill_gateway:  # its sessions died with it
        chat.goes_on(20)
    net.client.run(*PING)
    # Not doubled: one chain masquerades, one route leads back, over one that waits.
    assert net.peer.ruleset().count("masquerade") == 1
    routes = net.peer.namespace.ip("route")
    assert len(re.findall(rf"^{POOL} via 169\.254\.", routes, re.M)) == 1
    assert len(re.findall(rf"^blackhole {POOL}", routes, re.M)) == 1
    gateway.stop_cleanly()
    # Also what had lingered has ended, long before its time.
    net.peer.wait_untouched(before, 3)


def test_peer_that_was_switched_off(lab: Lab) -> None:
    """Another machine with the same address: nothing to take over, and no harm in that."""
    net = build(lab)
    gateway = BackhaulGateway(net).start_up()
    net.peer.kill("")
    gateway.wait_down(6)
    assert gateway.process.status is None


def test_clean_stop_while_the_peer_cannot_hear_it(lab: Lab) -> None:
    """The gateway does not wait for ever, and the peer undoes by itself."""
    net = build(lab)
    before, gateway_before = net.peer.before(), snapshot(net.gateway)
    gateway = BackhaulGateway(net, heartbeat=2, linger=1).start_up()
    net.cut()
    stopped = time.monotonic()
    gateway.stop_cleanly()
    assert time.monotonic() - stopped < 8
    assert difference(gateway_before, snapshot(net.gateway)) == ""
    net.peer.wait_untouched(before, 10)


def test_hosts_other_ipv4_is_left_alone(lab: Lab) -> None:
    """A host with IPv4 of its own: only the pool goes through the tunnel, and it never leaks."""
    net = build(lab)
    lab.link(net.gateway, "isp", net.server, "gw", 1500)
    net.gateway.ip("addr", "add", "198.51.100.2/30", "dev", "isp")
    net.server.ip("addr", "add", "198.51.100.1/30", "dev", "gw")
    net.gateway.ip("route", "add", "default", "via", "198.51.100.1")
    before = snapshot(net.gateway)
    gateway = BackhaulGateway(net).start_up()

    def way(*arguments: str) -> str:
        return net.gateway.run("ip", "route", "get", "192.0.2.1", *arguments, check=False).text

    def pool_way() -> str:
        return way("from", POOL, "iif", "tap0")

    local = gateway.backhaul().split(",")[2].partition(":")[0]
    assert "dev isp" in way()
    assert f"dev {local}" in pool_way()
    net.client.run(*PING)
    net.cut()
    gateway.wait_down(3)
    assert "dev isp" in way()
    assert "isp" not in pool_way()
    assert "unreachable" in pool_way() or "No route" in pool_way(), pool_way()
    net.mend()
    gateway.wait_up(20)
    gateway.stop_cleanly()
    assert difference(before, snapshot(net.gateway)) == ""
