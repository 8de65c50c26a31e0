"""The status line and the counters, as text.

The status line is in the manner of BSD's tun control device (tun(4)): words of the form
`key=value` with one space between, flags in parentheses, with `!` before those that are off.
New words are only ever added at the end, so that scripts can rely on what is there. As for
the kernel's counters of the device, `ipkts` is what came in from the device (what the gateway
wrote) and `opkts` what went out of it (what the gateway read).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from translate.reasons import Reason


@dataclass(frozen=True, slots=True)
class Status:
    """What the status line tells. Counts since the start, `uptime` in seconds.

    `backhaul`: state, destination and devices, separated by commas; "" without one.
    `mappings`, `pool`: in siit mode how many there are, and addresses in use of how many.
    `clat`: in clat mode its state, prefix, where that is from, IPv6 address and uplink.
    """

    device: str
    kind: str
    mtu: int
    open: bool
    running: bool
    offload: bool
    masquerade: bool
    frames_written: int
    write_errors: int
    frames_read: int
    frames_discarded: int
    sessions: int
    bib: int
    clients: int
    uptime: float
    backhaul: str = ""
    clat: str = ""
    mappings: int | None = None
    pool: str = ""


def format_status(status: Status) -> str:
    """The status line: `unit=0 flags=(open,running,offload,masquerade) type=tap ...`."""
    words = {
        "unit": _unit(status.device),
        "flags": f"({_flags(status)})",
        "type": status.kind,
        "mtu": status.mtu,
        "ipkts": f"{status.frames_written}/{status.write_errors}",
        "opkts": f"{status.frames_read}/{status.frames_discarded}",
        "sessions": status.sessions,
        "bib": status.bib,
        "clients": status.clients,
        "uptime": int(status.uptime),
        "device": status.device,
    }
    if status.backhaul:
        words["backhaul"] = status.backhaul
    if status.mappings is not None:
        words["mappings"] = status.mappings
    if status.pool:
        words["pool"] = status.pool
    if status.clat:
        words["clat"] = status.clat
    return " ".join(f"{key}={value}" for key, value in words.items())


def _unit(device: str) -> str:
    """The number at the end of a device's name, `-` when there is none."""
    digits = re.search(r"[0-9]+$", device)
    return str(int(digits[0])) if digits else "-"


def _flags(status: Status) -> str:
    flags = {
        "open": status.open,
        "running": status.running,
        "offload": status.offload,
        "masquerade": status.masquerade,
    }
    return ",".join(name if is_on else f"!{name}" for name, is_on in flags.items())


def format_counters(counters: Mapping[str, int], discards: Mapping[Reason, int]) -> str:
    """One line of all counters: the program's own by name, then every discard reason.

    Reasons that have not happened are shown as 0, so that the line always has the same words.
    """
    words = dict(counters)
    for reason in Reason:
        words[reason.value] = discards.get(reason, 0)
    return "counters " + " ".join(f"{name}={count}" for name, count in words.items())
