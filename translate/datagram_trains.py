"""Trains of UDP datagrams: one super-packet out for many small frames in.

Theory of operation. A sender that pours out datagrams of one size (QUIC, RTP, DNS, a benchmark)
fills the device's queue with frames that differ in nothing but their payload. While such a run
lasts, only the first frame is translated; the payloads of the others are appended to it, and
the whole leaves as one super-packet with `gso_size` set (what Linux calls UDP GSO or USO),
which the kernel carries through routing and filters once and cuts up again as late as it can.
Boundaries, order and contents of the datagrams are kept.

Only frames whose checksum is partial join a train: their checksum is computed when they are
cut, as it would have been without us. A complete checksum may be wrong, and would come out
right. What two frames must share is everything in front of the payload, except that IPv4
identification and header checksum may differ.

While a train is open, frames are read in two parts: what is in front of the payload into a
scratch buffer, where one comparison tells whether the frame belongs, and the payload right
behind the train, where it is to be. The reading itself is the caller's, handed in as a function.

The caller keeps the order: it finishes the train before it sends anything else, and at the end
of each burst, so a datagram never waits for one that has not arrived yet.
"""

from __future__ import annotations

from collections.abc import Callable

from translate.checksum import fold
from translate.fast_path import BUFFER_SIZE, IP_AT
from translate.packets import GSO_UDP_L4
from translate.sessions import FlowTable
from translate.vnet import NEEDS_CSUM, VNET, VNET_SIZE

# Linux takes at most 64 segments (UDP_MAX_SEGMENTS before 6.9), and 64 KiB in all.
_MAX_DATAGRAMS = 64
_MAX_BYTES = 60_000

_UDP = 17
_UDP_HEADER = 8

# Reads one frame into the buffers in turn and returns its size; BlockingIOError when there is
# none.
ReadFrame = Callable[[list[memoryview]], int]


