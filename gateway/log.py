"""Where the log goes: stderr, one line per event, for people, scripts and the journal.

On a terminal or in a file a line is `gateway: LEVEL: message`. When stderr is systemd's
journal, which adds the name itself, it is `<N>message` with the priority N of syslog
(sd-daemon(3)), so that `journalctl -p warning` works.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TextIO

LOGGER = "gateway"

# syslog(3): err 3, warning 4, info 6, debug 7.
_PRIORITIES = {
    logging.DEBUG: 7,
    logging.INFO: 6,
    logging.WARNING: 4,
    logging.ERROR: 3,
    logging.CRITICAL: 2,
}


class LineFormatter(logging.Formatter):
    """Every line of an event, also of a traceback, gets the prefix."""

    def __init__(self, *, journal: bool) -> None:
        super().__init__("%(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        if self._journal:
            prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
        else:
            prefix = f"{LOGGER}: {record.levelname.lower()}: "
        lines = super().format(record).splitlines() or [""]
        return "\n".join(prefix + line for line in lines)


def stream_is_journal(stream: TextIO, journal_stream: str | None) -> bool:
    """Whether the stream is what $JOURNAL_STREAM names, `DEVICE:INODE` (systemd.exec(5)).

    The variable alone proves nothing: it is inherited by a shell's redirected children.
    """
    if not journal_stream:
        return False
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return journal_stream == f"{status.st_dev}:{status.st_ino}"


def set_up(level: str) -> None:
    """Sends the program's log to stderr from this level on. Can be called again."""
    logger = logging.getLogger(LOGGER)
    for handler in list(logger.handlers):
        if isinstance(handler.formatter, LineFormatter):
            logger.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    journal = stream_is_journal(sys.stderr, os.environ.get("JOURNAL_STREAM"))
    handler.setFormatter(LineFormatter(journal=journal))
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(level.upper())


def always(line: str) -> None:
    """Logs a line that was asked for, whatever the level is."""
    logger = logging.getLogger(LOGGER)
    logger.handle(logger.makeRecord(LOGGER, logging.INFO, __file__, 0, line, (), None))
