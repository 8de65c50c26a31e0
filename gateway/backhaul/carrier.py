"""Notices that a device has lost its carrier, or has gone, within milliseconds.

When the reader of a tap closes it, the kernel says so at once in an RTM_NEWLINK without
IFF_LOWER_UP; the operational state follows only a fraction of a second later.
"""

from __future__ import annotations

import socket

import trio
from pyroute2 import IPRoute

from gateway.host import links
from gateway.host.plan import HostError
from gateway.host.ra_guard import parse_events

_RTMGRP_LINK = 1
_READ_SIZE = 1 << 16  # bytes


async def carrier_lost(device: str) -> None:
    """Returns when the device has no carrier, or is gone. Never raises."""
    try:
        await _watch(device)
    except OSError:
        # No descriptor left for it: probes have to tell.
        await trio.sleep_forever()


async def _watch(device: str) -> None:
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
    ) as sock:
        sock.bind((0, _RTMGRP_LINK))
        # Looked at only now, so that no event is missed.
        index = await trio.to_thread.run_sync(_operational, device)
        while index:
            await trio.lowlevel.wait_readable(sock)
            try:
                data = sock.recv(_READ_SIZE)
            except BlockingIOError:
                continue
            except OSError:  # ENOBUFS: events were lost
                index = await trio.to_thread.run_sync(_operational, device)
                continue
            ours = (event for event in parse_events(data) if event and event.index == index)
            if any(event.removed or not event.operational for event in ours):
                return


def _operational(device: str) -> int:
    """The index of the device if it is up and has a carrier, else 0."""
    try:
        with IPRoute() as ipr:
            link = links.find_link(ipr, name=device)
    except HostError:
        return 0
    return link.index if link is not None and link.operational else 0
