"""Every golden vector of tests/vectors, through the translator (see tests/vectors/__init__.py)."""

from __future__ import annotations

import tomllib
from ipaddress import IPv6Address

import pytest

from gateway import config as configuration
from tests.oracle import check_form, words
from tests.vectors.build import SETTINGS
from tests.vectors.make import HERE, files
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.reasons import Reason

START = 1000.0

VECTORS = [
    pytest.param(vector, id=f"{path.stem}: {vector['name']}")
    for path in sorted(HERE.glob("*.toml"))
    for vector in tomllib.loads(path.read_text("utf-8"))["vector"]
]


def translator(changes):
    config = configuration.load(None, SETTINGS | changes)
    assert isinstance(config.icmp6_source, IPv6Address)
    return Nat64(
        configuration.to_settings(config, icmp6_source=config.icmp6_source.packed),
        randbelow=lambda n: n // 3,
        admit=lambda addr6: True,
        path_mtu=lambda addr: config.mtu,
    )


def with_sum(data, at, start, end):
    """The bytes with the Internet checksum of a range at an offset, anew."""
    zeroed = data[:at] + b"\0\0" + data[at + 2 :]
    total = 0xFFFF - words(zeroed[start:end])
    return zeroed[:at] + total.to_bytes(2, "big") + zeroed[at + 2 :]


def freed(data, free):
    """The packet with the fields that may be anything set to zero, checksums made right.

    They were right before, or this raises.
    """
    is_v4 = data[0] >> 4 == 4
    if is_v4:
        assert words(data[:20]) == 0xFFFF
    if "inner-identification" in free:
        assert is_v4
        assert data[9] == 1
        assert words(data[20:]) == 0xFFFF
        assert words(data[28:48]) == 0xFFFF
        data = data[:32] + b"\0\0" + bytes((data[34] & ~0x40,)) + data[35:]
        data = with_sum(with_sum(data, 38, 28, 48), 22, 20, len(data))
    fields = {"identification": (4, 6), "ttl": (8, 9), "tos": (1, 2)} if is_v4 else {"ttl": (7, 8)}
    for name, (start, end) in fields.items():
        if name in free:
            data = data[:start] + bytes(end - start) + data[end:]
    if not is_v4 and "tos" in free:
        data = b"\x60" + bytes((data[1] & 0x0F,)) + data[2:]
    return with_sum(data, 10, 0, 20) if is_v4 else data


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
        expected = [freed(bytes.fromhex(text), free).hex() for text in step.get("out", [])]
        assert [freed(packet.data, free).hex() for packet in sent] == expected, step["comment"]
        counted = {reason.value for reason in Reason if nat.counters[reason] != before[reason]}
        assert counted == ({step["reason"]} if "reason" in step else set()), step["comment"]


def test_files_are_what_make_writes():
    written = dict(files())
    assert set(HERE.glob("*.toml")) == set(written)
    for path, text in written.items():
        assert path.read_text("utf-8") == text


def test_names_are_unique():
    names = [param.id for param in VECTORS]
    assert len(set(names)) == len(names) >= 40
