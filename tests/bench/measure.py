"""What is measured of one subject in one round: each function returns figures by name.

Bulk TCP is a single iperf3 stream, seen by its receiver. Small packets are 64 bytes of UDP
payload (112 bytes with the IPv6 header, 92 with IPv4). First they are offered without a
pause, which is a flood: what gets through is the rate, and the sender and the translator
compete for the processor. A search then finds the highest offered rate of which no more
than `LOSS_ALLOWED` is lost (RFC 2544 §26.1 allows none at all, which on a machine of two
cores measures its other processes). "Up" is from the IPv6 client to the server, "down" is
back.

Processor time is that of all threads of the translator from /proc/PID/task/*/schedstat,
divided by the packets that arrived. It contains what the kernel does within the
translator's system calls: at `STEADY_KPPS` that includes the whole way of a packet that it
has written, up to the other end's socket; under a flood ksoftirqd does a part of it, which
then shows in no figure, and bursts are longer. For forwarding there is no such process.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from tests.bench.subjects import Running
from tests.bench.topology import Background, BenchError, Topology, run

BLAST = str(Path(__file__).with_name("blast.py"))
PINGS = 200
PING_INTERVAL = 0.005
STEADY_KPPS = 50
IDLE_SAMPLE = 0.5
LOSS_ALLOWED = 0.01
SEARCH_STEPS = 5
SEARCH_SECONDS = 0.5
SEARCH_TRIALS = 2  # A rate fails when some packets are lost in each of them.

_ports = count(20000)

Figures = dict[str, float]


@dataclass(frozen=True, slots=True)
class Site:
    """Where it is measured: between which namespaces, through what, with logs in which folder."""

    topology: Topology
    subject: Running
    directory: Path


def all_figures(site: Site, seconds: float) -> Figures:
    """Measure everything; BenchError at the first thing that does not work."""
    figures = round_trip(site)
    for direction in ("up", "down"):
        figures |= bulk(site, seconds, direction)
    for direction in ("up", "down"):
        figures |= small_packets(site, seconds, direction)
    figures |= steady(site)
    figures |= lossless(site, figures["udp_up_kpps"])
    return figures


def round_trip(site: Site) -> Figures:
    """Return the median round trip of many pings, in microseconds."""
    command = ["ping", "-6", "-n", "-i", str(PING_INTERVAL), "-c", str(PINGS), site.subject.target]
    output = run(command, namespace=site.topology.client, limit=PINGS * PING_INTERVAL + 15)
    times = [float(ms) for ms in re.findall(r"time=([0-9.]+) ms", output)]
    if len(times) < PINGS * 0.9:
        raise BenchError(f"ping: {len(times)} of {PINGS} answered")
    return {"ping_us": statistics.median(times) * 1000}


def bulk(site: Site, seconds: float, direction: str) -> Figures:
    """Return Gbit/s of one TCP stream and the translator's milliseconds for each gigabyte."""
    port = str(next(_ports))
    listener = ["iperf3", "-s", "-1", "-p", port, "--forceflush"]
    command = ["iperf3", "-6", "-c", site.subject.target, "-p", port, "-t", str(seconds), "-J"]
    if direction == "down":
        command.append("-R")
    with Background(site.topology.server, listener, site.directory / "iperf3.log") as server:
        server.wait_for("Server listening", 15)
        before = processor_seconds(site.subject.pid)
        output = run(command, namespace=site.topology.client, limit=seconds + 15)
        used = processor_seconds(site.subject.pid) - before
    try:
        received = json.loads(output)["end"]["sum_received"]
        rate, size = float(received["bits_per_second"]), float(received["bytes"])
    except (ValueError, KeyError) as error:
        raise BenchError(f"iperf3: no result ({error!r})") from None
    if not size:
        raise BenchError("iperf3: connected, but nothing received")
    figures = {f"tcp_{direction}_gbit": rate / 1e9}
    if site.subject.pid is not None:
        figures[f"tcp_{direction}_cpu_ms_per_gb"] = used * 1e12 / size
    return figures


