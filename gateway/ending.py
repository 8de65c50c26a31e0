"""The last thing of a run: undoing, which neither a cancellation nor another signal cuts short."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio


async def undo_all(undo: Callable[[], object], signals: AsyncIterator[int]) -> None:
    """Calls `undo` in a thread and waits for it.

    `signals`: of the receiver around the run. Those that come meanwhile are read and forgotten:
    what nobody has read trio would send to this process again, and that would end it as killed
    although all was undone.
    """

    async def forget() -> None:
        async for _ in signals:
            pass

    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(forget)
            await trio.to_thread.run_sync(undo)
            nursery.cancel_scope.cancel()
