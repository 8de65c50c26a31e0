"""Inputs of the fuzzer: its findings replayed, its seeds, and whether the invariant bites.

Needs no atheris. A finding is a file under tests/fuzz/regressions/.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.fuzz import __main__ as fuzz
from tests.fuzz.invariant import Finding, judge
from tests.fuzz.scenario import HEADER_SIZE, Scenario, run
from tests.fuzz.seeds import ECHO6, TCP6, UDP4, UDP6, inputs, record
from tests.oracle import Bench, error4, read, udp4, udp6, words
from translate.packets import Packet
from translate.reasons import Reason

REGRESSIONS = sorted(p for p in fuzz.REGRESSIONS.iterdir() if p.suffix != ".md")


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.name)
def test_what_once_broke_something(path: Path):
    run(path.read_bytes())


@pytest.mark.parametrize("name", inputs())
def test_seed(name):
    run(inputs()[name])


def test_seeds_reach_the_translator():
    """Otherwise the invariant would be easy: most packets of the seeds are translated."""
    reached: set[Reason] = set()
    translated = 0
    for data in inputs().values():
        scenario = Scenario(data)
        scenario.run()
        reached |= {r for r, n in scenario.plain.nat.counters.items() if n}
        translated += len(scenario.sent4) + len(scenario.sent6)
    assert translated > 150
    wanted = {
        Reason.HOP_LIMIT,
        Reason.SOURCE_ROUTE,
        Reason.ROUTING_HEADER,
        Reason.UNKNOWN_PROTOCOL,
        Reason.NO_NEXT_HEADER,
        Reason.SOURCE_INVALID,
        Reason.NO_MAPPING,
        Reason.TOO_BIG,
        Reason.MALFORMED,
        Reason.BAD_LENGTH,
    }
    assert wanted <= reached


def test_the_fast_path_is_taken():
    """Otherwise it would agree by never being asked."""
    for kinds in ([UDP6, UDP6], [ECHO6, ECHO6], [UDP6, UDP4]):
        scenario = Scenario(bytes(HEADER_SIZE))
        for kind in kinds[:-1]:
            scenario.step(record(kind))
        packet = scenario.packet_of(record(kinds[-1]))
        scenario.fast.nat = None  # type: ignore[assignment]
        assert scenario.fast.send(packet, scenario.now)


# -- the invariant itself: what is broken on purpose is found -------------------------------


def crossed(packet=None):
    """A datagram from a client, and what came out for it."""
    packet = Packet(bytes(udp6() if packet is None else packet))
    return packet, Bench().nat.translate(packet, 1000.0)


def broken(out: Packet, at: int, value: int) -> list[Packet]:
    data = bytearray(out.data)
    data[at] ^= value
    return [replace(out, data=bytes(data))]


def test_the_invariant_holds_for_what_is_right():
    packet, out = crossed()
    judge(packet, out, 0)


@pytest.mark.parametrize(
    ("at", "words"),
    [
        (0, "header of other than 20"),
        (3, "total length"),
        (8, "header checksum"),
        (10, "header checksum"),
        (26, "checksum"),
        (30, "data changed"),
    ],
)
def test_every_broken_octet_of_ipv4_is_found(at, words):
    packet, (out,) = crossed()
    with pytest.raises(Finding, match=words):
        judge(packet, broken(out, at, 1), 0)


@pytest.mark.parametrize(
    ("at", "words"), [(3, "flow label"), (5, "payload length"), (46, "checksum")]
)
def test_every_broken_octet_of_ipv6_is_found(at, words):
    bench = Bench()
    port = bench.udp().sport
    packet = Packet(bytes(udp4(port)))
    (out,) = bench.nat.translate(packet, bench.now)
    judge(packet, [out], 0)
    with pytest.raises(Finding, match=words):
        judge(packet, broken(out, at, 1), 0)


def test_a_repaired_checksum_is_found():
    wrong = udp6()
    wrong.payload.chksum = 0x1234
    packet, out = crossed(wrong)
    judge(packet, out, 0)
    right = read(out[0].data)
    del right.payload.chksum
    with pytest.raises(Finding, match="checksum"):
        judge(packet, [Packet(bytes(right))], 0)


def test_nothing_without_a_reason_is_found():
    packet, out = crossed()
    with pytest.raises(Finding, match="no reason"):
        judge(packet, [], 0)
    with pytest.raises(Finding, match="both"):
        judge(packet, out, 1)


def test_a_wrong_inside_of_an_error_is_found():
    bench = Bench()
    sent = bench.udp()
    packet = Packet(bytes(error4(3, 1, 0, sent)))
    (out,) = bench.nat.translate(packet, bench.now)
    judge(packet, [out], 0)
    data = bytearray(out.data)
    data[48 + 7] ^= 1  # the hop limit inside; the pair keeps the checksum right
    data[48 + 5] ^= 1
    with pytest.raises(Finding):
        judge(packet, [replace(out, data=bytes(data))], 0)


def test_a_super_packet_of_the_wrong_family_is_found():
    partial = udp6(data=b"x" * 3000)
    packet = Packet(bytes(partial), True, 5, 1400)
    out = Bench().nat.translate(packet, 1000.0)
    judge(packet, out, 0)
    with pytest.raises(Finding, match="gso_type"):
        judge(packet, [replace(out[0], gso_type=1)], 0)
    with pytest.raises(Finding, match="nothing"):
        judge(packet, [replace(out[0], gso_size=0)], 0)


def test_fragments_of_odd_length_are_found():
    packet = Packet(bytes(udp6(data=b"x" * 100)))
    head = bytes.fromhex("4500002100002000401100000a0000010a000002")
    checksum = 0xFFFF - words(head)
    odd = Packet(head[:10] + checksum.to_bytes(2, "big") + head[12:] + bytes(13))
    with pytest.raises(Finding, match="odd length"):
        judge(packet, [odd], 0)


def test_tcp_is_read_too():
    scenario = Scenario(bytes(HEADER_SIZE))
    scenario.step(record(TCP6))
    assert scenario.ports[6]
