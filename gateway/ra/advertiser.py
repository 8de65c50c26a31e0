"""Sends router advertisements on the LAN interfaces while the gateway runs.

Theory of operation. One task for each interface. It waits until the interface is there and up
and has a link-local address, advertises at the times of timing.py, and starts again when the
interface goes. What is advertised is made anew after every event of the kernel about links,
addresses and routes (`refresh`): a difference is sent at once, together with what it takes back.
At the end, and when the interface is taken from the configuration, the last word has lifetimes
of zero. It is said three times, as one may be lost and nobody would repeat it (RFC 4861 §6.2.5);
not three seconds apart, which the end of the program would have to wait for.
"""

from __future__ import annotations

import errno
import logging
import random
from collections.abc import Callable, Sequence

import trio

from gateway.host.plan import HostError
from gateway.ra.content import AdvertiseWish, InterfaceState, advertisement, changed, withdrawn
from gateway.ra.interface import RouterSocket, interface_state
from gateway.ra.messages import (
    BadMessage,
    RouterAdvertisement,
    build_advertisement,
    check_solicitation,
)
from gateway.ra.timing import Schedule

_log = logging.getLogger("gateway")

_LOOK_EVERY = 5.0  # seconds, for what no event tells
_RETRY = 1.0  # seconds after the kernel refused
_SETTLE = 0.5  # seconds between looks, as a BGP table in motion sends thousands of events
_LAST_WORDS = 3  # MAX_FINAL_RTR_ADVERTISEMENTS, RFC 4861 §10
_BETWEEN_LAST = 0.2  # seconds
_GONE = frozenset({errno.ENETDOWN, errno.ENODEV, errno.ENXIO, errno.EADDRNOTAVAIL})


class _InterfaceGone(Exception):
    """The interface went, or is another one of the same name now."""


