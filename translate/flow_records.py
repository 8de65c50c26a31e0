"""Flat hash tables of records: what the fast path reads of a flow, in one place in memory.

Theory of operation. With a million flows hardly anything of the next packet's flow is in the
processor's cache, and what a look-up costs is the number of places it reads. A dict entry, its
key, an object, its attributes: a dozen. Here the key lies in the record, and a record is 64
bytes, the size of a cache line, at the place that the key's hash says
(docs/decisions/0013-flow-records.md).

A table is split into 256 shards by the top byte of the key's hash, and each grows for itself,
so that what is copied at once is a 256th. A shard is a buffer of a power of two of records, and
`mask` turns a hash into the offset of a record. A record whose place is taken lies in the next
one that is free, round the end (linear probing); at most three in five are taken, so the way is
short. When a record goes, those behind it that are away from their places move up: the way from
a record's place to where it lies never has a gap, and nothing marks what is gone.

Python's hash of bytes is SipHash with a random key of the process (as long as PYTHONHASHSEED is
not set), so nobody outside can choose keys that meet.

    h = hash(key) >> HASH_SHIFT             may be negative
    shard, mask = table.shards[h >> SHARD_SHIFT]
    at = h & mask
    fields = table.unpack(shard, at)        the first is the key: another one? at + 64 & mask
                                            the last is the stamp: EMPTY? not there

The stamp says whether the fast path may carry the flow, and when it last did, in steps of
`STEP`. It is rounded up, so a flow never seems older than it is.

Packets often come in a row of one flow. So a table has a memory, `last`: the fields of a record
whose stamp is that of the present step, for which nothing would have to be written. They are
a copy, without a place, so a record may move. The memory is emptied when any record is deleted
or its stamp replaced, and by the fast path when a step is over. All fast paths of a table share
it and one clock, which does not run backwards.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from math import ceil
from typing import Any, Generic, TypeVar

_V = TypeVar("_V")

RECORD_SIZE = 64
# Of a hash, 64 bits with a sign, the upper 30 are used: Python calculates faster with those. The
# first eight of them, -128..127, say which shard.
HASH_SHIFT = 34
SHARD_SHIFT = 22
SHARDS = 256

# Stamps. Those of time are greater than these.
EMPTY = 0  # no record
SLOW = 1  # not for the fast path
_BEFORE_TIME = 2

STEP = 0.25  # seconds

# In place of a record's fields. No key is empty.
NOT_FOUND = (b"",)

STAMP = struct.Struct("Q")
STAMP_AT = 56
_read_stamp = struct.Struct(f"{STAMP_AT}xQ").unpack_from

_clear = struct.Struct(f"{RECORD_SIZE}x").pack_into

_LEAST_SLOTS = 16
# A shard doubles when more than this part is taken, and halves when less is: between 1/20 and
# 3/20, each shard at another one, for many records may be deleted in one go.
_MOST_TAKEN = 0.6
_LEAST_TAKEN = [(SHARDS // 2 + shard) / (10 * SHARDS) for shard in range(SHARDS)]

Shard = tuple[bytearray, int]


def stamp_of(now: float) -> int:
    """The stamp of a packet at this time (seconds, at least 0)."""
    return int(now / STEP) + 1 + _BEFORE_TIME


def time_of(stamp: int) -> float:
    """The time that a stamp stands for: not before, and at most `STEP` after that of the packet.

    0.0 for the stamps that are no times.
    """
    return max(stamp - _BEFORE_TIME, 0) * STEP


class RecordTable(Generic[_V]):
    """Records by key in one direction, and for each a value that only the slow path reads.

    `layout`: of a record; the first field is the key, the last one, at byte 56, the stamp. Keys
    are of one size and not all zero. The list `shards` is the same for ever, its items are not.
    """

    __slots__ = (
        "_halves",
        "_most_room",
        "_read_key",
        "_room",
        "_values",
        "count",
        "last",
        "shards",
        "unpack",
    )

    def __init__(self, layout: str, key_size: int) -> None:
        record = struct.Struct(layout)
        assert record.size == RECORD_SIZE
        self.unpack = record.unpack_from
        self._read_key = struct.Struct(f"{key_size}s").unpack_from
        self._halves = struct.Struct(f"{key_size}s{RECORD_SIZE - key_size}s")
        self.shards: list[Shard] = [_NO_SHARD] * SHARDS
        self._values: list[list[_V | None]] = [[None] for _ in range(SHARDS)]
        # For each shard: how many records more until it grows, and with how much room it shrinks.
        self._room = [0] * SHARDS
        self._most_room = [0] * SHARDS
        self.count = 0
        self.last: list[tuple[Any, ...]] = [NOT_FOUND]

    def find(self, key: bytes) -> _V | None:
        """The value of a key."""
        where = hash(key) >> HASH_SHIFT
        shard = where >> SHARD_SHIFT
        table, mask = self.shards[shard]
        values = self._values[shard]
        at = where & mask
        while (value := values[at >> 6]) is not None:
            if table.startswith(key, at):
                return value
            at = at + RECORD_SIZE & mask
        return None

    def insert(self, key: bytes, value: _V) -> tuple[bytearray, int]:
        """Adds a key that is not in the table.

        Returns where its record has to be packed before anything else is done with the table:
        a shard's buffer and an offset. The stamp is not `EMPTY`.
        """
        where = hash(key) >> HASH_SHIFT
        shard = where >> SHARD_SHIFT
        room = self._room[shard]
        if not room:
            self._resize(shard, max(_LEAST_SLOTS, 2 * len(self._values[shard])))
            room = self._room[shard]
        self._room[shard] = room - 1
        table, mask = self.shards[shard]
        values = self._values[shard]
        at = where & mask
        while values[at >> 6] is not None:
            at = at + RECORD_SIZE & mask
        values[at >> 6] = value
        self.count += 1
        return table, at

    def delete(self, key: bytes) -> None:
        """Takes a key out. Raises KeyError."""
        self.last[0] = NOT_FOUND
        where = hash(key) >> HASH_SHIFT
        shard = where >> SHARD_SHIFT
        table, mask = self.shards[shard]
        values = self._values[shard]
        hole = where & mask
        while not table.startswith(key, hole):
            if values[hole >> 6] is None:
                raise KeyError(key)
            hole = hole + RECORD_SIZE & mask
        at = hole + RECORD_SIZE & mask
        while values[at >> 6] is not None:
            home = hash(self._read_key(table, at)[0]) >> HASH_SHIFT & mask
            # Not when its place is behind the hole: it would lie in front of it.
            if (at - home & mask) >= (at - hole & mask):
                table[hole : hole + RECORD_SIZE] = table[at : at + RECORD_SIZE]
                values[hole >> 6] = values[at >> 6]
                hole = at
            at = at + RECORD_SIZE & mask
        _clear(table, hole)
        values[hole >> 6] = None
        room = self._room[shard] = self._room[shard] + 1
        self.count -= 1
        if room > self._most_room[shard]:
            self._shrink(shard)

    def stamp(self, key: bytes) -> int:
        """A record's stamp. Raises KeyError."""
        stamp: int = _read_stamp(*self._place(key))[0]
        return stamp

    def replace_stamp(self, key: bytes, stamp: int) -> int:
        """Sets a record's stamp, not to `EMPTY`; the one before. Raises KeyError."""
        self.last[0] = NOT_FOUND
        table, at = self._place(key)
        before: int = _read_stamp(table, at)[0]
        if before != stamp:
            STAMP.pack_into(table, at + STAMP_AT, stamp)
        return before

    def raise_stamp(self, key: bytes, stamp: int) -> None:
        """Sets a record's stamp where it is less. Raises KeyError."""
        table, at = self._place(key)
        if _read_stamp(table, at)[0] < stamp:
            STAMP.pack_into(table, at + STAMP_AT, stamp)

    def values(self) -> Iterator[_V]:
        """All values, in no particular order. The table may change meanwhile."""
        for values in self._values:
            yield from [value for value in values if value is not None]

    def _place(self, key: bytes) -> tuple[bytearray, int]:
        """The shard of the key's record and its offset. Raises KeyError."""
        where = hash(key) >> HASH_SHIFT
        table, mask = self.shards[where >> SHARD_SHIFT]
        at = where & mask
        while not table.startswith(key, at):
            if not _read_stamp(table, at)[0]:
                raise KeyError(key)
            at = at + RECORD_SIZE & mask
        return table, at

    def _shrink(self, shard: int) -> None:
        values = self._values[shard]
        if self._room[shard] == int(_MOST_TAKEN * len(values)):
            self.shards[shard], values[:] = _NO_SHARD, [None]
            self._room[shard] = 0
        else:
            self._resize(shard, len(values) // 2)

    def _resize(self, shard: int, slots: int) -> None:
        """Gives a shard another number of slots: a power of two, enough for what is there."""
        old, _ = self.shards[shard]
        values = self._values[shard]
        new, mask = bytearray(slots * RECORD_SIZE), (slots - 1) * RECORD_SIZE
        new_values: list[_V | None] = [None] * slots
        put, count = self._halves.pack_into, 0
        for value, (key, rest) in zip(values, self._halves.iter_unpack(old), strict=True):
            if value is not None:
                at = hash(key) >> HASH_SHIFT & mask
                while new_values[at >> 6] is not None:
                    at = at + RECORD_SIZE & mask
                put(new, at, key, rest)
                new_values[at >> 6] = value
                count += 1
        most = int(_MOST_TAKEN * slots)
        self._room[shard] = most - count
        least = 1 if slots == _LEAST_SLOTS else ceil(slots * _LEAST_TAKEN[shard])
        self._most_room[shard] = most - least
        self.shards[shard] = new, mask
        # The list stays the same, an old object: the garbage collector, which looks at young
        # ones, would look at everything in a new one.
        values[:] = new_values


# What shards are that never had a record: one place, always empty.
_NO_SHARD: Shard = (bytearray(RECORD_SIZE), 0)
