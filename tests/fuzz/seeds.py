"""The seed corpus: short conversations from which the fuzzer starts.

python -m tests.fuzz.seeds DIRECTORY
"""

from __future__ import annotations

import sys
from pathlib import Path

from tests.fuzz.scenario import HEADER_SIZE

UDP6, TCP6, ECHO6, FRAG6, UDP4, TCP4, ECHO4, FRAG4 = range(8)
ERROR4, ERROR6, EXTENSIONS6, OPTIONS4, OTHERS, HAIRPIN, ODD_SOURCE, LARGE = range(8, 16)

_SYN, _SYN_ACK, _ACK, _PSH_ACK, _FIN_ACK, _RST = range(6)
_DF = 0x40
DOWN = 0x10  # no uplink, where the header lets it come and go
PARTIAL, GSO, WRONG_OFFLOAD = 0x40, 0x87, 0xF3


def record(
    kind: int,
    *,
    which: int = 0,
    pause: int = 0,
    hops: int = 0,
    size: int = 3,
    flags: int = 0,
    checksum: int = 0,
    offload: int = 0,
    damage: tuple[int, int, int] = (0, 0, 0),
) -> bytes:
    """One record of an input (tests/fuzz/scenario.py)."""
    return bytes(
        (kind, which, pause, hops, size >> 8, size & 0xFF, flags, checksum, offload, *damage)
    )


_CONNECT = [
    record(TCP6, flags=_SYN),
    record(TCP4, flags=_SYN_ACK),
    record(TCP6, flags=_ACK),
]

