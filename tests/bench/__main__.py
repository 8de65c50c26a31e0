"""Compare the gateway with plain IPv6 forwarding and TAYGA; print the result as Markdown.

Every round measures every subject once, each round beginning with another one, so that
whatever else the machine does meanwhile meets all of them. A subject that cannot be started
is an error in the table and is left out of the later rounds. Progress is on standard error,
the report on standard output. Exit status: 0, or 1 when something could not be measured.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from types import FrameType

from tests.bench import measure, report
from tests.bench.facts import machine, other_load, printed
from tests.bench.stateless import siit_subjects
from tests.bench.subjects import Subject, all_subjects
from tests.bench.topology import BenchError, Topology, built_topology

NEEDED = {"ip": "iproute2", "sysctl": "procps", "iperf3": "iperf3", "ping": "iputils-ping"}


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit status."""
    options = _parse(arguments)
    problem = _obstacle()
    if problem:
        print(f"bench: {problem}", file=sys.stderr)
        return 1
    make = siit_subjects if options.mode == "siit" else all_subjects
    subjects = _chosen(make(options.tayga, options.device), options.only)
    if not subjects:
        print(f"bench: --only {' '.join(options.only)}: no such subject", file=sys.stderr)
        return 1
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    results = {subject.name: report.Rounds(subject) for subject in subjects}
    try:
        with (
            tempfile.TemporaryDirectory(prefix="bench") as directory,
            built_topology() as topology,
        ):
            loads = _all_rounds(topology, Path(directory), results, options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; namespaces removed", file=sys.stderr)
        return 130
    facts = _facts(options, loads)
    print(report.markdown(results, facts))
    if options.json:
        options.json.write_text(_as_json(results, facts))
    return 1 if any(rounds.error for rounds in results.values()) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--rounds", type=_positive, default=5, help="default 5")
    parser.add_argument(
        "--seconds", type=_positive, default=3, help="of each TCP and UDP measurement; default 3"
    )
    parser.add_argument(
        "--mode",
        choices=("nat64", "siit"),
        default="nat64",
        help="siit: stateless, 10,000 mappings; default nat64",
    )
    parser.add_argument("--tayga", metavar="PATH", help="another TAYGA build, beside Debian's")
    parser.add_argument(
        "--device",
        choices=("tap", "tun"),
        action="append",
        help="device of the gateway; may be repeated; default tap",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="NAME",
        default=[],
        help="subjects whose names begin so: forwarding, tayga, newest-tayga, gateway, ...",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    options = parser.parse_args(arguments)
    options.device = list(dict.fromkeys(options.device or ["tap"]))
    if options.tayga is not None:
        if not os.access(options.tayga, os.X_OK) or os.path.isdir(options.tayga):
            parser.error(f"--tayga {options.tayga}: no such program")
        options.tayga = os.path.abspath(options.tayga)
    return options


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return value


def _obstacle() -> str:
    """Return why nothing can be measured here, or ""."""
    if os.geteuid() != 0:
        return "network namespaces need root; run it with sudo"
    for program, package in NEEDED.items():
        if shutil.which(program) is None:
            return f"{program} is missing; apt-get install {package}"
    return ""


def _chosen(subjects: list[Subject], only: list[str]) -> list[Subject]:
    return [s for s in subjects if not only or any(s.name.startswith(name) for name in only)]


def _all_rounds(
    topology: Topology, directory: Path, results: report.Results, options: argparse.Namespace
) -> list[float]:
    """Fill `results`; return what others used of the machine before each turn."""
    order = list(results.values())
    loads: list[float] = []
    for number in range(options.rounds):
        for rounds in order[number % len(order) :] + order[: number % len(order)]:
            if rounds.error and not rounds.figures:
                continue
            name = rounds.subject.name
            loads.append(measure.foreign_load())
            try:
                figures = _one_turn(topology, directory, rounds.subject, options.seconds)
            except BenchError as error:
                rounds.error = f"round {number + 1}: {error}"
                print(f"round {number + 1} {name}: {error}", file=sys.stderr, flush=True)
                continue
            rounds.add(figures)
            shown = " ".join(f"{key}={value:.4g}" for key, value in figures.items())
            print(f"round {number + 1} {name}: {shown}", file=sys.stderr, flush=True)
    return loads


def _one_turn(
    topology: Topology, directory: Path, subject: Subject, seconds: int
) -> dict[str, float]:
    with (
        tempfile.TemporaryDirectory(dir=directory) as own,
        subject.start(topology, Path(own)) as running,
    ):
        return measure.all_figures(measure.Site(topology, running, Path(own)), seconds)


def _facts(options: argparse.Namespace, loads: list[float]) -> dict[str, str]:
    """Return what a reader needs to know about the run."""
    facts = {
        **machine(),
        "tayga": printed("dpkg-query", "-W", "-f=${Version}", "tayga") or "not a Debian package",
        "rounds": f"{options.rounds}, {options.seconds} s for each measurement",
        "traffic": "one TCP stream; UDP with 64 bytes of payload, one flow",
        "other load": other_load(loads),
    }
    if options.tayga:
        facts["newest-tayga"] = options.tayga
    return facts


def _as_json(results: report.Results, facts: dict[str, str]) -> str:
    subjects = {
        name: {"figures": rounds.figures, "error": rounds.error} for name, rounds in results.items()
    }
    used = [t for rounds in results.values() for t in report.targets_of(rounds.subject)]
    targets = [dataclasses.asdict(target) for target in dict.fromkeys(used)]
    return json.dumps({"facts": facts, "subjects": subjects, "targets": targets}, indent=2) + "\n"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
