"""Sysctls under /proc/sys/net, and the two forwarding switches with everything they overwrite.

Theory of operation. A write to net.ipv6.conf.all.forwarding or net.ipv4.ip_forward is copied
by the kernel into `default` and into every interface's own `forwarding`
(addrconf_forward_change, inet_forward_change); ip_forward also sets the IPv4
all.accept_redirects to its opposite. So the old value of each of these is kept, and undoing is
the switch first and then every value that the switch has overwritten wrongly. Whatever is no
longer what this program (or the kernel on its behalf) wrote was changed by somebody else and
stays. An interface that came later gets what it would have got without us: the old `default`.

/proc/sys/net shows the network namespace of the reading thread, unlike /sys. A key is the path
below /proc/sys/net, since interface names may contain dots.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gateway.host.netlink import explaining

ROOT = Path("/proc/sys/net")

Family = Literal["ipv6", "ipv4"]

_READ_ONLY = (
    "/proc/sys is read-only here: in a container, set it from outside"
    " (docker run --sysctl NAME=VALUE)"
)
_REMEDIES = {errno.EROFS: _READ_ONLY, errno.EACCES: _READ_ONLY}


def read(key: str) -> str | None:
    """The value, None when there is no such key (the interface is gone, IPv6 is off)."""
    with explaining(f"read {shown(key)}"):
        try:
            return (ROOT / key).read_text().strip()
        except OSError as error:
            # A vanishing interface answers ENOENT at open, and ENODEV or EINVAL at read.
            if error.errno in (errno.ENOENT, errno.ENODEV, errno.EINVAL):
                return None
            raise


def write(key: str, value: str) -> None:
    """Raises HostError."""
    with explaining(f"set {shown(key)} = {value}", _REMEDIES):
        (ROOT / key).write_text(value)


def writable(key: str) -> bool:
    """Whether this process may write the key; False on a read-only /proc/sys."""
    return os.access(ROOT / key, os.W_OK, effective_ids=True)


def shown(key: str) -> str:
    """The key as sysctl(8) writes it: dots between the parts, `/` for a dot in a name."""
    return "net." + ".".join(part.replace(".", "/") for part in key.split("/"))


def interfaces(family: Family) -> list[str]:
    """The interfaces that have sysctls of the family, without `all` and `default`."""
    try:
        names = os.listdir(ROOT / family / "conf")
    except FileNotFoundError:
        return []
    return sorted(name for name in names if name not in ("all", "default"))


def accept_ra(device: str) -> str:
    """The key of the interface's accept_ra."""
    return f"ipv6/conf/{device}/accept_ra"


@dataclass(frozen=True, slots=True)
class Sysctl:
    """One key that nothing else depends on."""

    key: str
    old: str
    new: str
    kind: Literal["sysctl"] = "sysctl"

    @property
    def identity(self) -> str:
        return f"sysctl {self.key}"

    def describe(self) -> str:
        return f"set {shown(self.key)} = {self.new} (was {self.old})"

    def apply(self) -> None:
        write(self.key, self.new)

    def undo(self) -> str | None:
        now = read(self.key)
        if now is None:
            return "its interface is gone"
        if now == self.old:
            return "it has the old value"
        if now != self.new:
            return f"it is {now} now, which is not ours"
        write(self.key, self.old)
        return None


@dataclass(frozen=True, slots=True)
class Forwarding:
    """The switch of one family. `old` holds every value a write to it touches, by key."""

    family: Family
    old: dict[str, str]
    kind: Literal["forwarding"] = "forwarding"

    @property
    def identity(self) -> str:
        return f"forwarding {self.family}"

    def describe(self) -> str:
        return f"set {switch_name(self.family)} = 1 (was {self.old[switch(self.family)]})"

    def apply(self) -> None:
        write(switch(self.family), "1")

    def undo(self) -> str | None:
        key = switch(self.family)
        now = read(key)
        if now != "1":
            return f"it is {now} now, which is not ours"
        targets = {
            touched: self._target(touched, value)
            for touched, value in touched_values(self.family).items()
            if touched != key
        }
        write(key, self.old[key])
        for touched, value in targets.items():
            # None: the interface has gone in between.
            if read(touched) not in (value, None):
                write(touched, value)
        return None

    def _target(self, key: str, now: str) -> str:
        """What `key` shall be after the undo, `now` being its value while the switch is on."""
        if now != _written(key):
            return now
        return self.old.get(key, self.old[f"{self.family}/conf/default/forwarding"])


def switch(family: Family) -> str:
    """The key that turns the family's forwarding on everywhere."""
    return f"{family}/conf/all/forwarding"


def switch_name(family: Family) -> str:
    """The name people know the switch by; ip_forward is the same variable as conf.all."""
    return "net.ipv4.ip_forward" if family == "ipv4" else shown(switch(family))


def touched_values(family: Family) -> dict[str, str]:
    """The present value of everything that a write to the family's switch touches."""
    keys = [f"{family}/conf/{name}/forwarding" for name in ("all", "default")]
    keys += [f"{family}/conf/{name}/forwarding" for name in interfaces(family)]
    if family == "ipv4":
        keys.append(_REDIRECTS)
    values = ((key, read(key)) for key in keys)
    return {key: value for key, value in values if value is not None}


_REDIRECTS = "ipv4/conf/all/accept_redirects"


def _written(key: str) -> str:
    """What the kernel writes into `key` when the switch is turned on."""
    return "0" if key == _REDIRECTS else "1"
