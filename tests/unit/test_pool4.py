"""pool4's ports: RFC 6146 §3.5.1.1, RFC 6056 §3.3.1, RFC 4787 REQ-3 and REQ-4, RFC 6888 REQ-8."""

from __future__ import annotations

import itertools
import random
from ipaddress import IPv4Address, IPv4Network

import pytest

from translate.pool4 import PoolRange, PortAllocator

TCP, UDP, ICMP = 6, 17, 1
ADDRESS = IPv4Address("203.0.113.8").packed


def allocator(*ranges, protocol=UDP, seed=1):
    return PortAllocator(tuple(ranges), protocol, random.Random(seed).randrange)


def one(first=1, last=65535, protocols=frozenset({1, 6, 17})):
    return PoolRange(IPv4Network("203.0.113.8/32"), protocols, first, last)


def take_all(pool, wanted):
    ports = []
    while (port := pool.take(ADDRESS, wanted)) is not None:
        ports.append(port)
    return ports


@pytest.mark.parametrize("wanted", [1, 2, 80, 81, 1022, 1023, 1024, 1025, 40000, 40001, 65535])
def test_rfc4787_req4_parity_is_kept(wanted):
    pool = allocator(one())
    for _ in range(50):
        port = pool.take(ADDRESS, wanted)
        assert port % 2 == wanted % 2


@pytest.mark.parametrize(
    ("wanted", "low", "high"),
    [
        (1, 1, 1023),
        (1023, 1, 1023),
        (1024, 1024, 65535),
        (65535, 1024, 65535),
    ],
)
def test_rfc6146_3_5_1_1_well_known_range_is_kept(wanted, low, high):
    pool = allocator(one())
    for _ in range(200):
        assert low <= pool.take(ADDRESS, wanted) <= high


def test_port_zero_is_never_given():
    assert 0 not in take_all(allocator(one()), 1)
    pool = allocator(one())
    assert pool.take(ADDRESS, 0) != 0


def test_every_port_once_same_parity_first_then_none():
    ports = take_all(allocator(one(2000, 2099)), 40001)
    assert len(ports) == len(set(ports)) == 100
    assert all(port % 2 for port in ports[:50])
    assert not any(port % 2 for port in ports[50:])
    assert set(ports) == set(range(2000, 2100))


def test_high_client_port_never_gets_a_well_known_one():
    ports = take_all(allocator(one(1000, 1039)), 40000)
    assert set(ports) == set(range(1024, 1040))


def test_well_known_client_port_gets_a_high_one_when_the_range_is_full():
    pool = allocator(one(1020, 1039))
    ports = take_all(pool, 22)
    assert set(ports[:4]) == {1020, 1021, 1022, 1023}
    assert set(ports[4:]) == set(range(1024, 1040))


@pytest.mark.parametrize(
    ("first", "last"), [(1024, 1024), (1025, 1025), (65535, 65535), (65534, 65535)]
)
@pytest.mark.parametrize("wanted", [50000, 50001])
def test_range_of_one_or_two_ports(first, last, wanted):
    assert set(take_all(allocator(one(first, last)), wanted)) == set(range(first, last + 1))


def test_the_whole_range_is_inclusive_at_both_ends():
    pool = allocator(one())
    assert pool.free_ports(ADDRESS) == 65535
    low, high = take_all(pool, 1), take_all(pool, 40000)
    assert high == []
    assert set(low) == set(range(1, 65536))
    assert pool.free_ports(ADDRESS) == 0


def test_a_released_port_can_be_taken_again():
    pool = allocator(one(5000, 5003))
    ports = take_all(pool, 40000)
    pool.release(ADDRESS, 5001)
    assert pool.free_ports(ADDRESS) == 1
    assert pool.take(ADDRESS, 40000) == 5001
    assert pool.take(ADDRESS, 40000) is None
    assert sorted(ports) == [5000, 5001, 5002, 5003]


def test_reserve_takes_a_port_once():
    pool = allocator(one(5000, 5003))
    assert pool.reserve(ADDRESS, 5002)
    assert not pool.reserve(ADDRESS, 5002)
    assert not pool.reserve(ADDRESS, 5004)
    assert not pool.reserve(ADDRESS, 4999)
    assert not pool.reserve(IPv4Address("203.0.113.9").packed, 5002)
    assert pool.free_ports(ADDRESS) == 3
    assert set(take_all(pool, 40000)) == {5000, 5001, 5003}


def test_two_ranges_of_one_address_add_up():
    pool = allocator(one(2000, 2003), one(3000, 3003))
    assert pool.free_ports(ADDRESS) == 8
    assert pool.address_count == 1, "and it is no more likely than others"
    assert set(take_all(pool, 40000)) == {*range(2000, 2004), *range(3000, 3004)}


def test_overlapping_ranges_do_not_give_a_port_twice():
    pool = allocator(one(2000, 2005), one(2004, 2007))
    assert pool.free_ports(ADDRESS) == 8
    assert sorted(take_all(pool, 40000)) == list(range(2000, 2008))


@pytest.mark.parametrize("protocol", [TCP, UDP, ICMP])
def test_range_of_another_protocol_is_not_used(protocol):
    others = frozenset({TCP, UDP, ICMP} - {protocol})
    pool = allocator(one(protocols=others), protocol=protocol)
    assert not pool.owns(ADDRESS)
    assert pool.address_count == 0
    assert pool.random_address() is None
    assert pool.take(ADDRESS, 40000) is None


def test_owns_the_whole_network_and_no_more():
    pool = allocator(PoolRange(IPv4Network("203.0.113.8/29")))
    inside = [a for a in range(256) if pool.owns(IPv4Address(f"203.0.113.{a}").packed)]
    assert inside == list(range(8, 16))


