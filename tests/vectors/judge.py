"""Reading the vector files, a translator for one of them, and what counts as equal."""

from __future__ import annotations

import tomllib
from collections.abc import Collection
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

from gateway import config as configuration
from gateway.siit.mappings import make_pool, make_settings, read_mappings, routed
from tests.oracle import words
from tests.vectors.build import SETTINGS
from translate.nat64 import Nat64
from translate.siit.translator import Siit

HERE = Path(__file__).parent
START = 1000.0


def read_all() -> list[tuple[str, dict[str, Any]]]:
    """Every vector as its file has it, with a name that no other has."""
    return [
        (f"{path.stem}: {vector['name']}", vector)
        for path in sorted(HERE.glob("*.toml"))
        for vector in tomllib.loads(path.read_text("utf-8"))["vector"]
    ]


def translator(changes: dict[str, Any]) -> Nat64 | Siit:
    """A translator with these keys of the configuration over `SETTINGS`."""
    config = configuration.load(None, SETTINGS | changes)
    assert isinstance(config.icmp6_source, IPv6Address)
    if config.mode == "siit":
        table = read_mappings(config)
        return Siit(
            make_settings(
                routed(config, table),
                table,
                make_pool(config, table),
                icmp6_source=config.icmp6_source.packed,
            ),
            randbelow=lambda n: n // 3,
            path_mtu=lambda addr: config.mtu,
        )
    return Nat64(
        configuration.to_settings(config, icmp6_source=config.icmp6_source.packed),
        randbelow=lambda n: n // 3,
        admit=lambda addr6: True,
        path_mtu=lambda addr: config.mtu,
    )


def with_sum(data: bytes, at: int, start: int, end: int) -> bytes:
    """The bytes with the Internet checksum of a range at an offset, anew."""
    zeroed = data[:at] + b"\0\0" + data[at + 2 :]
    total = 0xFFFF - words(zeroed[start:end])
    return zeroed[:at] + total.to_bytes(2, "big") + zeroed[at + 2 :]


def freed(data: bytes, free: Collection[str]) -> bytes:
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


def expected(step: dict[str, Any]) -> list[str]:
    """What a step has to give, in hex, without what is free."""
    return [freed(bytes.fromhex(text), step.get("any", [])).hex() for text in step.get("out", [])]
