"""The dynamic 1:1 pool: who gets which address, for how long, and over restarts."""

from ipaddress import IPv4Address, IPv4Network

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from translate.address_pool import TWO_WEEKS, AddressPool

NETS = [IPv4Network("198.51.100.0/30"), IPv4Network("203.0.113.8/31")]
RESERVED = IPv4Address("198.51.100.1").packed


def host(number):
    return b"\xfd" + bytes(11) + number.to_bytes(4, "big")


def assign(pool, number, now):
    """An assignment that has to succeed."""
    made = pool.assign(host(number), now)
    assert made is not None
    return made


def fill(pool, now=0.0):
    return [assign(pool, n, now) for n in range(5)]


def test_every_address_but_the_reserved_one_is_given_to_somebody():
    pool = AddressPool(NETS, reserved=[RESERVED, bytes(4)])
    given = {str(IPv4Address(item.addr4)) for item in fill(pool)}
    assert given == {"198.51.100.0", "198.51.100.2", "198.51.100.3", "203.0.113.8", "203.0.113.9"}
    assert pool.assign(host(99), TWO_WEEKS - 1) is None


def test_where_all_are_reserved_nobody_gets_one():
    only = IPv4Network("198.51.100.1/32")
    assert AddressPool([only], reserved=[RESERVED]).assign(host(1), 0.0) is None


def test_a_host_keeps_its_address_and_is_found_both_ways():
    pool = AddressPool(NETS)
    first = assign(pool, 1, 0.0)
    assert pool.assign(host(1), 5.0) == first
    assert first.last == 5.0
    assert pool.find6(host(1)) == first
    assert pool.find4(first.addr4) == first
    assert pool.find6(host(2)) is None


def test_two_weeks_after_its_last_use_an_address_goes_to_who_needs_it():
    pool = AddressPool(NETS, reserved=[RESERVED])
    given = fill(pool)
    for item in given[1:]:
        item.last = 100.0
    assert pool.assign(host(7), TWO_WEEKS - 0.001) is None
    assert assign(pool, 7, TWO_WEEKS).addr4 == given[0].addr4
    assert pool.find6(host(0)) is None
    assert pool.assign(host(8), TWO_WEEKS + 99.9) is None


def test_what_is_unused_but_free_is_not_taken_away():
    pool = AddressPool(NETS)
    first = assign(pool, 1, 0.0)
    second = assign(pool, 2, 10 * TWO_WEEKS)
    assert pool.find6(host(1)) == first
    assert second.addr4 != first.addr4


def test_without_state_a_host_gets_the_same_address_again():
    nets = [IPv4Network("10.0.0.0/16")]
    assert assign(AddressPool(nets), 5, 0).addr4 == assign(AddressPool(nets), 5, 9).addr4
    several = {assign(AddressPool(nets), n, 0).addr4 for n in range(20)}
    assert len(several) > 15


def test_assignments_of_an_earlier_run_are_entered_when_they_fit():
    pool = AddressPool(NETS, reserved=[RESERVED])
    addr4 = IPv4Address("198.51.100.2").packed
    assert pool.restore(addr4, host(1), -50.0)
    found = pool.find4(addr4)
    assert found is not None
    assert found.last == -50.0
    assert not pool.restore(addr4, host(2), 0.0)
    assert not pool.restore(IPv4Address("198.51.100.3").packed, host(1), 0.0)
    assert not pool.restore(RESERVED, host(3), 0.0)
    assert not pool.restore(IPv4Address("198.51.100.4").packed, host(3), 0.0)
    assert pool.restore(IPv4Address("203.0.113.9").packed, host(3), 0.0)
    assert len(pool) == 2


class Pool(RuleBasedStateMachine):
    """Against a list of (addr4, addr6, last)."""

    def __init__(self):
        super().__init__()
        self.pool = AddressPool(NETS, reserved=[RESERVED], keep=100.0)
        self.model = {}
        self.now = 0.0

    @rule(seconds=st.floats(0, 150))
    def wait(self, seconds):
        self.now += seconds

    @rule(number=st.integers(0, 8))
    def assign(self, number):
        got = self.pool.assign(host(number), self.now)
        if got is None:
            assert len(self.model) == 5
            assert host(number) not in self.model
            assert self.now - min(last for _, last in self.model.values()) < 100
            return
        if host(number) in self.model:
            assert got.addr4 == self.model[host(number)][0]
        elif len(self.model) < 5:
            assert got.addr4 not in [addr4 for addr4, _ in self.model.values()]
        else:
            oldest = min(last for _, last in self.model.values())
            assert self.now - oldest >= 100
            (loser,) = (a6 for a6, (a4, _) in self.model.items() if a4 == got.addr4)
            assert self.model.pop(loser)[1] == oldest
        self.model[host(number)] = (got.addr4, self.now)

    @invariant()
    def same(self):
        entered = {item.addr6: (item.addr4, item.last) for item in self.pool}
        assert entered == self.model
        for addr6, (addr4, _) in self.model.items():
            found = self.pool.find4(addr4)
            assert found is not None
            assert found is self.pool.find6(addr6)
            assert (found.addr4, found.addr6) == (addr4, addr6)
            assert self.pool.contains(addr4)
            assert addr4 != RESERVED


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
