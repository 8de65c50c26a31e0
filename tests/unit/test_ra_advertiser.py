"""When what is said, changed and taken back, with a clock that jumps and no interface."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv6Address, IPv6Network
from itertools import pairwise

import pytest
import trio
import trio.testing

from gateway.host.plan import HostError
from gateway.ra import advertiser as module
from gateway.ra.advertiser import Advertiser
from gateway.ra.content import AdvertiseWish, InterfaceState
from gateway.ra.messages import Pref64, RouterAdvertisement, parse_advertisement
from translate.addresses import Layout, Prefix6

LINK_LOCAL = IPv6Address("fe80::1")
ONE, TWO, THREE = (Prefix6(IPv6Network(f"64:ff9b:1:{n}::/96"), Layout.RFC6052) for n in (1, 2, 3))


class World:
    """Interfaces, what was sent on each and when, and an advertiser that runs."""

    def __init__(self) -> None:
        self.states: dict[str, InterfaceState | None] = {}
        self.sent: list[tuple[float, str, RouterAdvertisement]] = []
        self.refusal: str = ""
        self.open = 0
        self.broken = False

    def add(self, name: str, *addresses: IPv6Address) -> None:
        self.states[name] = InterfaceState(
            name, len(self.states) + 1, bytes(6), (LINK_LOCAL, *addresses)
        )

    def on(self, name: str) -> list[tuple[float, RouterAdvertisement]]:
        return [(when, said) for when, interface, said in self.sent if interface == name]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    made = World()

    class Router:
        def __init__(self, index: int, name: str) -> None:
            if made.refusal:
                raise HostError(made.refusal)
            self._name = name
            made.open += 1

        def close(self) -> None:
            made.open -= 1

        async def send(self, message: bytes) -> None:
            if made.broken:
                raise OSError(errno.ENETDOWN, "network is down")
            made.sent.append((trio.current_time(), self._name, parse_advertisement(message)))

        async def receive(self) -> tuple[bytes, int, IPv6Address]:
            await trio.sleep_forever()
            raise AssertionError

    async def at_once(function: Callable[[str], object], *arguments: str) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(module, "RouterSocket", Router)
    monkeypatch.setattr(module, "interface_state", made.states.get)
    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)
    return made


def latest(low: float, high: float) -> float:
    return high


def lifetimes(said: RouterAdvertisement) -> dict[IPv6Network, int]:
    return {item.prefix: item.lifetime for item in said.pref64}


@pytest.mark.trio
async def test_rfc4861_6_2_5_the_last_word_at_the_end(world, autojump_clock):
    world.add("lan0")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    with trio.move_on_after(2):
        await advertiser.run()
    (_, first), *finals = world.on("lan0")
    assert lifetimes(first) == {ONE.network: 1800}
    assert len(finals) == 3
    for _, last in finals:
        assert lifetimes(last) == {ONE.network: 0}
        assert last.routes[0].lifetime == last.router_lifetime == 0
    assert world.open == 0


@pytest.mark.trio
async def test_rfc4861_6_2_5_the_last_words_do_not_delay_the_end(world, autojump_clock):
    """Three are apart, so that one burst of noise does not take all, and on all links at once."""
    world.add("lan0")
    world.add("lan1")
    advertiser = Advertiser(["lan0", "lan1"], AdvertiseWish((ONE,)), uniform=latest)
    with trio.move_on_after(2) as scope:
        await advertiser.run()
    for name in ("lan0", "lan1"):
        times = [when for when, _ in world.on(name)[-3:]]
        assert times[0] == pytest.approx(scope.deadline)
        assert all(after - before >= 0.1 for before, after in pairwise(times))
    assert trio.current_time() - scope.deadline <= 0.5


@pytest.mark.trio
async def test_rfc4861_6_2_5_an_interface_that_has_gone_needs_no_last_word(world, autojump_clock):
    world.add("lan0")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    with trio.move_on_after(2) as scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(advertiser.run)
            await trio.sleep(1)
            world.broken = True
            await trio.sleep_forever()
    assert len(world.on("lan0")) == 1
    assert trio.current_time() - scope.deadline < 0.1
    assert world.open == 0


@pytest.mark.trio
async def test_the_last_word_also_after_a_failure_elsewhere(world, autojump_clock):
    world.add("lan0")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    with pytest.RaisesGroup(ZeroDivisionError, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(advertiser.run)
            await trio.sleep(1)
            raise ZeroDivisionError
    assert lifetimes(world.on("lan0")[-1][1]) == {ONE.network: 0}


@pytest.mark.trio
async def test_rfc4861_6_2_4_a_change_is_said_three_times_with_what_is_gone(world, autojump_clock):
    world.add("lan0")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(60)
        count = len(world.sent)
        advertiser.configure(["lan0"], AdvertiseWish((TWO,)))
        await trio.sleep(700)
        nursery.cancel_scope.cancel()
    said = [said for _, said in world.on("lan0")[count:-3]]
    assert [lifetimes(item) for item in said[:3]] == [{TWO.network: 1800, ONE.network: 0}] * 3
    assert [lifetimes(item) for item in said[3:]] == [{TWO.network: 1800}]


@pytest.mark.trio
async def test_what_was_not_sent_yet_is_taken_back_too(world, autojump_clock):
    """Multicasts keep three seconds apart; two changes in between must not lose one."""
    world.add("lan0")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(0.1)
        advertiser.configure(["lan0"], AdvertiseWish((TWO,)))
        await trio.sleep(1.2)
        advertiser.configure(["lan0"], AdvertiseWish((THREE,)))
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    times = [when for when, _ in world.on("lan0")]
    assert times[1] - times[0] >= 3
    wanted = {THREE.network: 1800, TWO.network: 0, ONE.network: 0}
    assert lifetimes(world.on("lan0")[1][1]) == wanted
    assert lifetimes(world.on("lan0")[-1][1]) == dict.fromkeys(wanted, 0)


@pytest.mark.trio
async def test_interfaces_are_added_and_taken_away(world, autojump_clock):
    world.add("lan0")
    world.add("lan1")
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(1)
        advertiser.configure(["lan1"], AdvertiseWish((ONE,)))
        await trio.sleep(5)
        assert [lifetimes(said)[ONE.network] for _, said in world.on("lan0")] == [1800, 0, 0, 0]
        assert lifetimes(world.on("lan1")[0][1]) == {ONE.network: 1800}
        # Away and back at once: the last word comes first, not last.
        advertiser.configure([], AdvertiseWish((ONE,)))
        advertiser.configure(["lan1"], AdvertiseWish((ONE,)))
        await trio.sleep(5)
        told = [lifetimes(said)[ONE.network] for _, said in world.on("lan1")]
        assert told == [1800, 0, 0, 0, 1800]
        nursery.cancel_scope.cancel()
    assert world.open == 0


@pytest.mark.trio
async def test_a_new_interval_counts_at_once(world, autojump_clock):
    world.add("lan0")
    wish = AdvertiseWish((ONE,))
    advertiser = Advertiser(["lan0"], wish, uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(100)
        advertiser.configure(["lan0"], replace(wish, interval=10.0))
        await trio.sleep(100)
        nursery.cancel_scope.cancel()
    times = [when for when, _ in world.on("lan0")]
    assert world.on("lan0")[-4][1].routes[0].lifetime == 30
    assert times[-4] - times[-5] == pytest.approx(10.0)


@pytest.mark.trio
async def test_an_address_that_comes_is_followed(world, autojump_clock):
    world.add("lan0")
    wish = AdvertiseWish((ONE,), dns_interfaces=frozenset({"lan0"}))
    advertiser = Advertiser(["lan0"], wish, uniform=latest)
    better = IPv6Address("fd00::1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(10)
        before = world.states["lan0"]
        world.states["lan0"] = replace(before, addresses=(LINK_LOCAL, better))
        advertiser.refresh()
        await trio.sleep(1)
        nursery.cancel_scope.cancel()
    said = world.on("lan0")[-4][1]
    assert [(item.servers, bool(item.lifetime)) for item in said.rdnss] == [
        ((better,), True),
        ((LINK_LOCAL,), False),
    ]


@pytest.mark.trio
async def test_what_the_kernel_refuses_is_told_once_and_tried_again(world, autojump_clock, caplog):
    world.add("lan0")
    world.refusal = "operation not permitted"
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(60)
        assert caplog.text.count("operation not permitted") == 1
        world.refusal = ""
        await trio.sleep(10)
        nursery.cancel_scope.cancel()
    assert Pref64(ONE.network, 1800) in world.on("lan0")[0][1].pref64


@pytest.mark.trio
async def test_without_interfaces_it_waits_for_some(world, autojump_clock):
    world.add("lan0")
    advertiser = Advertiser([], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        await trio.sleep(1)
        advertiser.configure(["lan0"], AdvertiseWish((ONE,)))
        await trio.sleep(1)
        assert lifetimes(world.on("lan0")[0][1]) == {ONE.network: 1800}
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_a_routing_table_in_motion_costs_two_looks_a_second(
    world, autojump_clock, monkeypatch
):
    world.add("lan0")
    looks = []

    def look(name: str) -> InterfaceState | None:
        looks.append(trio.current_time())
        return world.states[name]

    monkeypatch.setattr(module, "interface_state", look)
    advertiser = Advertiser(["lan0"], AdvertiseWish((ONE,)), uniform=latest)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(advertiser.run)
        for _ in range(1000):
            await trio.sleep(0.01)
            advertiser.refresh()
        nursery.cancel_scope.cancel()
    assert 15 <= len(looks) <= 22
