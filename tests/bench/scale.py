"""Memory, speed and pauses of the translator's tables with a million sessions, on one core.

    python -m tests.bench.scale [--sessions 1000000] [--per-entry 4 1] [--json FILE]

Everything happens in this process, without a device: first packets go through
`Nat64.translate`, which makes the sessions, then frames of sessions picked at random go through
the fast path, then all sessions end through `Nat64.expire` as the data plane calls it. The
garbage collector is set as the program sets it (gateway/memory.py). Half of the BIB entries are
UDP, half TCP, opened with SYN and SYN ACK; sessions come in an order without a pattern, each
with a reading of the clock of its own, from 10,000 clients to 131,072 servers, so that hardly
two share anything.

Times are of the thread's processor, so that other processes do not count; the longest wall-clock
time of one operation is given too. Each case runs in a process of its own, because memory that
one has given back would hide what the next one takes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from time import perf_counter, thread_time

from gateway import memory
from gateway.data_plane import EXPIRE_LOOKS
from gateway.frames import FrameFormat
from tests.bench.report import table
from translate.addresses import Layout, Prefix6
from translate.checksum import internet_checksum
from translate.fast_path import BUFFER_SIZE, IP_AT, FastPath, make_fast_path
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.pool4 import PoolRange
from translate.settings import Limits, Settings

CLIENTS = 10_000
FEW = 1000  # sessions that the fast path at a million is compared with
FRAMES = 100_000  # of one measurement of the fast path, in each direction
REPETITIONS = 5
LONG = 8_000.0  # seconds, longer than any lifetime
NEW_PER_SECOND = 25_000  # how fast the translator's clock runs while filling
FRAME_SECONDS = 2e-6  # how fast while frames cross: a frame takes about that long
_IDLE_STEPS = 2_000  # additions that take about as long as a first packet

TCP, UDP = 6, 17
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
SERVER_PORT = (443).to_bytes(2, "big")
CLIENT_NET = IPv6Address("fd00:6464:1::").packed[:8]
SERVER_NET = int(IPv4Address("198.18.0.0"))
PREFIX = Prefix6(IPv6Network("fec0:0:0:ffff::/64"), Layout.TRAILING)
POOL4 = IPv4Network("203.0.113.16/28")
LINK = b"\x02\0\0\0\0\x01"
FORM = FrameFormat(True, host_mac=b"\x02\0\0\0\0\x02", own_mac=b"\x02\0\0\0\0\x05")

# Most that is allowed, or least.
MOST_BYTES = 800
MOST_SLOWER = 1.3
LEAST_PER_SECOND = 25_000
MOST_EXPIRY_SECONDS = 60
MOST_HOLD_MS = 5.0


@dataclass(slots=True)
class Gaps:
    """How long single operations of one kind held the loop, in milliseconds."""

    longest_ms: float
    longest_wall_ms: float
    p9999_ms: float
    seconds: float  # of all of them together


@dataclass(slots=True)
class Case:
    """What one case gave. Costs are microseconds for each packet."""

    sessions: int
    per_entry: int
    entries: int = 0
    bytes_each: float = 0.0
    new_per_second: float = 0.0  # first packets
    open_per_second: float = 0.0  # with the SYN ACKs
    fast_us: dict[str, float] = field(default_factory=dict)  # "few up", "all down", ...
    gaps: dict[str, Gaps] = field(default_factory=dict)
    expire_calls: int = 0
    bytes_left: float = 0.0


class Stopwatch:
    """Times of many operations, in memory that is taken before the first one."""

    def __init__(self, most: int) -> None:
        self._cpu = array("f", bytes(4 * most))
        self._wall = array("f", bytes(4 * most))
        self.count = 0
        self.total = 0.0  # seconds

    def add(self, cpu: float, wall: float) -> None:
        """Enters one operation's times, in seconds."""
        at = self.count
        self._cpu[at] = cpu
        self._wall[at] = wall
        self.count = at + 1
        self.total += cpu

    def clear(self) -> None:
        """Begins anew."""
        self.count = 0
        self.total = 0.0

    def gaps(self) -> Gaps:
        """Makes the figures."""
        times = sorted(self._cpu[: self.count])
        at = min(len(times) - 1, int(len(times) * 0.9999))
        wall = max(self._wall[: self.count])
        return Gaps(times[-1] * 1e3, wall * 1e3, times[at] * 1e3, self.total)


