"""Queries a second of the gateway's DNS64 and of one-threaded Unbound with its dns64 module.

    python -m tests.bench.dns64 [--seconds 5] [--rounds 3] [--json FILE]

Everything is in one network namespace, over its loopback device: dnsperf asks, nsd is the
upstream of both, and Unbound and the gateway are measured in turns, so that whatever else the
machine does meets both. Three cases, all of AAAA questions:

    cached      1,000 names with IPv4 addresses only, asked before: synthesised answers repeated
    synthesised names that were never asked, with IPv4 addresses only: two questions upstream each
    passed      names that were never asked, with IPv6 addresses: nothing to synthesise

What counts is the ratio of the medians; rates of one machine say little about another.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import sys
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.bench.report import Target, spread, table, verdict
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace, open_lab
from tests.e2e.topology import gateway_host

CASES = ("cached", "synthesised", "passed")
TARGETS = {case: Target(case, case, "unbound", 0.15, 0.25) for case in CASES}
UPSTREAM_PORT, UNBOUND_PORT, GATEWAY_PORT = 5300, 5301, 5302
NAMES = 1_000
LOST_ALLOWED = 0.01
PREFIX = "64:ff9b::/96"

_names = count()


@dataclass(frozen=True, slots=True)
class Subject:
    """A running DNS64 and the port on ::1 where it answers."""

    name: str
    port: int


def start_upstream(box: Namespace) -> None:
    folder = box.lab.new_file("nsd")
    folder.mkdir()
    (folder / "zone").write_text(
        "$ORIGIN bench.test.\n$TTL 3600\n"
        "@ SOA ns hostmaster 1 3600 600 86400 3600\n@ NS ns\nns A 127.0.0.1\n"
        "*.four A 198.51.100.1\n*.six AAAA 2001:db8::1\n*.six A 198.51.100.1\n"
    )
    (folder / "nsd.conf").write_text(
        f"server:\n  ip-address: 127.0.0.1@{UPSTREAM_PORT}\n"
        '  username: ""\n  chroot: ""\n  database: ""\n  rrl-ratelimit: 0\n'
        f'  zonesdir: "{folder}"\n  pidfile: "{folder}/nsd.pid"\n'
        f'  zonelistfile: "{folder}/zone.list"\n  xfrdfile: "{folder}/xfrd.state"\n'
        "  server-count: 1\nremote-control:\n  control-enable: no\n"
        'zone:\n  name: "bench.test"\n  zonefile: "zone"\n'
    )
    box.start("nsd", "-d", "-V", "1", "-c", str(folder / "nsd.conf")).wait_for("nsd started")


def start_unbound(box: Namespace) -> Subject:
    config = box.lab.new_file("unbound.conf")
    config.write_text(
        f"server:\n  interface: ::1@{UNBOUND_PORT}\n  access-control: ::1 allow\n"
        '  username: ""\n  chroot: ""\n  pidfile: ""\n  use-syslog: no\n  num-threads: 1\n'
        '  do-not-query-localhost: no\n  local-zone: "test." nodefault\n'
        "  msg-cache-size: 64m\n  rrset-cache-size: 128m\n  outgoing-range: 4096\n"
        "  num-queries-per-thread: 2048\n  so-rcvbuf: 0\n  verbosity: 1\n"
        f'  module-config: "dns64 iterator"\n  dns64-prefix: {PREFIX}\n'
        f'stub-zone:\n  name: "bench.test"\n  stub-addr: 127.0.0.1@{UPSTREAM_PORT}\n'
        "remote-control:\n  control-enable: no\n"
    )
    box.start("unbound", "-d", "-c", str(config)).wait_for("start of service")
    return Subject("unbound", UNBOUND_PORT)


def start_gateway(box: Namespace) -> tuple[Subject, Gateway]:
    config = (
        f'prefix = "{PREFIX}"\nwkp_strict = false\nicmp6_source = "fd00::1"\n[dns64]\n'
        f'enabled = true\nlisten = ["::1@{GATEWAY_PORT}"]\n'
        f'upstreams = ["127.0.0.1@{UPSTREAM_PORT}"]\nqueries_per_second = 0\n'
    )
    gateway = Gateway(box, config=config).start()
    return Subject("gateway", GATEWAY_PORT), gateway


def measure(box: Namespace, subject: Subject, names: Path, seconds: float) -> float:
    """Answered queries a second. Raises AssertionError when too many are lost."""
    out = box.run(
        *("dnsperf", "-s", "::1", "-p", str(subject.port), "-d", str(names)),
        *("-l", f"{seconds:g}", "-q", "200", "-c", "8", "-t", "5"),
        timeout=seconds + 60,
    ).out
    sent, done = _number(out, "Queries sent"), _number(out, "Queries completed")
    assert done >= (1 - LOST_ALLOWED) * sent, f"{subject.name} lost {sent - done:.0f}\n{out}"
    assert "NOERROR" in out, out
    return _number(out, "Queries per second")


def _number(out: str, what: str) -> float:
    match = re.search(rf"{what}:\s+([0-9.]+)", out)
    assert match is not None, f"dnsperf does not say {what}\n{out}"
    return float(match[1])


def new_names(lab: Lab, case: str, number: int) -> Path:
    """A file of questions about names that nobody has asked about before."""
    path = lab.new_file(f"{case}.names")
    below = "six" if case == "passed" else "four"
    with path.open("w") as file:
        file.writelines(f"n{next(_names)}.{below}.bench.test AAAA\n" for _ in range(number))
    return path


def run_rounds(
    box: Namespace, subjects: list[Subject], rounds: int, seconds: float
) -> dict[str, dict[str, list[float]]]:
    """Rates by case and subject."""
    rates: dict[str, dict[str, list[float]]] = {
        case: {subject.name: [] for subject in subjects} for case in CASES
    }
    known = new_names(box.lab, "cached", NAMES)
    for subject in subjects:
        for case in ("synthesised", "passed"):
            measure(box, subject, new_names(box.lab, case, 60_000), 1.0)
    for turn in range(rounds):
        for case, found in rates.items():
            for subject in subjects if turn % 2 == 0 else reversed(subjects):
                names = known
                if case == "cached":
                    # Names asked about since then may have displaced them.
                    measure(box, subject, known, 0.5)
                else:
                    # More than anybody answers in that time.
                    names = new_names(box.lab, case, int(60_000 * seconds))
                found[subject.name].append(measure(box, subject, names, seconds))
                if names is not known:
                    names.unlink()
    return rates


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write every figure there")
    options = parser.parse_args()
    with open_lab("dns64") as lab:
        box = gateway_host(lab)
        start_upstream(box)
        unbound = start_unbound(box)
        subject, gateway = start_gateway(box)
        rates = run_rounds(box, [unbound, subject], options.rounds, options.seconds)
        gateway.stop_cleanly()
    rows, missed = [], []
    for case, found in rates.items():
        ours, theirs = (statistics.median(found[name]) for name in ("gateway", "unbound"))
        ratio = ours / theirs
        target = TARGETS[case]
        rates_shown = (spread(found[name]) for name in ("gateway", "unbound"))
        rows.append([case, *rates_shown, f"{ratio:.2f}", verdict(target, ratio)])
        if ratio < target.wanted:
            missed.append(f"{case}: {ratio:.2f} of Unbound, at least {target.wanted} is wanted")
    print(table(["case", "gateway, q/s", "Unbound, q/s", "ratio", "wanted"], rows))
    if options.json:
        options.json.write_text(json.dumps(rates, indent=1))
    for line in missed:
        print(f"missed: {line}", file=sys.stderr)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
