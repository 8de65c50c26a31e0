"""The supervisor when it is told something: other destinations, other options."""

from __future__ import annotations

from functools import partial

import pytest
import trio
import trio.testing

from gateway.backhaul.link import LinkFailed, Patience
from tests.unit.backhaul_world import World, log_lines

pytestmark = pytest.mark.trio


@pytest.fixture
def said(caplog, monkeypatch):
    return log_lines(caplog, monkeypatch)


async def test_another_destination_at_a_reload(autojump_clock, said):
    world = World("a")
    async with world.running():
        await world.until("changed True")
        world.supervisor.configure(world.table.model_copy(update={"to": ("b",)}))
        await world.until("run b tap1")
        assert "cancelled a" in world.notes
        assert "abandon a" not in world.notes
        await world.until("changed True", 2)
    assert "backhaul: down: the destination has changed" in said()


async def test_a_reload_while_the_tap_is_made(autojump_clock, said):
    world = World("a")

    async def reload() -> None:
        world.preparing = trio.lowlevel.checkpoint
        world.supervisor.configure(world.table.model_copy(update={"to": ("b",)}))

    world.preparing = reload
    async with world.running():
        await world.until("changed True")
        assert world.supervisor.status.destination == "b"
    assert "run a tap1" not in world.notes
    assert said()[0] == "backhaul: down: the destination has changed"


@pytest.mark.parametrize("until", ["prepare", "run a tap1"])
async def test_a_reload_while_it_connects(autojump_clock, until):
    world = World("a")
    world.preparing = partial(trio.sleep, 1)
    world.fate["a"] = trio.sleep_forever
    async with world.running():
        await world.until(until)
        world.supervisor.configure(world.table.model_copy(update={"to": ("b",)}))
        await world.until("changed True")
        assert trio.current_time() < 3
        assert world.supervisor.status.destination == "b"


async def test_what_was_unwanted_once_may_be_wanted_again(autojump_clock):
    world = World("a", "b")
    async with world.running():
        await world.until("changed True")
        world.supervisor.configure(world.table.model_copy(update={"to": ("b",)}))
        await world.until("changed True", 2)
        world.ends["b"].set()
        await world.until("changed True", 3)
        await trio.sleep(100)
        assert world.notes.count("changed False") == 2


async def test_ssh_options_at_a_reload(autojump_clock, said):
    world = World("a")
    async with world.running():
        await world.until("changed True")
        world.supervisor.configure(world.table.model_copy(update={"ssh_options": ("-4",)}))
        await world.until("changed True", 2)
        assert trio.current_time() < 2
        # The far end stays: what it keeps for connections is taken up again.
        assert world.notes.index("abandon a") < world.notes.index("cancelled a")
    assert "backhaul: down: ssh_options have changed" in said()


async def test_timers_at_a_reload_leave_the_link_alone(autojump_clock):
    world = World("a", probes_missed=50)
    async with world.running():
        await world.until("changed True")
        world.supervisor.configure(world.table.model_copy(update={"probes_missed": 2}))
        await trio.sleep(1)
        assert world.notes.count("run a tap1") == 1
        world.answers = False
        await world.until("changed False")
        assert trio.current_time() < 6


async def test_a_reload_ends_a_long_wait(autojump_clock):
    world = World("a")

    async def refused() -> None:
        raise LinkFailed("permission denied", patience=Patience.LONG)

    world.fate["a"] = refused
    async with world.running():
        await world.until("run a tap1")
        await trio.sleep(1)
        world.supervisor.configure(world.table.model_copy(update={"to": ("b",)}))
        await world.until("changed True")
        assert trio.current_time() < 2
