"""`gateway translate IN OUT`: the translator over a capture file, without a host.

Theory of operation. Each IP packet of the capture goes through the slow path, in the order of
the file; what comes out is written with the time of the packet that caused it. The clock is the
capture's: sessions end by it, at its full seconds, and what the translator sends when one ends
is written with the second at which it did. The clock does not run backwards, even if the file's
times do. Ports come from a seeded generator, so the same capture gives the same result again.

No host is asked: everyone may be a client unless `allow` is configured, and every path carries
`mtu`. OUT appears when all is done; until then it is another file beside it.
"""

from __future__ import annotations

import errno
import logging
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from ipaddress import IPv6Address
from pathlib import Path
from stat import S_ISREG
from typing import BinaryIO

from gateway import config as configuration
from gateway import log
from gateway.capture_file import (
    KNOWN_LINKS,
    LINK_TYPES,
    CaptureError,
    CutShort,
    PacketWriter,
    Record,
    ip_packet,
    read_records,
)
from gateway.config_model import Config
from gateway.options import Options
from gateway.siit.mappings import make_pool, make_settings, read_mappings, routed
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.reasons import Reason
from translate.siit.translator import Siit

_log = logging.getLogger("gateway")

STANDARD_STREAM = Path("-")
# RFC 3849. Stands for the global address of the host that is asked for under 64:ff9b::/96.
STAND_IN_SOURCE6 = IPv6Address("2001:db8::64")

_SECOND = 10**9  # nanoseconds
# Answered, or waits for the rest of its datagram.
_NO_LOSS = frozenset({Reason.HANDLED, Reason.FRAGMENT_HELD})
_EXPIRE_LOOKS = 10_000
_SHOW_EVERY = 0.5  # seconds
_SHOW_LOOKS = 512  # packets between two looks at the clock


@dataclass(slots=True)
class Tally:
    """What the report counts, in packets of the capture; `written` in packets of the result."""

    read: int = 0
    not_ip: int = 0
    truncated: int = 0
    from_v6: int = 0
    from_v4: int = 0
    v6_to_v4: int = 0
    v4_to_v6: int = 0
    hairpinned: int = 0
    errors: int = 0
    pings: int = 0
    at_expiry: int = 0
    written: int = 0
    link_types: set[int] = field(default_factory=set)


class Translation:
    """One translator on its way through a capture."""

    def __init__(self, config: Config, seed: int, write: Callable[[bytes, int], None]) -> None:
        """`write(packet, time_ns)` gets what comes out."""
        source6 = config.own_icmp6_source or STAND_IN_SOURCE6.packed
        self.nat = _translator(config, seed, source6)
        self.tally = Tally()
        self._write = write
        self._now_ns = 0

    def take(self, record: Record) -> None:
        """Handles one frame of the capture."""
        tally = self.tally
        tally.read += 1
        self._advance(record.time_ns)
        data = None
        if record.link_type in LINK_TYPES:
            data = ip_packet(record.link_type, record.data)
        else:
            tally.link_types.add(record.link_type)
        if data is None:
            tally.not_ip += 1
        elif record.truncated:
            tally.truncated += 1
        else:
            self._translate(data, record.time_ns)

    def _advance(self, time_ns: int) -> None:
        """Moves the clock, and ends what is due at each full second on the way."""
        before, self._now_ns = self._now_ns, max(self._now_ns, time_ns)
        seconds = self._now_ns // _SECOND
        if before and seconds == before // _SECOND:
            return
        # From deadline to deadline: sessions end at their own time, however long the silence.
        done, clock = -1.0, before / _SECOND
        while (deadline := self.nat.next_deadline()) is not None and done < deadline <= seconds:
            self._expire(max(deadline, clock))
            done = deadline
        self._expire(float(seconds))

    def _expire(self, now: float) -> None:
        while True:
            for packet in self.nat.expire(now, _EXPIRE_LOOKS):
                self.tally.at_expiry += 1
                self._put(packet, round(now * _SECOND))
            if not self.nat.is_behind(now):
                return

    def _translate(self, data: bytes, time_ns: int) -> None:
        tally, counters = self.tally, self.nat.counters
        is_v4 = bool(data) and data[0] >> 4 == 4
        if is_v4:
            tally.from_v4 += 1
        else:
            tally.from_v6 += 1
        discards, pings = sum(counters.values()), counters[Reason.HANDLED]
        out = self.nat.translate(Packet(data), self._now_ns / _SECOND)
        if counters[Reason.HANDLED] != pings:
            tally.pings += len(out)
        elif sum(counters.values()) != discards:
            tally.errors += len(out)
        elif out and is_v4:
            tally.v4_to_v6 += 1
        elif out and out[0].data[0] >> 4 == 6:
            tally.hairpinned += 1
        elif out:
            tally.v6_to_v4 += 1
        for packet in out:
            self._put(packet, time_ns)

    def _put(self, packet: Packet, time_ns: int) -> None:
        self.tally.written += 1
        self._write(packet.data, time_ns)

    def report(self) -> list[str]:
        """The lines that tell what has become of the capture."""
        tally, state = self.tally, self.nat.state
        passed = {"not IP": tally.not_ip, "truncated": tally.truncated}
        translated = {
            "v6 to v4": tally.v6_to_v4,
            "v4 to v6": tally.v4_to_v6,
            "v6 to v6 (hairpin)": tally.hairpinned,
        }
        own = {
            "ICMP errors": tally.errors,
            "ICMP errors suppressed": self.nat.errors.suppressed,
            "pings answered": tally.pings,
            "at expiry": tally.at_expiry,
        }
        discards = {
            reason.value: count
            for reason, count in self.nat.counters.items()
            if count and reason not in _NO_LOSS
        }
        return [
            f"read {tally.read}: {tally.from_v6} IPv6, {tally.from_v4} IPv4",
            f"passed over {_listed(passed)}",
            f"translated {_listed(translated, empty=('v6 to v4', 'v4 to v6'))}",
            f"own packets {_listed(own)}",
            f"held fragments {self.nat.counters[Reason.FRAGMENT_HELD]}",
            f"discarded {_listed(discards)}",
            f"written {tally.written}",
            f"left: sessions {state.session_count}, bib {state.bib_count},"
            f" clients {len(state.clients)}",
        ]


