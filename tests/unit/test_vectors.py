"""Every golden vector of tests/vectors, through the translator (see tests/vectors/__init__.py).

Three ways: the slow path; the fast path, where it takes a packet; and `gateway translate`.
"""

from __future__ import annotations

import logging
import struct

import dpkt
import pytest

from gateway.cli import main
from gateway.frames import FrameFormat
from tests.oracle import check_form, checksum_right, is_fragment, pseudo_sum, read
from tests.vectors.build import SETTINGS, toml_of
from tests.vectors.judge import HERE, START, expected, freed, read_all, translator
from tests.vectors.make import files
from translate.fast_path import BUFFER_SIZE, IP_AT, make_fast_path
from translate.packets import Packet
from translate.reasons import Reason

VECTORS = [pytest.param(vector, id=name) for name, vector in read_all()]


@pytest.mark.parametrize("vector", VECTORS)
def test_vector(vector):
    nat = translator(vector.get("settings", {}))
    for step in vector["step"]:
        now = START + step["at"]
        before = dict(nat.counters)
        sent = nat.expire(now, 1_000_000)
        if "in" in step:
            assert not sent
            sent = nat.translate(Packet(bytes.fromhex(step["in"])), now)
        for packet in sent:
            check_form(packet.data)
        free = step.get("any", [])
        assert [freed(packet.data, free).hex() for packet in sent] == expected(step), step[
            "comment"
        ]
        counted = {reason.value for reason in Reason if nat.counters[reason] != before[reason]}
        assert counted == ({step["reason"]} if "reason" in step else set()), step["comment"]


# -- the fast path --------------------------------------------------------------------------

FORM = FrameFormat(True, bytes.fromhex("02c11e470101"), bytes.fromhex("02c11e470102"))
CLIENT_MAC = bytes.fromhex("02c11e470001")
NEEDS_CSUM = 1


class Fast:
    """A translator with the fast path in front, and how often that took a packet."""

    def __init__(self, changes):
        self.nat = translator(changes)
        settings = self.nat.settings
        self.path = make_fast_path(
            self.nat.state.flows,
            vnet=FORM.vnet,
            ethernet4=FORM.ethernet4,
            ethernet6_tail=FORM.ethernet6_tail,
            lowest_ipv6_mtu=settings.lowest_ipv6_mtu,
            tos=settings.tos,
            traffic_class=settings.traffic_class,
        )
        # Of the clients that have sent something; the host finds the others.
        self.macs = {}
        self.taken = 0

    def try_frame(self, vnet, data, now):
        """(vnet header, packet) that the fast path makes, or None; then it touched nothing."""
        kind = b"\x08\x00" if data[0] >> 4 == 4 else b"\x86\xdd"
        frame = vnet + FORM.own_mac + CLIENT_MAC + kind + data
        buffer = bytearray(b"\xa5" * BUFFER_SIZE)
        base = IP_AT - FORM.header_size
        buffer[base : base + len(frame)] = frame
        before = bytes(buffer)
        start = self.path(buffer, len(frame), now)
        if not start:
            assert bytes(buffer) == before
            return None
        self.taken += 1
        out = bytes(buffer[start : base + len(frame)])
        packet = out[24:]
        to = FORM.host_mac if packet[0] >> 4 == 4 else self.macs.get(packet[24:40], FORM.host_mac)
        kind = FORM.ethernet4[12:] if packet[0] >> 4 == 4 else FORM.ethernet6_tail[6:]
        assert out[10:24] == to + FORM.own_mac + kind
        return out[:10], packet

    def step(self, step):
        """One step with a packet: first as a new one, then once more, in the flow that it has."""
        now, data = START + step["at"], bytes.fromhex(step["in"])
        free, want = step.get("any", []), expected(step)
        if data[0] >> 4 == 6:
            self.macs[data[8:24]] = CLIENT_MAC
        got = self.try_frame(bytes(10), data, now)
        if got is None:
            out = self.nat.translate(Packet(data, link=CLIENT_MAC), now)
            assert [freed(packet.data, free).hex() for packet in out] == want, step["comment"]
            got = self.try_frame(bytes(10), data, now)
        if got is not None:
            assert got[0] == bytes(10)
            assert [freed(got[1], free).hex()] == want, step["comment"]
            assert "reason" not in step
            self.unfinished(step, data, want, now)

    def unfinished(self, step, data, want, now):
        """The same with a partial checksum: its field is the pseudo-header's sum, in and out."""
        place = {6: 16, 17: 6}.get(data[9 if data[0] >> 4 == 4 else 6])
        if place is None or not checksum_right(data):
            return
        start = 20 if data[0] >> 4 == 4 else 40
        got = self.try_frame(
            struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 14 + start, place),
            with_partial(data, start + place),
            now,
        )
        assert got is not None
        other = 60 - start
        assert got[0] == struct.pack("=BBHHHH", NEEDS_CSUM, 0, 0, 0, 14 + other, place)
        out = with_partial(bytes.fromhex(want[0]), other + place)
        assert freed(got[1], step.get("any", [])) == out, step["comment"]


