"""Who has which address of the dynamic pool, on disk, so that a restart keeps it.

One line for each assignment: IPv4 address, IPv6 address, time of last use in seconds of the wall
clock. The file is written beside its place and renamed over it, so that a crash leaves the old or
the new one and nothing between. Lines that do not fit are told and skipped: what is lost by that
is only that a host gets another address.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable
from pathlib import Path

from translate.address_pool import AddressPool, Assignment

_HEADER = "# tap64: addresses of the dynamic pool: IPv4, IPv6, last use (seconds since 1970)\n"
_MOST_FAULTS = 5


def save(path: Path, pool: Iterable[Assignment], *, now: float, wall: float) -> None:
    """Writes all assignments. `now`: the pool's clock, `wall`: that of the wall. Raises OSError."""
    lines = [_HEADER]
    for item in pool:
        addr4 = socket.inet_ntop(socket.AF_INET, item.addr4)
        addr6 = socket.inet_ntop(socket.AF_INET6, item.addr6)
        lines.append(f"{addr4} {addr6} {wall - (now - item.last):.0f}\n")
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="ascii") as file:
            file.writelines(lines)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def load(path: Path, pool: AddressPool, *, now: float, wall: float) -> list[str]:
    """Enters what the file knows; what is wrong with it, a line each. A missing file is empty."""
    try:
        text = path.read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return []
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    faults = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        item = _parse(line, now, wall)
        if item is None or not pool.restore(item.addr4, item.addr6, item.last):
            faults.append(f"{path}:{number}: skipped, it does not fit the pool: {line[:80]}")
    if len(faults) > _MOST_FAULTS:
        faults[_MOST_FAULTS:] = [f"{path}: {len(faults) - _MOST_FAULTS} more lines were skipped"]
    return faults


def _parse(line: str, now: float, wall: float) -> Assignment | None:
    try:
        addr4, addr6, used = line.split()
        # A clock that was set back must not make an address last for ever.
        last = min(now, now - (wall - float(used)))
        return Assignment(
            socket.inet_pton(socket.AF_INET, addr4), socket.inet_pton(socket.AF_INET6, addr6), last
        )
    except (ValueError, OSError):
        return None
