"""gateway/backhaul/command_stream.py: what of a command's standard error gets into the log."""

from __future__ import annotations

import logging

import pytest
import trio

from gateway.backhaul import command_stream
from gateway.backhaul.command_stream import StderrLog


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, "gateway")
    logging.getLogger("gateway").propagate = True
    return lambda: [record.getMessage() for record in caplog.records]


def test_lines_however_they_arrive(clock, lines):
    log = StderrLog(clock)
    for byte in b"one\ntwo\n\nthree":
        log.feed(bytes([byte]))
    assert lines() == ["exec: one", "exec: two"]
    log.finish()
    assert lines()[2:] == ["exec: three"]
    assert log.last == "three"


def test_what_would_disturb_a_terminal_is_replaced(clock, lines):
    StderrLog(clock).feed(b"a\x1b[2Jb\xff\r\n")
    assert lines() == ["exec: a?[2Jb\N{REPLACEMENT CHARACTER}"]


def test_a_line_without_end_is_cut_and_keeps_no_memory(clock, lines):
    log = StderrLog(clock)
    for _ in range(1000):
        log.feed(b"x" * 1000)
    assert len(log._rest) <= 4 * 300
    log.finish()
    assert lines() == [f"exec: {'x' * 300}"]


def test_twenty_in_a_row_then_one_a_second(clock, lines):
    log = StderrLog(clock)
    log.feed(b"x\n" * 30)
    assert len(lines()) == 20
    clock.now += 2
    log.feed(b"y\n" * 5)
    assert lines()[20:] == ["exec: y"] * 2
    clock.now += 1000
    log.feed(b"z\n" * 30)
    assert len(lines()) == 42
    log.finish()
    assert lines()[42:] == ["exec: 23 more lines were not logged"]


def test_the_last_line_is_known_even_if_it_was_not_logged(clock, lines):
    log = StderrLog(clock)
    log.feed(b"x\n" * 30 + b"the reason\n")
    assert "exec: the reason" not in lines()
    assert log.last == "the reason"


@pytest.mark.trio
async def test_closed_in_the_step_that_made_it_readable(monkeypatch):
    """Who waits has been woken already: nothing but the pipe itself tells."""
    process = await trio.to_thread.run_sync(command_stream._start, "echo last words >&2; sleep 9")
    stream = command_stream.CommandStream(process)
    plain = trio.lowlevel.wait_readable
    assert process.stderr is not None
    fd = process.stderr.fileno()

    async def woken(what):
        await plain(what)
        if what == fd:
            await stream.close()

    monkeypatch.setattr(trio.lowlevel, "wait_readable", woken)
    with trio.fail_after(20):
        await stream.read_stderr()
    assert process.returncode is not None
