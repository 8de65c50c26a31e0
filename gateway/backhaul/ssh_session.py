"""One ssh process whose session runs a script on the peer: from its start to its last child.

    stdin   ──► script, then a heartbeat every third of its time, at last `stop`
    stdout  ◄── READY ... or FAIL ..., at last GONE
    stderr  ◄── messages: the last ones explain the end

ssh does not end when the session's command does, because the tunnel's channel is still open; so
the end of stdout counts as the end of the link. Nothing else of what ssh can show does: carrier
comes before the peer has agreed, and stays when ssh hangs. The process leads a group of its
own, with the jump hosts' ssh and proxy commands in it, and none of it is left when run() ends.
"""

from __future__ import annotations

import errno
import logging
import math
import os
import pwd
import signal
import subprocess
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import trio

from gateway.backhaul import peer_script
from gateway.backhaul.link import LinkFailed, Patience, PoolTaken, Ready
from gateway.backhaul.peer_script import plain_text
from gateway.backhaul.ssh_command import read_settings, settings_command, version_of
from gateway.backhaul.ssh_errors import explain

_log = logging.getLogger("gateway")

MESSAGES = 400  # lines kept; a refused login at DEBUG1 takes about 100
LONGEST_LINE = 65536  # bytes; a peer that sends more without an end of line is no script of ours
LONGEST_MESSAGE = 500  # characters of a line that are kept

# Seconds. Between the end of a process and that of its messages; for ssh to tell what the user
# has set; for an unfinished set-up and for undoing, at a clean stop; between TERM and KILL.
LAST_WORDS = 0.5
SETTINGS_WITHIN = 5.0
UNTIL_READY = 2.0
UNTIL_GONE = 4.0
UNTIL_KILL = 0.5

ReadAnswer = Callable[[str], Ready | None]


@dataclass(frozen=True, slots=True)
class Account:
    """The user that ssh runs as, with its files and groups."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @classmethod
    def find(cls, name: str) -> Account | None:
        """None for "", the gateway's own user. Raises LinkFailed."""
        if not name:
            return None
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            raise LinkFailed(
                f"there is no user {name!r} here", "correct backhaul.user", patience=Patience.LONG
            ) from None
        if entry.pw_uid == os.geteuid():
            return None
        if os.geteuid() != 0:
            raise LinkFailed(
                f"only root can run ssh as {name}",
                "start the gateway as root, or leave backhaul.user empty",
                patience=Patience.LONG,
            )
        groups = tuple(os.getgrouplist(name, entry.pw_gid))
        return cls(name, entry.pw_uid, entry.pw_gid, groups, entry.pw_dir)

    def environment(self) -> dict[str, str]:
        """Ours with its own names and home. SSH_AUTH_SOCK stays: an agent may be meant for it."""
        own = {"HOME": self.home, "USER": self.name, "LOGNAME": self.name}
        return {**os.environ, **own}


async def start(argv: Sequence[str], account: Account | None) -> trio.Process:
    """Starts ssh with three pipes, as the leader of a process group. Raises LinkFailed."""
    try:
        return await trio.lowlevel.open_process(
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            process_group=0,
            cwd="/",
            user=account.uid if account else None,
            group=account.gid if account else None,
            extra_groups=account.groups if account else None,
            env=account.environment() if account else None,
        )
    except FileNotFoundError:
        raise LinkFailed(
            "there is no ssh here", "install openssh-client", patience=Patience.LONG
        ) from None
    except OSError as error:
        raise LinkFailed(
            f"cannot start ssh: {os.strerror(error.errno or errno.EIO)}", patience=Patience.LONG
        ) from None


async def ask(
    argv: Sequence[str], account: Account | None, patience: float
) -> tuple[int | None, list[str]]:
    """Exit status and stderr of a short command; None when it took longer. Raises LinkFailed."""
    process = await start(argv, account)
    words = bytearray()
    try:
        with trio.move_on_after(patience):
            assert process.stderr is not None
            async for chunk in process.stderr:
                words += chunk
            await process.wait()
        status = process.returncode
    finally:
        await end_process(process, at_once=True)
    return status, words.decode(errors="replace").splitlines()


async def user_settings(
    destination: str, options: Sequence[str], account: Account | None
) -> dict[str, str]:
    """What the user's options and files set for a destination; {} where ssh does not tell.

    Raises LinkFailed.
    """
    # `Match exec` runs commands, and CanonicalizeHostname asks the DNS.
    argv = settings_command(destination, options)
    process = await start(argv, account)
    words = bytearray()
    try:
        with trio.move_on_after(SETTINGS_WITHIN):
            assert process.stdout is not None
            async for chunk in process.stdout:
                words += chunk
    finally:
        await end_process(process, at_once=True)
    return read_settings(words.decode(errors="replace").splitlines())


async def ssh_version() -> tuple[int, int]:
    """OpenSSH's version here. Raises LinkFailed when there is no ssh."""
    _, words = await ask(["ssh", "-V"], None, 5.0)
    return version_of("\n".join(words))


async def end_process(process: trio.Process, *, at_once: bool = False) -> None:
    """Ends the process and its group, waits for it and closes its pipes, even when cancelled."""
    with trio.CancelScope(shield=True):
        for number in (signal.SIGKILL,) if at_once else (signal.SIGTERM, signal.SIGKILL):
            if process.returncode is not None:
                break
            patience = UNTIL_KILL if number is signal.SIGTERM else math.inf
            try:
                os.killpg(process.pid, number)
            except ProcessLookupError:
                pass
            except PermissionError:
                _log.error("cannot end ssh, which is another user's: the gateway needs CAP_KILL")
                patience = UNTIL_KILL
            with trio.move_on_after(patience):
                await process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                await pipe.aclose()


