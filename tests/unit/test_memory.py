"""The garbage collector's settings, and what they rest on: the translator makes no cycles."""

from __future__ import annotations

import gc

import pytest
import trio
import trio.testing

from gateway import memory
from tests.oracle import Bench, echo6, tcp4, tcp6, udp4, udp6
from translate.packets import Packet
from translate.settings import Limits, Timeouts


@pytest.fixture
def collector():
    """Puts back what a test changes in this process."""
    thresholds, enabled, flags = gc.get_threshold(), gc.isenabled(), gc.get_debug()
    yield
    gc.set_debug(flags)
    gc.garbage.clear()
    gc.set_threshold(*thresholds)
    gc.unfreeze()
    if enabled:
        gc.enable()


def everything(bench, dport):
    """Packets that open, use, refuse and end, by all ways out of `translate`."""
    for sport in range(2000, 2020):
        port = bench.udp(sport=sport, dport=dport)["UDP"].sport
        bench.send(udp4(port, sport=dport))
        bench.send(tcp6("S", sport=sport, dport=dport))
        bench.connect(sport=sport + 1000, dport=dport)
    bench.send(echo6())
    bench.send(tcp6("A", sport=9, dport=9))
    bench.send(udp6(hlim=1, sport=9))
    bench.send(udp4(9))
    bench.send(tcp4("S", 9))
    bench.send(udp6(src="::1"))
    bench.nat.translate(Packet(b""), bench.now)
    bench.nat.translate(Packet(bytes(udp6())[:44]), bench.now)
    for _ in range(3):
        bench.advance(10_000.0)
    assert not bench.nat.state.session_count


def test_translator_makes_no_cyclic_garbage(collector):
    """So sessions need not be looked at by the collector (decision 9)."""
    bench = Bench(limits=Limits(sessions=90), timeouts=Timeouts())
    everything(bench, 52)
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    everything(bench, 53)
    gc.collect()
    ours = [thing for thing in gc.garbage if type(thing).__module__.startswith("translate")]
    assert ours == []


def test_young_objects_are_collected_old_ones_are_not(collector):
    memory.settle()
    young, middle, old = gc.get_threshold()
    assert gc.isenabled()
    assert 0 < young * (middle + 2) <= 5000
    assert old > 1_000_000_000
    assert gc.get_freeze_count() > 1000


class Ring:
    """An object that only the collector can free."""

    alive = 0

    def __init__(self) -> None:
        self.me = self
        Ring.alive += 1

    def __del__(self) -> None:
        Ring.alive -= 1


def test_cycles_are_collected_all_the_same(collector):
    memory.settle()
    Ring.alive = 0
    rings: list[list[int]] = []
    for _ in range(20_000):
        Ring()
        rings.append([])
    assert Ring.alive < 6000


async def aged_ring(entries):
    """Whether garbage that is old already lives on after two full collections are due."""
    gc.collect()
    Ring.alive = 0
    ring = Ring()
    gc.collect()
    gc.disable()
    del ring
    async with trio.open_nursery() as nursery:
        nursery.start_soon(memory.collect_while_few, lambda: entries)
        await trio.sleep(2.5 * memory.FULL_EVERY)
        nursery.cancel_scope.cancel()
    return bool(Ring.alive)


@pytest.mark.parametrize(
    ("entries", "stays"), [(0, False), (memory.FEW_ENTRIES, False), (memory.FEW_ENTRIES + 1, True)]
)
def test_full_collections_only_while_tables_are_small(collector, entries, stays):
    clock = trio.testing.MockClock(autojump_threshold=0)
    assert trio.run(aged_ring, entries, clock=clock) == stays
