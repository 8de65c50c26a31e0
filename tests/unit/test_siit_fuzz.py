"""Whether the fuzzer's judgements of the stateless mode and of a lost uplink bite (tests/fuzz)."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address

import pytest

from tests.fuzz.choices import is_stateless, uplink_breaks
from tests.fuzz.reader import Finding
from tests.fuzz.scenario import HEADER_SIZE, RECORD_SIZE, Scenario, judge_uplink, run
from tests.fuzz.seeds import DOWN, FRAG6, HAIRPIN, HEADERS, UDP4, UDP6, inputs, record
from tests.fuzz.stateless import StatelessScenario
from tests.oracle import read, udp4, udp6
from tests.siit_bench import error6
from translate.packets import Packet
from translate.reasons import Reason
from translate.siit.addresses import Hairpin

# The first prefix, intrinsic hairpinning, and a pool; the same without a pool; an uplink that goes.
POOLED, INTRINSIC, BREAKS = b"\x21\0\0\x44", b"\x21\0\0\x40", b"\x42\1\0\0"


def test_the_seeds_have_every_kind_of_run():
    stateless = [StatelessScenario(head) for head in HEADERS if is_stateless(head)]
    assert {one.hairpin for one in stateless} == set(Hairpin)
    for name in ("has_pool", "is_routed", "reloads"):
        assert {getattr(one, name) for one in stateless} == {True, False}, name
    assert {bool(one.settings.deny4) for one in stateless} == {True, False}
    assert any(uplink_breaks(head) and not is_stateless(head) for head in HEADERS)


def test_the_model_looks():
    """Otherwise it would agree with everything."""
    looks: dict[str, int] = {}
    reached: set[Reason] = set()
    for data in inputs().values():
        if is_stateless(data):
            scenario = StatelessScenario(data)
            scenario.run()
            reached |= {r for r, n in scenario.plain.nat.counters.items() if n}
            for name, count in scenario.model.looks.items():
                looks[name] = looks.get(name, 0) + count
    assert looks["leaves"] > 150
    assert looks["enters"] > 150
    assert min(looks["turns"], looks["errors"], looks["pooled"]) >= 5
    assert {Reason.NO_MAPPING, Reason.SOURCE_UNMAPPED, Reason.NOT_EMBEDDED} <= reached


def test_the_uplink_makes_a_difference():
    told = 0
    for data in inputs().values():
        if not is_stateless(data) and uplink_breaks(data):
            scenario = Scenario(data)
            scenario.run()
            told += scenario.told
    assert told > 5


def crossing(head: bytes, *records: bytes) -> tuple[StatelessScenario, Packet, Packet]:
    """A run in the middle, with the last record's packet and what came out for it."""
    scenario = StatelessScenario(head + b"".join(records))
    for one in records[:-1]:
        scenario.step(one)
    packet = scenario.packet_of(records[-1])
    (out,) = scenario.plain.nat.translate(packet, scenario.now)
    scenario.model.judge(packet, [out], own=scenario.own)
    return scenario, packet, out


def altered(out: Packet, at: int, value: bytes) -> Packet:
    data = bytearray(out.data)
    data[at : at + len(value)] = value
    return replace(out, data=bytes(data))


NOBODY4, NOBODY6 = IPv4Address("198.51.100.9").packed, IPv6Address("2001:db8:77::1").packed


@pytest.mark.parametrize(
    ("last", "at", "value", "words"),
    [
        (record(UDP6), 12, NOBODY4, "the source of a host with a mapping"),
        (record(UDP6), 16, NOBODY4, "the destination in the prefix"),
        (record(UDP6), 16, bytes((127, 0, 0, 1)), "to nobody"),
        (record(UDP6, which=4), 16, IPv4Address("192.0.2.1").packed, "in the prefix"),
        (record(UDP6), 20, b"\0\1", "ports"),
        (record(UDP4), 8, NOBODY6, "the source in the prefix"),
        (record(UDP4), 24, NOBODY6, "the host of a mapping"),
        (record(UDP4), 42, b"\0\1", "ports"),
        (record(HAIRPIN, which=8), 8, NOBODY6, "the source of a hairpin"),
        (record(HAIRPIN, which=8), 24, NOBODY6, "a hairpin to somebody else"),
    ],
)
def test_a_wrong_address_is_found(last, at, value, words):
    scenario, packet, out = crossing(POOLED, last)
    with pytest.raises(Finding, match=words):
        scenario.model.judge(packet, [altered(out, at, value)], own=scenario.own)


