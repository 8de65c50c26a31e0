"""Fuzzing without guidance, where atheris has no wheels: seeds, shuffled and mutated blindly."""

from __future__ import annotations

import random
import time
from pathlib import Path

from tests.fuzz.scenario import HEADER_SIZE, RECORD_SIZE, run
from tests.fuzz.seeds import inputs

_MOST_RECORDS = 20


def one_input(chance: random.Random, records: list[bytes]) -> bytes:
    """A conversation made of records of the seeds, some of their bytes replaced."""
    head = bytes(chance.choice((0, 0, 1, chance.randrange(256))) for _ in range(HEADER_SIZE))
    program = []
    for _ in range(chance.randint(1, _MOST_RECORDS)):
        record = bytearray(chance.choice(records))
        for _ in range(chance.choice((0, 0, 0, 1, 2, 3))):
            record[chance.randrange(RECORD_SIZE)] = chance.randrange(256)
        program.append(bytes(record))
    return head + b"".join(program)


def fuzz(seconds: float, findings: Path, seed: int | None = None) -> int:
    """Runs inputs for a while; how many. Raises what the first finding raises, having kept it."""
    chance = random.Random(seed)
    records = [
        data[at : at + RECORD_SIZE]
        for data in inputs().values()
        for at in range(HEADER_SIZE, len(data), RECORD_SIZE)
    ]
    end = time.monotonic() + seconds
    count = 0
    while time.monotonic() < end:
        data = one_input(chance, records)
        try:
            run(data)
        except BaseException:
            path = findings / f"crash-{count}"
            path.write_bytes(data)
            print(f"fuzz: {path}: {data.hex()}", flush=True)
            raise
        count += 1
    return count
