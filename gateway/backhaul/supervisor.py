"""Keeps one link up: which destination, when again, whether frames pass, and what to tell whom.

    wait until due ─► tap, address ─► link.run ─► Ready ─► probes ─► answered: routes in, UP
          ▲                                                              │
          └──── routes out, DOWN, a line in the log ◄── link's end, no carrier, probes missed

Theory of operation. A link says that the far end is there; that frames pass is found out here, by
probes, before anything is routed into it, and as long as it is up. On the way down the translator
is told first, so that clients get errors and no packet is sent into nowhere; on the way up last.

Ending a link has two meanings. A stop, or a destination that is no longer in the list, lets the
link tell the far end to undo at once. In every other case the same far end may be next: the link
has died, did not become ready or does not answer, is made anew with other options, or gives way
to the first destination, which may turn out not to be there. Then the link is abandoned without
that word: the far end keeps its masquerade for `linger`, or its own stack would reset every flow,
and its connection tracking forget what is on the way.

Each change of state is one line; a cause that repeats is said once, until it has been up again.
Carrier is a sign of death and never of life: a hung ssh keeps it.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Interface
from typing import Final, Protocol

import trio

from gateway.backhaul.carrier import carrier_lost
from gateway.backhaul.link import Link, LinkAddressTaken, LinkFailed, LinkWish, Patience, Ready
from gateway.backhaul.probe import Probe
from gateway.backhaul.states import BackhaulStatus, Choice, State
from gateway.config_backhaul import BackhaulTable
from gateway.groups import first_of
from gateway.host.plan import HostError
from gateway.tap import DeviceError

_log = logging.getLogger("gateway")

# An ssh that asks its DNS, a jump host and a slow peer; beyond that something hangs.
READY_WITHIN: Final = 90.0  # seconds
PROVE_WITHIN: Final = 10.0  # seconds
_FIRST_PROBES_EVERY: Final = 0.25  # seconds
# Probes missed, as a multiple of `probes_missed`, that mean down although frames come in.
_DEAF: Final = 5
_BEYOND_ASKED: Final = 3
_RETURNING: Final = "returning to the first destination"

_random = secrets.SystemRandom().random


class Way(Protocol):
    """The host's part (gateway/backhaul/way.py); tests bring their own."""

    local4: IPv4Interface
    remote4: IPv4Interface

    async def prepare(self) -> str: ...
    async def choose_addresses(self) -> None: ...
    async def adopt(self, name: str) -> None: ...
    async def open(self) -> None: ...
    async def shut(self) -> None: ...
    async def remove(self) -> None: ...
    def other_addresses(self) -> bool: ...
    def open_probe(self, device: str) -> Probe: ...


class _Leave(Exception):
    """The link is to be ended, though nothing is wrong with it. str() is why, for the log."""


