"""The loop between device and translator.

Theory of operation. The descriptor is non-blocking. When it is readable, frames are read into
one buffer until there are no more or a budget is used up, then other tasks get their turn. Each
frame is first offered to the fast path, which rewrites it in place; what that refuses is copied
out, answered if it is for the gateway as a neighbour, and else translated by the slow path. All
frames of one turn share one reading of the clock.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from ipaddress import IPv4Network

import trio

from gateway.frames import FrameFormat
from gateway.neighbours import OWN_LINK_LOCAL, Neighbours
from translate.datagram_trains import DatagramTrains
from translate.fast_path import BUFFER_SIZE, IP_AT, FastPath, make_fast_path
from translate.nat64 import Nat64
from translate.packets import Packet, Protocol
from translate.siit.translator import Siit

_log = logging.getLogger(__name__)

# Frames read before other tasks may run, and looks at sessions in one go (each five
# microseconds or more where a million of them end): both keep a turn below a few milliseconds.
_BURST = 256
EXPIRE_LOOKS = 50
_EXPIRE_EVERY = 0.25  # seconds
_COMPLAIN_EVERY = 10.0  # seconds


class DeviceGone(Exception):
    """The device was deleted under the gateway."""


@dataclass(slots=True)
class PlaneCounters:
    """Frames in and out since start. `fast_packets` are those the fast path carried."""

    in_packets: int = 0
    in_errors: int = 0
    out_packets: int = 0
    out_errors: int = 0
    fast_packets: int = 0
    neighbour_packets: int = 0
    ignored_packets: int = 0
    bugs: int = 0


class DataPlane:
    """Moves frames between one device and one translator."""

    def __init__(
        self,
        fd: int,
        frames: FrameFormat,
        translator: Nat64 | Siit,
        neighbours: Neighbours | None,
        *,
        trains: bool = False,
    ) -> None:
        """`neighbours` is None on a tun device, which has no link layer. `trains`: the device
        takes UDP super-packets, so that runs of datagrams may be joined.
        """
        self._fd = fd
        self._frames = frames
        self._translator = translator
        self._neighbours = neighbours
        self.counters = PlaneCounters()
        self._complained = -_COMPLAIN_EVERY
        self._buffer = bytearray(BUFFER_SIZE)
        self._base = IP_AT - frames.header_size
        self._read_into = partial(os.readv, fd)
        self._joins = trains and frames.vnet
        self.configure()

    def configure(self) -> None:
        """Takes over what the translator's settings say about the fast path.

        Without a way to the IPv4 internet there is none: the slow path tells the clients.
        """
        self._fast: FastPath
        self._trains: DatagramTrains | None = None
        if self._joins:
            udp = self._translator.state.flows[Protocol.UDP]
            self._trains = DatagramTrains(udp, self._frames.link_size)
        if isinstance(self._translator, Nat64) and not self._translator.has_uplink:
            self._fast = _refer
            return
        self._fast = make_fast_path(
            self._translator.state.flows,
            vnet=self._frames.vnet,
            ethernet4=self._frames.ethernet4,
            ethernet6_tail=self._frames.ethernet6_tail,
            lowest_ipv6_mtu=self._translator.settings.lowest_ipv6_mtu,
            tos=self._translator.settings.tos,
            traffic_class=self._translator.settings.traffic_class,
        )

    def answer_for(self, pool4: Iterable[IPv4Network]) -> None:
        """Answers ARP for these networks from now on, where the device has a link layer."""
        if self._neighbours is not None:
            self._neighbours = replace(self._neighbours, pool4=tuple(pool4))

    async def run(self) -> None:
        """Forwards frames until cancelled.

        Raises DeviceGone, in an ExceptionGroup, when the device has gone.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._expire)
            while True:
                await trio.lowlevel.wait_readable(self._fd)
                self._burst()
                await trio.lowlevel.cancel_shielded_checkpoint()

    async def _expire(self) -> None:
        while True:
            await trio.sleep(_EXPIRE_EVERY)
            now = time.monotonic()
            while True:
                for packet in self._translator.expire(now, EXPIRE_LOOKS):
                    self._write(self._frames.join(packet))
                if not self._translator.is_behind(now):
                    break
                await trio.lowlevel.checkpoint()

    def _burst(self) -> None:
        """Reads and handles frames until there are none or the budget is used up.

        The hot loop: local names, no calls beyond read, fast path, write. Two frames of equal
        size in a row are what makes it look for a train of datagrams.
        """
        fd, buffer, base = self._fd, self._buffer, self._base
        view = memoryview(buffer)
        into = [view[base:]]
        readv, write, fast, trains = os.readv, os.write, self._fast, self._trains
        now = time.monotonic()
        frames = carried = before = 0
        size = 0  # of a frame that is in the buffer already
        try:
            while size or frames < _BURST:
                if not size:
                    try:
                        size = readv(fd, into)
                    except BlockingIOError:
                        break
                    except OSError as error:
                        self._read_failed(error)
                        break
                    frames += 1
                header = None
                try:
                    if size == before and trains is not None:
                        header = trains.header_of(buffer, size)
                    start = fast(buffer, size, now)
                    if not start:
                        self._slow(bytes(view[base : base + size]), now)
                    elif header is not None and trains.begin(buffer, start, size, header):  # type: ignore[union-attr]
                        before = size
                        joined, size = self._ride(_BURST - frames)
                        frames += joined
                        continue
                    else:
                        try:
                            write(fd, view[start : base + size])
                            carried += 1
                        except OSError as error:
                            self._write_failed(error)
                except DeviceGone:
                    raise
                except Exception:
                    # The one place where a bug of ours is kept from stopping everybody's
                    # traffic; under python -X dev, as in the tests, it is not.
                    if sys.flags.dev_mode:
                        raise
                    self._bug(now)
                before, size = size, 0
        finally:
            counters = self.counters
            counters.in_packets += frames
            counters.fast_packets += carried
            counters.out_packets += carried

    def _ride(self, budget: int) -> tuple[int, int]:
        """Fills the open train and sends it: frames read, size of one left in the buffer."""
        trains = self._trains
        assert trains is not None
        try:
            joined, left = trains.fill(self._read_into, self._buffer, budget)
        except OSError as error:
            self._read_failed(error)
            joined = left = 0
        try:
            os.write(self._fd, trains.finish())
        except OSError as error:
            self._write_failed(error)
        else:
            self.counters.fast_packets += trains.count
            self.counters.out_packets += 1
        return joined, left

    def _read_failed(self, error: OSError) -> None:
        if error.errno == errno.EBADFD:
            raise DeviceGone from error
        # EIO: the link is down; it may come up again.
        self.counters.in_errors += 1

    def _slow(self, frame: bytes, now: float) -> None:
        parts = self._frames.split(frame)
        if parts is None:
            self.counters.in_errors += 1
            return
        ethernet, packet = parts
        if self._neighbours is not None and self._is_for_link(ethernet, packet):
            answer = self._neighbours.answer(ethernet, packet.data)
            if answer is None:
                self.counters.ignored_packets += 1
            else:
                self.counters.neighbour_packets += 1
                self._write(self._frames.plain(answer))
            return
        for out in self._translator.translate(packet, now):
            self._write(self._frames.join(out))

    def _is_for_link(self, ethernet: bytes, packet: Packet) -> bool:
        """Whether a frame is for the link and not for the translator."""
        if ethernet[0:6] != self._frames.own_mac or ethernet[12:14] not in _IP:
            return True
        data = packet.data
        if len(data) < 40 or data[0] >> 4 != 6:
            return False
        return data[24:40] == OWN_LINK_LOCAL or (data[6] == 58 and data[40:41] == b"\x87")

    def _write(self, frame: bytes) -> None:
        try:
            os.write(self._fd, frame)
        except OSError as error:
            self._write_failed(error)
        else:
            self.counters.out_packets += 1

    def _write_failed(self, error: OSError) -> None:
        if error.errno == errno.EBADFD:
            raise DeviceGone from error
        self.counters.out_errors += 1

    def _bug(self, now: float) -> None:
        self.counters.bugs += 1
        if now - self._complained >= _COMPLAIN_EVERY:
            self._complained = now
            _log.exception("a frame could not be handled, which is a bug; it was discarded")


def _refer(_buffer: bytearray, _size: int, _now: float) -> int:
    """A fast path that carries nothing."""
    return 0


_IP = frozenset({b"\x08\x00", b"\x86\xdd"})
