"""The log's lines, on a terminal and in systemd's journal."""

from __future__ import annotations

import logging
import os

import pytest

from gateway import log


@pytest.fixture(autouse=True)
def logger_as_before(monkeypatch):
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    logger = logging.getLogger("gateway")
    before = (list(logger.handlers), logger.propagate, logger.level)
    yield
    logger.handlers[:], logger.propagate, logger.level = before


def test_line(capsys, caplog):
    log.set_up("info")
    logging.getLogger("gateway").info("created %s", "tap0")
    logging.getLogger("gateway.host").warning("hm")
    assert capsys.readouterr() == ("", "gateway: info: created tap0\ngateway: warning: hm\n")
    assert not caplog.records, "somebody else's root handler would show the line again"


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level(capsys, level, expected):
    log.set_up(level)
    for name in ("debug", "info", "warning", "error"):
        getattr(logging.getLogger("gateway"), name)("x")
    assert capsys.readouterr().err.splitlines() == [f"gateway: {name}: x" for name in expected]


def test_set_up_again_changes_the_level_and_doubles_nothing(capsys):
    log.set_up("error")
    log.set_up("info")
    logging.getLogger("gateway").info("once")
    assert capsys.readouterr().err == "gateway: info: once\n"


def test_every_line_of_a_traceback_has_the_prefix(capsys):
    log.set_up("info")
    try:
        raise ValueError("broken")
    except ValueError:
        logging.getLogger("gateway").exception("frame lost")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "gateway: error: frame lost"
    assert lines[-1] == "gateway: error: ValueError: broken"
    assert all(line.startswith("gateway: error: ") for line in lines)


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3)],
)
def test_journal_line(level, priority):
    record = logging.LogRecord("gateway", level, "", 0, "two\nlines", None, None)
    assert log.LineFormatter(journal=True).format(record) == f"<{priority}>two\n<{priority}>lines"


def test_journal_is_recognised_by_device_and_inode(tmp_path):
    with (tmp_path / "stream").open("w") as stream:
        status = os.fstat(stream.fileno())
        assert log.stream_is_journal(stream, f"{status.st_dev}:{status.st_ino}")
        assert not log.stream_is_journal(stream, f"{status.st_dev}:{status.st_ino + 1}")
        assert not log.stream_is_journal(stream, None)
    assert not log.stream_is_journal(stream, "1:2")