def test_random_address_reaches_every_address_of_every_range():
    pool = allocator(
        PoolRange(IPv4Network("203.0.113.8/30")), PoolRange(IPv4Network("198.51.100.1/32"))
    )
    assert pool.address_count == 5
    seen = {pool.random_address() for _ in range(200)}
    assert seen == {
        IPv4Address(text).packed
        for text in (
            "203.0.113.8",
            "203.0.113.9",
            "203.0.113.10",
            "203.0.113.11",
            "198.51.100.1",
        )
    }


def test_addresses_have_ports_of_their_own():
    pool = allocator(PoolRange(IPv4Network("203.0.113.8/31"), first_port=7000, last_port=7001))
    other = IPv4Address("203.0.113.9").packed
    assert len(take_all(pool, 40000)) == 2
    assert pool.free_ports(other) == 2
    assert pool.take(other, 40000) == 7000


def test_rfc6056_3_3_1_ports_are_spread_over_the_whole_range():
    ports = [allocator(one(), seed=seed).take(ADDRESS, 40000) for seed in range(400)]
    assert len(set(ports)) > 350
    assert min(ports) < 5000
    assert max(ports) > 60000


def test_rfc6056_3_3_1_the_next_port_does_not_follow_from_the_last():
    pool = allocator(one())
    ports = [pool.take(ADDRESS, 40000) for _ in range(200)]
    steps = [b - a for a, b in itertools.pairwise(ports)]
    assert len(set(steps)) > 150


def test_rfc6056_3_3_1_ports_of_a_block_do_not_follow_each_other():
    def first_port(seed):
        return allocator(one(), seed=seed).take_within(ADDRESS, 0, 5000, 5099, resting=False)

    ports = {first_port(seed) for seed in range(200)}
    assert min(ports) < 5020
    assert max(ports) > 5080
    assert len(ports) > 40


def test_an_address_without_room_for_a_block():
    assert allocator(one(5000, 5008)).take_block(ADDRESS, 10) is None
    assert allocator(one(5000, 5009)).take_block(ADDRESS, 10) == 5000


def test_randbelow_at_its_extremes_stays_in_range():
    for pick in (lambda n: 0, lambda n: n - 1):
        pool = PortAllocator((one(2000, 2009),), UDP, pick)
        assert set(take_all(pool, 40000)) == set(range(2000, 2010))


# -- rest (RFC 6888 REQ-8) -----------------------------------------------------------------


def test_rfc6888_req8_a_port_rests_while_there_are_others():
    pool = allocator(one(5000, 5019))
    for port in (first := [pool.take(ADDRESS, 40000) for _ in range(5)]):
        pool.release(ADDRESS, port)
    assert pool.free_ports(ADDRESS) == 20
    others = [pool.take(ADDRESS, 40000) for _ in range(15)]
    assert not set(first) & set(others), "the other parity comes first"
    assert sorted(take_all(pool, 40000)) == sorted(first), "nobody is refused for that"
    assert pool.free_ports(ADDRESS) == 0


@pytest.mark.parametrize("periods", [1, 2, 3, 4, 9])
@pytest.mark.parametrize("begun", [0, 1, 6])
def test_rfc6888_req8_it_rests_to_the_end_of_the_next_period(begun, periods):
    """So for 120 seconds at least, and for less than 240."""
    pool = allocator(one(5000, 5003))
    pool.period = begun
    assert sorted(take_all(pool, 40000)) == [5000, 5001, 5002, 5003]
    pool.release(ADDRESS, 5000)
    pool.period = begun + periods
    pool.release(ADDRESS, 5001)
    # Parity would say 5000; it decides only between ports of equal right.
    assert pool.take(ADDRESS, 40001) == (5000 if periods > 1 else 5001)


def test_rfc6888_req8_a_period_that_somebody_looked_in_is_a_period():
    pool = allocator(one(5000, 5003))
    assert sorted(take_all(pool, 40000)) == [5000, 5001, 5002, 5003]
    pool.release(ADDRESS, 5000)
    pool.period = 1
    pool.release(ADDRESS, 5002)
    pool.period = 2
    pool.release(ADDRESS, 5001)
    assert pool.take(ADDRESS, 40001) == 5000, "free"
    assert pool.take(ADDRESS, 40001) == 5001, "resting, the parity"
    assert pool.take(ADDRESS, 40001) == 5002
    assert pool.take(ADDRESS, 40001) is None


def test_rfc6888_req8_who_has_to_take_a_resting_port_takes_the_older():
    pool = allocator(one(5000, 5003))
    assert sorted(take_all(pool, 40000)) == [5000, 5001, 5002, 5003]
    pool.release(ADDRESS, 5002)
    pool.period = 1
    pool.release(ADDRESS, 5000)
    assert [pool.take(ADDRESS, 40000) for _ in range(3)] == [5002, 5000, None]


def test_rfc6888_req8_a_static_mapping_may_have_a_resting_port():
    pool = allocator(one(5000, 5003))
    assert sorted(take_all(pool, 40000)) == [5000, 5001, 5002, 5003]
    pool.release(ADDRESS, 5002)
    assert pool.reserve(ADDRESS, 5002)
    assert not pool.reserve(ADDRESS, 5002)


def test_rfc6888_req8_ports_of_tcp_need_no_rest():
    pool = allocator(one(5000, 5003), protocol=TCP)
    assert pool.take(ADDRESS, 40000) in (5000, 5002)
    assert pool.take(ADDRESS, 40000) in (5000, 5002)
    pool.release(ADDRESS, 5002)
    assert pool.take(ADDRESS, 40000) == 5002, "before one of the other parity"
