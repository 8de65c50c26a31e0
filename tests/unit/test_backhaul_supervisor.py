"""The supervisor over links, a host and probes that only take notes; time is simulated."""

from __future__ import annotations

from functools import partial
from ipaddress import IPv4Address

import pytest
import trio
import trio.testing

from gateway.backhaul.link import LinkAddressTaken, LinkFailed, Patience, Ready
from gateway.backhaul.states import State
from gateway.backhaul.supervisor import READY_WITHIN
from tests.unit.backhaul_world import World, log_lines

pytestmark = pytest.mark.trio

BEYOND = IPv4Address("198.51.100.1")


@pytest.fixture
def said(caplog, monkeypatch):
    return log_lines(caplog, monkeypatch)


async def test_up_means_proven(autojump_clock, said):
    world = World()
    async with world.running():
        await world.until("changed True")
        assert world.notes == ["prepare", "run a tap1", "open", "changed True"]
        assert world.supervisor.status.word() == "up,a,tap1:tap0"
    assert said() == ["backhaul: up: a tap1 <-> tap0 (probe 12 ms)"]
    after = world.notes[4:]
    assert after[0] == "changed False" or after[0] == "cancelled a"
    assert after[-1] == "remove"
    assert "abandon a" not in after  # the far end is told
    assert {"shut", "probe closed"} <= set(after)


async def test_ready_without_an_answer_is_not_up(autojump_clock, said):
    world = World()
    world.answers = False
    async with world.running():
        await world.until("run a tap1", 2)
    assert "open" not in world.notes
    assert "changed True" not in world.notes
    assert "changed False" not in world.notes
    assert "has answered no probe within 10 s" in said()[0]
    assert "169.254.7.1" in said()[0]


async def test_end_of_the_link(autojump_clock, said):
    world = World()
    async with world.running():
        await world.until("changed True")
        world.ends["a"].set()
        await world.until("changed True", 2)
    assert said() == [
        "backhaul: up: a tap1 <-> tap0 (probe 12 ms)",
        "backhaul: down: the connection was closed; trying again in 0.5 s",
        "backhaul: up: a tap1 <-> tap0 (probe 12 ms)",
    ]
    # Clients are told before the route goes.
    assert world.notes.index("changed False") < world.notes.index("shut")
    assert world.at("run a tap1", 1) - world.at("changed False") == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("missed", "interval"), [(1, 1.0), (3, 1.0), (5, 0.2)])
async def test_missed_probes(autojump_clock, said, missed, interval):
    world = World(probes_missed=missed, probe_interval=interval)
    async with world.running():
        await world.until("changed True")
        world.frames_each = 10
        await trio.sleep(7)
        assert "changed False" not in world.notes
        world.frames_each = 0
        world.answers = False
        began = trio.current_time()
        await world.until("changed False")
        took = trio.current_time() - began
        assert (missed - 0.1) * interval <= took <= (missed + 1.1) * interval
        world.answers = True
        await world.until("changed True", 2)
    assert f"{missed} probes through the link were not answered" in said()[1]
    # Not told to undo: the far end keeps its sessions.
    assert world.notes.index("abandon a") < world.notes.index("cancelled a")


async def test_one_probe_in_between_is_enough(autojump_clock):
    world = World(probes_missed=3)
    async with world.running():
        await world.until("changed True")
        for _ in range(5):
            world.answers = False
            await trio.sleep(1.9)
            world.answers = True
            await trio.sleep(1.5)
    assert world.notes.count("run a tap1") == 1


async def test_frames_that_come_in_are_a_sign_of_life_for_a_while(autojump_clock, said):
    world = World(probes_missed=3)
    async with world.running():
        await world.until("changed True")
        world.answers, world.frames_each = False, 10
        await trio.sleep(10)
        assert "changed False" not in world.notes
        await trio.sleep(10)  # it hears us no more, though we hear it
        assert "changed False" in world.notes
    assert any("15 probes" in line for line in said())


async def test_carrier_loss(autojump_clock, said):
    world = World(probe_interval=60.0)
    async with world.running():
        await world.until("changed True")
        began = trio.current_time()
        world.no_carrier.set()
        await world.until("changed False")
        assert trio.current_time() - began < 0.1
        await world.until("changed True", 2)
    assert "tap1 has lost its carrier" in said()[1]


async def test_a_fault_for_a_person_is_said_once_and_tried_seldom(autojump_clock, said):
    world = World()

    async def refused() -> None:
        raise LinkFailed("permission denied", "install the key", patience=Patience.LONG)

    world.fate["a"] = refused
    async with world.running():
        await world.until("run a tap1", 4)
    assert said() == ["backhaul: down: permission denied: install the key; trying again in 60.0 s"]
    assert world.at("run a tap1", 1) == pytest.approx(60, abs=1)
    assert world.at("run a tap1", 2) == pytest.approx(180, abs=1)