def with_partial(data, at):
    """The packet with the sum of its pseudo-header for a checksum."""
    return data[:at] + pseudo_sum(read(data)).to_bytes(2, "big") + data[at + 2 :]


def through_the_fast_path(vector):
    """How many packets of the vector the fast path took; asserts that they came out as told."""
    fast = Fast(vector.get("settings", {}))
    for step in vector["step"]:
        fast.nat.expire(START + step["at"], 1_000_000)
        if "in" in step:
            fast.step(step)
    return fast.taken


@pytest.mark.parametrize("vector", VECTORS)
def test_vector_with_the_fast_path_in_front(vector):
    through_the_fast_path(vector)


# Steps that are nothing but data of a flow: all others are for the slow path.
PLAIN = {"tcp", "udp", "echo reply", "TTL 2", "TOS becomes traffic class", "deterministic ports"}


def test_the_fast_path_takes_what_is_plain():
    """Otherwise it would agree by refusing everything."""
    vectors = [vector for _, vector in read_all()]
    for name in PLAIN:
        for vector in vectors:
            if vector["name"] == name:
                assert through_the_fast_path(vector) >= 2, name
    assert {vector["name"] for vector in vectors} >= PLAIN
    eligible = [vector for vector in vectors if through_the_fast_path(vector)]
    assert len(eligible) > len(vectors) * 3 // 4


# -- gateway translate ----------------------------------------------------------------------


@pytest.fixture
def logger_as_before():
    logger = logging.getLogger("gateway")
    before = (list(logger.handlers), logger.propagate, logger.level)
    yield
    logger.handlers[:], logger.propagate, logger.level = before


def capture_of(steps):
    """The packets of the steps as Ethernet frames; where only time passes somebody asks by ARP."""
    out = struct.pack("<IHHIIII", 0xA1B2C3D4, 2, 4, 0, 0, 262144, 1)
    for step in steps:
        data = bytes.fromhex(step.get("in", ""))
        kind = b"\x08\x06"
        if data:
            kind = b"\x08\x00" if data[0] >> 4 == 4 else b"\x86\xdd"
        frame = FORM.own_mac + CLIENT_MAC + kind + (data or bytes(28))
        seconds, rest = divmod(round((START + step["at"]) * 10**6), 10**6)
        out += struct.pack("<IIII", seconds, rest, len(frame), len(frame)) + frame
    return out


@pytest.mark.usefixtures("logger_as_before")
@pytest.mark.parametrize("vector", VECTORS)
def test_vector_in_a_capture(vector, tmp_path):
    source, target, config = (tmp_path / name for name in ("in.pcap", "out.pcap", "gateway.toml"))
    steps = vector["step"]
    source.write_bytes(capture_of(steps))
    settings = SETTINGS | vector.get("settings", {})
    config.write_text("".join(f"{key} = {toml_of(value)}\n" for key, value in settings.items()))
    arguments = ["translate", "--config", str(config), str(source), str(target)]
    assert main(arguments) == 0
    with target.open("rb") as stream:
        sent = [data for _, data in dpkt.pcap.Reader(stream)]
    want = [(text, step.get("any", [])) for step in steps for text in step.get("out", [])]
    assert len(sent) == len(want)
    for data, (text, free) in zip(sent, want, strict=True):
        assert freed(data, free) == freed(bytes.fromhex(text), free)
        assert is_fragment(data) or checksum_right(data) == checksum_right(bytes.fromhex(text))


# -- the files ------------------------------------------------------------------------------


def test_files_are_what_make_writes():
    written = dict(files())
    assert set(HERE.glob("*.toml")) == set(written)
    for path, text in written.items():
        assert path.read_text("utf-8") == text


def test_names_are_unique():
    names = [param.id for param in VECTORS]
    assert len(set(names)) == len(names) >= 200
