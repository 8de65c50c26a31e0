"""Tables of records: found where they were put, whatever else comes and goes; stamps round up."""

from __future__ import annotations

import random
import struct

import pytest

from translate import flow_records
from translate.flow_records import (
    EMPTY,
    HASH_SHIFT,
    RECORD_SIZE,
    SHARD_SHIFT,
    SHARDS,
    SLOW,
    STEP,
    RecordTable,
    stamp_of,
    time_of,
)

LAYOUT = "12s44xQ"


def table():
    return RecordTable(LAYOUT, 12)


def key(number):
    return (number + 1).to_bytes(12, "big")


def put(records, number):
    shard, at = records.insert(key(number), number)
    struct.pack_into(LAYOUT, shard, at, key(number), SLOW)


def slots(records):
    """How many records there is room for."""
    return sum(mask // RECORD_SIZE + 1 for _, mask in records.shards)


def test_what_is_not_there():
    records = table()
    assert records.find(key(1)) is None
    for call in (records.delete, records.stamp):
        with pytest.raises(KeyError):
            call(key(1))
    with pytest.raises(KeyError):
        records.raise_stamp(key(1), 5)
    with pytest.raises(KeyError):
        records.replace_stamp(key(1), 5)
    assert list(records.values()) == []


def as_the_fast_path_looks(records, wanted):
    """The fields of a key's record, found in the way that the module tells; None where none is."""
    where = hash(wanted) >> HASH_SHIFT
    shard, mask = records.shards[where >> SHARD_SHIFT]
    at = where & mask
    while (fields := records.unpack(shard, at))[-1] != EMPTY:
        if fields[0] == wanted:
            return fields
        at = at + RECORD_SIZE & mask
    return None


def test_what_is_deleted_is_gone_for_the_fast_path_too():
    records = table()
    assert records.count == 0
    numbers = list(range(4000))
    for number in numbers:
        put(records, number)
    random.Random(3).shuffle(numbers)
    for done, number in enumerate(numbers[:3000], 1):
        records.delete(key(number))
        assert as_the_fast_path_looks(records, key(number)) is None
        assert records.count == 4000 - done
    for number in numbers[3000:]:
        assert as_the_fast_path_looks(records, key(number)) == (key(number), SLOW)


def test_an_unused_table_is_small():
    assert slots(table()) == SHARDS
    assert len({id(shard) for shard, _ in table().shards}) == 1


def test_many_come_and_go():
    records, numbers = table(), list(range(20_000))
    for number in numbers:
        put(records, number)
    assert records.count == 20_000
    assert sorted(records.values()) == numbers
    assert all(records.find(key(number)) == number for number in numbers)
    random.Random(1).shuffle(numbers)
    for number in numbers[:10_000]:
        records.delete(key(number))
    assert all(records.find(key(number)) is None for number in numbers[:10_000])
    assert all(records.find(key(number)) == number for number in numbers[10_000:])
    for number in numbers[10_000:]:
        records.delete(key(number))
    assert records.count == 0


def test_room_follows_the_number_of_records():
    records = table()
    for number in range(50_000):
        put(records, number)
        if number > 10_000:
            assert 1.6 < slots(records) / records.count < 4
    most = slots(records)
    for number in range(50_000):
        records.delete(key(number))
        if records.count == 5_000:
            assert slots(records) <= most / 2
        if records.count == 2_500:
            assert slots(records) <= most / 4
    assert slots(records) == SHARDS


def test_a_shard_with_few_records_keeps_its_size(monkeypatch):
    monkeypatch.setattr(flow_records, "hash", lambda _: 0, raising=False)
    records = table()
    for number in range(5):
        put(records, number)
    for number in range(4):
        records.delete(key(number))
    assert slots(records) == 16 + SHARDS - 1


def test_each_shard_grows_for_itself():
    """No insertion copies more than a shard (docs/decisions/0013-flow-records.md)."""
    records = table()
    for number in range(30_000):
        before = list(records.shards)
        put(records, number)
        changed = sum(one is not other for one, other in zip(before, records.shards, strict=True))
        assert changed <= 1


def test_a_new_record_is_for_the_slow_path():
    records = table()
    put(records, 1)
    assert records.stamp(key(1)) == SLOW
    assert EMPTY < SLOW < stamp_of(0.0)


def test_a_stamp_goes_up_or_is_replaced():
    records = table()
    put(records, 1)
    records.raise_stamp(key(1), 10)
    assert records.stamp(key(1)) == 10
    records.raise_stamp(key(1), 9)
    assert records.stamp(key(1)) == 10
    records.raise_stamp(key(1), 10)
    assert records.stamp(key(1)) == 10
    assert records.replace_stamp(key(1), SLOW) == 10
    assert records.stamp(key(1)) == SLOW


def test_stamps_stay_with_their_records(monkeypatch):
    monkeypatch.setattr(flow_records, "hash", lambda key: int(key[-1] % 3 << 60), raising=False)
    records = table()
    for number in range(60):
        put(records, number)
        records.raise_stamp(key(number), number + 10)
    for number in range(0, 60, 3):
        records.delete(key(number))
    for number in range(60):
        if number % 3:
            assert records.stamp(key(number)) == number + 10


@pytest.mark.parametrize(
    "now", [0.0, 0.1, 0.25, 0.999, 1.0, 1000.0, 123_456.789, 16_777_216.3, 1e9 + 0.0625]
)
def test_a_stamp_is_never_before_the_packet(now):
    assert now < time_of(stamp_of(now)) <= now + STEP
    assert stamp_of(now) < 2**64


@pytest.mark.parametrize("stamp", [EMPTY, SLOW])
def test_other_stamps_are_no_times(stamp):
    assert time_of(stamp) == 0.0