class Advertiser:
    """Router advertisements on some interfaces, by name."""

    def __init__(
        self,
        interfaces: Sequence[str],
        wish: AdvertiseWish,
        *,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._interfaces = tuple(dict.fromkeys(interfaces))
        self._wish = wish
        self._uniform = uniform
        self._events: dict[str, trio.Event] = {}
        self._scopes: dict[str, trio.CancelScope] = {}
        # Held while one speaks, its last word included: an interface may come back at once.
        self._speaking: dict[str, trio.Lock] = {}
        self._nursery: trio.Nursery | None = None

    def configure(self, interfaces: Sequence[str], wish: AdvertiseWish) -> None:
        """From now on these; on those that are no longer among them the last word is said."""
        self._interfaces = tuple(dict.fromkeys(interfaces))
        self._wish = wish
        for name in self._scopes.keys() - set(self._interfaces):
            self._scopes.pop(name).cancel()
        self._start_missing()
        self.refresh()

    def _start_missing(self) -> None:
        if self._nursery is None:
            return
        for name in self._interfaces:
            if name not in self._scopes:
                scope = self._scopes[name] = trio.CancelScope()
                self._nursery.start_soon(self._serve, name, scope)

    def refresh(self) -> None:
        """Something about links, addresses or routes has changed; costs next to nothing."""
        for event in self._events.values():
            event.set()

    async def run(self) -> None:
        """Advertises until cancelled, then says that all of it is over."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            self._start_missing()
            await trio.sleep_forever()

    async def _serve(self, name: str, scope: trio.CancelScope) -> None:
        with scope:
            async with self._speaking.setdefault(name, trio.Lock()):
                await self._advertise_for_ever(name)

    async def _advertise_for_ever(self, name: str) -> None:
        self._events[name] = trio.Event()
        waiting_said = False
        refused = ""
        while True:
            try:
                state = await trio.to_thread.run_sync(interface_state, name)
                if state is not None and any(a.is_link_local for a in state.addresses):
                    waiting_said = False
                    await self._advertise(state)
                elif not waiting_said:
                    waiting_said = True
                    _log.warning(
                        "advertise: %s is not there, not up or without a link-local address:"
                        " waiting for it",
                        name,
                    )
            except _InterfaceGone:
                _log.info("advertise: %s went down", name)
            except (HostError, OSError) as error:
                if str(error) != refused:  # said once, tried again for ever
                    refused = str(error)
                    _log.error("advertise: %s: %s", name, error)
                await trio.sleep(_RETRY)
            await self._wait_for_event(name, _LOOK_EVERY)

    async def _wait_for_event(self, name: str, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._events[name].wait()
        await trio.sleep(_SETTLE)
        self._events[name] = trio.Event()

    async def _advertise(self, state: InterfaceState) -> None:
        """Advertises on one interface until it goes. Raises _InterfaceGone, OSError, HostError."""
        router = RouterSocket(state.index, state.name)
        sender = _Sender(router, Schedule(self._wish.interval, self._uniform))
        try:
            await sender.say(advertisement(self._wish, state))
            _log.info("advertise: %s", _words(state.name, sender.said))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(sender.answer_solicitations)
                nursery.start_soon(sender.repeat)
                try:
                    await self._follow(state, sender)
                finally:
                    nursery.cancel_scope.cancel()
        except ExceptionGroup as group:
            expected, others = group.split((OSError, HostError, _InterfaceGone))
            if expected is None or others is not None:
                raise
            raise expected.exceptions[0] from None
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                await sender.say_last()
            router.close()

    async def _follow(self, state: InterfaceState, sender: _Sender) -> None:
        while True:
            await self._wait_for_event(state.name, _LOOK_EVERY)
            now = await trio.to_thread.run_sync(interface_state, state.name)
            if now is None or now.index != state.index:
                raise _InterfaceGone
            wanted = advertisement(self._wish, now)
            if wanted != sender.said:
                sender.schedule.interval = self._wish.interval
                await sender.say(wanted)
                _log.info("advertise: %s", _words(state.name, wanted))


class _Sender:
    """What is being said on one interface, and when."""

    def __init__(self, router: RouterSocket, schedule: Schedule) -> None:
        self.said = RouterAdvertisement()
        self._message = RouterAdvertisement()
        self._repeats = 0
        self._router = router
        self.schedule = schedule
        self._wake = trio.Event()

    async def say(self, what: RouterAdvertisement) -> None:
        """From now on this; what was said before and is not in it is taken back."""
        # Three times with what is taken back, as one may be lost (RFC 4861 §6.2.4). Compared
        # with the message, not with what was said last: some of that may not have gone out yet.
        self._message = changed(self._message, what)
        self._repeats = 3
        self.said = what
        self.schedule.start(trio.current_time())
        self._wake.set()

    async def say_last(self) -> None:
        """All lifetimes zero, at once and twice more; an interface that has gone needs none."""
        message = build_advertisement(withdrawn(self._message))
        try:
            for number in range(_LAST_WORDS):
                if number:
                    await trio.sleep(_BETWEEN_LAST)
                await self._router.send(message)
        except OSError as error:
            _log.debug("advertise: no last advertisement: %s", error)

    async def repeat(self) -> None:
        """Sends when it is due, for ever."""
        while True:
            self._wake = trio.Event()
            wait = self.schedule.due - trio.current_time()
            if wait > 0:
                with trio.move_on_after(wait):
                    await self._wake.wait()
                continue
            try:
                await self._router.send(build_advertisement(self._message))
            except OSError as error:
                if error.errno in _GONE:
                    raise _InterfaceGone from error
                raise
            self.schedule.sent(trio.current_time())
            self._repeats -= 1
            if self._repeats <= 0:
                self._message = self.said

    async def answer_solicitations(self) -> None:
        """Brings the next advertisement forward when a host asks, for ever."""
        while True:
            data, hop_limit, source = await self._router.receive()
            try:
                check_solicitation(data, hop_limit, source)
            except BadMessage as error:
                _log.debug("advertise: a solicitation of %s is ignored: %s", source, error)
                continue
            self.schedule.solicited(trio.current_time())
            self._wake.set()


def _words(name: str, what: RouterAdvertisement) -> str:
    """What is advertised, for the log."""
    role = "default router" if what.router_lifetime else "no default router"
    parts = [f"on {name} as {role}"]
    parts += [f"PREF64 {item.prefix}" for item in what.pref64]
    parts += [f"route {item.prefix}" for item in what.routes]
    parts += [f"addresses in {item.prefix}" for item in what.prefixes]
    parts += [f"DNS {server}" for item in what.rdnss for server in item.servers]
    return ", ".join(parts)