def _listed(counts: dict[str, int], empty: tuple[str, ...] = ()) -> str:
    """`TOTAL: name N, ...`, the largest first; of those that are 0 only the ones in `empty`."""
    shown = {name: count for name, count in counts.items() if count or name in empty}
    total = str(sum(counts.values()))
    if not shown:
        return total
    ordered = shown if empty else dict(sorted(shown.items(), key=lambda item: -item[1]))
    return f"{total}: " + ", ".join(f"{name} {count}" for name, count in ordered.items())


def _translator(config: Config, seed: int, source6: bytes) -> Nat64 | Siit:
    """The translator of the configured mode. Raises ConfigError."""
    randbelow, admit = random.Random(seed).randrange, _admission(config)

    def path_mtu(addr: bytes) -> int:
        return config.mtu

    if config.mode == "clat":
        # Its address and prefix are those of a host's uplink, which a capture has not.
        raise configuration.ConfigError(
            [
                "mode: a capture has no uplink; for the packets of a CLAT use siit, with a mapping"
                " of its IPv4 address and the PLAT's prefix"
            ]
        )
    # No kernel has looked at these packets.
    if config.mode == "siit":
        table = read_mappings(config)
        wished = routed(config, table)
        pool = make_pool(config, table)
        siit = make_settings(wished, table, pool, icmp6_source=source6)
        siit = replace(siit, common=replace(siit.common, verify_header4=True))
        return Siit(siit, randbelow=randbelow, admit=admit, path_mtu=path_mtu)
    settings = configuration.to_settings(config, icmp6_source=source6)
    settings = replace(settings, verify_header4=True)
    return Nat64(settings, randbelow=randbelow, admit=admit, path_mtu=path_mtu)


def _admission(config: Config) -> Callable[[bytes], bool]:
    if not config.allow:
        return lambda addr6: True
    networks = config.allow
    return lambda addr6: any(IPv6Address(addr6) in network for network in networks)


def translate_capture(options: Options) -> int:
    """Does `gateway translate`; the exit status. Raises ConfigError."""
    assert options.capture_in is not None
    assert options.capture_out is not None
    config = configuration.load(options.config_path, options.overrides)
    log.set_up(config.log_level)
    try:
        _translate_file(options.capture_in, options.capture_out, config, options.seed)
    except CaptureError as error:
        _log.error("%s", error)
        return 1
    except KeyboardInterrupt:
        _log.error("interrupted: %s is not complete", options.capture_out)
        return 1
    return 0


