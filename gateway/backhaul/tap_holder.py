"""Which process has a tap open, and which tap a process has: /proc/PID/fdinfo tells `iff:`.

The one answer that needs nobody's cooperation: neither the order of events, nor the text of any
message. For processes of other users it needs root.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

IFF_TAP = 0x0002  # linux/if_tun.h


def devices_of(pid: int) -> list[str]:
    """The tun and tap devices that the process has open; empty when it is gone or hidden."""
    found = []
    try:
        with os.scandir(f"/proc/{pid}/fdinfo") as entries:
            for entry in entries:
                found += _device(entry.path)
    except OSError:
        return found
    return found


def is_tap(name: str) -> bool:
    """Whether a device of this name is there and carries Ethernet frames."""
    try:
        flags = Path(f"/sys/class/net/{name}/tun_flags").read_text()
    except OSError:
        return False
    return bool(int(flags, 16) & IFF_TAP)


def holders_of(tap: str) -> Iterator[int]:
    """Processes that have the tap open."""
    for name in os.listdir("/proc"):
        if name.isdigit() and tap in devices_of(int(name)):
            yield int(name)


def end_former_ssh(tap: str, patience: float = 2.0) -> list[int]:
    """Kills each ssh that still holds `tap`, and waits until it has let go; their numbers.

    The tap was made for our ssh alone, so such a process is what a killed gateway left. Others
    are left alone, whoever they are. Blocks: not for the event loop.
    """
    if not has_carrier(tap):
        return []
    former = [pid for pid in holders_of(tap) if _name(pid) == "ssh"]
    for pid in former:
        try:
            os.kill(pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            continue  # gone; or another user's, and we lack CAP_KILL: ssh will say that it is busy
    deadline = time.monotonic() + patience
    while former and has_carrier(tap) and time.monotonic() < deadline:
        time.sleep(0.01)
    return former


def has_carrier(tap: str) -> bool:
    """Whether somebody has the tap open; False too when it is not there or not up."""
    try:
        return Path(f"/sys/class/net/{tap}/carrier").read_text().strip() == "1"
    except OSError:
        return False


def _device(path: str) -> list[str]:
    try:
        text = Path(path).read_text()
    except OSError:
        return []
    return [line.split()[1] for line in text.splitlines() if line.startswith("iff:")]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
