"""`gateway link`: joins a stream to a tap here, or two streams to each other.

Theory of operation. The tap is ours and goes with the process, unless it existed before; without a
far end it has no carrier, so that nothing queues for nobody. After a link has ended the next one
is made: a listening endpoint waits again, another is tried with growing waits. What only a person
can mend (no such command, no privilege) ends the program, as --once does in any case; std: cannot
come back. Signals are heard from the beginning, and everything is undone on the way out.
"""

from __future__ import annotations

import logging
import os
import random
import re
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Interface

import trio
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.backhaul.destination import StdEndpoint, StreamEndpoint
from gateway.backhaul.far_end import set_up_far_end
from gateway.backhaul.link import LinkFailed, LinkWish, Patience
from gateway.backhaul.link_options import LinkOptions
from gateway.backhaul.pump import PumpCounters
from gateway.backhaul.states import BackOff
from gateway.backhaul.stream_link import join_streams, run_stream, warn_if_unprotected
from gateway.backhaul.streams import Stream, open_stream, waits
from gateway.backhaul.taps import configure_tap
from gateway.groups import first_of
from gateway.host.links import IFA_F_NODAD, find_link
from gateway.host.netlink import error_number
from gateway.tap import Device, DeviceError, close_device, open_device

_log = logging.getLogger("gateway")

EXIT_FAILED = 1
_STOP = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PATIENCE = 10.0  # seconds until a silent far end counts as gone
_LINGER = 0.0  # the tap stays between two far ends, and with it the set-up


def run_link(options: LinkOptions) -> int:
    """Runs until ended by a signal or by the link: the exit status. Raises DeviceError."""
    return trio.run(_LinkCommand(options).run)