def _translate_file(path_in: Path, path_out: Path, config: Config, seed: int) -> None:
    if config.own_icmp6_source is None:
        _log.info(
            "ICMPv6 errors come from %s, which stands for an address of the host;"
            " icmp6_source replaces it",
            STAND_IN_SOURCE6,
        )
    with _opened_in(path_in) as stream_in, _opened_out(path_out, stream_in) as stream_out:
        with _told_of(path_out, "write"):
            writer = PacketWriter(stream_out)

        def write(packet: bytes, time_ns: int) -> None:
            with _told_of(path_out, "write"):
                writer.write(packet, time_ns)

        translation = Translation(config, seed, write)
        with _told_of(path_in, "read"), _progress(stream_in, translation.tally) as show:
            for record in _records(stream_in, path_in):
                translation.take(record)
                show()
        with _told_of(path_out, "write"):
            stream_out.flush()
    for number in sorted(translation.tally.link_types):
        _log.warning("passed over link type %d; %s can be read", number, KNOWN_LINKS)
    for line in translation.report():
        log.always(line)


def _records(stream: BinaryIO, path: Path) -> Iterator[Record]:
    """The records of the file; says where it ends early, and names it where it is damaged."""
    try:
        yield from read_records(stream)
    except CutShort as error:
        _log.warning("%s: %s", path, error)
    except CaptureError as error:
        raise CaptureError(f"{path}: {error}") from None


@contextmanager
def _told_of(path: Path, what: str) -> Iterator[None]:
    """OSError of the body becomes CaptureError."""
    try:
        yield
    except OSError as error:
        raise CaptureError(_cannot(what, path, error)) from error


_REMEDIES = {
    errno.ENOENT: "look at the path",
    errno.ENOTDIR: "look at the path",
    errno.EISDIR: "name a file in it",
    errno.EACCES: "look at the permissions of the file and of the directory",
    errno.ENOSPC: "make room",
    errno.EROFS: "name a file elsewhere",
    errno.EPIPE: "whoever reads it has gone; - is for a program that reads all",
}


def _cannot(what: str, path: Path, error: OSError) -> str:
    remedy = _REMEDIES.get(error.errno or 0, "name another file")
    return f"cannot {what} {path}: {error.strerror or error}; {remedy}"


@contextmanager
def _opened_in(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD_STREAM:
        with open(0, "rb", closefd=False) as stream:
            yield stream
        return
    with _told_of(path, "read"):
        stream = path.open("rb")
    with stream:
        yield stream


@contextmanager
def _opened_out(path: Path, stream_in: BinaryIO) -> Iterator[BinaryIO]:
    """Where the result goes: what is no regular file directly, a file by a rename at the end."""
    if path == STANDARD_STREAM:
        if os.isatty(1):
            raise CaptureError("standard output is a terminal; > FILE or | PROGRAM takes packets")
        stream = open(1, "wb", closefd=False)  # noqa: SIM115
        try:
            yield stream
        finally:
            with suppress(OSError):
                stream.close()
        return
    with _told_of(path, "write"):
        target = Path(os.path.realpath(path))
        if target.exists():
            status = target.stat()
            if os.path.samestat(status, os.fstat(stream_in.fileno())):
                raise CaptureError(f"{path} is the input too; name another file for the result")
            in_place = not S_ISREG(status.st_mode)
        else:
            in_place = False
        place = target if in_place else target.with_name(f".{target.name}.{os.getpid()}")
        stream = place.open("wb" if in_place else "xb")
    try:
        with _closed(stream):
            yield stream
        if not in_place:
            with _told_of(path, "write"):
                place.replace(target)
    except BaseException:
        if not in_place:
            with suppress(OSError):
                place.unlink()
        raise


@contextmanager
def _closed(stream: BinaryIO) -> Iterator[None]:
    """Closes the stream; what cannot be written then was told of before."""
    try:
        yield
    finally:
        with suppress(OSError):
            stream.close()


@contextmanager
def _progress(stream: BinaryIO, tally: Tally) -> Iterator[Callable[[], None]]:
    """Gives a function to call after each packet: shows the way on a terminal, now and then."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    status = os.fstat(stream.fileno())
    size = status.st_size if S_ISREG(status.st_mode) else 0
    shown = time.monotonic()
    looks = 0

    def show() -> None:
        nonlocal shown, looks
        looks += 1
        if looks % _SHOW_LOOKS or time.monotonic() - shown < _SHOW_EVERY:
            return
        shown = time.monotonic()
        part = f", {100 * stream.tell() // size} %" if size else ""
        sys.stderr.write(f"\rgateway: {tally.read} packets{part}\x1b[K")
        sys.stderr.flush()

    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