def _message(line: bytes) -> str:
    """A line of stderr. The peer may have written it: it is short, and safe to show."""
    return plain_text(line[:LONGEST_MESSAGE].decode(errors="replace"))


class Session:
    """The conversation over one running ssh process."""

    def __init__(self, process: trio.Process, read_answer: ReadAnswer) -> None:
        self._process = process
        self._read_answer = read_answer
        self._messages: deque[str] = deque(maxlen=MESSAGES)
        self._messages_end = trio.Event()
        self._answers_end = trio.Event()
        self._ready = trio.Event()
        self._failure: LinkFailed | None = None
        self._rest = b""
        self.abandoned = False

    async def run(
        self, script: bytes, heartbeat: float, task_status: trio.TaskStatus[Ready], *, undoes: bool
    ) -> None:
        """Talks until the end and always raises: LinkFailed, or Cancelled when told to stop.

        `undoes`: whether the far end answers the word `stop` with GONE.
        """
        try:
            async with trio.open_nursery() as nursery:
                scope = nursery.cancel_scope
                nursery.start_soon(self._collect_messages)
                nursery.start_soon(self._speak, script, heartbeat)
                nursery.start_soon(self._listen, task_status, scope)
                nursery.start_soon(self._await_exit, scope)
            assert self._failure is not None
            raise self._failure
        finally:
            with trio.CancelScope(shield=True):
                stopped = self._failure is None and not self.abandoned
                if stopped and undoes:
                    await self._stop()
                await end_process(self._process, at_once=self.abandoned)

    def _end(self, failure: LinkFailed, scope: trio.CancelScope) -> None:
        if self._failure is None:
            self._failure = failure
        scope.cancel()

    async def _collect_messages(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in self._process.stderr:
                *lines, rest = (rest + chunk).split(b"\n")
                rest = rest[-LONGEST_LINE:]
                self._messages.extend(map(_message, lines))
        if rest:
            self._messages.append(_message(rest))
        self._messages_end.set()

    async def _speak(self, script: bytes, heartbeat: float) -> None:
        assert self._process.stdin is not None
        # A broken pipe is not news: the end of the process or of its stdout is about to be.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._process.stdin.send_all(script)
            # The shell may read ahead as far as it likes: not before the script is at work is
            # there anything behind it.
            await self._ready.wait()
            while True:
                await self._process.stdin.send_all(peer_script.HEARTBEAT)
                await trio.sleep(heartbeat / 3)

    async def _listen(self, task_status: trio.TaskStatus[Ready], scope: trio.CancelScope) -> None:
        while (line := await self._line()) is not None:
            if self._ready.is_set():
                continue
            try:
                ready = self._read_answer(line)
            except LinkFailed as failure:
                if isinstance(failure, PoolTaken):
                    with trio.move_on_after(LAST_WORDS):
                        peer_script.name_free_pool(failure, await self._line() or "")
                self._end(failure, scope)
                return
            if ready is not None:
                # What was said on the way here explains no later end.
                self._messages.clear()
                self._ready.set()
                task_status.started(ready)
        self._answers_end.set()
        with trio.move_on_after(LAST_WORDS):
            await self._process.wait()
        if self._process.returncode is None:
            self._end(
                LinkFailed(
                    "the script on the peer has ended, was killed or taken over"
                    if self._ready.is_set()
                    else "the peer runs no script for us",
                    "" if self._ready.is_set() else "its login needs a shell, /bin/sh at least",
                ),
                scope,
            )

    async def _await_exit(self, scope: trio.CancelScope) -> None:
        status = await self._process.wait()
        with trio.move_on_after(LAST_WORDS):
            await self._messages_end.wait()
            # A refusal of the script's, which says more, may still be in the pipe.
            await self._answers_end.wait()
        self._end(explain(self._messages, status), scope)

    async def _line(self) -> str | None:
        """The next line of stdout, None at its end."""
        assert self._process.stdout is not None
        while b"\n" not in self._rest:
            try:
                chunk = await self._process.stdout.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return None
            if not chunk or len(self._rest) > LONGEST_LINE:
                return None
            self._rest += chunk
        line, self._rest = self._rest.split(b"\n", 1)
        return line.decode(errors="replace").strip()

    async def _stop(self) -> None:
        """Lets the far end undo at once; one that is just being set up is waited for."""
        with trio.move_on_after(UNTIL_READY):
            while not self._ready.is_set():
                line = await self._line()
                if line is None or line.startswith("FAIL"):
                    return
                if line.startswith("READY"):
                    self._ready.set()
        if not self._ready.is_set():
            return
        with (
            trio.move_on_after(UNTIL_GONE),
            suppress(trio.BrokenResourceError, trio.ClosedResourceError),
        ):
            assert self._process.stdin is not None
            await self._process.stdin.send_all(peer_script.STOP)
            while (line := await self._line()) is not None and line != peer_script.GONE:
                pass


class SessionLink:
    """What both kinds of ssh link share: one session at a time, which can be abandoned."""

    _session: Session | None = None
    # Said before there was a session, too: ssh may be about to start.
    _abandoned = False

    def abandon(self) -> None:
        """See Link."""
        self._abandoned = True
        if self._session is not None:
            self._session.abandoned = True

    async def _converse(
        self,
        session: Session,
        script: bytes,
        heartbeat: float,
        task_status: trio.TaskStatus[Ready],
        *,
        undoes: bool,
    ) -> None:
        """See Session.run."""
        session.abandoned = self._abandoned
        self._session = session
        try:
            await session.run(script, heartbeat, task_status, undoes=undoes)
        finally:
            self._session = None
