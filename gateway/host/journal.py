"""The journal: what must be undone, on disk before it is done.

Theory of operation. Sysctls carry no mark of who set them, so a run that is killed (SIGKILL,
power) would leave them changed for good. Before the first change, every planned change with
its old values goes to `journal-NETNS-DEVICE.json` in the run directory, NETNS being the inode
of the network namespace. The file names its owner by pid and start time, which together are
never reused. A stop undoes the changes and removes the file. A file whose owner is dead is a
leftover: the next start for the same device takes its old values over, and `gateway undo`
undoes it. Inodes are reused, so the file also holds the boot id and the namespace's cookie
(SO_NETNS_COOKIE, Linux 5.14); one from another boot or namespace is void.

Two instances in one namespace both need forwarding. The one that stops hands its forwarding
and accept_ra changes to the journal of the other, which undoes them when it stops in turn
(`later` in the file). All files of a run directory are read and written under one flock.

The file is written to a temporary name and renamed, mode 0600, so that it is whole or absent.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gateway.host.clat import DefaultRoute4, LanNat, LocalAddress4, ProxyNeighbour
from gateway.host.links import HostAddress, LinkMtu, LinkUp, Neighbour
from gateway.host.netlink import explaining
from gateway.host.nft import Masquerade
from gateway.host.plan import HostError
from gateway.host.routes import Route
from gateway.host.sysctl import Forwarding, Sysctl
from gateway.host.uplink import PoolRule, Unreachable, UplinkAddress, UplinkRoute, UplinkTap

RecordedChange = (
    Sysctl
    | Forwarding
    | LinkMtu
    | LinkUp
    | HostAddress
    | Neighbour
    | Route
    | Masquerade
    | PoolRule
    | Unreachable
    | UplinkTap
    | UplinkAddress
    | UplinkRoute
    | LocalAddress4
    | ProxyNeighbour
    | DefaultRoute4
    | LanNat
)
# What other instances in the namespace depend on too.
SharedChange = Sysctl | Forwarding

_SO_NETNS_COOKIE = 71

_DIRECTORY_REMEDIES = {
    errno.EACCES: "run as root, or set run_dir to a directory of your own",
    errno.EROFS: "set run_dir to a directory that can be written",
    errno.ENOTDIR: "set run_dir to a directory",
    errno.ENOSPC: "make room",
}


class JournalFile(BaseModel):
    """The content of one file. `changes` in the order of the plan, `later` as they came."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: Literal[1] = 1
    device: str
    boot_id: str
    netns_cookie: int | None
    pid: int
    start_time: int
    made_run_dir: bool
    changes: list[Annotated[RecordedChange, Field(discriminator="kind")]]
    later: list[Annotated[RecordedChange, Field(discriminator="kind")]] = []

    def owner_alive(self) -> bool:
        """Whether the process that wrote it still runs; our own counts as not."""
        return self.pid != os.getpid() and _start_time(self.pid) == self.start_time

    def here(self) -> bool:
        """Whether it was written in this boot and this network namespace."""
        return self.boot_id == _boot_id() and self.netns_cookie == _netns_cookie()

    def holds(self, identity: str) -> bool:
        return any(change.identity == identity for change in [*self.changes, *self.later])


class CorruptJournal(HostError):
    """The file exists and cannot be used."""


class Journal:
    """The journal of one device in this thread's network namespace."""

    def __init__(self, run_dir: str, device: str) -> None:
        self.run_dir = Path(run_dir)
        self.device = device
        self.path = self.run_dir / f"journal-{_netns_inode()}-{device}.json"

    def read(self) -> JournalFile | None:
        """What the file says; None without one, or with one of another boot or namespace.

        Raises CorruptJournal, and HostError when it may not be read.
        """
        content = _load(self.path)
        return content if content is not None and content.here() else None

    def start(self, changes: Sequence[RecordedChange]) -> None:
        """Write the file as ours, before the first of the changes. Raises HostError."""
        pid = os.getpid()
        made = not self.run_dir.exists()
        with _locked(self.run_dir, make=True):
            before = self.read()
            content = JournalFile(
                device=self.device,
                boot_id=_boot_id(),
                netns_cookie=_netns_cookie(),
                pid=pid,
                start_time=_start_time(pid) or 0,
                made_run_dir=made or (before is not None and before.made_run_dir),
                changes=list(changes),
            )
            _store(self.path, content)

    def add(self, change: RecordedChange) -> None:
        """Note a change that is made while we run. Raises HostError."""
        with _locked(self.run_dir):
            content = self.read()
            if content is not None and not content.holds(change.identity):
                content.later.append(change)
                _store(self.path, content)

    def forget(self, identity: str) -> None:
        """Drop a change that is undone, or whose object has gone. Raises HostError."""
        with _locked(self.run_dir):
            content = self.read()
            if content is not None:
                content.changes = [c for c in content.changes if c.identity != identity]
                content.later = [c for c in content.later if c.identity != identity]
                _store(self.path, content)

    def hand_over(self, change: SharedChange) -> str | None:
        """Give the change to a live instance in this namespace; its device, None without one."""
        if not self.run_dir.is_dir():
            return None
        with _locked(self.run_dir):
            for other in self.others():
                content = other.read()
                if content is None:
                    continue
                if not content.holds(change.identity):
                    content.later.append(change)
                    _store(other.path, content)
                return other.device
        return None

    def others(self) -> list[Journal]:
        """The journals of the other live instances in this namespace."""
        return [
            journal
            for journal, content in journals(str(self.run_dir))
            if journal.path != self.path and content is not None and content.owner_alive()
        ]

    def take_later(self) -> list[RecordedChange]:
        """What was added since `start`, removed from the file. Raises HostError."""
        with _locked(self.run_dir):
            content = self.read()
            if content is None:
                return []
            later, content.later = content.later, []
            _store(self.path, content)
        return later

    def remove_if_done(self) -> bool:
        """Remove the file unless something was handed to it. Raises HostError."""
        if not self.run_dir.is_dir():
            return True
        with _locked(self.run_dir):
            content = self.read()
            if content is not None and content.later:
                return False
            self._remove(content)
        return True

    def discard(self) -> None:
        """Remove the file, everything in it having been undone. Raises HostError."""
        with _locked(self.run_dir):
            self._remove(self.read())

    def _remove(self, content: JournalFile | None) -> None:
        with explaining(f"remove {self.path}"):
            self.path.unlink(missing_ok=True)
        if content is not None and content.made_run_dir:
            with suppress(OSError):  # another instance has its file there
                self.run_dir.rmdir()

    def set_aside(self) -> Path:
        """Rename a file that cannot be used, so that it can be looked at. Raises HostError."""
        aside = self.path.with_suffix(".corrupt")
        with explaining(f"rename {self.path}"):
            self.path.rename(aside)
        return aside