SEEDS: dict[str, list[bytes]] = {
    "udp": [record(UDP6), record(UDP4), record(UDP6, size=13), record(UDP4, size=13)],
    "udp-without-checksum": [
        record(UDP6),
        record(UDP4, checksum=6),
        record(UDP4, size=15, checksum=6),
    ],
    "udp-checksum-of-zero": [
        record(UDP6),
        record(UDP4),
        *(record(kind, size=size, checksum=5) for kind in (UDP6, UDP4) for size in (3, 13)),
        record(UDP4, size=15, checksum=5),
    ],
    "udp-wrong-checksum": [record(UDP6, checksum=7), record(UDP4, checksum=7)],
    "tcp": [
        *_CONNECT,
        record(TCP4, flags=_PSH_ACK, size=13),
        record(TCP6, flags=_FIN_ACK),
        record(TCP4, flags=_FIN_ACK),
        record(TCP6, flags=_ACK, pause=11),
    ],
    "tcp-reset": [*_CONNECT, record(TCP4, flags=_RST), record(TCP6, flags=_ACK, pause=5)],
    "tcp-from-ipv4": [
        record(TCP6, flags=_SYN),
        record(TCP4, which=0x20, flags=_SYN),
        record(TCP6, flags=_SYN, pause=7),
    ],
    "echo": [record(ECHO6), record(ECHO4), record(ECHO4, flags=1), record(ECHO6, flags=2)],
    "fragments6": [record(FRAG6, flags=n) for n in (0, 1, 2)],
    "fragments6-behind-options": [record(FRAG6, flags=n, checksum=0x20) for n in (0, 1, 2)],
    "fragments6-partial": [record(FRAG6, offload=0xF1), record(FRAG6, flags=1, offload=0xF1)],
    "fragments4-partial": [record(UDP6), record(FRAG4, offload=0xF1)],
    "fragments4-large": [record(UDP6), *(record(FRAG4, flags=n, size=15) for n in (0, 7))],
    "mss": [record(TCP6, flags=_SYN), record(TCP6, flags=0x84), record(TCP4, flags=0x84 + 1)],
    "fragments6-late": [record(FRAG6, flags=n, pause=6) for n in (2, 1, 0)],
    "fragments6-overlap": [record(FRAG6, flags=n, size=4) for n in (0, 4, 1, 2, 3, 5, 6, 7)],
    "fragments4": [record(UDP6), *(record(FRAG4, flags=n) for n in (0, 1, 2))],
    "fragments4-without-checksum": [
        record(UDP6),
        *(record(FRAG4, flags=n, checksum=6) for n in (2, 0, 1)),
    ],
    "fragments4-overlap": [
        record(UDP6),
        *(record(FRAG4, flags=n, size=4) for n in (2, 4, 0, 1, 3, 5, 6, 7)),
    ],
    "too-large-for-1280": [record(UDP6), record(UDP4, size=13), record(UDP4, size=15, flags=_DF)],
    "errors4": [
        record(UDP6, size=13),
        *(record(ERROR4, which=4, size=0x0403 + n, flags=n + (n << 3)) for n in range(7)),
        record(ERROR4, which=4, size=0x0404, flags=0x80),
        record(ERROR4, which=5, size=0x0404, flags=0x83),
        record(ERROR4, which=0x30, size=0x0403, flags=0),
    ],
    "errors6": [
        record(UDP6),
        record(UDP4, size=13),
        *(record(ERROR6, which=4, size=0x0403 + n, flags=n) for n in range(4)),
        record(ERROR6, which=4, size=0x0404, flags=0x80),
        record(ERROR6, which=1, size=0x0404, flags=0x82),
    ],
    "hops": [record(UDP6), record(UDP6, hops=5), record(UDP4, hops=5), record(UDP6, hops=6)],
    "headers": [
        record(EXTENSIONS6),
        record(EXTENSIONS6, flags=1),
        *(record(OPTIONS4, flags=n) for n in range(4)),
    ],
    "other-protocols": [
        record(UDP6),
        *(record(OTHERS, which=n, flags=f) for n in range(5) for f in (0, 1)),
    ],
    "hairpin": [record(UDP6), record(HAIRPIN), record(HAIRPIN, which=8)],
    "odd-sources": [record(UDP6), *(record(ODD_SOURCE, flags=n) for n in range(4))],
    "partial": [
        record(UDP6, offload=PARTIAL),
        record(UDP4, offload=PARTIAL),
        *_CONNECT,
        record(TCP6, flags=_ACK, offload=PARTIAL),
    ],
    "super-packets": [
        *_CONNECT,
        record(TCP6, flags=_ACK, size=15, offload=GSO),
        record(TCP4, flags=_ACK, size=15, offload=GSO),
        record(UDP6, size=15, offload=GSO),
        record(UDP4, size=15, offload=GSO),
        record(UDP4, size=15, flags=_DF, offload=GSO),
    ],
    "wrong-offload": [
        record(UDP6, offload=WRONG_OFFLOAD),
        record(UDP6),
        record(UDP4, offload=WRONG_OFFLOAD),
    ],
    "large": [record(LARGE, which=n << 6, size=0x3FFF) for n in range(4)],
    "lifetimes": [
        record(UDP6),
        record(UDP4, pause=13),
        record(UDP6, pause=15),
        record(ECHO6, pause=15),
    ],
    "static-mappings": [
        record(UDP4, which=0xC6),
        record(UDP4, which=0xC6),
        record(UDP6, which=0x20),
        record(TCP4, which=0xC7, flags=_SYN),
        record(TCP6, flags=_SYN_ACK),
        record(ECHO4, which=0xC8, flags=1),
        record(ECHO4, which=0xC8, flags=1),
        record(TCP6, flags=_SYN),
    ],
    "filtered": [record(UDP6), record(UDP4, which=0x22), record(UDP6, which=2), record(UDP4)],
    "many-ports": [record(UDP6, which=n) for n in (0, 8, 16, 24, 1, 9, 17, 25)],
    "uplink": [
        record(UDP6),
        *(record(kind | DOWN) for kind in (UDP6, UDP4, ECHO6, FRAG6, HAIRPIN)),
        record(FRAG6),
        record(FRAG6 | DOWN, flags=1),
        record(FRAG6, flags=2),
        record(UDP4),
    ],
    "mapped-hosts": [
        *(record(UDP6, which=n) for n in (0, 8, 16, 24, 9, 17, 25, 1)),
        *(record(UDP4, which=n << 3) for n in range(8)),
        *(record(HAIRPIN, which=n << 3) for n in range(6)),
        record(ERROR4, which=4),
        record(ERROR6, which=4),
    ],
    "damaged": [
        record(UDP6),
        *(record(UDP4, damage=(0x91 + 4 * n, n * 7, n)) for n in range(4)),
        *(record(UDP6, damage=(0x11 + 4 * n, n * 9, n)) for n in range(4)),
    ],
}

# Settings (tests/fuzz/choices.py): the defaults; address-dependent filtering;
# limits, marks, blocks and an error pool; static mappings, zero checksums refused and a reload;
# deterministic ports with zero checksums forwarded; pools by protocol and client, two prefixes; an
# uplink that comes and goes; stateless with intrinsic hairpinning and a pool, with simple and a
# deny list, and with none, two prefixes, routed networks and a reload.
HEADERS = (
    bytes(HEADER_SIZE),
    b"\x01\x01\x01\0",
    b"\x82\x82\x06\x1f",
    b"\0\0\x88\x20",
    b"\2\1\x0c\x42",
    b"\x81\0\x81\xa4",
    b"\x42\1\0\0",
    b"\x21\0\0\x44",
    b"\x60\0\x08\x20",
    b"\xa2\x04\x80\x01",
)


def inputs() -> dict[str, bytes]:
    """Every seed under a few settings, by file name."""
    return {
        f"{name}-{index}": head + b"".join(records)
        for name, records in SEEDS.items()
        for index, head in enumerate(HEADERS)
    }


def write(directory: Path) -> None:
    """Writes one file for each seed."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, data in inputs().items():
        (directory / name).write_bytes(data)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
