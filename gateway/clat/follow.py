"""Follows the uplink and the prefix, and makes the CLAT what it is to be (states.py).

    kernel's events ──┐
    advertisements  ──┼─► look at the host ─► decide ─► translator, then host (or the reverse)
    DNS answers     ──┤          ▲
    ends of lifetimes ┘          └── every 30 s as well, for what no event tells

Theory of operation. One task looks, decides and acts, so that nothing happens twice at a time;
all others only wake it. On the way up the translator is told first and routes come last; on the
way down routes go first. What is learnt of prefixes belongs to the uplink: the tasks that learn
end with it, and begin anew on the next, or when its /64 is another one. A host that refuses is
asked again after a while, for its own changes are events too.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, IPv6Network
from typing import Any

import trio

from gateway.clat import dns_discovery
from gateway.clat.claim import Claimed
from gateway.clat.dns_discovery import Ask
from gateway.clat.host_side import HostSide
from gateway.clat.plat import Plat, PlatSources
from gateway.clat.states import LOCAL4, Decision, Idle, Situation, Uplink, Wanted
from gateway.host.plan import HostError
from gateway.ra.messages import RouterAdvertisement

_log = logging.getLogger("gateway")

LOOK_EVERY = 30.0  # seconds
SETTLE = 0.1  # seconds between looks: events come in bursts
RETRY = 5.0  # seconds after the host refused
PROBE_AGAIN = 60.0  # seconds after every address was somebody else's
LISTEN_AGAIN = 1.0  # seconds after a listening socket failed
WARN_AGAIN = 60.0  # seconds between warnings of a claim

InThread = Callable[..., Awaitable[Any]]
Hear = Callable[[IPv6Address, RouterAdvertisement], None]
Probe = Callable[[Uplink, Sequence[IPv6Address]], Awaitable[set[IPv6Address]]]


@dataclass(frozen=True, slots=True)
class World:
    """What is outside; tests bring their own.

    `look(network)`: one look at the host, the /64 in use being `network`. It and the methods of
    `host` are called by `in_thread`. `listen(uplink, heard)`: tells `heard` of advertisements
    until cancelled.
    `probe`: those of addresses that somebody else on the uplink has. Raises HostError.
    `hear_claims`: tells who says to have an address, until cancelled.
    `translate`: the translator's part, None while there is none.
    """

    look: Callable[[IPv6Network | None], Situation]
    host: HostSide
    listen: Callable[[Uplink, Hear], Awaitable[None]]
    ask: Ask
    probe: Probe
    hear_claims: Callable[[Uplink, Claimed], Awaitable[None]]
    translate: Callable[[Wanted | None], None]
    decide: Callable[[Situation, Plat | None, frozenset[IPv6Address]], Decision]
    in_thread: InThread = trio.to_thread.run_sync


class Follower:
    """One CLAT. `state` is what it is now."""

    def __init__(self, world: World, sources: PlatSources) -> None:
        self.state: Decision = Idle("down", "it has not looked yet")
        self._world = world
        self._sources = sources
        self._event = trio.Event()
        self._woken = False
        self._uplink: Uplink | None = None
        self._learning: trio.CancelScope | None = None
        self._not_before = -math.inf
        self._free: set[IPv6Address] = set()
        self._taken: set[IPv6Address] = set()
        self._probe_again = -math.inf
        self._warn_again = -math.inf

    def wake(self) -> None:
        """Something has changed; costs next to nothing."""
        self._woken = True
        self._pulse()

    def _pulse(self) -> None:
        event, self._event = self._event, trio.Event()
        event.set()

    def word(self) -> str:
        """The state as one word of the status line."""
        state = self.state
        if isinstance(state, Idle):
            return state.word
        plat = state.plat
        return f"up,{plat.prefix},{plat.source},{state.address6},{state.uplink.name}"

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Follows until cancelled; the host is then as it was. Started after the first look."""
        try:
            async with trio.open_nursery() as nursery:
                first = True
                while True:
                    self._woken = False
                    await self._step(nursery)
                    if first:
                        first = False
                        task_status.started()
                    if not self._woken:
                        with trio.move_on_after(self._patience()):
                            await self._event.wait()
                    await trio.sleep(SETTLE)
        finally:
            with trio.CancelScope(shield=True):
                await self._world.in_thread(self._world.host.take_down)
                self._world.translate(None)

    def _patience(self) -> float:
        """Seconds until something has to be looked at without an event."""
        now = trio.current_time()
        until = min(self._sources.deadline(now), now + LOOK_EVERY)
        if self._not_before > now:
            until = min(until, self._not_before)
        return max(0.0, until - now)

    async def _step(self, nursery: trio.Nursery) -> None:
        network = self._uplink.network if self._uplink is not None else None
        try:
            situation = await self._world.in_thread(self._world.look, network)
        except HostError as error:
            _log.error("clat: %s", error)
            return
        self._learn_on(situation.uplink, nursery)
        plat = self._sources.current(trio.current_time())
        if plat is None or plat.source == "dns":
            self._pulse()  # the DNS may be wanted again
        await self._become(await self._claim(situation, plat))

    async def _claim(self, situation: Situation, plat: Plat | None) -> Decision:
        """What shall be, with addresses that nobody else has (RFC 4862 §5.4).

        An address is asked for again when it was given up meanwhile.
        """
        if isinstance(self.state, Idle) and trio.current_time() >= self._probe_again:
            self._taken.clear()
        while True:
            decision = self._world.decide(situation, plat, frozenset(self._taken))
            if isinstance(decision, Idle):
                self._free.clear()
                return decision
            unknown = [address for _, address in decision.hosts if address not in self._free]
            if not unknown or trio.current_time() < self._not_before:
                return decision
            try:
                taken = await self._world.probe(decision.uplink, unknown)
            except HostError as error:
                self._not_before = trio.current_time() + RETRY
                return Idle("failed", str(error))
            self._free.update(set(unknown) - taken)
            self._taken |= taken
            if taken:
                self._probe_again = trio.current_time() + PROBE_AGAIN
            for address in sorted(taken):
                name = decision.uplink.name
                _log.warning("clat: somebody else on %s has %s: not taken", name, address)

    # -- learning the prefix --------------------------------------------------------------------

    def _learn_on(self, uplink: Uplink | None, nursery: trio.Nursery) -> None:
        before, self._uplink = self._uplink, uplink
        if _place(before) == _place(uplink):
            return
        if self._learning is not None:
            self._learning.cancel()
            self._learning = None
        self._sources.forget()
        self._free.clear()
        self._taken.clear()
        if uplink is not None:
            self._learning = trio.CancelScope()
            nursery.start_soon(self._learn, uplink, self._learning)

    async def _learn(self, uplink: Uplink, scope: trio.CancelScope) -> None:
        with scope:
            async with trio.open_nursery() as nursery:
                if self._sources.wants_ra:
                    nursery.start_soon(
                        self._listen, partial(self._world.listen, uplink, self._heard)
                    )
                if uplink.mac:
                    nursery.start_soon(
                        self._listen, partial(self._world.hear_claims, uplink, self._claimed)
                    )
                if self._sources.wants_dns(trio.current_time()):
                    nursery.start_soon(
                        dns_discovery.follow,
                        self._world.ask,
                        lambda: self._sources.wants_dns(trio.current_time()),
                        partial(self._answered, scope),
                        lambda: self._event,
                    )

    async def _listen(self, listen: Callable[[], Awaitable[None]]) -> None:
        complained = ""
        while True:
            try:
                await listen()
            except* (OSError, HostError) as group:
                # The interface has gone, which its events tell too; or the host refuses.
                if str(group.exceptions[0]) != complained:
                    complained = str(group.exceptions[0])
                    _log.info("clat: %s", complained)
            await trio.sleep(LISTEN_AGAIN)

    def _heard(self, router: IPv6Address, message: RouterAdvertisement) -> None:
        if message.pref64:
            self._sources.hear(router, message, trio.current_time())
            self.wake()

    def _claimed(self, source: IPv6Address, address: IPv6Address) -> None:
        state, now = self.state, trio.current_time()
        if not isinstance(state, Wanted) or now < self._warn_again:
            return
        if any(address == address6 for _, address6 in state.hosts):
            self._warn_again = now + WARN_AGAIN
            _log.warning(
                "clat: %s on %s says to have %s, which is the CLAT's: IPv4 will fail until one of"
                " the two has another (clat.address)",
                *(source, state.uplink.name, address),
            )

    def _answered(self, scope: trio.CancelScope, prefixes: tuple[IPv6Network, ...]) -> None:
        if not scope.cancel_called:
            self._sources.answer(prefixes)
            self.wake()

    # -- making it so ---------------------------------------------------------------------------

    async def _become(self, decision: Decision) -> None:
        if isinstance(decision, Wanted):
            await self._be_up(decision)
        elif decision != self.state:
            if isinstance(self.state, Wanted):
                await self._world.in_thread(self._world.host.take_down)
                self._world.translate(None)
            self._say(decision)

    async def _be_up(self, wanted: Wanted) -> None:
        state, host = self.state, self._world.host
        if trio.current_time() < self._not_before:
            return
        is_same = isinstance(state, Wanted) and _essence(state) == _essence(wanted)
        try:
            if is_same:
                self.state = wanted
                await self._world.in_thread(host.repair, wanted)
                return
            self._world.translate(wanted)
            await self._world.in_thread(host.bring_up, wanted)
        except HostError as error:
            self._not_before = trio.current_time() + RETRY
            await self._world.in_thread(host.take_down)
            self._world.translate(None)
            self._free.clear()
            self._say(Idle("failed", str(error)))
        else:
            self._say(wanted)

    def _say(self, state: Decision) -> None:
        if state == self.state:
            return
        self.state = state
        if isinstance(state, Idle):
            level = logging.ERROR if state.word == "failed" else logging.INFO
            _log.log(level, "clat: %s: %s", state.word, state.why)
            return
        _log.info(
            "clat: up: %s by way of %s; %s is %s, MTU %d",
            state.plat,
            state.uplink.name,
            LOCAL4,
            state.address6,
            state.mtu4,
        )


def _place(uplink: Uplink | None) -> object:
    """What prefixes are learnt for: another one makes all that was learnt doubtful."""
    return None if uplink is None else (uplink.name, uplink.index, uplink.network)


def _essence(wanted: Wanted) -> object:
    """What the host and the translator depend on; who told the prefix is not part of it."""
    return (wanted.uplink, wanted.plat.prefix, wanted.hosts, wanted.mtu4)