class Traffic:
    """The packets of every session, computed from its number; only pool addresses are kept."""

    def __init__(self, sessions: int, per_entry: int) -> None:
        self.sessions = sessions
        self.entries = sessions // per_entry
        self._clients = min(CLIENTS, self.entries)
        self._pool = bytearray(6 * self.entries)
        # A step that has no factor in common with the number of sessions visits all of them.
        self._step = next(
            step for step in (618_033_989, 7_654_321, 104_729, 7919) if _coprime(step, sessions)
        )

    def session(self, index: int) -> tuple[int, int, bytes, bytes, bytes]:
        """Entry, protocol, client address, client port and server address of the n-th session."""
        place = index * self._step % self.sessions
        entry, number = place % self.entries, place // self.entries
        turn, client = divmod(entry, self._clients)
        port = 1024 + (client * 7919 + turn * 40_507) % 64_512
        server = SERVER_NET + ((entry * 4 + number) * 2_654_435_761 % (1 << 32) >> 15)
        src6 = CLIENT_NET + (client + 1).to_bytes(8, "big")
        return (
            entry,
            TCP if turn & 1 else UDP,
            src6,
            port.to_bytes(2, "big"),
            server.to_bytes(4, "big"),
        )

    def note_pool(self, entry: int, pool: bytes) -> None:
        """Keeps the pool address and port that an entry got."""
        self._pool[6 * entry : 6 * entry + 6] = pool

    def up(self, index: int, flags: int = ACK) -> bytes:
        """An IPv6 packet of the session."""
        _, protocol, src6, port, server4 = self.session(index)
        addresses = src6 + PREFIX.embed(server4)
        segment = _segment(protocol, addresses, port + SERVER_PORT, flags)
        return b"\x60\0\0\0\0" + bytes((len(segment), protocol, 64)) + addresses + segment

    def down(self, index: int, flags: int = ACK) -> bytes:
        """An IPv4 packet of the session."""
        entry, protocol, _, _, server4 = self.session(index)
        pool = bytes(self._pool[6 * entry : 6 * entry + 6])
        addresses = server4 + pool[:4]
        segment = _segment(protocol, addresses, SERVER_PORT + pool[4:], flags)
        header = b"\x45\0\0" + bytes((20 + len(segment),)) + b"\0\0\x40\0\x40" + bytes((protocol,))
        checksum = internet_checksum(header + b"\0\0" + addresses).to_bytes(2, "big")
        return header + checksum + addresses + segment

    def is_tcp(self, index: int) -> bool:
        """Whether the session is one of TCP."""
        return self.session(index)[1] == TCP


def _coprime(one: int, other: int) -> bool:
    while other:
        one, other = other, one % other
    return one == 1


def _segment(protocol: int, addresses: bytes, ports: bytes, flags: int) -> bytes:
    if protocol == UDP:
        head, tail = ports + b"\0\x10", b"payload."
    else:
        head = ports + bytes(8) + bytes((0x50, flags)) + b"\xff\xff"
        tail = b"\0\0"
    length = len(head) + 2 + len(tail)
    pseudo = addresses + length.to_bytes(4, "big") + bytes((0, 0, 0, protocol))
    checksum = internet_checksum(pseudo + head + b"\0\0" + tail) or 0xFFFF
    return head + checksum.to_bytes(2, "big") + tail


def translator(sessions: int) -> Nat64:
    """A translator whose limits leave room for so many sessions."""
    limits = Limits(sessions=sessions, bib=sessions, sessions_per_client=sessions)
    settings = Settings(
        prefixes=(PREFIX,),
        pool4=(PoolRange(POOL4),),
        icmp6_source=PREFIX.embed(IPv4Address("192.0.0.8").packed),
        icmp4_source=IPv4Address("203.0.113.16").packed,
        limits=limits,
    )
    return Nat64(
        settings,
        randbelow=random.Random(64).randrange,
        admit=lambda _: True,
        path_mtu=lambda _: 1500,
    )