class _LinkCommand:
    def __init__(self, options: LinkOptions) -> None:
        self._options = options
        self._total = PumpCounters()
        self._counters = PumpCounters()
        self._links = 0

    async def run(self) -> int:
        for endpoint in self._options.endpoints:
            warn_if_unprotected(endpoint)
        status, failure = [0], None
        with trio.open_signal_receiver(*_STOP, signal.SIGUSR1) as signals:
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._listen, signals, nursery.cancel_scope)
                    status[0] = await self._serve(nursery)
                    nursery.cancel_scope.cancel()
            except* DeviceError as group:
                failure = first_of(group)
        if failure is not None:
            raise failure
        return status[0]

    async def _listen(self, signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
        async for number in signals:
            if number == signal.SIGUSR1:
                _log.info("%s", self.status())
            else:
                _log.info("ending: %s", signal.Signals(number).name)
                scope.cancel()

    def status(self) -> str:
        """One line: links so far, frames of all of them."""
        total, now = self._total, self._counters
        return (
            f"link: links={self._links} to-far-end={total.to_stream + now.to_stream}"
            f" to-tap={total.to_tap + now.to_tap} refused={total.refused + now.refused}"
        )

    async def _serve(self, nursery: trio.Nursery) -> int:
        if len(self._options.endpoints) == 2:
            return await self._again(self._join)
        device = await trio.to_thread.run_sync(
            partial(open_device, "tap", self._options.tap, offload=False)
        )
        try:
            async with AsyncExitStack() as stack:
                await self._prepare(device, stack, nursery)
                return await self._again(partial(self._carry, device.fd))
        except LinkFailed as error:
            _log.error("%s", error)
            return EXIT_FAILED
        finally:
            close_device(device)

    async def _prepare(self, device: Device, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        options = self._options
        if not device.created:
            if options.changes_host:
                raise DeviceError(
                    f"{device.name} exists already: give it its addresses yourself, or let"
                    " `gateway link` make a new one"
                )
            _log.info("using the existing %s", device.name)
            return
        await trio.to_thread.run_sync(configure_tap, device.name, options.mtu)
        _log.info("created %s, MTU %d", device.name, options.mtu)
        wish = _wish(options, device.name)
        if wish is not None:
            await stack.enter_async_context(set_up_far_end(device.name, wish, nursery))
            _log.info(
                "%s: %s, %s routed to %s",
                device.name,
                wish.remote4,
                ", ".join(map(str, wish.pool4)),
                wish.local4.ip,
            )
            return
        for address in options.addresses:
            await trio.to_thread.run_sync(_add_address, device.name, str(address))
            _log.info("%s: address %s", device.name, address)

    async def _again(self, attempt: Callable[[], Awaitable[None]]) -> int:
        """Makes one link after the other, until one must be the last: the exit status."""
        endpoints = self._options.endpoints
        one_shot = self._options.once or any(isinstance(one, StdEndpoint) for one in endpoints)
        back_off = BackOff(random.random)
        while True:
            links, began = self._links, trio.current_time()
            try:
                await attempt()
            except LinkFailed as error:
                failure = error
            self._add_up()
            name = " - ".join(one.text for one in endpoints)
            if one_shot or failure.patience is Patience.LONG:
                _log.error("%s: %s", name, failure)
                return EXIT_FAILED
            _log.warning("%s: %s", name, failure)
            if self._links == links or not any(map(waits, endpoints)):
                await trio.sleep(back_off.failed(failure.patience, trio.current_time() - began))

    async def _carry(self, tap_fd: int) -> None:
        """One link of the tap; raises LinkFailed when it has ended."""
        (endpoint,) = self._options.endpoints
        await run_stream(endpoint, tap_fd, _PATIENCE, self._counters, self._connected)

    async def _join(self) -> None:
        """One link between the two streams; raises LinkFailed when it has ended."""
        one, other = self._options.endpoints
        failure: list[LinkFailed] = []
        async with trio.open_nursery() as nursery:
            try:
                failure.append(await self._join_in(one, other, nursery))
            except LinkFailed as error:
                failure.append(error)
            nursery.cancel_scope.cancel()
        raise failure[0]

    async def _join_in(
        self, one: StreamEndpoint, other: StreamEndpoint, nursery: trio.Nursery
    ) -> LinkFailed:
        streams: list[Stream] = []
        try:
            for endpoint in (one, other):
                streams.append(await open_stream(endpoint, nursery, patience=_PATIENCE))
                _log.info("%s: connected, %s", endpoint.text, streams[-1].peer)
            self._connected()
            failure = await join_streams(*streams)
        finally:
            for stream in streams:
                await stream.close()
        known = (stream.ending() for stream in streams)
        return next((ending for ending in known if ending is not None), failure)

    def _connected(self) -> None:
        self._links += 1

    def _add_up(self) -> None:
        now = self._counters
        self._total = PumpCounters(*map(sum, zip(_three(self._total), _three(now), strict=True)))
        self._counters = PumpCounters()


def _three(counters: PumpCounters) -> tuple[int, int, int]:
    return counters.to_stream, counters.to_tap, counters.refused


def _wish(options: LinkOptions, tap: str) -> LinkWish | None:
    """What the set-up script is asked for; None when there is nothing to route."""
    if not options.pool4 or options.gateway4 is None:
        return None
    ours = options.addresses[0]
    assert isinstance(ours, IPv4Interface)
    return LinkWish(
        pool4=options.pool4,
        local4=IPv4Interface((options.gateway4, ours.network.prefixlen)),
        remote4=ours,
        mtu=options.mtu,
        masquerade=options.masquerade,
        tag=f"link-{re.sub('[^A-Za-z0-9]', '-', tap)}",
        heartbeat=_PATIENCE,
        linger=_LINGER,
    )


def _add_address(tap: str, address: str) -> None:
    try:
        with IPRoute() as ipr:
            link = find_link(ipr, name=tap)
            if link is None:
                raise DeviceError(f"{tap} was removed meanwhile; start again")
            # No duplicate address detection: the only other host of the link is known.
            flags = {"flags": IFA_F_NODAD} if ":" in address else {}
            host, _, length = address.partition("/")
            ipr.addr("add", index=link.index, address=host, prefixlen=int(length), **flags)
    except (NetlinkError, OSError) as error:
        raise DeviceError(
            f"cannot give {tap} the address {address}: {os.strerror(error_number(error))}"
        ) from error
