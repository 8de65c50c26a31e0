"""What a reader needs to know about the machine that something was measured on."""

from __future__ import annotations

import datetime
import os
import platform
import statistics
from pathlib import Path

from tests.bench.topology import REPOSITORY, BenchError, run

DISTURBED = 0.2  # cores


def machine() -> dict[str, str]:
    """Date, commit, kernel, processor and Python of this run."""
    return {
        "date": datetime.date.today().isoformat(),
        "commit": _commit(),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": f"{os.cpu_count()} cores, {_processor()}",
        "Python": platform.python_version(),
    }


def other_load(loads: list[float]) -> str:
    """In words: what others used of the machine before each turn, in cores."""
    disturbed = sum(load > DISTURBED for load in loads)
    text = f"{statistics.median(loads):.2f} of a core before a turn, at most {max(loads):.2f}"
    if not disturbed:
        return text
    return f"{text}; **{disturbed} of {len(loads)} turns disturbed, not good for a comparison**"


def printed(*command: str) -> str:
    """What a command prints, or "" when there is no such command or it fails."""
    try:
        return run(list(command)).strip()
    except BenchError:
        return ""


def _commit() -> str:
    commit = printed("git", "-C", str(REPOSITORY), "rev-parse", "--short", "HEAD")
    if not commit:
        return "unknown"
    changed = printed("git", "-C", str(REPOSITORY), "status", "--porcelain")
    return f"{commit}, with changes" if changed else commit


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "model unknown"