def small_packets(site: Site, seconds: float, direction: str) -> Figures:
    """Return thousands of packets offered and received each second, and microseconds for one."""
    before = processor_seconds(site.subject.pid)
    offered, received, duration = blast(site, seconds, 0, direction)
    used = processor_seconds(site.subject.pid) - before
    figures = {
        f"udp_{direction}_kpps": received / duration / 1000,
        f"udp_{direction}_offered_kpps": offered / duration / 1000,
    }
    if site.subject.pid is not None:
        figures[f"udp_{direction}_cpu_us"] = used * 1e6 / received
    return figures


def steady(site: Site) -> Figures:
    """Return microseconds of processor time for each packet at STEADY_KPPS."""
    if site.subject.pid is None:
        return {}
    before = processor_seconds(site.subject.pid)
    _, received, _ = blast(site, 1, STEADY_KPPS * 1000, "up")
    used = processor_seconds(site.subject.pid) - before
    return {"udp_steady_cpu_us": used * 1e6 / received}


def lossless(site: Site, kpps: float) -> Figures:
    """Return the highest rate up, near `kpps`, of which no more than LOSS_ALLOWED is lost."""
    low, high = 0.0, 2 * kpps
    for _ in range(SEARCH_STEPS):
        rate = (low + high) / 2
        for _ in range(SEARCH_TRIALS):
            offered, received, duration = blast(site, SEARCH_SECONDS, rate * 1000, "up")
            if received >= offered * (1 - LOSS_ALLOWED):
                break
        else:
            high = rate
            continue
        low = max(low, received / duration / 1000)
        if offered / duration / 1000 < 0.9 * rate:
            break  # The sender itself cannot go faster.
    return {"udp_lossless_kpps": low}


def foreign_load() -> float:
    """Return the share of one core, averaged over a moment, that others use while we sleep.

    On two cores a single busy process elsewhere decides whether sender and translator share
    a core, which halves or doubles the rate of small packets.
    """
    before = _busy_ticks()
    time.sleep(IDLE_SAMPLE)
    return (_busy_ticks() - before) / os.sysconf("SC_CLK_TCK") / IDLE_SAMPLE


def _busy_ticks() -> int:
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    ticks = [int(field) for field in fields]
    return sum(ticks) - ticks[3] - ticks[4]  # but idle and iowait


def processor_seconds(pid: int | None) -> float:
    """Return the processor time that all threads of `pid` have had; 0 without a process."""
    if pid is None:
        return 0.0
    try:
        files = list(Path(f"/proc/{pid}/task").glob("*/schedstat"))
        total = sum(int(file.read_text().split()[0]) for file in files) / 1e9
    except (OSError, ValueError, IndexError) as error:
        raise BenchError(f"translator's processor time: {error}") from None
    if not files:
        raise BenchError("the translator has ended")
    return total


def blast(site: Site, seconds: float, rate: float, direction: str) -> tuple[float, float, float]:
    """Send `rate` packets a second, 0 as many as possible: how many were sent, how many received,
    and for how many seconds was sent.
    """
    port = str(next(_ports))
    jobs = ("receive", "send") if direction == "up" else ("send", "receive")
    amount = [str(seconds), str(rate)]
    python = [sys.executable, "-S", BLAST]
    far = [*python, "listen", port, jobs[0], *amount]
    near = [*python, "open", site.subject.target, port, jobs[1], *amount]
    limit = seconds + 15
    log = site.directory / "blast.log"
    with Background(site.topology.server, far, log, name="blast.py listen") as listener:
        listener.wait_for("listening", 15)
        output = run(near, namespace=site.topology.client, limit=limit)
        output += listener.wait(limit)
    result: Figures = {}
    for line in output.splitlines():
        if line.startswith("{"):
            result |= json.loads(line)
    try:
        return result["sent"], result["received"], result["seconds"]
    except KeyError as error:
        raise BenchError(f"blast.py: no figure {error}") from None