class Supervisor:
    """The backhaul of one gateway. Everything happens in the thread of `run`."""

    def __init__(
        self,
        table: BackhaulTable,
        way: Way,
        *,
        link_to: Callable[[str], Link],
        wish: Callable[[IPv4Interface, IPv4Interface], LinkWish],
        changed: Callable[[bool], None],
        rand: Callable[[], float] = _random,
        lost: Callable[[str], Awaitable[None]] = carrier_lost,
    ) -> None:
        """`link_to(destination)` makes a link; `wish(local4, remote4)` what it is asked for;
        `changed(up)` is called before routes go and after they have come. `lost(device)`
        returns, asynchronously, when the device has no carrier.
        """
        self._table = table
        self._way = way
        self._link_to = link_to
        self._wish = wish
        self._changed = changed
        self._lost = lost
        self._choice = Choice(rand)
        self._choice.configure(table.to)
        self._state = State.DOWN
        self._destination = table.to[0]
        self._ready: Ready | None = None
        self._up_since: float | None = None
        self._last_failure = ""
        self._told_address: IPv4Interface | None = None
        self._told_beyond: set[str] = set()
        self._told_notes: set[tuple[str, str]] = set()
        self._leave: Callable[[str, bool], None] | None = None  # why, for good
        self._unwanted = ""
        self._wake = trio.Event()

    @property
    def status(self) -> BackhaulStatus:
        """The state of this moment."""
        ready = self._ready
        return BackhaulStatus(
            self._state,
            self._destination,
            ready.device if ready else "",
            ready.remote if ready else "",
        )

    def describe(self) -> str:
        """One line for people."""
        if self._up_since is not None:
            seconds = trio.current_time() - self._up_since
            return f"backhaul: up: {self._destination} for {seconds:.0f} s"
        cause = f": {self._last_failure}" if self._last_failure else ""
        return f"backhaul: {self._state.value}: {self._destination}{cause}"

    def configure(self, table: BackhaulTable) -> None:
        """Takes over destinations, ssh's options and timers; ends a link that is not wanted."""
        before, self._table = self._table, table
        self._choice.configure(table.to)
        if self._destination not in table.to:
            self._end("the destination has changed", for_good=True)
        elif before.ssh_options != table.ssh_options:
            self._choice.again()
            self._end("ssh_options have changed")
        self._hurry()

    def return_to_first(self) -> None:
        """Leaves another destination for the first one; tries at once where nothing is up."""
        if self._state is State.UP and self._choice.is_first:
            _log.info("backhaul: %s is the first destination already", self._destination)
            return
        first = self._destination == self._table.to[0]
        self._choice.hurry()
        self._end("trying again at once" if first else _RETURNING)
        self._hurry()

    def _end(self, why: str, *, for_good: bool = False) -> None:
        """Ends what there is. `for_good`: the far end is told to undo."""
        self._unwanted = why
        if self._leave is not None:
            self._leave(why, for_good)

    def _hurry(self) -> None:
        self._wake.set()
        self._wake = trio.Event()

    async def run(self) -> None:
        """Until cancelled; then nothing is left on the host, and the far end is told."""
        try:
            while True:
                await self._wait_until_due()
                await self._once()
        finally:
            with trio.CancelScope(shield=True):
                await self._way.remove()

    async def _wait_until_due(self) -> None:
        while True:
            wake = self._wake
            name, due = self._choice.next(trio.current_time())
            if due <= trio.current_time():
                self._destination = name
                self._choice.take(name)
                return
            with trio.move_on_at(due):
                await wake.wait()

    async def _once(self) -> None:
        """One link from its start to its end."""
        failure: LinkFailed | None = None
        why = self._unwanted = ""
        self._state = State.CONNECTING
        try:
            link = self._link_to(self._destination)
            await self._attempt(link)
        except* (LinkFailed, HostError, DeviceError) as group:
            error = first_of(group)
            failure = error if isinstance(error, LinkFailed) else LinkFailed(str(error))
        except* _Leave as leaving:
            why = str(first_of(leaving))
        finally:
            held = self._held()
            self._state, self._ready, self._up_since = State.DOWN, None, None
        if failure is not None:
            self._say_failure(failure, held)
        elif why:
            _log.info("backhaul: down: %s%s", self._where(), why)

    async def _attempt(self, link: Link) -> None:
        if link.owns_device:
            await self._way.choose_addresses()
            tap = ""
        else:
            tap = await self._way.prepare()
        wish = self._wish(self._way.local4, self._way.remote4)
        self._say_addresses(wish)
        if self._unwanted:  # by now, and there was nothing yet that could be ended
            raise _Leave(self._unwanted)
        try:
            async with trio.open_nursery() as nursery:
                self._leave = partial(self._leave_by, nursery, link)
                try:
                    ready = await self._start(nursery, link, tap, wish)
                    if link.owns_device:
                        await self._way.adopt(ready.device)
                    await self._watch(ready)
                except* (LinkFailed, HostError, DeviceError):
                    link.abandon()  # before the nursery ends it
                    raise
        finally:
            self._leave = None

    async def _start(self, nursery: trio.Nursery, link: Link, tap: str, wish: LinkWish) -> Ready:
        """Runs the link in the nursery until it is ready. Raises LinkFailed."""
        with trio.CancelScope() as patience:

            async def give_up() -> None:
                await trio.sleep(READY_WITHIN)
                link.abandon()
                patience.cancel()

            # Who listens may wait for ever.
            waits = self._destination.startswith(("listen:", "pty:"))
            async with trio.open_nursery() as timer:
                if not waits:
                    timer.start_soon(give_up)
                ready: Ready = await nursery.start(partial(link.run, tap, wish))
                timer.cancel_scope.cancel()
            return ready
        raise LinkFailed(
            f"the far end was not ready within {READY_WITHIN:.0f} s",
            "see what it does there: run the same by hand",
        )

    def _leave_by(self, nursery: trio.Nursery, link: Link, why: str, for_good: bool) -> None:
        """Ends the link, which tells the far end to undo only when it is left for good."""
        if not for_good:
            link.abandon()

        async def leave() -> None:
            raise _Leave(why)

        nursery.start_soon(leave)

    async def _watch(self, ready: Ready) -> None:
        """Proves the link and goes on doing so. Raises LinkFailed."""
        self._state, self._ready = State.PROVING, ready
        self._say_notes(ready)
        probe = self._way.open_probe(ready.device)
        try:
            took = await self._prove(probe)
            await self._way.open()
            self._state, self._up_since = State.UP, trio.current_time()
            remote = ready.remote or "?"
            _log.info(
                "backhaul: up: %s %s <-> %s (probe %.0f ms)",
                self._destination,
                ready.device,
                remote,
                took * 1000,
            )
            self._changed(True)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch_carrier, ready.device)
                nursery.start_soon(self._look_beyond, probe, ready)
                nursery.start_soon(self._return_later)
                await self._keep_probing(probe)
        finally:
            if self._up_since is not None:
                self._changed(False)
            probe.close()
            with trio.CancelScope(shield=True):
                await self._way.shut()

    async def _prove(self, probe: Probe) -> float:
        deadline = trio.current_time() + PROVE_WITHIN
        while trio.current_time() < deadline:
            started = trio.current_time()
            took = await probe.ask(_FIRST_PROBES_EVERY)
            if took is not None:
                return took
            await trio.sleep_until(started + _FIRST_PROBES_EVERY)
        raise LinkFailed(
            f"the far end says that it is ready, but has answered no probe within"
            f" {PROVE_WITHIN:.0f} s",
            f"look there whether {self._way.remote4} is an address of the device (of a far end that"
            f" `gateway link` serves: --address {self._way.remote4}) and ARP is not filtered",
        )

    async def _keep_probing(self, probe: Probe) -> None:
        missed, received = 0, probe.received()
        silent = 0
        while True:
            interval = self._table.probe_interval
            started = trio.current_time()
            answered = await probe.ask(interval) is not None
            before, received = received, probe.received()
            if answered:
                missed = silent = 0
            else:
                # A full queue loses probes, too: what else comes in is a sign of life.
                missed += 1
                silent = 0 if received > before else silent + 1
                limit = self._table.probes_missed
                if silent >= limit or missed >= limit * _DEAF:
                    raise LinkFailed(f"{missed} probes through the link were not answered")
            await trio.sleep_until(started + interval)

    async def _watch_carrier(self, device: str) -> None:
        await self._lost(device)
        raise LinkFailed(f"{device} has lost its carrier or was deleted")

    async def _return_later(self) -> None:
        since = trio.current_time()
        while not self._choice.is_first:
            after = self._table.return_after
            if after and trio.current_time() >= since + after:
                self.return_to_first()
                return
            with trio.move_on_at(since + after if after else math.inf):
                await self._wake.wait()

    async def _look_beyond(self, probe: Probe, ready: Ready) -> None:
        """Says so, once for each destination, when the far end seems not to forward."""
        wish = self._wish(self._way.local4, self._way.remote4)
        if ready.next_hop4 is None or not wish.pool4 or self._destination in self._told_beyond:
            return
        src4: IPv4Address = wish.pool4[0].network_address
        for _ in range(_BEYOND_ASKED):
            if await probe.ask_beyond(src4, ready.next_hop4, self._table.probe_interval):
                return
        self._told_beyond.add(self._destination)
        _log.warning(
            "backhaul: %s answers, but %s behind it does not: if nothing gets through, its"
            " firewall forwards nothing (FORWARD policy drop): on it, `iptables -I FORWARD -i %s"
            " -j ACCEPT; iptables -I FORWARD -o %s -j ACCEPT`, or the same in nftables",
            self._destination,
            ready.next_hop4,
            *(ready.remote or "TAP",) * 2,
        )

    def _say_addresses(self, wish: LinkWish) -> None:
        if wish.carries == "ipv4" and wish.remote4 != self._told_address:
            self._told_address = wish.remote4
            _log.info("backhaul: the link is %s here, %s there", wish.local4, wish.remote4)

    def _say_notes(self, ready: Ready) -> None:
        for note in ready.notes:
            if (self._destination, note) not in self._told_notes:
                self._told_notes.add((self._destination, note))
                _log.warning("backhaul: %s says: %s", self._destination, note)

    def _say_failure(self, failure: LinkFailed, held: float) -> None:
        if isinstance(failure, LinkAddressTaken) and self._way.other_addresses():
            failure.patience = Patience.SHORT
        now = trio.current_time()
        is_new = self._choice.failed(failure, held, now)
        self._last_failure = str(failure)
        name, due = self._choice.next(now)
        again = f"trying {'again' if name == self._destination else name} in {due - now:.1f} s"
        if due <= now:
            again = f"trying {name} now"
        level = logging.WARNING if is_new else logging.DEBUG
        _log.log(level, "backhaul: down: %s%s; %s", self._where(), failure, again)

    def _where(self) -> str:
        return f"{self._destination}: " if len(self._table.to) > 1 else ""

    def _held(self) -> float:
        return 0.0 if self._up_since is None else trio.current_time() - self._up_since