def test_a_hairpin_that_goes_out_is_found():
    scenario = StatelessScenario(INTRINSIC)
    host = IPv6Address("2001:db8:1::10").packed
    other = scenario.settings.prefixes[0].embed(IPv4Address("192.0.2.20").packed)
    packet = Packet(bytes(udp6(src=str(IPv6Address(host)), dst=str(IPv6Address(other)))))
    (right,) = scenario.plain.nat.translate(packet, scenario.now)
    scenario.model.judge(packet, [right], own=scenario.own)
    wrong = Packet(bytes(udp4(80, src="192.0.2.1", dst="192.0.2.20")))
    with pytest.raises(Finding, match="a hairpin went out"):
        scenario.model.judge(packet, [wrong], own=scenario.own)


def test_one_address_of_the_pool_for_two_is_found():
    scenario, _, out = crossing(POOLED, record(UDP6, which=1))
    packet = scenario.packet_of(record(UDP6, which=10))  # another host of the pool
    (other,) = scenario.plain.nat.translate(packet, scenario.now)
    assert read(other.data).src != read(out.data).src
    with pytest.raises(Finding, match="two hosts with one address"):
        scenario.model.judge(packet, [altered(other, 12, out.data[12:16])], own=scenario.own)


# -- the uplink -----------------------------------------------------------------------------------


def test_a_packet_to_ipv4_without_an_uplink_is_found():
    packet = Packet(bytes(udp6()))
    out = [Packet(bytes(udp4(80)))]
    judge_uplink(packet, out, up=True, told=0)
    with pytest.raises(Finding, match="to IPv4 without an uplink"):
        judge_uplink(packet, out, up=False, told=0)


def test_another_answer_without_an_uplink_is_found():
    packet = Packet(bytes(udp6()))
    client = read(packet.data).src
    for code, right in ((0, True), (1, False)):
        answer = Packet(bytes(error6(1, code, 0, udp6(), src="2001:db8::1", dst=client)))
        if right:
            judge_uplink(packet, [answer], up=False, told=1)
            with pytest.raises(Finding, match="more than once"):
                judge_uplink(packet, [answer] * 2, up=False, told=1)
            with pytest.raises(Finding, match="that is up"):
                judge_uplink(packet, [answer], up=True, told=1)
        else:
            with pytest.raises(Finding, match="something else"):
                judge_uplink(packet, [answer], up=False, told=1)


def test_later_fragments_do_not_leave_without_an_uplink():
    """What has left of the datagram is no use any more, and the rest is no exception."""
    scenario = Scenario(BREAKS)
    scenario.step(record(FRAG6))
    assert len(scenario.sent4) == 1
    scenario.step(record(FRAG6 | DOWN, flags=1))
    scenario.step(record(FRAG6, flags=2))
    assert len(scenario.sent4) == 1
    assert scenario.plain.nat.counters[Reason.UPLINK_DOWN] == 2


def test_a_seed_of_each_kind_goes_through_run(monkeypatch):
    ran = []
    monkeypatch.setattr(StatelessScenario, "run", lambda self: ran.append("stateless"))
    monkeypatch.setattr(Scenario, "run", lambda self: ran.append("stateful"))
    for head in (INTRINSIC, BREAKS, bytes(HEADER_SIZE)):
        run(head + bytes(RECORD_SIZE))
    assert ran == ["stateless", "stateful", "stateful"]
