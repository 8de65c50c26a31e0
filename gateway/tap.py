"""The tap or tun device: a descriptor on /dev/net/tun with the virtio-net header and offloads.

Theory of operation. Linux has no /dev/tun0: /dev/net/tun is opened and TUNSETIFF binds the
descriptor to a new or an existing device (Documentation/networking/tuntap.rst). A device made
here is not persistent: it vanishes with the descriptor. A device that exists already, made
with `ip tuntap add` and perhaps owned by an unprivileged user, is used as it is; whether it
is tap or tun and multi-queue is asked over netlink (IFLA_INFO_DATA), not read in /sys, which
shows the network namespace it was mounted in and not the one we run in.

With IFF_VNET_HDR each frame is preceded by a 10-byte struct virtio_net_hdr, so that one read
may bring up to 64 KiB of TCP or UDP as one super-packet whose checksum is not filled in yet.
TUNSETOFFLOAD tells the kernel what we can take. USO needs Linux 6.2 and its two bits must be
set together; what a kernel refuses is left out. Offloads and the size of the header belong to
the device and outlive the descriptor, so `close_device` sets them back where the device stays.

Nothing in this module changes addresses, routes or the link state: that is gateway/host.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from dataclasses import dataclass, field
from typing import Literal

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

Kind = Literal["tap", "tun"]

TUN_PATH = "/dev/net/tun"
VNET_HEADER_SIZE = 10  # bytes; struct virtio_net_hdr without num_buffers
NAME_SIZE = 16  # bytes; IFNAMSIZ, the last one is the terminating zero

# linux/if_tun.h
TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
TUNSETTXFILTER = 0x400454D1
TUNGETVNETHDRSZ = 0x800454D7
TUNSETVNETHDRSZ = 0x400454D8
IFF_TUN = 0x0001
IFF_TAP = 0x0002
IFF_MULTI_QUEUE = 0x0100
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
IFF_TUN_EXCL = 0x8000
_FLAG = {"tun": IFF_TUN, "tap": IFF_TAP}
IFREQ = struct.Struct("16sH22x")
_INT = struct.Struct("i")
TUN_FLT_ALLMULTI = 0x0001
_FILTER = struct.Struct("HH6s")

OFFLOAD_BITS = {
    "csum": 0x01,
    "tso4": 0x02,
    "tso6": 0x04,
    "tso_ecn": 0x08,
    "uso4": 0x20,
    "uso6": 0x40,
}
# What is tried, best first; csum alone is what every kernel with TUNSETOFFLOAD knows.
_OFFLOAD_CHOICES: tuple[frozenset[str], ...] = (
    frozenset(OFFLOAD_BITS),
    frozenset({"csum", "tso4", "tso6", "tso_ecn"}),
    frozenset({"csum", "tso4", "tso6"}),
    frozenset({"csum"}),
)


class DeviceError(Exception):
    """The device cannot be had. str() is one line that names the thing and the remedy."""


@dataclass(slots=True)
class Device:
    """An open device. The descriptor is non-blocking and close-on-exec.

    `vnet`: every frame read or written starts with a virtio-net header of 10 bytes.
    `offloads`: the names out of OFFLOAD_BITS that the kernel accepted; empty without `vnet`.
    `created`: made here, and gone with the descriptor; False for one that existed.
    """

    fd: int
    name: str
    kind: Kind
    vnet: bool
    offloads: frozenset[str]
    created: bool
    multi_queue: bool
    _header_size_before: int | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class _Existing:
    kind: Kind
    multi_queue: bool
    queues: int  # attached by other processes; known for multi-queue devices only
    owner: int | None


def open_device(kind: Kind, name: str, *, offload: bool) -> Device:
    """Open the device `name`, making it when there is none; "" is the first free tapN or tunN.

    With `offload` the virtio-net header is on and the kernel's offloads are used as far as it
    has them; without, frames are plain. Raises DeviceError and leaves nothing behind.
    """
    check_name(name)
    existing = _existing(name) if name else None
    if existing is not None:
        _check_existing(name, kind, existing)
    fd = open_driver()
    try:
        return _bind(fd, kind, name, existing, offload)
    except BaseException:
        os.close(fd)
        raise


def close_device(device: Device) -> None:
    """Close the descriptor; a device that stays gets its offloads and header size back.

    They are the device's and would break its next user: TUNSETOFFLOAD 0 is what a device has
    that nobody has opened yet. Never raises for a device that was removed meanwhile.
    """
    try:
        if not device.created:
            _reset(device)
    finally:
        os.close(device.fd)


def accept_only(device: Device, mac: bytes) -> None:
    """Let the kernel drop unicast frames that are not for `mac` (6 bytes); tap devices only.

    A tap that is a bridge port gets every frame the bridge floods. Undone by `close_device`.
    """
    try:
        fcntl.ioctl(device.fd, TUNSETTXFILTER, _FILTER.pack(TUN_FLT_ALLMULTI, 1, mac))
    except OSError as error:
        raise DeviceError(
            f"{device.name}: cannot set the address filter: {os.strerror(error.errno or 0)}"
        ) from error


def driver_problem() -> str | None:
    """One line with the remedy when /dev/net/tun cannot be opened, else None."""
    try:
        os.close(open_driver())
    except DeviceError as error:
        return str(error)
    return None


def device_problem(kind: Kind, name: str) -> str | None:
    """One line with the remedy when there is a device `name` that is of no use, else None."""
    try:
        existing = _existing(name)
        if existing is not None:
            _check_existing(name, kind, existing)
    except DeviceError as error:
        return str(error)
    return None


def first_free_name(kind: Kind) -> str:
    """The name that `open_device(kind, "")` would get now; for printing a plan."""
    with IPRoute() as ipr:
        names = {link.get("ifname") for link in ipr.get_links()}
    number = 0
    while f"{kind}{number}" in names:
        number += 1
    return f"{kind}{number}"


def check_name(name: str) -> None:
    """Raises DeviceError when no network device can have this name."""
    bad = len(name.encode()) >= NAME_SIZE or name in (".", "..")
    if bad or any(c in "/:%" or c.isspace() or not c.isprintable() for c in name):
        raise DeviceError(
            f"{name!r} cannot be the name of a network device: use 1 to {NAME_SIZE - 1} bytes"
            " without spaces, '/', ':' or '%'"
        )


def _existing(name: str) -> _Existing | None:
    """What `name` is now, None when there is no such device. DeviceError when not tun/tap."""
    try:
        with IPRoute() as ipr:
            (link,) = ipr.link("get", ifname=name)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise DeviceError(f"cannot ask the kernel about {name}: {error}") from error
    info = link.get_attr("IFLA_LINKINFO")
    data = info.get_attr("IFLA_INFO_DATA") if info is not None else None
    if data is None or info.get_attr("IFLA_INFO_KIND") != "tun":
        raise DeviceError(
            f"{name} exists and is no tap or tun device: choose another name with --tap"
        )
    queues = data.get_attr("IFLA_TUN_NUM_QUEUES") or 0
    queues += data.get_attr("IFLA_TUN_NUM_DISABLED_QUEUES") or 0
    return _Existing(
        kind="tun" if data.get_attr("IFLA_TUN_TYPE") == IFF_TUN else "tap",
        multi_queue=bool(data.get_attr("IFLA_TUN_MULTI_QUEUE")),
        queues=queues,
        owner=data.get_attr("IFLA_TUN_OWNER"),
    )


def _check_existing(name: str, kind: Kind, existing: _Existing) -> None:
    if existing.kind != kind:
        raise DeviceError(
            f"{name} is a {existing.kind} device and a {kind} is wanted:"
            f" use --device {existing.kind}, or another name with --tap"
        )
    # The kernel would let a second process share the queues and spread the flows over both.
    if existing.queues:
        raise _busy(name)


def _busy(name: str) -> DeviceError:
    return DeviceError(
        f"{name} is in use by another process: stop that one"
        f" (`fuser -v {TUN_PATH}` names it) or choose another name with --tap"
    )


def open_driver() -> int:
    """A descriptor on /dev/net/tun that no device is bound to yet. Raises DeviceError."""
    try:
        return os.open(TUN_PATH, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise DeviceError(_driver_remedy(error)) from error


def _driver_remedy(error: OSError) -> str:
    container = f"in a container start it with --device {TUN_PATH}"
    if error.errno == errno.ENOENT:
        return (
            f"there is no {TUN_PATH}: `modprobe tun`, or `mkdir -p /dev/net &&"
            f" mknod {TUN_PATH} c 10 200`; {container}"
        )
    if error.errno in (errno.ENODEV, errno.ENXIO):
        return f"{TUN_PATH} has no driver behind it: `modprobe tun` (CONFIG_TUN)"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"may not open {TUN_PATH}: run as root or `chmod 666 {TUN_PATH}`; {container}"
    return f"cannot open {TUN_PATH}: {os.strerror(error.errno or 0)}"


def _bind(fd: int, kind: Kind, name: str, existing: _Existing | None, offload: bool) -> Device:
    flags = _FLAG[kind] | IFF_NO_PI
    if offload:
        flags |= IFF_VNET_HDR
    if existing is None and name:
        flags |= IFF_TUN_EXCL  # or we might attach to a device made since we looked
    if existing is not None and existing.multi_queue:
        flags |= IFF_MULTI_QUEUE
    wanted = (name or f"{kind}%d").encode()
    try:
        answer = fcntl.ioctl(fd, TUNSETIFF, IFREQ.pack(wanted, flags))
    except OSError as error:
        raise bind_error(error, kind, name, existing) from error
    device = Device(
        fd=fd,
        name=IFREQ.unpack(answer)[0].rstrip(b"\0").decode(),
        kind=kind,
        vnet=offload,
        offloads=frozenset(),
        created=existing is None,
        multi_queue=existing is not None and existing.multi_queue,
    )
    _prepare(device)
    return device


def bind_error(error: OSError, kind: Kind, name: str, existing: _Existing | None) -> DeviceError:
    """What a failed TUNSETIFF for `name` means, in words, with the remedy."""
    if error.errno == errno.EBUSY:
        return _busy(name)
    if error.errno in (errno.EPERM, errno.EACCES):
        if existing is not None and existing.owner is not None:
            return DeviceError(
                f"{name} belongs to user {existing.owner}: run as that user or as root"
            )
        return DeviceError(
            f"may not use {name or 'a new ' + kind}: run as root or with CAP_NET_ADMIN, or let"
            f" root make it: `ip tuntap add {name or kind + '0'} mode {kind} user YOU`"
        )
    return DeviceError(
        f"cannot open {kind} device {name or kind + 'N'}: {os.strerror(error.errno or 0)}"
    )


def _prepare(device: Device) -> None:
    """Set header size and offloads; a plain device gets none, whatever its last user left."""
    try:
        if device.vnet:
            before = fcntl.ioctl(device.fd, TUNGETVNETHDRSZ, _INT.pack(0))
            device._header_size_before = _INT.unpack(before)[0]
            fcntl.ioctl(device.fd, TUNSETVNETHDRSZ, _INT.pack(VNET_HEADER_SIZE))
            device.offloads = _offer(device.fd)
        else:
            fcntl.ioctl(device.fd, TUNSETOFFLOAD, 0)
    except OSError as error:
        raise DeviceError(
            f"{device.name}: this kernel has no virtio-net header for tun devices"
            f" ({os.strerror(error.errno or 0)}): set offload = false"
        ) from error


def _offer(fd: int) -> frozenset[str]:
    for choice in _OFFLOAD_CHOICES:
        try:
            fcntl.ioctl(fd, TUNSETOFFLOAD, sum(OFFLOAD_BITS[name] for name in choice))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        else:
            return choice
    fcntl.ioctl(fd, TUNSETOFFLOAD, 0)
    return frozenset()


def _reset(device: Device) -> None:
    try:
        fcntl.ioctl(device.fd, TUNSETOFFLOAD, 0)
        if device.kind == "tap":
            fcntl.ioctl(device.fd, TUNSETTXFILTER, _FILTER.pack(0, 0, bytes(6)))
        if device._header_size_before is not None:
            fcntl.ioctl(device.fd, TUNSETVNETHDRSZ, _INT.pack(device._header_size_before))
    except OSError as error:
        # EBADFD: the device was deleted under us, and with it what was to be set back.
        if error.errno != errno.EBADFD:
            raise DeviceError(
                f"{device.name}: cannot set the offloads back: {os.strerror(error.errno or 0)}"
            ) from error
