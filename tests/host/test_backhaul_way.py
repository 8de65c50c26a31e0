"""gateway/backhaul/way.py: the tap and its addresses on a real kernel."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from pyroute2 import IPRoute

from gateway.backhaul import naming
from gateway.backhaul.link import LinkFailed
from gateway.backhaul.states import State
from gateway.host.plan import HostError
from gateway.host.uplink import (
    PoolRule,
    Unreachable,
    UplinkAddress,
    UplinkTap,
    left_without_journal,
)
from tests.host.backhaul_bench import Bench, WireLink


def _conf(device: str, key: str) -> str:
    return Path(f"/proc/sys/net/ipv4/conf/{device}/{key}").read_text().strip()


@pytest.mark.parametrize("length", [17, 30, 32])
def test_addresses_step_aside(tmp_path, run, length) -> None:
    tag = naming.tag_of("host", "1", "tap0")
    local, _ = naming.link_addresses(tag, [])
    run("ip tuntap add other mode tap")
    run(f"ip addr add {local.network[2]}/{length} dev other")
    run("ip link set other up")
    bench = Bench(tmp_path, WireLink())

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            assert not bench.way.local4.network.overlaps(local.network)

    trio.run(scenario)
    bench.stop()


def test_the_next_addresses_when_the_peer_has_these_in_use(tmp_path, run) -> None:
    bench = Bench(tmp_path, WireLink())
    way = bench.way

    async def scenario() -> None:
        name = await way.prepare()
        # Routes over it are dead without a carrier, so that clients are told at once.
        assert _conf(name, "ignore_routes_with_linkdown") == _conf(name, "forwarding") == "1"
        for _ in range(2):  # what is on our own tap is not in anybody's way
            assert (way.local4, way.remote4) == naming.link_addresses(way.tag, [])
            assert await way.prepare() == name
        assert way.other_addresses()
        assert await way.prepare() == name
        assert (way.local4, way.remote4) == naming.link_addresses(way.tag, [], 1)
        assert run(f"ip -4 -o addr show dev {name}").count("inet") == 1
        assert f"{way.local4} scope link" in run(f"ip -4 -o addr show dev {name}")
        way.addresses = (way.local4, way.remote4)
        assert not way.other_addresses()
        await way.prepare()
        await way.remove()

    trio.run(scenario)
    bench.stop()


def test_what_could_not_be_done_is_not_in_the_journal(tmp_path, run, monkeypatch) -> None:
    bench = Bench(tmp_path, WireLink())

    def refused(change: UplinkAddress) -> None:
        raise HostError("cannot add the address")

    def noted() -> bool:
        (path,) = (tmp_path / "run").glob("journal-*")
        return "uplink-address" in path.read_text()

    async def scenario() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(UplinkAddress, "apply", refused)
            with pytest.raises(LinkFailed, match="cannot add the address"):
                await bench.way.prepare()
        assert not noted()
        await bench.way.prepare()
        assert noted()
        await bench.way.remove()

    trio.run(scenario)
    bench.stop()


def test_the_whole_of_the_link_local_network_is_no_hindrance(tmp_path, run) -> None:
    """As zeroconf has it on any device; ours is the more specific one."""
    run("ip tuntap add other mode tap")
    run("ip addr add 169.254.0.9/16 dev other")
    run("ip link set other up")
    bench = Bench(tmp_path, WireLink())
    local, _ = naming.link_addresses(bench.way.tag, [])

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            assert bench.way.local4 == local

    trio.run(scenario)
    bench.stop()


def test_a_device_of_the_links_own_is_given_back_as_it_was(tmp_path, run) -> None:
    run("ip tuntap add tap8 mode tap")
    run("ip link set tap8 up mtu 1500")
    bench = Bench(tmp_path, WireLink())

    async def scenario() -> None:
        await bench.way.choose_addresses()
        await bench.way.adopt("tap8")
        assert "mtu 1400" in run("ip link show tap8")
        assert _conf("tap8", "ignore_routes_with_linkdown") == "1"
        await bench.way.remove()

    trio.run(scenario)
    assert "mtu 1500" in run("ip link show tap8")
    assert _conf("tap8", "ignore_routes_with_linkdown") == "0"
    assert "169.254" not in run("ip addr show tap8")
    bench.stop()


def test_marks_of_a_live_gateway_are_not_leftovers(tmp_path) -> None:
    bench = Bench(tmp_path, WireLink())
    name = bench.device.name

    async def scenario() -> None:
        await bench.way.prepare()
        with IPRoute() as ipr:
            assert not left_without_journal(ipr, {name}, None)
            assert not left_without_journal(ipr, {name}, name)
            assert not left_without_journal(ipr, set(), "tap99")
            left = left_without_journal(ipr, set(), name)
        assert {type(change) for change in left} == {PoolRule, Unreachable, UplinkTap}
        await bench.way.remove()

    trio.run(scenario)
    bench.stop()
