"""The fuzzer's settings, and whether its model of a conversation bites (tests/fuzz/model.py)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fuzz.invariant import Finding, judge
from tests.fuzz.model import Model
from tests.fuzz.scenario import HEADER_SIZE, Scenario, choose_settings
from tests.fuzz.seeds import HEADERS, UDP4, UDP6, inputs, record
from tests.oracle import Bench, error4, read, udp4, udp6, words
from translate.packets import Packet
from translate.settings import Filtering, ZeroChecksum

STATIC, DETERMINISTIC, FILTERED, BLOCKS = (
    b"\0\0\0\x20",
    b"\0\1\0\x40",
    b"\0\1\1\0",
    b"\0\0\0\4",
)


def test_the_seeds_have_every_kind_of_settings():
    chosen = [choose_settings(head) for head in HEADERS]
    assert {s.filtering for s in chosen} == set(Filtering)
    assert {s.udp_zero_checksum for s in chosen} == set(ZeroChecksum)
    for name in ("static", "deterministic", "port_block_size", "icmp4_error_pool", "tos"):
        assert {bool(getattr(s, name)) if name != "tos" else s.tos is not None for s in chosen} == {
            True,
            False,
        }, name
    assert {len(s.prefixes) for s in chosen} == {1, 2}
    assert {len({r.clients for r in s.pool4}) for s in chosen} == {1, 2}
    assert {Scenario(head).reloads for head in HEADERS} == {True, False}


def test_the_model_looks():
    """Otherwise it would agree with everything."""
    looks = dict.fromkeys(("leaves", "enters", "errors", "datagrams"), 0)
    for data in inputs().values():
        scenario = Scenario(data)
        scenario.run()
        for name, count in scenario.model.looks.items():
            looks[name] += count
    assert looks["leaves"] > 150
    assert looks["enters"] > 100
    assert looks["errors"] > 10
    assert looks["datagrams"] >= 10


def crossing(head, *records):
    """A scenario in the middle, with the last record's packet and what came out for it."""
    scenario = Scenario(head + b"".join(records))
    for one in records[:-1]:
        scenario.step(one)
    packet = scenario.packet_of(records[-1])
    return scenario, packet, scenario.plain.nat.translate(packet, scenario.now)


def altered(out, at, value):
    """The packet with other bytes, the IPv4 header's and the UDP checksum made right."""
    data = bytearray(out.data)
    data[at : at + len(value)] = value
    seen = read(bytes(data))
    if seen.version == 4:
        del seen.chksum
    if hasattr(seen.payload, "chksum"):
        del seen.payload.chksum
    return replace(out, data=bytes(seen))


def found(scenario, packet, out, words):
    with pytest.raises(Finding, match=words):
        scenario.model.judge(packet, [out], scenario.now)


@pytest.mark.parametrize(
    ("head", "at", "value", "words"),
    [
        (bytes(HEADER_SIZE), 16, b"\x08\x08\x08\x08", "destination"),
        (bytes(HEADER_SIZE), 22, b"\0\x50", "port of a server"),
        (bytes(HEADER_SIZE), 20, b"\x03\xff", "beyond the range"),
        (bytes(HEADER_SIZE), 12, b"\xcb\0\x71\x20", "beyond the range"),
        (bytes(HEADER_SIZE), 20, b"\x04\x09", "two mappings"),
        (STATIC, 20, (1030).to_bytes(2, "big"), "static mapping"),
        (DETERMINISTIC, 20, b"\xff\xff", "another subscriber"),
        (DETERMINISTIC, 12, b"\xcb\0\x71\x09", "subscriber's address"),
        (BLOCKS, 20, b"\x03\xff", "beyond the range"),
    ],
)
def test_a_wrong_packet_to_a_server(head, at, value, words):
    scenario, packet, (out,) = crossing(head, record(UDP6), record(UDP6))
    scenario.model.judge(packet, [out], scenario.now)
    assert out.data[at : at + len(value)] != value
    found(scenario, packet, altered(out, at, value), words)


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (39, b"\x77", "somebody else"),
        (42, b"\x11\x11", "somebody else"),
        (40, b"\0\x51", "port of a server"),
        (23, b"\x77", "source of a packet"),
    ],
)
def test_a_wrong_packet_to_a_client(at, value, words):
    scenario, packet, (out,) = crossing(bytes(HEADER_SIZE), record(UDP6), record(UDP4))
    scenario.model.judge(packet, [out], scenario.now)
    found(scenario, packet, altered(out, at, value), words)


def test_a_block_of_two_clients():
    scenario, packet, (out,) = crossing(BLOCKS, record(UDP6), record(UDP6, which=1))
    (first,) = scenario.sent4
    port = int.from_bytes(first[20:22], "big")
    start = port - (port - 1024) % 8
    other = next(p for p in range(start, start + 8) if p != port)
    out = replace(out, data=out.data[:12] + first[12:16] + out.data[16:])
    found(scenario, packet, altered(out, 20, other.to_bytes(2, "big")), "block of two")


