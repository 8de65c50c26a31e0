"""A link over a byte stream: opens the endpoint, pumps frames, says why it ended."""

from __future__ import annotations

import logging
import os
from collections.abc import Awaitable, Callable
from functools import cache, partial

import trio

from gateway.backhaul.destination import StreamEndpoint, is_unprotected
from gateway.backhaul.framing import FramingError
from gateway.backhaul.link import LinkFailed, LinkWish, Ready
from gateway.backhaul.pump import (
    PumpCounters,
    StreamEnded,
    TapGone,
    copy,
    stream_to_tap,
    tap_to_stream,
)
from gateway.backhaul.streams import Stream, open_stream
from gateway.backhaul.taps import attach_tap, set_carrier
from gateway.tap import DeviceError

_log = logging.getLogger("gateway")


class StreamLink:
    """Every kind of link but ssh's. It asks nothing of the far end: `gateway link` is told there.

    Keeps to `gateway.backhaul.link.Link`.
    """

    owns_device = False

    def __init__(self, endpoint: StreamEndpoint) -> None:
        self._endpoint = endpoint
        self.counters = PumpCounters()

    @property
    def destination(self) -> str:
        return self._endpoint.text

    async def run(
        self,
        tap: str,
        wish: LinkWish,
        *,
        task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """As Link.run. The tap is attached before the far end is asked for: it is known to work
        then, and has no carrier for anybody else meanwhile.
        """
        warn_if_unprotected(self._endpoint)
        try:
            tap_fd = await trio.to_thread.run_sync(attach_tap, tap)
        except DeviceError as error:
            raise LinkFailed(str(error)) from error
        try:
            self.counters = PumpCounters()
            ready = partial(task_status.started, Ready(device=tap))
            await run_stream(self._endpoint, tap_fd, wish.heartbeat, self.counters, ready)
        finally:
            os.close(tap_fd)

    def abandon(self) -> None:
        """See Link. The far end is told nothing in any case: the stream just ends."""


async def run_stream(
    endpoint: StreamEndpoint,
    tap_fd: int,
    patience: float,
    counters: PumpCounters,
    connected: Callable[[], None],
) -> None:
    """Joins one far end to an attached tap until cancelled; raises LinkFailed when it ends.

    Without a far end the tap has no carrier: nothing queues that would be old once there is one.
    """
    set_carrier(tap_fd, False)
    failure: list[LinkFailed] = []
    async with trio.open_nursery() as nursery:
        try:
            stream = await open_stream(endpoint, nursery, patience=patience)
            try:
                _log.info("%s: connected, %s", endpoint.text, stream.peer)
                set_carrier(tap_fd, True)
                connected()
                failure.append(await _carry(stream, tap_fd, counters))
            finally:
                set_carrier(tap_fd, False)
                await stream.close()
            if (known := stream.ending()) is not None:
                failure = [known]
        except LinkFailed as error:
            failure = [error]
        nursery.cancel_scope.cancel()
    # Raised out here, so that it is no part of an exception group.
    raise failure[0]


async def join_streams(one: Stream, other: Stream) -> LinkFailed:
    """Passes bytes both ways between two streams until one ends: how it ended."""
    return await _until_one_ends(
        partial(copy, one.read_fd, other.write_fd), partial(copy, other.read_fd, one.write_fd)
    )


async def _carry(stream: Stream, tap_fd: int, counters: PumpCounters) -> LinkFailed:
    """Carries frames both ways until the stream ends: how it ended."""
    return await _until_one_ends(
        partial(tap_to_stream, tap_fd, stream.write_fd, counters),
        partial(stream_to_tap, stream.read_fd, tap_fd, counters),
    )


async def _until_one_ends(*directions: Callable[[], Awaitable[None]]) -> LinkFailed:
    endings: list[LinkFailed] = []

    async def run(direction: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await direction()
        except StreamEnded as error:
            endings.append(LinkFailed(str(error)))
        except FramingError as error:
            endings.append(LinkFailed(str(error), "only `gateway link` speaks this at the far end"))
        except TapGone:
            endings.append(LinkFailed("the tap was removed", "start again"))
        scope.cancel()

    async with trio.open_nursery() as nursery:
        for direction in directions:
            nursery.start_soon(run, direction, nursery.cancel_scope)
    return endings[0]


@cache
def warn_if_unprotected(endpoint: StreamEndpoint) -> None:
    """Says, once for each endpoint, what a link over a network without ssh means."""
    if is_unprotected(endpoint):
        _log.warning(
            "%s: this link is neither authenticated nor encrypted: whoever reaches it can send and"
            " read frames; keep it to a network that you trust, or use ssh",
            endpoint.text,
        )
