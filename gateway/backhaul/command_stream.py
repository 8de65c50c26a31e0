"""`exec:COMMAND`: a command whose standard input and output are the stream.

Theory of operation. /bin/sh -c COMMAND leads a session, and so a process group, of its own:
everything it starts is ended with it, and nothing in it can ask the user's terminal. The end of
the stream is that of its standard output. The group is signalled only before its leader was
reaped: until then no other process can have got its number. If this program itself is killed,
the command sees the end of its standard input.

Its standard error is logged, a line each; a command that writes without end is cut short, and
lines are cut at a length, so that it cannot fill the disk. The last line tells why it ended.
"""

from __future__ import annotations

import fcntl
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress

import trio

from gateway.backhaul.link import LinkFailed, Patience

_log = logging.getLogger("gateway")

_PIPE_SIZE = 1 << 20  # bytes; the most that an unprivileged user gets by default
_LINE_LENGTH = 300  # characters of a line of standard error that are logged
_LINES_IN_A_ROW = 20  # so many at once, then
_LINES_PER_SECOND = 1.0
_PIECE = 64 * 1024  # bytes of standard error in one go
_UNTIL_KILLED = 2.0  # seconds between SIGTERM and SIGKILL
_UNTIL_EXITED = 1.0  # seconds that a command gets to exit once its output has ended


class CommandStream:
    """A running command. `read_fd` and `write_fd` are non-blocking."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self.peer = f"process {process.pid}"
        self.write_fd = process.stdin.fileno()
        self.read_fd = process.stdout.fileno()
        self._process = process
        self._pipes = (process.stdin, process.stdout, process.stderr)
        self._stderr = StderrLog()
        self._status: int | None = None
        for pipe in self._pipes:
            os.set_blocking(pipe.fileno(), False)
        for fd in (self.read_fd, self.write_fd):
            with suppress(OSError):  # EPERM: this user has used up the memory for pipes
                fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    def ending(self) -> LinkFailed | None:
        """Once closed: why the command ended by itself, None when it was we who ended it."""
        status = self._status
        if status is None:
            return None
        last = f": {self._stderr.last}" if self._stderr.last else ""
        if status < 0:
            return LinkFailed(f"the command was ended by {_signal_name(-status)}{last}")
        if status in (126, 127):  # sh: found but not executable, not found
            return LinkFailed(
                f"the command cannot be run (status {status}){last}",
                "correct the command behind exec:",
                patience=Patience.LONG,
            )
        return LinkFailed(f"the command ended with status {status}{last}")

    async def read_stderr(self) -> None:
        """Logs the command's standard error until it ends."""
        fd = self._pipes[2].fileno()
        while True:
            try:
                await trio.lowlevel.wait_readable(fd)
            except trio.ClosedResourceError:
                return
            # Closed in the very step that made it readable, nobody has told us.
            if self._pipes[2].closed or not self._take_stderr():
                return

    async def close(self) -> None:
        """Ends the whole process group, first kindly, and reaps the command.

        A command that has closed its output gets the time to exit, so that `ending` knows more.
        """
        pid = self._process.pid
        exited = os.pidfd_open(pid)
        try:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(_UNTIL_EXITED if self._output_ended() else 0):
                    await trio.lowlevel.wait_readable(exited)
                by_itself = _is_readable(exited)
                self._take_stderr()
                trio.lowlevel.notify_closing(self._pipes[2].fileno())
                for pipe in self._pipes:
                    pipe.close()
                _signal_group(pid, signal.SIGTERM)
                with trio.move_on_after(_UNTIL_KILLED):
                    await trio.lowlevel.wait_readable(exited)
                _signal_group(pid, signal.SIGKILL)
                await trio.lowlevel.wait_readable(exited)
        finally:
            os.close(exited)
        status = self._process.wait()
        self._status = status if by_itself else None
        self._stderr.finish()

    def _output_ended(self) -> bool:
        """Whether its output has ended, so that it may be about to exit."""
        try:
            return not os.read(self.read_fd, 1)
        except BlockingIOError:
            return False

    def _take_stderr(self) -> bool:
        """Logs a piece of what is there, for one that never stops has no end; False at the end."""
        try:
            data = os.read(self._pipes[2].fileno(), _PIECE)
        except BlockingIOError:
            return True
        self._stderr.feed(data)
        return bool(data)


async def open_command(command: str, nursery: trio.Nursery) -> CommandStream:
    """Starts the command; `nursery` reads its standard error. Raises LinkFailed."""
    try:
        process = await trio.to_thread.run_sync(lambda: _start(command))
    except OSError as error:
        raise LinkFailed(
            f"cannot start /bin/sh: {os.strerror(error.errno or 0)}", patience=Patience.LONG
        ) from error
    stream = CommandStream(process)
    nursery.start_soon(stream.read_stderr)
    return stream


def _start(command: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["/bin/sh", "-c", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        bufsize=0,
        start_new_session=True,
    )


def _is_readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class StderrLog:
    """Cuts bytes into lines and logs them, so many for each second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.last = ""
        self._rest = b""
        self._clock = clock
        self._credit = float(_LINES_IN_A_ROW)
        self._then = clock()
        self._left_out = 0

    def feed(self, data: bytes) -> None:
        """Takes what was read."""
        *lines, rest = (self._rest + data).split(b"\n")
        # Of a line without end only the beginning is kept.
        self._rest = rest[: 4 * _LINE_LENGTH]
        for line in lines:
            self._line(line)

    def finish(self) -> None:
        """Takes the end: the last line need not have one."""
        self._line(self._rest)
        self._rest = b""
        if self._left_out:
            _log.warning("exec: %d more lines were not logged", self._left_out)
            self._left_out = 0

    def _line(self, line: bytes) -> None:
        text = line.decode(errors="replace").strip()[:_LINE_LENGTH]
        text = "".join(c if c.isprintable() else "?" for c in text)
        if not text:
            return
        self.last = text
        now = self._clock()
        self._credit += (now - self._then) * _LINES_PER_SECOND
        self._credit = min(self._credit, _LINES_IN_A_ROW)
        self._then = now
        if self._credit < 1:
            self._left_out += 1
            return
        self._credit -= 1
        _log.info("exec: %s", text)
