"""The taps that links end in: persistent, owned by one user, plain frames, silent by themselves.

Theory of operation. The kernel chooses the number: TUNSETIFF with `tap%d` takes the first free
one and holds it in the same step, so that two programs never get the same. Owner, MTU and
offloads are set while our descriptor still holds the device, and only then is it made
persistent: a failure on the way leaves nothing behind, and nobody ever sees it half made.

A persistent tap without an owner could be attached by every local user, hence there is always
one. The offloads are cleared, because TUNSETOFFLOAD outlives the descriptor and a reader that
knows no virtio-net header (ssh is one) would get frames without checksums. Without
IPv6 address generation the kernel sends no router solicitations, MLD or DAD of its own.

The device is up from the start. Without a reader it has no carrier; it must not be set down
while a link is attached, as a write at that moment would fail and ends a tunnel of ssh's.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from contextlib import suppress
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from gateway.host.links import find_link
from gateway.host.netlink import GONE, error_number
from gateway.tap import (
    IFF_NO_PI,
    IFF_TAP,
    IFF_TUN_EXCL,
    IFREQ,
    TUNSETIFF,
    TUNSETOFFLOAD,
    DeviceError,
    bind_error,
    check_name,
    close_device,
    open_device,
    open_driver,
)

# linux/if_tun.h
TUNSETPERSIST = 0x400454CB
TUNSETOWNER = 0x400454CC
TUNSETCARRIER = 0x400454E2

MTU_RANGE = range(68, 65522)  # bytes; RFC 791 §3.2, and the kernel's MAX_MTU of tun devices

_ADDR_GEN_NONE = 1  # linux/if_link.h, IN6_ADDR_GEN_MODE_NONE
_NO_IPV6 = frozenset({errno.EAFNOSUPPORT, errno.EOPNOTSUPP})


def make_tap(owner_uid: int, mtu: int, *, name: str = "", alias: str = "") -> str:
    """Makes a persistent tap that `owner_uid` may attach, sets it up, and returns its name.

    `name`: "" is the first free tapN; one that exists already is refused. `alias`: shown by
    `ip link`, so that people see whose it is. Raises DeviceError and leaves nothing behind.
    """
    if mtu not in MTU_RANGE:
        raise DeviceError(
            f"a tap's MTU is {MTU_RANGE.start} to {MTU_RANGE.stop - 1} bytes, not {mtu}"
        )
    if name:
        check_name(name)
    fd = open_driver()
    try:
        made = _bind_new(fd, name)
        _settle(fd, made, owner_uid)
        _configure(made, mtu, alias)
        fcntl.ioctl(fd, TUNSETPERSIST, 1)
    except OSError as error:
        raise DeviceError(f"cannot make a tap: {os.strerror(error.errno or 0)}") from error
    finally:
        os.close(fd)
    return made


def attach_tap(name: str) -> int:
    """A non-blocking, close-on-exec descriptor that reads and writes the plain frames of a tap.

    Raises DeviceError: when there is no such tap, when it is another user's, when somebody
    else is attached. Closing the descriptor is all that the caller has to do with it.
    """
    if not name:
        raise DeviceError("there is no tap to attach to")
    device = open_device("tap", name, offload=False)
    if device.created:
        close_device(device)
        raise DeviceError(f"there is no tap {name}: it was removed; start again")
    return device.fd


def set_carrier(fd: int, on: bool) -> None:
    """Whether the attached tap shows a carrier. Without one the kernel sends nothing to it.

    A kernel that cannot (before 4.20) and a tap that has gone are no errors.
    """
    with suppress(OSError):
        fcntl.ioctl(fd, TUNSETCARRIER, struct.pack("i", on))


def remove_tap(name: str) -> None:
    """Removes a tap; that it has gone already is no error. Raises DeviceError."""
    try:
        with IPRoute() as ipr:
            link = find_link(ipr, name=name)
            if link is None:
                return
            if link.kind != "tun":  # what the kernel calls taps, too
                raise DeviceError(f"{name} is no tap and is left alone")
            ipr.link("del", index=link.index)
    except (NetlinkError, OSError) as error:
        if error_number(error) not in GONE:
            raise DeviceError(
                f"cannot remove {name}: {os.strerror(error_number(error))}"
            ) from error


def configure_tap(name: str, mtu: int, alias: str = "") -> None:
    """Sets MTU and no address generation, then sets the device up. Raises DeviceError."""
    _configure(name, mtu, alias)


def _bind_new(fd: int, name: str) -> str:
    flags = IFF_TAP | IFF_NO_PI | IFF_TUN_EXCL
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack((name or "tap%d").encode(), flags))
    except OSError as error:
        if name and error.errno in (errno.EBUSY, errno.EEXIST, errno.EINVAL):
            raise DeviceError(f"{name} exists already: choose another name") from error
        raise bind_error(error, "tap", name, None) from error
    made: str = IFREQ.unpack(answer)[0].rstrip(b"\0").decode()
    return made


def _settle(fd: int, name: str, owner_uid: int) -> None:
    try:
        fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
        fcntl.ioctl(fd, TUNSETOWNER, owner_uid)
    except OSError as error:
        raise DeviceError(
            f"cannot give {name} to user {owner_uid}: {os.strerror(error.errno or 0)}"
        ) from error


def _configure(name: str, mtu: int, alias: str) -> None:
    try:
        with IPRoute() as ipr:
            link = find_link(ipr, name=name)
            if link is None:
                raise DeviceError(f"{name} was removed meanwhile; start again")
            _no_own_addresses(ipr, link.index)
            changes: dict[str, Any] = {"mtu": mtu}
            if alias:
                changes["ifalias"] = alias
            ipr.link("set", index=link.index, **changes)
            ipr.link("set", index=link.index, state="up")
    except (NetlinkError, OSError) as error:
        number = error_number(error)
        remedy = ": run as root or with CAP_NET_ADMIN" if number == errno.EPERM else ""
        raise DeviceError(
            f"cannot set {name} up with MTU {mtu}: {os.strerror(number)}{remedy}"
        ) from error


def _no_own_addresses(ipr: IPRoute, index: int) -> None:
    """`ip link set DEVICE addrgenmode none`; nothing where the host has no IPv6."""
    generation = {"attrs": [["IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_NONE]]}
    try:
        ipr.link("set", index=index, IFLA_AF_SPEC={"attrs": [["AF_INET6", generation]]})
    except NetlinkError as error:
        if error_number(error) not in _NO_IPV6:
            raise
