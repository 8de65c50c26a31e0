"""A table of records beside a dict, with keys that meet: nothing is lost, nothing stays behind."""

from __future__ import annotations

import hashlib
import struct

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from translate import flow_records
from translate.flow_records import EMPTY, HASH_SHIFT, RECORD_SIZE, SHARD_SHIFT, SLOW, RecordTable

LAYOUT = "10s2x4sH38xQ"
READ = struct.Struct(LAYOUT)
KEYS = [bytes((number,)) + b"123456789" for number in range(60)]

# How many different hashes there are: from all the same to hardly ever the same, and those at
# the end of a shard, from where the way goes round.
SPREADS = {
    "one": lambda number: 0,
    "last": lambda number: -1,
    "ends": lambda number: -(number % 3) << HASH_SHIFT + 6,
    "few": lambda number: number % 4 << HASH_SHIFT + 6,
    "shards": lambda number: (number % 2 << HASH_SHIFT + SHARD_SHIFT) + (number << HASH_SHIFT + 6),
    "many": lambda number: int.from_bytes(
        hashlib.sha256(bytes((number,))).digest()[:8], "big", signed=True
    ),
}


class Machine(RuleBasedStateMachine):
    """`model`: key to number, field, stamp."""

    def __init__(self):
        super().__init__()
        self.model = {}
        self.table: RecordTable[tuple[bytes, int]] = RecordTable(LAYOUT, 10)

    @initialize(spread=st.sampled_from(sorted(SPREADS)))
    def choose(self, spread):
        self.hash = lambda key: SPREADS[spread](key[0])
        vars(flow_records)["hash"] = self.hash

    def teardown(self):
        vars(flow_records).pop("hash", None)

    @rule(key=st.sampled_from(KEYS), field=st.binary(min_size=4, max_size=4))
    def insert(self, key, field):
        if key not in self.model:
            number = len(self.model) + 1000
            shard, at = self.table.insert(key, (key, number))
            READ.pack_into(shard, at, key, field, number, SLOW)
            self.model[key] = [number, field, SLOW]

    @rule(start=st.integers(0, 40), count=st.integers(1, 20))
    def insert_many(self, start, count):
        for key in KEYS[start : start + count]:
            self.insert(key, key[:4])

    @rule(key=st.sampled_from(KEYS))
    def delete(self, key):
        if self.model.pop(key, None) is not None:
            self.table.delete(key)
        else:
            try:
                self.table.delete(key)
            except KeyError:
                return
            raise AssertionError("deleted what was not there")

    @rule(start=st.integers(0, 40), count=st.integers(1, 20))
    def delete_many(self, start, count):
        for key in KEYS[start : start + count]:
            self.delete(key)

    @rule(key=st.sampled_from(KEYS), stamp=st.integers(SLOW, 2**64 - 1), up=st.booleans())
    def stamp(self, key, stamp, up):
        if key in self.model:
            before = self.model[key][2]
            if up:
                self.table.raise_stamp(key, stamp)
                self.model[key][2] = max(before, stamp)
            else:
                assert self.table.replace_stamp(key, stamp) == before
                self.model[key][2] = stamp

    @invariant()
    def same(self):
        table = self.table
        assert table.count == len(self.model)
        assert sorted(table.values()) == sorted((key, m[0]) for key, m in self.model.items())
        for key in KEYS:
            found = self.model.get(key)
            assert table.find(key) == (None if found is None else (key, found[0]))
            assert self.as_the_fast_path_does(key) == (found and [*found])

    def as_the_fast_path_does(self, key):
        """What the fast path would read, or None."""
        where = self.hash(key) >> HASH_SHIFT
        shard, mask = self.table.shards[where >> SHARD_SHIFT]
        at = where & mask
        for _ in range(mask // RECORD_SIZE + 1):
            carried, field, number, stamp = self.table.unpack(shard, at)
            if carried == key:
                return [number, field, stamp]
            if stamp == EMPTY:
                return None
            at = at + RECORD_SIZE & mask
        raise AssertionError("no end to the search")


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
