"""Netlink errors in words: what was being done, what the kernel said, what helps."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.host.plan import HostError

# The object of an undo has gone already, alone or with its device.
GONE = frozenset(
    {
        errno.ENOENT,
        errno.ESRCH,
        errno.ENODEV,
        errno.ENXIO,
        errno.EADDRNOTAVAIL,
        errno.ENETDOWN,
    }
)

_REMEDIES: Mapping[int, str] = {
    errno.EPERM: "run as root or with CAP_NET_ADMIN",
    errno.ENODEV: "the device was removed meanwhile; start again",
    errno.ENETDOWN: "the device was set down meanwhile; start again",
    errno.EBUSY: "something else is changing it; start again",
    errno.ENOBUFS: "the kernel is short of memory",
    errno.ENOMEM: "the kernel is short of memory",
}


class Gone(Exception):
    """What was to be undone does not exist any more."""


def error_number(error: NetlinkError | OSError) -> int:
    """The positive errno of either kind of error; 0 when it has none."""
    code: int | None = error.code if isinstance(error, NetlinkError) else error.errno
    return abs(code or 0)


@contextmanager
def explaining(doing: str, remedies: Mapping[int, str] | None = None) -> Iterator[None]:
    """Turn NetlinkError and OSError into HostError `cannot DOING: REASON: REMEDY`."""
    try:
        yield
    except (NetlinkError, OSError) as error:
        number = error_number(error)
        remedy = (remedies or {}).get(number) or _REMEDIES.get(number)
        reason = os.strerror(number) if number else str(error)
        raise HostError(f"cannot {doing}: {reason}" + (f": {remedy}" if remedy else "")) from error


@contextmanager
def undoing(doing: str) -> Iterator[None]:
    """As `explaining`, but raises Gone when the object or its device does not exist."""
    try:
        with explaining(doing):
            yield
    except HostError as error:
        cause = error.__cause__
        if isinstance(cause, NetlinkError | OSError) and error_number(cause) in GONE:
            raise Gone from error
        raise


def removed(
    doing: str, kind: Literal["addr", "link", "neigh", "route", "rule"], what: Mapping[str, Any]
) -> str | None:
    """Deletes what a change has added, as its `undo`: None, or that it is gone. Raises HostError.

    `what`: as it was given to the method of IPRoute that is called `kind`.
    """
    try:
        with undoing(doing), IPRoute() as ipr:
            getattr(ipr, kind)("del", **what)
    except Gone:
        return "it is gone"
    return None
