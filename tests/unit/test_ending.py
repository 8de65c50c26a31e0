"""Undoing at the end of a run is not cut short."""

from __future__ import annotations

import os
import signal
import threading

import trio
import trio.testing

from gateway.ending import undo_all


def test_a_cancelled_run_undoes_all_the_same() -> None:
    undone = threading.Event()

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGUSR2) as signals, trio.CancelScope() as scope:
            scope.cancel()
            await undo_all(undone.set, signals)

    trio.run(run)
    assert undone.is_set()


def test_signals_that_come_meanwhile_are_not_given_back() -> None:
    given_back: list[int] = []
    before = signal.signal(signal.SIGUSR2, lambda number, _: given_back.append(number))

    def undo() -> None:
        os.kill(os.getpid(), signal.SIGUSR2)
        # Until the run's own thread, and what waits in it, has had a turn.
        trio.from_thread.run(trio.testing.wait_all_tasks_blocked)

    async def run() -> None:
        with trio.open_signal_receiver(signal.SIGUSR2) as signals:
            await undo_all(undo, signals)

    try:
        trio.run(run)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert given_back == []
