"""What a supervisor sees in tests: a host, links and probes that only take notes."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Any

import pytest
import trio
import trio.testing

from gateway.backhaul.link import LinkFailed, LinkWish, Ready
from gateway.backhaul.supervisor import Supervisor
from gateway.config_backhaul import BackhaulTable


class World:
    """What the supervisor sees: everything that happens is noted in order, with the time."""

    def __init__(self, *destinations: str, **table: Any) -> None:
        self.notes: list[str] = []
        self.times: list[float] = []
        self.noted = trio.Event()
        self.answers = True
        self.answers_beyond = True
        self.frames = 0
        self.frames_each = 0
        self.fate: dict[str, Callable[[], Any]] = {}
        self.preparing: Callable[[], Any] = trio.lowlevel.checkpoint
        self.ready = Ready("tap1", "tap0")
        self.ends: dict[str, trio.Event] = {}
        self.no_carrier = trio.Event()
        self.local4 = IPv4Interface("169.254.7.2/30")
        self.remote4 = IPv4Interface("169.254.7.1/30")
        self.others = True
        self.owns = False
        self.table = BackhaulTable.model_validate({"to": list(destinations) or ["a"]} | table)
        self.supervisor = Supervisor(
            self.table,
            self,
            link_to=partial(FakeLink, self),
            wish=self.wish,
            changed=lambda up: self.note(f"changed {up}"),
            rand=lambda: 0.5,
            lost=self.lost,
        )

    def note(self, text: str) -> None:
        self.notes.append(text)
        self.times.append(trio.current_time())
        self.noted.set()
        self.noted = trio.Event()

    def at(self, text: str, number: int = 0) -> float:
        return [t for n, t in zip(self.notes, self.times, strict=True) if n == text][number]

    def wish(self, local4: IPv4Interface, remote4: IPv4Interface) -> LinkWish:
        return LinkWish(
            (IPv4Network("192.0.0.6/32"),), local4, remote4, 1500, True, "tap64-x", 10, 300
        )

    async def lost(self, device: str) -> None:
        await self.no_carrier.wait()
        self.no_carrier = trio.Event()

    @asynccontextmanager
    async def running(self):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.supervisor.run)
            yield
            nursery.cancel_scope.cancel()

    async def until(self, note: str, count: int = 1) -> None:
        with trio.fail_after(10_000):
            while self.notes.count(note) < count:
                await self.noted.wait()

    # -- the host

    async def prepare(self) -> str:
        self.note("prepare")
        await self.preparing()
        return "tap1"

    async def choose_addresses(self) -> None:
        self.note("choose")

    async def adopt(self, name: str) -> None:
        self.note(f"adopt {name}")

    async def open(self) -> None:
        self.note("open")

    async def shut(self) -> None:
        await trio.lowlevel.checkpoint()
        self.note("shut")

    async def remove(self) -> None:
        await trio.lowlevel.checkpoint()
        self.note("remove")

    def other_addresses(self) -> bool:
        self.note("other addresses")
        return self.others

    def open_probe(self, device: str):
        return FakeProbe(self)


class FakeProbe:
    def __init__(self, world: World) -> None:
        self._world = world

    async def ask(self, timeout: float) -> float | None:
        if self._world.answers:
            await trio.sleep(0.012)
            return 0.012
        await trio.sleep(timeout)
        return None

    async def ask_beyond(self, src4: IPv4Address, host4: IPv4Address, timeout: float) -> bool:
        self._world.note(f"beyond {src4} {host4}")
        await trio.sleep(timeout)
        return self._world.answers_beyond

    def received(self) -> int:
        self._world.frames += self._world.frames_each
        return self._world.frames

    def close(self) -> None:
        self._world.note("probe closed")


class FakeLink:
    """Ready at once, and there until told to end, unless its fate is another."""

    def __init__(self, world: World, destination: str) -> None:
        self._world = world
        self.destination = destination
        self.owns_device = world.owns

    def abandon(self) -> None:
        self._world.note(f"abandon {self.destination}")

    async def run(self, tap, wish, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        world = self._world
        world.note(f"run {self.destination} {tap}")
        fate = world.fate.get(self.destination)
        if fate is not None:
            await fate()
        end = world.ends[self.destination] = trio.Event()
        try:
            task_status.started(world.ready)
            await end.wait()
        except trio.Cancelled:
            world.note(f"cancelled {self.destination}")
            raise
        raise LinkFailed("the connection was closed")


def log_lines(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., list[str]]:
    """A function that gives what the log has at level info and above, for the backhaul."""
    caplog.set_level(logging.DEBUG, "gateway")
    monkeypatch.setattr(logging.getLogger("gateway"), "propagate", True)

    def lines(least: int = logging.INFO) -> list[str]:
        return [
            record.getMessage()
            for record in caplog.records
            if record.levelno >= least and "the link is" not in record.getMessage()
        ]

    return lines
