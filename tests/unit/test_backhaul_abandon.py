"""Which ends of a link tell the far end to undo at once, and which leave it what it keeps.

Undone without need, every connection with data on the way stands still for ever.
"""

from __future__ import annotations

import pytest
import trio
import trio.testing

from gateway.backhaul.link import LinkFailed, Patience
from gateway.backhaul.states import State
from gateway.backhaul.supervisor import READY_WITHIN
from gateway.host.plan import HostError
from tests.unit.backhaul_world import World, log_lines

pytestmark = pytest.mark.trio


@pytest.fixture
def said(caplog, monkeypatch):
    return log_lines(caplog, monkeypatch)


def abandoned_first(world: World, name: str = "a") -> bool:
    """Told before it is cancelled: afterwards it is too late."""
    return world.notes.index(f"abandon {name}") < world.notes.index(f"cancelled {name}")


@pytest.mark.parametrize("state", [State.CONNECTING, State.PROVING])
async def test_told_to_try_at_once_it_keeps_what_the_first_far_end_has(autojump_clock, said, state):
    """A word of stop here would end every connection that a cut shorter than `linger` spared."""
    world = World("a", "b")
    world.answers = False
    if state is State.CONNECTING:
        world.fate["a"] = trio.sleep_forever
    async with world.running():
        await world.until("run a tap1")
        await trio.sleep(0.1)
        assert world.supervisor.status.state is state
        world.supervisor.return_to_first()
        await world.until("run a tap1", 2)
        assert trio.current_time() < 1
    assert world.notes.count("abandon a") == 1
    assert "backhaul: down: a: trying again at once" in said()


async def test_a_link_that_is_never_ready(autojump_clock):
    """The far end may have adopted what lingers there just now."""
    world = World()

    async def hangs() -> None:
        try:
            await trio.sleep_forever()
        finally:
            world.note("cancelled a")

    world.fate["a"] = hangs
    async with world.running():
        await world.until("run a tap1", 2)
        assert abandoned_first(world)
        assert world.at("cancelled a") == pytest.approx(READY_WITHIN)


async def test_a_link_that_was_ready_in_time_is_told_at_the_stop(autojump_clock):
    world = World()
    async with world.running():
        await world.until("changed True")
        await trio.sleep(READY_WITHIN + 1)
    assert "abandon a" not in world.notes


@pytest.mark.parametrize("error", [LinkFailed("no descriptor"), HostError("no memory")])
@pytest.mark.parametrize("step", ["open_probe", "open", "adopt"])
async def test_a_host_that_fails_when_the_far_end_is_ready(
    autojump_clock, monkeypatch, said, step, error
):
    world = World()
    world.owns = step == "adopt"

    def refuse(*_: object) -> None:
        raise error

    async def refuse_later(*_: object) -> None:
        raise error

    monkeypatch.setattr(world, step, refuse if step == "open_probe" else refuse_later)
    async with world.running():
        await world.until("cancelled a", 2)
        assert abandoned_first(world)
    assert f"{error}; trying again" in said()[0]


async def test_it_returns_after_a_time_to_a_first_that_is_not_there(autojump_clock):
    """The second is next again, and was never told to undo."""
    world = World("a", "b", return_after=100.0)
    async with world.running():
        await world.until("changed True")

        async def dead() -> None:
            raise LinkFailed("no route to host")

        world.fate["a"] = dead
        world.ends["a"].set()
        await world.until("changed True", 4)
    assert world.notes.count("run b tap1") == 3
    # Each time but at the stop.
    assert world.notes.count("abandon b") == 2
    assert abandoned_first(world, "b")


async def test_stopped_it_tells(autojump_clock):
    world = World()
    world.answers = False
    async with world.running():
        await world.until("run a tap1")
        await trio.sleep(0.1)
        assert world.supervisor.status.state is State.PROVING
    assert "cancelled a" in world.notes
    assert "abandon a" not in world.notes


@pytest.mark.parametrize("used", ["a", "b"])
async def test_other_ssh_options_are_tried_with_the_destination_in_use(autojump_clock, used):
    world = World("a", "b")
    async with world.running():
        await world.until("changed True")
        if used == "b":
            world.ends["a"].set()
            await world.until("changed True", 2)
        count = world.notes.count("changed True")
        runs = world.notes.count(f"run {used} tap1")
        world.supervisor.configure(world.table.model_copy(update={"ssh_options": ("-4",)}))
        await world.until("changed True", count + 1)
        assert world.supervisor.status.destination == used
        assert world.notes.count(f"run {used} tap1") == runs + 1


async def test_other_ssh_options_end_a_long_wait(autojump_clock):
    world = World("a")

    async def refused() -> None:
        raise LinkFailed("permission denied", patience=Patience.LONG)

    world.fate["a"] = refused
    async with world.running():
        await world.until("run a tap1")
        await trio.sleep(1)
        world.supervisor.configure(world.table.model_copy(update={"ssh_options": ("-4",)}))
        await world.until("run a tap1", 2)
        assert trio.current_time() < 2
        # Once: then it waits as before.
        await trio.sleep(10)
        assert world.notes.count("run a tap1") == 2