def test_one_port_of_two_clients():
    scenario, packet, (out,) = crossing(bytes(HEADER_SIZE), record(UDP6), record(UDP6, which=1))
    (first,) = scenario.sent4
    out = replace(out, data=out.data[:12] + first[12:16] + out.data[16:])
    found(scenario, packet, altered(out, 20, first[20:22]), "two clients")


def test_what_the_filter_has_to_keep_out():
    scenario = Scenario(FILTERED + record(UDP6))
    scenario.step(record(UDP6))
    loose = Scenario(bytes((*FILTERED[:2], 0, 0)) + record(UDP6))
    loose.step(record(UDP6))
    packet = loose.packet_of(record(UDP4, which=0x22))
    (out,) = loose.plain.nat.translate(packet, loose.now)
    loose.model.judge(packet, [out], loose.now)
    found(scenario, packet, out, "filtered")


def test_an_error_about_somebody_else():
    bench = Bench()
    sent = bench.udp()
    model = Model(bench.nat.settings)
    model.judge(Packet(bytes(udp6())), [Packet(bytes(sent))], bench.now)
    packet = Packet(bytes(error4(11, 0, 0, sent)))
    (out,) = bench.nat.translate(packet, bench.now)
    model.judge(packet, [out], bench.now)
    for at in (39, 48 + 23, 48 + 41):
        data = bytearray(out.data)
        data[at] ^= 1
        with pytest.raises(Finding):
            model.judge(packet, [replace(out, data=bytes(data))], bench.now)


def fragments4(port, *, checksum):
    """A datagram from the server in two pieces; without a checksum, or with a wrong one."""
    whole = udp4(port, data=bytes(range(200)))
    whole.payload.chksum = checksum
    body = bytes(whole)[20:]
    for start, stop in ((0, 104), (104, 208)):
        head = read(bytes(whole)[:20])
        head.remove_payload()
        head.id, head.frag, head.flags = 9, start // 8, int(start == 0)
        del head.len, head.chksum
        yield Packet(bytes(head / body[start:stop]))


@pytest.mark.parametrize("checksum", [0, 0x1234])
def test_the_checksum_of_a_datagram_in_fragments(checksum):
    bench = Bench()
    model = Model(bench.nat.settings)
    out = bench.udp()
    model.judge(Packet(bytes(udp6())), [Packet(bytes(out))], bench.now)
    first, last = fragments4(out.sport, checksum=checksum)
    sent = [bench.nat.translate(packet, bench.now) for packet in (first, last)]
    twin = Model(bench.nat.settings)
    for one in (model, twin):
        one.judge(Packet(bytes(udp6())), [Packet(bytes(out))], bench.now)
    model.judge(first, sent[0], bench.now, held=not sent[0])
    model.judge(last, sent[1], bench.now)
    assert model.looks["datagrams"] == 1
    assert sent[1]
    end = bytearray(sent[1][-1].data)
    end[-2] ^= 0x10
    broken = [*sent[1][:-1], Packet(bytes(end))]
    twin.judge(first, sent[0], bench.now, held=not sent[0])
    with pytest.raises(Finding):
        twin.judge(last, broken, bench.now)


# -- the invariant, where it looks at settings ----------------------------------------------


def test_hops_and_marks():
    bench = Bench(tos=0x20)
    packet = Packet(bytes(udp6(hlim=9, tc=3)))
    (out,) = bench.nat.translate(packet, bench.now)
    judge(packet, [out], 0, marks=(0x20, None))
    with pytest.raises(Finding, match="type of service"):
        judge(packet, [out], 0)
    with pytest.raises(Finding, match="hops"):
        judge(packet, [altered(out, 8, b"\x09")], 0, marks=(0x20, None))


def test_an_extension_that_was_broken():
    item = bytes((0, 12, 2, 4, 0, 1, 0, 0, 198, 18, 7, 1))
    body = b"\x20\0\0\0" + item
    structure = b"\x20\0" + (0xFFFF - words(body)).to_bytes(2, "big") + item
    bench = Bench()
    inside = bytes(bench.udp()).ljust(128, b"\0") + structure
    packet = Packet(bytes(error4(11, 0, 32 << 16, inside)))
    (out,) = bench.nat.translate(packet, bench.now)
    judge(packet, [out], 0)
    for at in (len(out.data) - 1, len(out.data) - 24):
        data = bytearray(out.data)
        data[at] ^= 1
        seen = read(bytes(data))
        del seen.payload.cksum
        with pytest.raises(Finding, match="extension"):
            judge(packet, [replace(out, data=bytes(seen))], 0)
    # The address of the other family, as if it had been forgotten.
    data = bytearray(out.data[: -len(structure) - 12] + structure)
    data[4:6] = (len(data) - 40).to_bytes(2, "big")
    seen = read(bytes(data))
    del seen.payload.cksum
    with pytest.raises(Finding, match="other family"):
        judge(packet, [replace(out, data=bytes(seen))], 0)