@dataclass(frozen=True)
class KeepJournal:
    """The change that comes first and is undone last: the journal itself.

    Undoing undoes what came during the run (`later`) as well.
    """

    journal: Journal
    changes: Sequence[RecordedChange]
    log: Callable[[str], None]

    def describe(self) -> str:
        return f"keep the old values in {self.journal.path}"

    def apply(self) -> None:
        self.journal.start(self.changes)

    def undo(self) -> str | None:
        # Another instance may hand its changes over between the two steps.
        while not self.journal.remove_if_done():
            for change in undo_order(self.journal.take_later()):
                undo_recorded(change, self.journal, self.log)
        return None


@dataclass(frozen=True)
class Shared:
    """A change that is handed to another live instance instead of being undone."""

    change: SharedChange
    journal: Journal

    def describe(self) -> str:
        return self.change.describe()

    def apply(self) -> None:
        self.change.apply()

    def undo(self) -> str | None:
        heir = self.journal.hand_over(self.change)
        if heir is not None:
            return f"the gateway on {heir} still needs it and will undo it"
        return self.change.undo()


def undo_order(later: Sequence[RecordedChange]) -> list[RecordedChange]:
    """The order for what came later: forwarding goes before the accept_ra that protects it."""
    newest_first = [*reversed(later)]
    return sorted(newest_first, key=lambda change: not isinstance(change, Forwarding))


def undo_recorded(
    change: RecordedChange, journal: Journal, log: Callable[[str], None]
) -> Literal["undone", "left alone", "failed"]:
    """Undo or hand over one change of a journal; log what matters to the reader."""
    undoable = Shared(change, journal) if isinstance(change, SharedChange) else change
    try:
        left_alone = undoable.undo()
    except HostError as error:
        log(f"cannot undo: {change.describe()}: {error}")
        return "failed"
    if left_alone is not None:
        return "left alone"
    log(f"undone: {change.describe()}")
    return "undone"


def journals(run_dir: str) -> list[tuple[Journal, JournalFile | None]]:
    """Every journal of this namespace; None in place of the content of a corrupt one.

    One of another boot or of a dead namespace with the same inode is passed over. Raises
    HostError when the directory cannot be read.
    """
    start = f"journal-{_netns_inode()}-"
    found: list[tuple[Journal, JournalFile | None]] = []
    with explaining(f"read {run_dir}", _DIRECTORY_REMEDIES):
        try:
            names = sorted(os.listdir(run_dir))
        except FileNotFoundError:
            return []
    for name in names:
        if name.startswith(start) and name.endswith(".json"):
            journal = Journal(run_dir, name.removeprefix(start).removesuffix(".json"))
            try:
                content = journal.read()
            except CorruptJournal:
                found.append((journal, None))
            else:
                if content is not None:
                    found.append((journal, content))
    return found


def _load(path: Path) -> JournalFile | None:
    with explaining(f"read {path}", _DIRECTORY_REMEDIES):
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            return None
    try:
        return JournalFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        reason = f"{where}: {first['msg']}" if where else first["msg"]
        raise CorruptJournal(f"{path} cannot be used: {reason}") from error


def _store(path: Path, content: JournalFile) -> None:
    data = json.dumps(content.model_dump(), indent=1).encode() + b"\n"
    with explaining(f"write {path}", _DIRECTORY_REMEDIES):
        # One name for all writers: under the lock, and what a killed one left is overwritten.
        temporary = path.with_name(f".{path.name}.new")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)


@contextmanager
def _locked(run_dir: Path, *, make: bool = False) -> Iterator[None]:
    """Hold the directory's lock; it may be removed by another instance until we have it."""
    with explaining(f"use {run_dir}", _DIRECTORY_REMEDIES):
        while True:
            if make:
                run_dir.mkdir(parents=True, exist_ok=True)
            fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX)
                if os.fstat(fd).st_nlink:
                    break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    try:
        yield
    finally:
        os.close(fd)


def _start_time(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None when it has ended."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _netns_inode() -> int:
    return os.stat("/proc/thread-self/ns/net").st_ino


def _netns_cookie() -> int | None:
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW) as sock:
        try:
            cookie = sock.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
        except OSError:
            return None
    return int.from_bytes(cookie, sys.byteorder)
