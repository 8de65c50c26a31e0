"""Identifications: in a row for one triple, unguessable, in a table that does not grow."""

from __future__ import annotations

import random

from translate.identifications import COUNTERS, Identifications

ADDRESSES = bytes((192, 0, 2, 1, 203, 0, 113, 8))
TCP, UDP = 6, 17


def test_rfc6864_4_numbers_of_one_triple_are_in_a_row():
    numbers = Identifications(random.Random(1).randrange)
    index = numbers.index(ADDRESSES, UDP)
    first = numbers.take(index)
    assert numbers.index(bytes(ADDRESSES), UDP) == index
    assert numbers.take(index, 5) == (first + 1) % 65536
    assert numbers.take(index) == (first + 6) % 65536


def test_they_wrap_at_16_bits():
    numbers = Identifications(random.Random(1).randrange)
    numbers.counters[7] = 65535
    assert [numbers.take(7), numbers.take(7)] == [65535, 0]
    numbers.counters[7] = 65530
    assert [numbers.take(7, 10), numbers.take(7)] == [65530, 4]


def test_rfc7739_3_counters_begin_at_random():
    one, other = (Identifications(random.Random(seed).randrange).counters for seed in (1, 2))
    assert len(one) == COUNTERS
    assert len(set(one)) > COUNTERS / 2
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 10


def test_largest_random_number_fits():
    assert set(Identifications(lambda n: n - 1).counters) == {65535}


def test_triples_spread_over_the_counters():
    numbers = Identifications(random.Random(1).randrange)
    triples = [(n.to_bytes(8, "big"), protocol) for n in range(2000) for protocol in (TCP, UDP)]
    indexes = [numbers.index(*triple) for triple in triples]
    assert len(set(indexes)) > 3300
    assert all(0 <= index < COUNTERS for index in indexes)