class Run:
    """One case, from an empty translator to an empty translator."""

    def __init__(self, sessions: int, per_entry: int) -> None:
        self.case = Case(sessions, per_entry)
        self.nat = translator(sessions)
        self.traffic = Traffic(sessions, per_entry)
        self.now = 1000.0
        self._making = 0.0  # seconds spent on first packets
        self._watch = Stopwatch(2 * max(sessions, FRAMES))
        self._buffer = bytearray(BUFFER_SIZE)
        self.fast: FastPath = make_fast_path(
            self.nat.state.flows,
            vnet=FORM.vnet,
            ethernet4=FORM.ethernet4,
            ethernet6_tail=FORM.ethernet6_tail,
            lowest_ipv6_mtu=self.nat.settings.lowest_ipv6_mtu,
        )

    def go(self) -> Case:
        """Does all of it."""
        case, few = self.case, min(FEW, self.case.sessions)
        memory.settle()
        before = resident()
        self._fill(0, few)
        self._cross("few", few, None)
        self._fill(few, case.sessions)
        case.entries = self.nat.state.bib_count
        case.bytes_each = (resident() - before) / case.sessions
        gaps = self._watch.gaps()
        case.gaps["filling"] = gaps
        case.new_per_second = case.sessions / self._making
        case.open_per_second = case.sessions / gaps.seconds
        self._watch.clear()
        self._cross("all", case.sessions, self._watch)
        case.gaps["running"] = self._watch.gaps()
        self._watch.clear()
        self._expire()
        case.gaps["expiring"] = self._watch.gaps()
        case.bytes_left = (resident() - before) / case.sessions
        self._watch.clear()
        self._idle()
        case.gaps["idle"] = self._watch.gaps()
        return case

    def _fill(self, first: int, end: int) -> None:
        """Opens sessions: with one packet, or for TCP with SYN and SYN ACK."""
        traffic, translate = self.traffic, self.nat.translate
        for index in range(first, end):
            self.now += 1 / NEW_PER_SECOND
            before = self._watch.total
            (out,) = self._timed(translate, Packet(traffic.up(index, SYN), link=LINK))
            self._making += self._watch.total - before
            entry = traffic.session(index)[0]
            traffic.note_pool(entry, out.data[12:16] + out.data[20:22])
            if traffic.is_tcp(index):
                self._timed(translate, Packet(traffic.down(index, SYN_ACK)))
        if self.nat.state.session_count != end:
            raise RuntimeError(f"{self.nat.state.session_count} sessions instead of {end}")

    def _timed(self, translate: Callable[..., list[Packet]], packet: Packet) -> list[Packet]:
        now = self.now
        wall, cpu = perf_counter(), thread_time()
        out = translate(packet, now)
        self._watch.add(thread_time() - cpu, perf_counter() - wall)
        return out

    def _idle(self) -> None:
        """As many operations as opening took, of the same length, that touch nothing of ours.

        What holds these is the machine's, and holds the others as well.
        """
        numbers = range(_IDLE_STEPS)
        for _ in range(self.case.sessions):
            wall, cpu = perf_counter(), thread_time()
            sum(numbers)
            self._watch.add(thread_time() - cpu, perf_counter() - wall)

    def _cross(self, name: str, sessions: int, watch: Stopwatch | None) -> None:
        """Sends frames of random sessions through the fast path, both ways."""
        pick = random.Random(7)
        chosen = [pick.randrange(sessions) for _ in range(FRAMES)]
        for direction, build in (("up", self.traffic.up), ("down", self.traffic.down)):
            frames = [FORM.join(Packet(build(index))) for index in chosen]
            self.case.fast_us[f"{name} {direction}"] = self._fast_seconds(frames) * 1e6
            if watch is not None:
                self._watch_each(frames, watch)

    def _fast_seconds(self, frames: Sequence[bytes]) -> float:
        """Processor time of one frame; putting it into the buffer is measured and subtracted."""
        buffer, base, fast = self._buffer, IP_AT - FORM.header_size, self.fast
        size = len(frames[0])

        def carried() -> int:
            count, now = 0, self.now
            for frame in frames:
                now += FRAME_SECONDS
                buffer[base : base + len(frame)] = frame
                if fast(buffer, len(frame), now):
                    count += 1
            self.now = now
            return count

        def put() -> int:
            count, now = 0, self.now
            for frame in frames:
                now += FRAME_SECONDS
                buffer[base : base + len(frame)] = frame
                if len(frame) >= size:
                    count += 1
            return count

        if carried() != len(frames):
            raise RuntimeError("the fast path does not carry every frame")
        return (_least_seconds(carried) - _least_seconds(put)) / len(frames)

    def _watch_each(self, frames: Sequence[bytes], watch: Stopwatch) -> None:
        buffer, base, fast, now = self._buffer, IP_AT - FORM.header_size, self.fast, self.now
        for frame in frames:
            buffer[base : base + len(frame)] = frame
            wall, cpu = perf_counter(), thread_time()
            fast(buffer, len(frame), now)
            watch.add(thread_time() - cpu, perf_counter() - wall)

    def _expire(self) -> None:
        """Lets all lifetimes pass, then calls as the data plane does until nothing is left."""
        nat = self.nat
        # Established TCP sessions get a probe first and the time to answer it.
        for _ in range(2):
            self.now += LONG
            behind = True
            while behind:
                wall, cpu = perf_counter(), thread_time()
                nat.expire(self.now, EXPIRE_LOOKS)
                behind = nat.is_behind(self.now)
                self._watch.add(thread_time() - cpu, perf_counter() - wall)
                self.case.expire_calls += 1
        state = nat.state
        if state.session_count or state.bib_count or state.clients:
            raise RuntimeError("not everything has ended")


