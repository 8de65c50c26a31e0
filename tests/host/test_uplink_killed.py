"""The backhaul's host part, killed before every single thing that it does to the host."""

from __future__ import annotations

import fcntl
import os
import signal
import traceback
from pathlib import Path

import pytest
import trio
from pyroute2 import IPRoute

from gateway.backhaul.link import LinkFailed
from gateway.backhaul.states import State
from gateway.backhaul.taps import TUNSETPERSIST
from gateway.host.leftovers import undo_leftovers
from tests.host.backhaul_bench import Bench, WireLink

MOST_STEPS = 200


def killed_at(step: int, tmp_path: Path) -> bool:
    """Lives the life of a gateway in a process that is killed before its step; False if it ended.

    A step is whatever changes the host, or puts another journal into the place of the old one.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _count_down(step)
            _life(tmp_path)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(1)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL)
    return status != 0


def _count_down(steps: int) -> None:
    left = [steps]

    def step() -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def counting(function, changes):
        def call(*arguments, **keywords):
            if changes(arguments):
                step()
            return function(*arguments, **keywords)

        return call

    find = IPRoute.__getattr__

    def method(self, name):
        function = find(self, name)
        if name in ("link", "addr", "route", "rule"):
            return counting(function, lambda a: a[0] not in ("get", "dump", "show"))
        return function

    IPRoute.__getattr__ = method
    write = counting(Path.write_text, lambda a: "/proc/sys/" in str(a[0]))
    Path.write_text = write  # type: ignore[method-assign]
    Path.rename = counting(Path.rename, lambda a: True)  # type: ignore[method-assign]
    fcntl.ioctl = counting(fcntl.ioctl, lambda a: a[1] == TUNSETPERSIST)


def _life(tmp_path: Path) -> None:
    link = WireLink()
    bench = Bench(tmp_path, link)

    async def scenario() -> None:
        async with bench.running():
            await bench.until(State.UP)
            link.end = LinkFailed("cut")
            await bench.until(State.DOWN)
            await bench.until(State.UP)

    trio.run(scenario)
    bench.stop()


@pytest.mark.parametrize("part", range(4))
def test_undo_after_a_kill_at_every_step(tmp_path, run, snapshot, part) -> None:
    before = snapshot(), run("ip rule")
    steps = 0
    for step in range(1 + part, MOST_STEPS, 4):
        if not killed_at(step, tmp_path):
            break
        steps += 1
        undo_leftovers(str(tmp_path / "run"), None, lambda _: None)
        assert (snapshot(), run("ip rule")) == before, f"after step {step}"
    assert 5 < steps < MOST_STEPS // 4
    assert (snapshot(), run("ip rule")) == before
