"""What every run of the fuzzer has: two translators, and an invariant after each packet.

One translator has the fast path in front, as the data plane does, the other has not: after
every packet both must have sent the same frames (gateway/frames.py) and counted the same.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic

from tests.fuzz.choices import HEADER_SIZE
from tests.fuzz.invariant import judge, judge_unasked
from tests.fuzz.program import Program
from tests.fuzz.reader import require
from tests.fuzz.sides import FORM, Side, T
from translate.packets import Packet
from translate.reasons import Reason
from translate.settings import Settings, ZeroChecksum

# Time lies on a grid, and lifetimes between its points: the fast path notes times in steps of a
# quarter of a second, and that a flow ends a little later is no difference.
_START = 1000.2
_PAUSES = [0.0, 0.0, 0.0, 0.25, 0.5, 1.0, 2.0, 5.75, 6.25, 60.0, 60.25, 240.0, 240.25]
_PAUSES += [300.25, 600.0, 600.25]


class Conversation(Program, ABC, Generic[T]):
    """Reads an input, and runs it on translators that `make` makes."""

    # Whether protocols beside TCP, UDP and ICMP pass.
    others = False

    def __init__(self, data: bytes, settings: Settings, make: Callable[[], T]) -> None:
        super().__init__(data, settings)
        self.plain: Side[T] = Side(make(), fast=False)
        self.fast: Side[T] = Side(make(), fast=True)
        self.now: float = _START
        own4 = settings.icmp4_source
        # What the second half of a hairpin answers comes from the own address, embedded.
        embedded: list[bytes] = [prefix.embed(own4) for prefix in settings.prefixes]
        self.own = (settings.icmp6_source, own4, *embedded)
        self.head = data[:HEADER_SIZE].ljust(HEADER_SIZE, b"\0")
        self.reloads = bool(self.head[2] & 0x80)

    def run(self) -> None:
        """All records, and then the end of everything. Raises Finding, or what translate raises."""
        for number, record in enumerate(self.records):
            if self.reloads and number == len(self.records) // 2:
                self.reload()
            self.step(record)
        self.finish()

    @abstractmethod
    def reload(self) -> None:
        """What an input with a reload in its middle does."""

    @abstractmethod
    def judge_more(self, packet: Packet, out: list[Packet], *, held: bool) -> None:
        """Judges what came out by what was before. Raises Finding."""

    @abstractmethod
    def finish(self) -> None:
        """After the last record."""

    def step(self, record: bytes) -> None:
        """One record."""
        self.pass_time(_PAUSES[record[2] % len(_PAUSES)])
        packet = self.packet_of(record)
        before = self.plain.counted()
        held_before = self.plain.nat.counters[Reason.FRAGMENT_HELD]
        out = self.plain.nat.translate(packet, self.now)
        judge(
            packet,
            out,
            self.plain.counted() - before,
            own=self.own,
            forwards_zero=self.settings.udp_zero_checksum is ZeroChecksum.FORWARD,
            marks=(self.settings.tos, self.settings.traffic_class),
            others=self.others,
        )
        held = self.plain.nat.counters[Reason.FRAGMENT_HELD] != held_before
        self.judge_more(packet, out, held=held)
        frames = self.fast.send(packet, self.now)
        require(frames == [FORM.join(one) for one in out], "the fast path differs")
        require(self.plain.nat.counters == self.fast.nat.counters, "the counters differ")
        for one in out:
            self.learn(one.data)
        if len(out) == 1 and not packet.partial:
            self.learn_delta(packet.data, out[0].data)

    def pass_time(self, seconds: float) -> None:
        """Lets time pass, and both translators notice."""
        self.now += seconds
        if not seconds:
            return
        unasked = self.plain.nat.expire(self.now, 100_000)
        judge_unasked(unasked)
        same = self.fast.nat.expire(self.now, 100_000)
        require([p.data for p in unasked] == [p.data for p in same], "what expiry sends differs")
        deadline = self.plain.nat.next_deadline()
        require(deadline is None or deadline > self.now - 2, "a deadline that has passed")