def _least_seconds(work: Callable[[], object]) -> float:
    least = float("inf")
    for _ in range(REPETITIONS):
        start = thread_time()
        work()
        least = min(least, thread_time() - start)
    return least


def resident() -> int:
    """Bytes of this process in memory."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


def rows(case: Case) -> list[list[str]]:
    """The case's lines of the table: what, target, measured, whether it is met."""
    fast = case.fast_us
    slower = {way: fast[f"all {way}"] / fast[f"few {way}"] for way in ("up", "down")}
    ratio = sum(fast[f"all {way}"] for way in slower) / sum(fast[f"few {way}"] for way in slower)
    expiring = case.gaps["expiring"]
    lines = [
        _row("memory, bytes a session", case.bytes_each, ".0f", most=MOST_BYTES),
        _row("new sessions a second", case.new_per_second, ",.0f", least=LEAST_PER_SECOND),
        [
            "sessions opened a second, SYN ACKs counted in",
            "",
            format(case.open_per_second, ",.0f"),
            "",
        ],
        _row("fast path, all : few sessions, both ways", ratio, ".2f", most=MOST_SLOWER),
    ]
    for way, times in slower.items():
        both = f"{fast[f'few {way}']:.2f} → {fast[f'all {way}']:.2f} µs"
        lines.append([f"fast path {way}, few → all sessions", "", f"{both} ({times:.2f})", ""])
    lines.append(_row("expiry of all, seconds", expiring.seconds, ".1f", most=MOST_EXPIRY_SECONDS))
    for phase, gaps in case.gaps.items():
        if phase == "idle":
            what = "longest hold of a loop that does nothing, ms"
            lines.append([what, "", format(gaps.longest_ms, ".2f"), ""])
        else:
            what = f"longest hold {phase}, ms"
            lines.append(_row(what, gaps.longest_ms, ".2f", most=MOST_HOLD_MS))
        lines.append(
            [
                f"p99.99 {phase}, ms (longest by the wall clock)",
                "",
                f"{gaps.p9999_ms:.2f} ({gaps.longest_wall_ms:.2f})",
                "",
            ]
        )
    lines.append(["memory kept after expiry, bytes a session", "", f"{case.bytes_left:.0f}", ""])
    head = f"{case.sessions:,} sessions, {case.entries:,} BIB entries: "
    return [[head + line[0], *line[1:]] for line in lines]


def _row(
    what: str, value: float, form: str, *, most: float | None = None, least: float | None = None
) -> list[str]:
    if most is not None:
        met, target = value <= most, f"≤ {most:,g}"
    else:
        assert least is not None
        met, target = value >= least, f"≥ {least:,g}"
    return [what, target, format(value, form), "met" if met else "**missed**"]


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status, 1 where a target is missed."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale")
    parser.add_argument("--sessions", type=int, default=1_000_000)
    parser.add_argument("--per-entry", type=int, nargs="+", default=[4, 1], metavar="N")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.one:
        json.dump(asdict(Run(options.sessions, options.per_entry[0]).go()), sys.stdout)
        return 0
    cases = [_in_own_process(options.sessions, per_entry) for per_entry in options.per_entry]
    lines = [line for case in cases for line in rows(case)]
    print(table(["what", "target", "measured", ""], lines))
    if options.json:
        options.json.write_text(json.dumps([asdict(case) for case in cases], indent=2) + "\n")
    return 1 if any("missed" in line[3] for line in lines) else 0


def _in_own_process(sessions: int, per_entry: int) -> Case:
    command = [sys.executable, "-m", "tests.bench.scale", "--one"]
    command += ["--sessions", str(sessions), "--per-entry", str(per_entry)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    figures = json.loads(done.stdout)
    figures["gaps"] = {phase: Gaps(**gaps) for phase, gaps in figures["gaps"].items()}
    return Case(**figures)


if __name__ == "__main__":
    sys.exit(main())
