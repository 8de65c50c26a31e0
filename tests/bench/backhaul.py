"""Compare the gateway's backhaul with the same ssh tunnel and plain routing; print Markdown.

    client ──── gateway ═══ ssh, Ethernet mode ═══ peer ──── server

What is compared with is the same topology with an ssh started by hand: taps, addresses and routes
by `ip`, IPv6 from end to end, nothing translated and nothing masqueraded. Cipher and
ciphers' order are ssh's own for both. Both with the tunnel's MTU at 1500 and at 9000, where all
links but the one that carries ssh have 9000, too. Every round measures every subject once, each
round beginning with another one. Then, as often, how long the backhaul is away when something
breaks, and how long the peer keeps traces of it (tests/bench/backhaul_times.py).

Progress is on standard error, the report on standard output. Exit status: 0, or 1 when something
could not be measured. `python -m tests.bench.backhaul`, as root.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from tests.bench import backhaul_times, measure, report
from tests.bench.facts import machine, other_load, printed
from tests.bench.subjects import Running, Subject
from tests.bench.topology import BenchError, Topology, run
from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.backhaul_peer import Before
from tests.e2e.namespaces import CommandFailed, open_lab, wait_until
from tests.e2e.topology import SERVER

MTUS = (1500, 9000)
WANTED = 0.8
DEFAULT_TIMERS: dict[str, Any] = {
    "heartbeat": 10,
    "linger": 300,
    "probe_interval": 1,
    "probes_missed": 3,
}
PLAIN_TAP = 40
PLAIN_SERVER6 = "fd00:64:5::2"
TARGETS = [
    report.Target(figure, title, "plain", WANTED)
    for figure, title in (
        ("tcp_up_gbit", "bulk TCP up"),
        ("tcp_down_gbit", "bulk TCP down"),
        ("udp_up_kpps", f"64-byte UDP up, loss ≤ {measure.LOSS_ALLOWED:.0%}"),
        ("udp_down_kpps", f"64-byte UDP down, loss ≤ {measure.LOSS_ALLOWED:.0%}"),
    )
]
FIGURES = {
    "tcp_up_gbit": "TCP up, Gbit/s",
    "tcp_down_gbit": "TCP down, Gbit/s",
    "udp_up_kpps": "UDP 64 B up, kpps",
    "udp_down_kpps": "UDP 64 B down, kpps",
    "ping_us": "ping, µs",
}
HIGHEST_KPPS = 160.0
SEARCH_STEPS = 6
SEARCH_SECONDS = 0.5
SETTLED_MS = 20.0
SETTLE_WITHIN = 20.0
SEARCH_TRIALS = 2  # A rate fails when some packets are lost in each of them.


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark as the command line says; return the exit status."""
    options = _parse(arguments)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    times = report.Rounds(Subject("backhaul", "backhaul", "", _nothing))
    loads: list[float] = []
    try:
        with ExitStack() as stack:
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench")))
            sites = {mtu: stack.enter_context(_site(mtu)) for mtu in options.mtu}
            subjects = [
                Subject(f"{kind}-{mtu}", kind, str(mtu), partial(start, net, mtu))
                for mtu, net in sites.items()
                for kind, start in (("plain", _plain), ("backhaul", _backhaul))
            ]
            results = {subject.name: report.Rounds(subject) for subject in subjects}
            _all_rounds(sites, directory, results, loads, options)
            if not options.no_times:
                _all_times(next(iter(sites.values())), times, loads, options.rounds)
    except (BenchError, CommandFailed, AssertionError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; namespaces removed", file=sys.stderr)
        return 130
    facts = _facts(options, loads)
    print(_markdown(results, times, facts))
    if options.json:
        options.json.write_text(_as_json(results, times, facts))
    return 1 if times.error or any(rounds.error for rounds in results.values()) else 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.backhaul", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="default 5")
    parser.add_argument(
        "--seconds", type=int, default=3, help="of each TCP and UDP measurement; default 3"
    )
    parser.add_argument("--mtu", type=int, nargs="+", default=MTUS, help="default: 1500 9000")
    parser.add_argument("--no-times", action="store_true", help="do not break and reconnect")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures there too")
    return parser.parse_args(arguments)


@contextmanager
def _nothing(topology: Topology, directory: Path) -> Iterator[Running]:
    yield Running("", None)


@contextmanager
def _site(mtu: int) -> Iterator[BackhaulNet]:
    """The namespaces for one MTU, with what both subjects need: sshd, IPv6 forwarding."""
    with open_lab(f"bench{mtu}") as lab:
        net = backhaul_net(lab, mtu=mtu)
        net.peer.start_sshd()
        host = net.peer.namespace
        for namespace in (net.gateway, host):
            namespace.sysctl(ipv6__conf__all__forwarding=1)
        net.server.sysctl(ipv6__conf__all__disable_ipv6=0, ipv6__conf__pa__accept_dad=0)
        host.ip("addr", "add", "fd00:64:5::1/64", "dev", "v4", "nodad")
        net.server.ip("addr", "add", f"{PLAIN_SERVER6}/64", "dev", "pa", "nodad")
        net.server.ip("-6", "route", "add", "default", "via", "fd00:64:5::1")
        net.client.ip("-6", "route", "add", "fd00:64:5::/64", "via", "fd00:64::1")
        yield net


@contextmanager
def _plain(net: BackhaulNet, mtu: int, topology: Topology, directory: Path) -> Iterator[Running]:
    gateway, peer = net.gateway, net.peer
    near = f"tap{PLAIN_TAP}"
    before = peer.before()
    ssh = gateway.start(
        *("ssh", "-F", str(net.keys.config), "-T", "-a", "-x", "-o", "BatchMode=yes"),
        *("-o", "Compression=no", "-o", "ExitOnForwardFailure=yes"),
        *("-o", "ServerAliveInterval=5", "-o", "Tunnel=ethernet", "-w", f"{PLAIN_TAP}:any"),
        # The open tunnel keeps the connection when the command has ended.
        *("root@peer-a", "echo ready $SSH_TUNNEL"),
        name="plain-ssh",
    )
    try:
        far = ssh.wait_for(r"^ready (tap\d+)").group(1)
        for namespace, name, address in (
            (gateway, near, "fd00:64:e::1/64"),
            (peer.namespace, far, "fd00:64:e::2/64"),
        ):
            namespace.ip("link", "set", name, "mtu", str(mtu), "up")
            namespace.ip("addr", "add", address, "dev", name, "nodad")
        gateway.ip("-6", "route", "add", "fd00:64:5::/64", "via", "fd00:64:e::2", "dev", near)
        peer.namespace.ip("-6", "route", "add", "fd00:64::/64", "via", "fd00:64:e::1", "dev", far)
        _await_ping(net, PLAIN_SERVER6)
        yield Running(PLAIN_SERVER6, None)
    finally:
        ssh.end()
        _await_traces_gone(net, before)


@contextmanager
def _backhaul(net: BackhaulNet, mtu: int, topology: Topology, directory: Path) -> Iterator[Running]:
    before = net.peer.before()
    gateway = _gateway(net, mtu)
    try:
        _await_ping(net, SERVER)
        yield Running(SERVER, None)
    finally:
        gateway.stop_cleanly()
        _await_traces_gone(net, before)


def _gateway(net: BackhaulNet, mtu: int) -> BackhaulGateway:
    return BackhaulGateway(net, "--mtu", str(mtu), mtu=mtu, **DEFAULT_TIMERS).start_up()


def _await_ping(net: BackhaulNet, target: str) -> None:
    def answered() -> bool:
        ping = net.client.run("ping", "-6", "-n", "-c1", "-W1", target, check=False)
        return ping.status == 0

    wait_until(answered, 10, f"no ping reply from {target}")


def _await_traces_gone(net: BackhaulNet, before: Before) -> None:
    net.peer.wait_untouched(before, 10)


def _all_rounds(
    sites: dict[int, BackhaulNet],
    directory: Path,
    results: report.Results,
    loads: list[float],
    options: argparse.Namespace,
) -> None:
    order = list(results.values())
    for number in range(options.rounds):
        for rounds in order[number % len(order) :] + order[: number % len(order)]:
            if rounds.error and not rounds.figures:
                continue
            net = sites[int(rounds.subject.pool)]
            topology = Topology(net.client.name, net.gateway.name, net.server.name)
            loads.append(measure.foreign_load())
            _one_turn(
                rounds,
                f"round {number + 1} {rounds.subject.name}",
                partial(_measured, rounds.subject, topology, directory, options.seconds),
            )


def _measured(
    subject: Subject, topology: Topology, directory: Path, seconds: int
) -> measure.Figures:
    with (
        tempfile.TemporaryDirectory(dir=directory) as own,
        subject.start(topology, Path(own)) as running,
    ):
        site = measure.Site(topology, running, Path(own))
        figures = measure.round_trip(site)
        for direction in ("up", "down"):
            figures |= measure.bulk(site, seconds, direction)
        for direction in ("up", "down"):
            figures[f"udp_{direction}_kpps"] = _small_packets(site, direction)
        return figures


def _small_packets(site: measure.Site, direction: str) -> float:
    """Return the highest rate, in thousands a second, of which no more than LOSS_ALLOWED is lost.

    A flood tells nothing here: ssh's own TCP connection goes through the same overloaded
    kernel, loses segments, too, and backs off for seconds. So each rate begins only when the
    tunnel answers again after the last.
    """
    low, high = 0.0, HIGHEST_KPPS
    for _ in range(SEARCH_STEPS):
        rate = (low + high) / 2
        for _ in range(SEARCH_TRIALS):
            _settle(site)
            offered, received, duration = measure.blast(
                site, SEARCH_SECONDS, rate * 1000, direction
            )
            if received >= offered * (1 - measure.LOSS_ALLOWED):
                break
        else:
            high = rate
            continue
        low = max(low, received / duration / 1000)
        if offered / duration / 1000 < 0.9 * rate:
            break  # The sender itself cannot go faster.
    return low


def _settle(site: measure.Site) -> None:
    """Waits until the tunnel answers within a moment."""
    command = ["ping", "-6", "-n", "-c1", "-W1", site.subject.target]
    deadline = time.monotonic() + SETTLE_WITHIN
    while time.monotonic() < deadline:
        with suppress(BenchError):
            output = run(command, namespace=site.topology.client)
            found = re.search(r"time=([0-9.]+) ms", output)
            if found and float(found.group(1)) < SETTLED_MS:
                return
    raise BenchError(f"the tunnel has not come to rest within {SETTLE_WITHIN:g} s")


def _all_times(net: BackhaulNet, times: report.Rounds, loads: list[float], rounds: int) -> None:
    for number in range(rounds):
        loads.append(measure.foreign_load())

        def once() -> measure.Figures:
            before = net.peer.before()
            figures = backhaul_times.all_times(net, _gateway(net, 1500))
            net.peer.wait_untouched(before, 10)
            return figures

        _one_turn(times, f"round {number + 1} times", once)


def _one_turn(rounds: report.Rounds, name: str, measured: Callable[[], measure.Figures]) -> None:
    try:
        figures = measured()
    except (BenchError, CommandFailed, AssertionError) as error:
        rounds.error = f"{name}: {str(error).partition(chr(10))[0]}"
        print(f"{name}: {error}", file=sys.stderr, flush=True)
        return
    rounds.add(figures)
    shown = " ".join(f"{key}={value:.4g}" for key, value in figures.items())
    print(f"{name}: {shown}", file=sys.stderr, flush=True)


def _facts(options: argparse.Namespace, loads: list[float]) -> dict[str, str]:
    return {
        **machine(),
        "ssh": printed("dpkg-query", "-W", "-f=${Version}", "openssh-client") or "not Debian's",
        "rounds": f"{options.rounds}, {options.seconds} s for each measurement",
        "traffic": "one TCP stream; UDP with 64 bytes of payload, one flow",
        "other load": other_load(loads),
    }


def _markdown(results: report.Results, times: report.Rounds, facts: dict[str, str]) -> str:
    parts = ["\n".join(f"- {name}: {value}" for name, value in facts.items())]
    parts.append("Medians, with the least and the greatest of all rounds in brackets:")
    parts.append(report.figures_table(results, FIGURES))
    errors = [
        f"- **{rounds.subject.name}**: {rounds.error}"
        for rounds in (*results.values(), times)
        if rounds.error
    ]
    if errors:
        parts.append("What did not work:\n\n" + "\n".join(errors))
    parts.append("The backhaul against the same tunnel with plain routing:")
    parts.append(report.table(["target", "MTU", "wanted", "measured", ""], _target_rows(results)))
    for title, figures in (
        ("From the event to the first packet", backhaul_times.RECONNECT),
        (
            "From the event until the peer has no address and no route of ours",
            backhaul_times.UNDONE,
        ),
    ):
        if times.figures:
            rows = [[text, report.spread(times.figures.get(key))] for key, text in figures.items()]
            parts.append(report.table([title, "s"], rows))
    return "\n\n".join(parts) + "\n"


def _target_rows(results: report.Results) -> list[list[str]]:
    rows = []
    for target in TARGETS:
        for rounds in results.values():
            plain = report.compared_with(results, rounds, target.kind)
            if rounds.subject.kind != "backhaul" or plain is None:
                continue
            value = report.ratio(rounds, plain, target.figure)
            measured = "-" if value is None else f"{value:.2f}"
            wanted = f"≥ {target.wanted:g}"
            verdict = report.verdict(target, value)
            rows.append([target.title, rounds.subject.pool, wanted, measured, verdict])
    return rows


def _as_json(results: report.Results, times: report.Rounds, facts: dict[str, str]) -> str:
    subjects = {
        name: {"figures": rounds.figures, "error": rounds.error}
        for name, rounds in (*results.items(), ("times", times))
    }
    return json.dumps({"facts": facts, "subjects": subjects}, indent=2) + "\n"


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
