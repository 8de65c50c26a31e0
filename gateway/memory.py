"""When Python's cyclic garbage collector may run (docs/decisions/0009-garbage-collection.md).

Theory of operation. A full collection looks at every session, which takes hundreds of
milliseconds for a million of them and finds nothing: a session that has ended is in no cycle.
So what start-up made is frozen, young objects are collected in portions that take a
millisecond or two, and what survives that is looked at only while the tables are nearly empty.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import NoReturn

import trio

# Containers made and not yet freed between two collections of the youngest generation. Every
# second one takes the middle generation along: at most three times as many objects.
_YOUNG = 700
_NEVER = 2**31 - 1

# Sessions and BIB entries together up to which a full collection takes a few milliseconds.
FEW_ENTRIES = 5_000
FULL_EVERY = 60.0  # seconds


def settle() -> None:
    """Sets the collector for a long life with large tables; called once, when all is ready."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG, 1, _NEVER)


async def collect_while_few(entries: Callable[[], int]) -> NoReturn:
    """Makes a full collection now and then, while the translator's tables are nearly empty.

    `entries()`: how many sessions and BIB entries there are.
    """
    while True:
        await trio.sleep(FULL_EVERY)
        if entries() <= FEW_ENTRIES:
            gc.collect()
