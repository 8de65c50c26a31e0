"""`pty:` and `std:`: a new pseudo-terminal, and our own standard input and output.

Theory of operation. A pseudo-terminal has no connect: the far end is there once some process
has the other side open. poll() says hang-up while nobody has, so it is asked now and then, and
reading fails with EIO after the last one has closed it. The terminal is raw from the start, as
everything that a terminal would change in the bytes (echo, newlines, control characters) would
damage the frames; the settings last as long as our side is open.

Standard input and output belong to whoever started us. They are made non-blocking, which all
processes that share them see, and set back in the end. epoll takes no files, and a file can be
no link; a terminal is taken only if it is raw already.
"""

from __future__ import annotations

import logging
import os
import select
import stat
import sys
import termios
import tty
from contextlib import suppress
from pathlib import Path

import trio

from gateway.backhaul.destination import PtyEndpoint
from gateway.backhaul.link import LinkFailed, Patience

_log = logging.getLogger("gateway")

_ASK_EVERY = 0.1  # seconds
_IFLAG, _OFLAG, _LFLAG = 0, 1, 3  # places in what tcgetattr returns


class TerminalStream:
    """Our side of a pseudo-terminal, in use by a far end."""

    def __init__(self, fd: int, name: str, link: Path | None) -> None:
        self.read_fd = self.write_fd = fd
        self.peer = name
        self._link = link

    def ending(self) -> LinkFailed | None:
        """None: what the pump has seen is all that is known."""
        return None

    async def close(self) -> None:
        """Closes it and removes the symbolic link, if it is still ours."""
        _remove_link(self._link, self.peer)
        os.close(self.read_fd)


class StandardStream:
    """Standard input and output."""

    peer = "standard input and output"
    read_fd = 0
    write_fd = 1

    def __init__(self) -> None:
        self._blocking = [os.get_blocking(fd) for fd in (0, 1)]
        for fd in (0, 1):
            os.set_blocking(fd, False)

    def ending(self) -> LinkFailed | None:
        """None: what the pump has seen is all that is known."""
        return None

    async def close(self) -> None:
        """Sets them back. They are not closed: that is for the end of the process."""
        for fd, blocking in zip((0, 1), self._blocking, strict=True):
            with suppress(OSError):
                os.set_blocking(fd, blocking)


async def open_pty(endpoint: PtyEndpoint) -> TerminalStream:
    """Makes a pseudo-terminal and waits until somebody opens it. Raises LinkFailed."""
    try:
        ours, theirs = os.openpty()
    except OSError as error:
        raise LinkFailed(f"cannot make a terminal: {os.strerror(error.errno or 0)}") from error
    link = Path(endpoint.link) if endpoint.link else None
    name = os.ttyname(theirs)
    try:
        tty.setraw(theirs)
        os.close(theirs)
        os.set_blocking(ours, False)
        _make_link(link, name)
        _log.info("%s: waiting for a far end at %s", endpoint.text, link or name)
        while _is_hung_up(ours):
            await trio.sleep(_ASK_EVERY)
    except BaseException:
        _remove_link(link, name)
        os.close(ours)
        raise
    return TerminalStream(ours, name, link)


def open_std() -> StandardStream:
    """Standard input and output as a stream. Raises LinkFailed when they cannot be one."""
    for fd, which, stream in (
        (0, "standard input", sys.__stdin__),
        (1, "standard output", sys.__stdout__),
    ):
        # None: closed when Python started; its number may be something else of ours by now.
        if stream is None:
            raise LinkFailed(
                f"{which} is closed", "give it a pipe or a socket", patience=Patience.LONG
            )
        mode = os.fstat(fd).st_mode
        if os.isatty(fd):
            _check_raw(fd, which)
        elif not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or _is_pollable(fd)):
            raise LinkFailed(
                f"{which} is a file", "give it a pipe or a socket", patience=Patience.LONG
            )
    return StandardStream()


def _check_raw(fd: int, which: str) -> None:
    settings = termios.tcgetattr(fd)
    local = settings[_LFLAG]
    cooked = termios.ICANON | termios.ECHO | termios.ISIG | termios.IEXTEN
    if local & cooked or settings[_IFLAG] & termios.IXON or settings[_OFLAG] & termios.OPOST:
        raise LinkFailed(
            f"{which} is a terminal that would change the frames",
            "`stty raw -echo` comes first, or give it a pipe or a socket",
            patience=Patience.LONG,
        )


def _is_pollable(fd: int) -> bool:
    with select.epoll() as epoll:
        try:
            epoll.register(fd, select.EPOLLIN)
        except PermissionError:
            return False
    return True


def _is_hung_up(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, 0)
    return any(events & select.POLLHUP for _, events in poll.poll(0))


def _make_link(link: Path | None, name: str) -> None:
    if link is None:
        return
    try:
        # One that points to a terminal was left by a process that was killed.
        if link.is_symlink() and os.readlink(link).startswith("/dev/pts/"):
            link.unlink()
        link.symlink_to(name)
    except FileExistsError:
        raise LinkFailed(
            f"{link} exists and is no link to a terminal",
            "give another path",
            patience=Patience.LONG,
        ) from None
    except OSError as error:
        raise LinkFailed(
            f"cannot make {link}: {os.strerror(error.errno or 0)}", patience=Patience.LONG
        ) from error


def _remove_link(link: Path | None, name: str) -> None:
    if link is None:
        return
    with suppress(OSError):
        if os.readlink(link) == name:
            link.unlink()