class DatagramTrains:
    """At most one train at a time, for one device with virtio-net headers."""

    __slots__ = (
        "_base",
        "_flows",
        "_link",
        "_payload",
        "_scratch",
        "_to_v4",
        "_train",
        "_view",
        "count",
        "end",
    )

    def __init__(self, flows: FlowTable, link: int) -> None:
        """`flows`: the UDP sessions; `link`: bytes of link-layer header (14 or 0)."""
        self._flows = flows
        self._link = link
        self._base = IP_AT - VNET_SIZE - link
        self._train = bytearray(_MAX_BYTES + BUFFER_SIZE)
        self._view = memoryview(self._train)
        self._scratch = b""
        self._to_v4 = False
        self._payload = 0
        self.count = 0
        self.end = 0

    def header_of(self, buffer: bytearray) -> bytes | None:
        """What is in front of a frame's payload, or None when the frame can be in no train.

        The frame's IP header is at `IP_AT`, as for the fast path, and not yet translated.
        """
        base = self._base
        if buffer[base] != NEEDS_CSUM or buffer[base + 1]:
            return None
        version = buffer[IP_AT] >> 4
        if version == 6 and buffer[IP_AT + 6] == _UDP:
            return bytes(buffer[base : IP_AT + 40 + _UDP_HEADER])
        if version == 4 and buffer[IP_AT] == 0x45 and buffer[IP_AT + 9] == _UDP:
            return bytes(buffer[base : IP_AT + 20 + _UDP_HEADER])
        return None

    def begin(self, buffer: bytearray, start: int, size: int, header: bytes) -> bool:
        """Opens a train with a frame that the fast path has just translated in `buffer`.

        `start`: where the translated frame begins; `size`: of the frame as it came; `header`:
        what `header_of` said of it. False when it is no use (no payload, too large for two).
        """
        payload = size - len(header)
        if not 0 < payload < _MAX_BYTES // 2:
            return False
        end = self._base + size
        self.end = end - start
        self._train[: self.end] = buffer[start:end]
        self._payload = payload
        self._to_v4 = header[VNET_SIZE + self._link] >> 4 == 6
        self._scratch = header
        self.count = 1
        return True

    def fill(self, read: ReadFrame, buffer: bytearray, budget: int) -> tuple[int, int]:
        """Reads frames into the train: (how many were read, size of one that did not belong).

        At most `budget` are read. A frame that does not belong ends the train; it is put into
        `buffer` as if it had been read there, and its size is not 0. Raises what `read` does,
        with the train as it was; BlockingIOError ends the reading and is not passed on.
        """
        header = self._scratch
        front = len(header)
        scratch = bytearray(front)
        scratch_view = memoryview(scratch)
        view, payload, end = self._view, self._payload, self.end
        size_wanted = front + payload
        # For IPv4, identification (4, 5) and header checksum (10, 11) may differ.
        at = VNET_SIZE + self._link
        head, middle, tail = header[: at + 4], header[at + 6 : at + 10], header[at + 12 :]
        to_v4 = self._to_v4
        most = min(_MAX_DATAGRAMS - self.count, (_MAX_BYTES - end) // payload, budget)
        taken = size = 0
        try:
            while taken < most:
                size = read([scratch_view, view[end:]])
                if size != size_wanted or not (
                    scratch == header
                    if to_v4
                    else scratch.startswith(head)
                    and scratch.startswith(middle, at + 6)
                    and scratch.endswith(tail)
                ):
                    break
                end += payload
                taken += 1
                size = 0
        except BlockingIOError:
            size = 0
        self.count += taken
        self.end = end
        if size:
            base = self._base
            buffer[base : base + front] = scratch
            if size > front:
                buffer[base + front : base + size] = view[end : end + size - front]
            return taken + 1, size
        return taken, 0

    def finish(self) -> memoryview:
        """Closes the train; the frame to write, valid until the next `begin`."""
        if self.count > 1:
            self._make_super_packet()
        return self._view[: self.end]

    def _make_super_packet(self) -> None:
        """Turns the first datagram's headers into those of the whole train."""
        train, link = self._train, self._link
        header = 20 if self._to_v4 else 40
        ip = VNET_SIZE + link
        udp = ip + header
        added = (self.count - 1) * self._payload
        VNET.pack_into(
            train,
            0,
            NEEDS_CSUM,
            GSO_UDP_L4,
            link + header + _UDP_HEADER,
            self._payload,
            link + header,
            6,
        )
        if self._to_v4:
            # RFC 1624 for the header checksum: only the total length changes.
            checksum = 0xFFFF - int.from_bytes(train[ip + 10 : ip + 12], "big")
            checksum = 0xFFFF - fold(checksum + added)
            train[ip + 10 : ip + 12] = checksum.to_bytes(2, "big")
            self._add(ip + 2, added)
            self._count_identifications(ip)
        else:
            self._add(ip + 4, added)
        self._add(udp + 4, added)
        partial = int.from_bytes(train[udp + 6 : udp + 8], "big")
        train[udp + 6 : udp + 8] = fold(partial + added).to_bytes(2, "big")

    def _add(self, at: int, number: int) -> None:
        train = self._train
        value = int.from_bytes(train[at : at + 2], "big") + number
        train[at : at + 2] = value.to_bytes(2, "big")

    def _count_identifications(self, ip: int) -> None:
        """The segments will carry consecutive identifications: none may be used again."""
        train = self._train
        if train[ip + 6] & 0x40:
            return
        # The key of the answer: addresses and ports swapped.
        key4 = bytes(
            train[ip + 16 : ip + 20]
            + train[ip + 12 : ip + 16]
            + train[ip + 22 : ip + 24]
            + train[ip + 20 : ip + 22]
        )
        session = self._flows.find4(key4)
        if session is not None:
            counters = self._flows.identifications
            ident = self._flows.ident(session)
            counters[ident] = counters[ident] + self.count - 1 & 0xFFFF


def can_form(offloads: frozenset[str]) -> bool:
    """Whether a device with these offloads takes UDP super-packets of both families."""
    return {"csum", "uso4", "uso6"} <= offloads
