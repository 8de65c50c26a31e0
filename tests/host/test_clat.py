"""The CLAT's part of the host on a real kernel: what is seen of it, and what is done to it."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv6Address, IPv6Network

import pytest
from pyroute2 import IPRoute

from gateway.clat.host_side import LinuxHost, problems_of_host
from gateway.clat.plat import Plat
from gateway.clat.states import LOCAL4, Situation, Uplink, Wanted
from gateway.clat.uplink import look
from gateway.host.clat import DefaultRoute4, LanNat, LocalAddress4, ProxyNeighbour
from gateway.host.journal import Journal
from gateway.host.plan import HostError
from gateway.host.setup import HostSpec, plan_host
from gateway.tap import close_device, open_device

NETWORK = IPv6Network("2001:db8:1::/64")
OWN = IPv6Address("2001:db8:1::c1a7")
PLAT = Plat(IPv6Network("64:ff9b::/96"), "config")
MAC = "02:00:00:00:00:05"


@pytest.fixture
def make(run, sysctl):
    """make("up0") is the index of a veth device with a carrier, of addresses usable at once."""

    def made(name: str) -> int:
        sysctl("ipv6/conf/default/accept_dad", "0")
        run(f"ip link add {name} type veth peer name {name}p")
        run(f"ip link set {name} up")
        run(f"ip link set {name}p up")
        return socket.if_nametoindex(name)

    return made


def seen(configured="", keep=None):
    return look(configured, "tap0", keep)


def test_without_a_default_route_there_is_no_uplink(run, make):
    make("up0")
    run("ip addr add 2001:db8:1::2/64 dev up0 nodad")
    assert seen() == Situation(None, "")
    run("ip -6 route add default via 2001:db8:1::1 dev up0")
    uplink = seen().uplink
    assert uplink is not None
    assert (uplink.name, uplink.network, uplink.mtu) == ("up0", NETWORK, 1500)
    assert uplink.address6 == IPv6Address("2001:db8:1::2")
    assert len(uplink.mac) == 6


def test_the_mtu_is_that_of_ipv6(run, make):
    make("up0")
    run("ip addr add 2001:db8:1::2/64 dev up0 nodad")
    run("ip -6 route add default via 2001:db8:1::1 dev up0 mtu 1400")
    uplink = seen().uplink
    assert uplink is not None
    assert uplink.mtu == 1400


def test_without_a_carrier_there_is_no_uplink(run, make):
    make("up0")
    run("ip addr add 2001:db8:1::2/64 dev up0 nodad")
    run("ip -6 route add default via 2001:db8:1::1 dev up0")
    run("ip link set up0p down")
    assert seen().uplink is None


def test_a_configured_uplink_needs_no_default_route(run, make):
    make("up0")
    make("up1")
    run("ip addr add 2001:db8:1::2/64 dev up0 nodad")
    run("ip addr add 2001:db8:2::2/64 dev up1 nodad")
    run("ip -6 route add default via 2001:db8:1::1 dev up0")
    run("ip -6 route change default via 2001:db8:1::1 dev up0 mtu 1400")
    uplink = seen("up1").uplink
    assert uplink is not None
    assert (uplink.name, uplink.mtu) == ("up1", 1500)
    assert seen("nobody").uplink is None
    run("ip -6 route del default")
    assert seen("up1").uplink == uplink


def test_an_unreachable_default_leads_nowhere(run, make):
    make("up0")
    run("ip addr add 2001:db8:1::2/64 dev up0 nodad")
    run("ip -6 route add unreachable default")
    assert seen().uplink is None


def test_our_own_device_is_no_uplink(run, make):
    make("tap0")
    run("ip addr add 2001:db8:1::2/64 dev tap0 nodad")
    run("ip -6 route add default dev tap0")
    assert seen().uplink is None
    assert seen("tap0").uplink is None


def test_an_address_is_used_when_nobody_else_has_it(run, make, sysctl):
    make("up0")
    run("ip -6 route add default dev up0")
    sysctl("ipv6/conf/up0/accept_dad", "1")
    sysctl("ipv6/conf/up0/dad_transmits", "100")
    run("ip addr add 2600:1::2/64 dev up0")
    assert "tentative" in run("ip -6 addr show dev up0")
    assert seen().uplink.address6 is None


def test_a_stable_address_is_better_and_the_network_in_use_best(run, make):
    make("up0")
    run("ip -6 route add default dev up0")
    assert seen().uplink.network is None
    for address in ("fd00:9::2/64", "2600:2::2/64", "2600:3::2/64"):
        run(f"ip addr add {address} dev up0 nodad")
    run("ip addr add 2600:1::2/64 dev up0 nodad preferred_lft 0")
    assert seen().uplink.network == IPv6Network("2600:2::/64")
    assert seen(keep=IPv6Network("2600:3::/64")).uplink.network == IPv6Network("2600:3::/64")
    assert seen(keep=IPv6Network("fd00:9::/64")).uplink.network == IPv6Network("fd00:9::/64")
    gone = IPv6Network("2600:1::/64")
    assert seen(keep=gone).uplink.network == IPv6Network("2600:2::/64"), "deprecated"


def test_rfc4862_section_5_5_4_a_deprecated_address_serves_where_there_is_no_other(run, make):
    make("up0")
    run("ip -6 route add default dev up0")
    run("ip addr add 2600:1::2/64 dev up0 nodad preferred_lft 0")
    assert seen().uplink.network == IPv6Network("2600:1::/64")
    run("ip addr add fd00:9::2/64 dev up0 nodad")
    old = IPv6Network("2600:1::/64")
    assert seen(keep=old).uplink.network == IPv6Network("fd00:9::/64"), "though private"


def test_native_ipv4_is_anybodys_default_route_with_a_carrier(run, make):
    make("four0")
    run("ip addr add 198.51.100.2/24 dev four0")
    assert seen().native4 == ""
    run("ip route add default via 198.51.100.1 dev four0 table 100")
    assert seen().native4 == "", "whose packets ask that table is not known"
    run("ip route add default via 198.51.100.1 dev four0 metric 50000")
    assert seen().native4 == "four0"
    run("ip link set four0p down")
    assert seen().native4 == ""
    run("ip link set four0p up")
    run("ip route del default")
    run("ip route add default via 198.51.100.1 dev four0 proto 64")
    assert seen().native4 == "", "one of ours"
    run("ip route del default")
    run("ip route add unreachable default")
    assert seen().native4 == ""


@pytest.mark.parametrize("next_hop", [True, False])
def test_each_change_is_seen_and_undone_twice(next_hop, run, make):
    index = make("up0")
    run("ip addr add 198.51.100.2/24 dev up0")
    changes: list[LocalAddress4 | ProxyNeighbour | DefaultRoute4] = [
        LocalAddress4("up0", index, "192.0.0.1"),
        ProxyNeighbour("up0", index, str(OWN)),
        DefaultRoute4("up0", index, "192.0.0.1", 2048, 1480, next_hop),
    ]
    with IPRoute() as ipr:
        for change in changes:
            assert not change.is_there(ipr)
            change.apply()
            change.apply()
            assert change.is_there(ipr), change.describe()
        other_mtu = DefaultRoute4("up0", index, "192.0.0.1", 2048, 1400, next_hop)
        assert not other_mtu.is_there(ipr)
        other_mtu.apply()
        assert other_mtu.is_there(ipr)
        assert run("ip route show default").count("default") == 1
        for change in reversed(changes):
            assert change.undo() is None
            assert not change.is_there(ipr)
            assert change.undo() == "it is gone"


def test_changes_of_a_device_that_has_gone(run, make):
    index = make("up0")
    changes: list[LocalAddress4 | ProxyNeighbour | DefaultRoute4] = [
        LocalAddress4("up0", index, "192.0.0.1"),
        ProxyNeighbour("up0", index, str(OWN)),
        DefaultRoute4("up0", index, "192.0.0.1", 2048, 1480, True),
    ]
    for change in changes:
        change.apply()
    run("ip link del up0")
    assert [change.undo() for change in changes] == ["it is gone"] * 3
    for change in changes:
        with pytest.raises(HostError, match="up0"):
            change.apply()


def test_the_nat_spares_those_with_addresses_of_their_own(run, make):
    index = make("up0")
    nat = LanNat("up0", index, ["192.0.0.1", "192.168.1.5"])
    nat.apply()
    nat.apply()
    rules = [line.strip() for line in run("nft list table ip tap64_up0").splitlines()]
    assert [line for line in rules if line.startswith("oif")] == [
        'oif "up0" ip saddr 192.0.0.1 return',
        'oif "up0" ip saddr 192.168.1.5 return',
        'oif "up0" masquerade',
    ]
    assert nat.undo() is None
    assert nat.undo() == "it is gone"


def uplink_of(name: str, index: int) -> Uplink:
    mac = bytes.fromhex("020000000001")
    return Uplink(name, index, mac, 1500, NETWORK, IPv6Address("2001:db8:1::2"))


@contextmanager
def log_lines() -> Iterator[list[str]]:
    """What the program logs meanwhile."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("gateway")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    try:
        yield lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def test_up_repaired_moved_and_down(run, make, tmp_path, snapshot, sysctl):
    one, two = make("up0"), make("up1")
    make("lan0")
    device = open_device("tap", "tap0", offload=True)
    try:
        spec = HostSpec(
            *("tap0", "tap", 1500, bytes.fromhex(MAC.replace(":", ""))),
            masquerade=False,
            forwarding=False,
            run_dir=str(tmp_path / "run"),
        )
        plan = plan_host(spec, log=lambda _: None)
        plan.apply()
        before = snapshot()
        index = socket.if_nametoindex("tap0")
        journal = Journal(spec.run_dir, "tap0")
        host = LinuxHost(journal, "tap0", index, MAC, 2048, ("lan0", "later0"))
        wanted = Wanted(uplink_of("up0", one), PLAT, ((LOCAL4, OWN),), 1480)

        host.bring_up(wanted)
        noted = journal.read()
        assert noted is not None
        assert {type(change) for change in noted.later} > {LanNat, ProxyNeighbour, DefaultRoute4}
        up = snapshot()
        assert sysctl("ipv6/conf/up0/proxy_ndp") == "1"
        assert sysctl("ipv4/conf/lan0/forwarding") == "1"
        assert sysctl("ipv4/conf/all/forwarding") == "0"
        with log_lines() as said:
            host.repair(wanted)
        assert said == [], "nothing to repair"
        assert snapshot() == up

        for taken in (f"ip -6 route del {OWN}", f"ip -6 neigh del proxy {OWN} dev up0"):
            run(taken)
        run("ip route del default")
        run("ip addr flush dev tap0 scope global")
        run("nft delete table ip tap64_tap0")
        host.repair(wanted)
        assert snapshot() == up
        assert str(OWN) in run("ip -6 neigh show proxy")

        moved = IPv6Address("2001:db8:1::5")
        other = Wanted(uplink_of("up1", two), PLAT, ((LOCAL4, moved),), 1400)
        host.bring_up(other)
        assert run("ip -6 neigh show proxy").split()[:3] == [str(moved), "dev", "up1"]
        assert sysctl("ipv6/conf/up0/proxy_ndp") == "0"
        assert f"{OWN}" not in run("ip -6 route")
        assert "mtu 1400" in run("ip route show default")

        host.bring_up(wanted)
        content = journal.read()
        assert content is not None
        assert {c.identity for c in content.later} == {c.identity for c in noted.later}
        host.bring_up(other)

        make("later0")
        host.repair(other)
        assert sysctl("ipv4/conf/later0/forwarding") == "1"
        run("ip link del later0")

        host.take_down()
        content = journal.read()
        assert content is not None
        assert content.later == []
        run(f"ip neigh replace 192.0.0.8 lladdr {MAC} dev tap0 nud permanent")
        assert snapshot() == before
        plan.undo()
    finally:
        close_device(device)


def test_a_host_that_refuses_is_left_as_it_was(run, make, tmp_path, snapshot):
    one = make("up0")
    index = make("tap0")
    journal = Journal(str(tmp_path / "run"), "tap0")
    journal.start([])
    before = snapshot()
    host = LinuxHost(journal, "tap0", index, MAC, 2048)
    gone = Uplink("gone0", 4711, b"\2\0\0\0\0\1", 1500, NETWORK, None)
    with pytest.raises(HostError, match="gone0"):
        host.bring_up(Wanted(gone, PLAT, ((LOCAL4, OWN),), 1480))
    assert snapshot() == before
    content = journal.read()
    assert content is not None
    assert content.later == []
    host.bring_up(Wanted(uplink_of("up0", one), PLAT, ((LOCAL4, OWN),), 1480))
    host.take_down()
    assert snapshot() == before


def test_another_clat_is_named(run, make):
    assert problems_of_host("tap0") == []
    make("clat0")
    run("ip addr add 192.0.0.1/32 dev clat0")
    (problem,) = problems_of_host("tap0")
    assert "192.0.0.1 is an address of clat0" in problem
    assert problems_of_host("clat0") == []
