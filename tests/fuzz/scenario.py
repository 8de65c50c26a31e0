"""One run of the fuzzer: a program of packets, on two translators with the same history.

Theory of operation. The input is a header of 4 bytes, which chooses settings, and records of 12
bytes, each a packet or a pause:

     0 kind of packet         4 size (2)                8 offload
     1 which flow             6 flags, code, offset     9 how many damages; lengths repaired?
     2 time that passes       7 checksum right?        10 where    11 what
     3 hops, class

Fixed places keep the meaning of the rest when one byte changes, and every input means
something. Valid packets are built and then damaged, because random bytes rarely get past the
first check. Pool ports and packets to complain about are learnt from what came out.

After every packet (tests/fuzz/conversation.py), what was sent has to fit the packet
(tests/fuzz/invariant.py) and the conversation (tests/fuzz/model.py). In the middle the settings
may change, as at a reload. Where the header says so, the way to the IPv4 internet comes and goes:
it is down for a packet whose kind has the bit 0x10. Or the translator is a stateless one
(tests/fuzz/stateless.py). Same input, same run: a file is a test
(tests/unit/test_fuzz_regressions.py).
"""

from __future__ import annotations

import random

from tests.fuzz.choices import (
    HEADER_SIZE,
    choose_settings,
    is_stateless,
    reloaded,
    uplink_breaks,
)
from tests.fuzz.conversation import Conversation
from tests.fuzz.model import Model
from tests.fuzz.program import MAX_RECORDS, RECORD_SIZE
from tests.fuzz.reader import ICMPV6, read_in, require
from tests.fuzz.stateless import StatelessScenario
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.reasons import Reason
from translate.settings import Settings

__all__ = ["HEADER_SIZE", "MAX_RECORDS", "RECORD_SIZE", "Scenario", "choose_settings", "run"]

_DOWN = 0x10


class Scenario(Conversation[Nat64]):
    """A run of the stateful translator."""

    def __init__(self, data: bytes) -> None:
        settings = choose_settings(data[:HEADER_SIZE])
        super().__init__(data, settings, lambda: make(settings))
        self.model = Model(settings)
        self.breaks = uplink_breaks(self.head)
        # How often an uplink that was down made a difference.
        self.told = 0

    def reload(self) -> None:
        """Both translators take over other limits, lifetimes and static mappings."""
        self.settings = reloaded(self.settings)
        for side in (self.plain, self.fast):
            side.nat.configure(self.settings)
            side.configure()
        self.model.configure(self.settings)

    def step(self, record: bytes) -> None:
        """One record, with the uplink as it says."""
        up = not (self.breaks and record[0] & _DOWN)
        if up != self.plain.nat.has_uplink:
            for side in (self.plain, self.fast):
                side.nat.uplink(up)
                side.configure()
        self._told_before = self.plain.nat.counters[Reason.UPLINK_DOWN]
        super().step(record)

    def judge_more(self, packet: Packet, out: list[Packet], *, held: bool) -> None:
        """Judges by the model, and by the uplink. Raises Finding."""
        told = self.plain.nat.counters[Reason.UPLINK_DOWN] - self._told_before
        self.told += told
        judge_uplink(packet, out, up=self.plain.nat.has_uplink, told=told)
        self.model.judge(packet, out, self.now, held=held)

    def finish(self) -> None:
        """After the longest lifetime nothing is left, in either translator."""
        for _ in range(4):
            self.pass_time(700.0)
        for side in (self.plain, self.fast):
            state = side.nat.state
            require(state.session_count == 0, "sessions that do not end")
            require(not any(1 for _ in state.sessions()), "sessions that are not counted")
            static = self.settings.static
            for table in (state.bib6, state.bib4):
                left = sum(len(one) for one in table.values())
                require(state.bib_count == left == len(static), "mappings left")
            require(len(state.clients) == len({e.key6[:16] for e in static}), "clients left")
            require(side.nat.next_deadline() is None, "something is still due")


def make(settings: Settings) -> Nat64:
    """A translator of which two have the same history."""
    return Nat64(
        settings,
        randbelow=random.Random(7).randrange,
        admit=lambda addr6: addr6[:4] == b"\x20\x01\x0d\xb8",
        path_mtu=lambda _: 1500,
    )


def judge_uplink(packet: Packet, out: list[Packet], *, up: bool, told: int) -> None:
    """Judges what came out while the uplink is down; `told`: how often it was the reason.

    Nothing of a client goes to IPv4, and it is told 1/0 or nothing (RFC 4443 §3.1). Raises Finding.
    """
    if up:
        came = read_in(packet.data)
        # Those of a datagram whose first one was refused are refused with it.
        later = came is not None and came.offset is not None
        require(not told or later, "an uplink that is up was down")
        return
    came = read_in(packet.data)
    if came is None or came.version != 6:
        return
    for one in out:
        seen = read_in(one.data)
        require(seen is not None and seen.version == 6, "to IPv4 without an uplink")
        assert seen is not None
        if told:
            is_told = seen.protocol == ICMPV6 and seen.body[:2] == b"\x01\0"
            require(is_told and seen.dst == came.src, "a client was told something else")
    require(not told or len(out) <= 1, "a client was told more than once")


def run(data: bytes) -> None:
    """Runs one input. Raises Finding (an AssertionError), or whatever translate raises."""
    (StatelessScenario if is_stateless(data) else Scenario)(data).run()