async def test_a_link_that_is_never_ready(autojump_clock, said):
    world = World()
    world.fate["a"] = trio.sleep_forever
    async with world.running():
        await world.until("run a tap1", 2)
    assert world.at("run a tap1", 1) == pytest.approx(READY_WITHIN + 0.5, abs=0.1)
    assert "was not ready within 90 s" in said()[0]


async def test_who_listens_waits(autojump_clock, said):
    world = World("listen:6464")
    world.fate["listen:6464"] = partial(trio.sleep, 5000)
    async with world.running():
        await world.until("changed True")
    assert world.notes.count("run listen:6464 tap1") == 1


async def test_fail_over_and_back_when_told(autojump_clock, said):
    world = World("a", "b")
    async with world.running():
        await world.until("changed True")
        gone = trio.Event()

        async def dead() -> None:
            await gone.wait()
            raise LinkFailed("no route to host")

        world.fate["a"] = dead
        world.ends["a"].set()
        await world.until("run b tap1")
        await world.until("changed True", 2)
        assert world.supervisor.status.destination == "b"
        await trio.sleep(600)
        assert world.notes.count("run a tap1") == 1  # only when told
        del world.fate["a"]
        world.supervisor.return_to_first()
        await world.until("changed True", 3)
        assert world.supervisor.status.destination == "a"
        # The first may not be there, and then this one is next.
        assert world.notes.index("abandon b") < world.notes.index("cancelled b")
        world.supervisor.return_to_first()
        await trio.sleep(1)
        assert world.supervisor.status.state is State.UP
    assert "backhaul: down: b: returning to the first destination" in said()
    assert "backhaul: down: a: the connection was closed; trying b now" in said()


async def test_return_after(autojump_clock):
    world = World("a", "b", return_after=100.0)
    async with world.running():
        await world.until("changed True")
        world.ends["a"].set()
        await world.until("run b tap1")
        await world.until("run a tap1", 2)
        assert world.at("run a tap1", 1) - world.at("run b tap1") == pytest.approx(100, abs=1)
        await trio.sleep(500)
        assert world.notes.count("run b tap1") == 1


async def test_a_peer_that_does_not_forward(autojump_clock, said):
    world = World()
    world.ready = Ready("tap1", "tap3", BEYOND, ("iptables is used",))
    world.answers_beyond = False
    async with world.running():
        await world.until("changed True")
        await trio.sleep(60)
        world.ends["a"].set()
        await world.until("changed True", 2)
        await trio.sleep(60)
    assert world.notes.count("beyond 192.0.0.6 198.51.100.1") == 3
    (line,) = (line for line in said() if "FORWARD" in line)
    assert "a answers, but 198.51.100.1 behind it does not" in line
    assert "-i tap3" in line
    assert said().count("backhaul: a says: iptables is used") == 1


async def test_addresses_that_the_peer_has_in_use(autojump_clock):
    world = World()

    async def taken() -> None:
        if "other addresses" not in world.notes:
            raise LinkAddressTaken("in use there", patience=Patience.LONG)

    world.fate["a"] = taken
    async with world.running():
        await world.until("changed True")
        assert trio.current_time() < 2
    assert world.notes.count("other addresses") == 1


async def test_addresses_of_the_user_that_the_peer_has_in_use(autojump_clock, said):
    world = World()
    world.others = False

    async def taken() -> None:
        raise LinkAddressTaken("in use there", "choose others", patience=Patience.LONG)

    world.fate["a"] = taken
    async with world.running():
        await world.until("run a tap1", 2)
    assert world.at("run a tap1", 1) == pytest.approx(60, abs=1)
    assert said() == ["backhaul: down: in use there: choose others; trying again in 60.0 s"]


async def test_another_failure_that_names_the_address_keeps_it(autojump_clock):
    world = World()

    async def other() -> None:
        raise LinkFailed("cannot give tap0 169.254.7.1: no memory")

    world.fate["a"] = other
    async with world.running():
        await world.until("run a tap1", 2)
    assert "other addresses" not in world.notes


async def test_a_link_with_a_device_of_its_own(autojump_clock):
    world = World()
    world.owns = True
    async with world.running():
        await world.until("changed True")
    assert world.notes[:5] == ["choose", "run a ", "adopt tap1", "open", "changed True"]


async def test_status_while_down(autojump_clock):
    world = World("exec:some command")
    world.fate["exec:some command"] = trio.sleep_forever
    async with world.running():
        await world.until("run exec:some command tap1")
        assert world.supervisor.status.word() == "connecting,exec:some_command,-"
        assert world.supervisor.describe().startswith("backhaul: connecting: exec:some command")


async def test_a_bug_is_not_swallowed(autojump_clock):
    world = World()

    async def bug() -> None:
        raise ZeroDivisionError

    world.fate["a"] = bug
    with pytest.raises(BaseExceptionGroup) as caught:
        async with world.running():
            await trio.sleep(5)
    assert caught.group_contains(ZeroDivisionError)
    assert world.notes[-1] == "remove"
