"""`gateway --check` and `--dry-run` with a backhaul: tried once and taken back, or only told.

What a start would do, a link is made, proven and ended, with a tap that exists only meanwhile and
without a route: no packet of anybody takes this way. The far end is told to undo at once.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import trio

from gateway.backhaul.assembly import Backhaul
from gateway.backhaul.link import LinkFailed, Ready
from gateway.backhaul.probe import PEER6, US6, Probe
from gateway.backhaul.supervisor import Way
from gateway.config_model import Config
from gateway.groups import first_of
from gateway.host.journal import RecordedChange
from gateway.host.plan import HostError
from gateway.tap import DeviceError

_READY_WITHIN: Final = 30.0  # seconds
_ANSWERS_WITHIN: Final = 5.0  # seconds
_ASKED_EVERY: Final = 0.25  # seconds


class _NoNotes:
    """Nothing is there long enough for a journal; the tap's alias is its mark."""

    def add(self, change: RecordedChange) -> None:
        pass

    def forget(self, identity: str) -> None:
        pass


async def describe_backhaul(config: Config, device: str) -> list[str]:
    """What a start would do for the backhaul, one line each; nothing is changed or asked.

    `device`: what the gateway's own would be called. Raises LinkFailed when no addresses are free.
    """
    table = config.backhaul
    backhaul = Backhaul(config, device, 0, lambda _: None, _NoNotes())
    way = backhaul.way
    await way.choose_addresses()
    six = table.carries == "ipv6"
    here, there = (f"{US6}/64", f"{PEER6}/64") if six else (str(way.local4), str(way.remote4))
    if table.control_path:
        first = f"use the tap of the ssh connection at {table.control_path}"
    else:
        owner = f" of {table.user}" if table.user else ""
        first = f"create a tap for the backhaul{owner}, mtu {table.mtu}"
    lines = [first, f"address {here} on it, {there} at the far end"]
    others = f", then {', '.join(table.to[1:])}" if table.to[1:] else ""
    lines.append(f"connect to {table.to[0]}{others}, as {backhaul.tag}")
    prefixes = [str(prefix) for prefix in config.prefix] if six else ["what pool4 sends"]
    lines.append(f"while that is up: route {', '.join(prefixes)} via {there.partition('/')[0]}")
    return lines


async def try_backhaul(config: Config, device: str) -> list[str]:
    """What is wrong with the backhaul, one line for each destination; [] when all of it works.

    `device`: what the gateway's own would be called.
    """
    backhaul = Backhaul(config, device, 0, lambda _: None, _NoNotes())
    problems = []
    for destination in config.backhaul.to:
        try:
            await _try(backhaul, destination)
        except* (LinkFailed, HostError, DeviceError) as group:
            problems.append(f"backhaul: {destination}: {first_of(group)}")
    return problems


async def _try(backhaul: Backhaul, destination: str) -> None:
    link, way = backhaul.link_to(destination), backhaul.way
    try:
        tap = "" if link.owns_device else await way.prepare()
        if link.owns_device:
            await way.choose_addresses()
        wish = backhaul.wish(way.local4, way.remote4)
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(_READY_WITHIN) as patience:
                ready: Ready = await nursery.start(partial(link.run, tap, wish))
            if patience.cancelled_caught:
                raise LinkFailed(f"the far end was not ready within {_READY_WITHIN:.0f} s")
            if link.owns_device:
                await way.adopt(ready.device)
            await _prove(way, ready)
            nursery.cancel_scope.cancel()
    finally:
        with trio.CancelScope(shield=True):
            await way.remove()


async def _prove(way: Way, ready: Ready) -> None:
    probe: Probe = way.open_probe(ready.device)
    try:
        with trio.move_on_after(_ANSWERS_WITHIN):
            while await probe.ask(_ASKED_EVERY) is None:
                pass
            return
    finally:
        probe.close()
    raise LinkFailed("the far end was ready, but answered no probe")
