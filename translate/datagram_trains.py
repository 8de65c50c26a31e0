"""Trains of UDP datagrams: one super-packet out for many small frames in.

Theory of operation. A sender that pours out datagrams of one size (QUIC, RTP, DNS, a benchmark)
fills the device's queue with frames that differ in nothing but their payload. While such a run
lasts, only the first frame is translated; the payloads of the others are appended to it, and
the whole leaves as one super-packet with `gso_size` set (what Linux calls UDP GSO or USO),
which the kernel carries through routing and filters once and cuts up again as late as it can.
Boundaries, order and contents of the datagrams are kept.

The checksum of each datagram is computed when the super-packet is cut up, so a frame joins only
when nothing wrong can come out right: its checksum is partial (computed then in any case), or the
kernel says that it has been verified, or it is complete and verified here. The last is only worth
its time while it is shorter than the write that is saved, so only for short datagrams. What two
frames must share is everything in front of the payload, except that a complete checksum, IPv4
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
from translate.vnet import DATA_VALID, NEEDS_CSUM, VNET, VNET_SIZE

# Linux takes at most 64 segments (UDP_MAX_SEGMENTS before 6.9), and 64 KiB in all.
_MAX_DATAGRAMS = 64
_MAX_BYTES = 60_000
# To verify 256 bytes takes 0.7 µs; a write and what the kernel does in it take 1 to 3 µs.
_MAX_VERIFIED = 256

_UDP = 17
_UDP_HEADER = 8

# Reads one frame into the buffers in turn and returns its size; BlockingIOError when there is
# none.
ReadFrame = Callable[[list[memoryview]], int]


class DatagramTrains:
    """At most one train at a time, for one device with virtio-net headers."""

    __slots__ = (
        "_base",
        "_complete",
        "_flows",
        "_link",
        "_payload",
        "_scratch",
        "_to_v4",
        "_train",
        "_verify",
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
        self._complete = self._verify = False
        self._payload = 0
        self.count = 0
        self.end = 0

    def header_of(self, buffer: bytearray, size: int) -> bytes | None:
        """What is in front of a frame's payload, or None when the frame can be in no train.

        The frame, of `size` bytes, has its IP header at `IP_AT`, as for the fast path, and is not
        yet translated.
        """
        base = self._base
        flags = buffer[base]
        if flags > DATA_VALID or buffer[base + 1]:
            return None
        version = buffer[IP_AT] >> 4
        if version == 6 and buffer[IP_AT + 6] == _UDP:
            udp, addresses = IP_AT + 40, 32
        elif version == 4 and buffer[IP_AT] == 0x45 and buffer[IP_AT + 9] == _UDP:
            udp, addresses = IP_AT + 20, 8
        else:
            return None
        end = base + size
        if buffer[udp + 4] << 8 | buffer[udp + 5] != end - udp:
            return None
        header = bytes(buffer[base : udp + _UDP_HEADER])
        if not flags and (
            end - udp > _MAX_VERIFIED + _UDP_HEADER
            or (_constant_sum(header, addresses) + _sum(buffer[udp + 6 : end])) % 0xFFFF
        ):
            return None
        return header

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
        self._complete = header[0] != NEEDS_CSUM
        self._verify = not header[0]
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
        alike = header[:-2] if self._complete else header
        # For IPv4, identification (4, 5) and header checksum (10, 11) may differ.
        at = VNET_SIZE + self._link
        head, middle, tail = alike[: at + 4], alike[at + 6 : at + 10], alike[at + 12 :]
        to_v4, verify = self._to_v4, self._verify
        constant = _constant_sum(header, 32 if to_v4 else 8) if verify else 0
        shift = (payload & 1) * 8
        number = int.from_bytes
        most = min(_MAX_DATAGRAMS - self.count, (_MAX_BYTES - end) // payload, budget)
        taken = size = 0
        try:
            while taken < most:
                size = read([scratch_view, view[end:]])
                if size != size_wanted or not (
                    scratch.startswith(alike)
                    if to_v4
                    else scratch.startswith(head)
                    and scratch.startswith(middle, at + 6)
                    and scratch.startswith(tail, at + 12)
                ):
                    break
                if verify:
                    checksum = number(scratch[-2:], "big")
                    total = number(view[end : end + payload], "big") << shift
                    if not checksum or (constant + checksum + total) % 0xFFFF:
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
        if self._complete:
            src = ip + (12 if self._to_v4 else 8)
            partial = _sum(train[src : ip + header]) + _UDP + _sum(train[udp + 4 : udp + 6])
        else:
            partial = int.from_bytes(train[udp + 6 : udp + 8], "big") + added
        train[udp + 6 : udp + 8] = fold(partial).to_bytes(2, "big")

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


def _sum(data: bytes | bytearray) -> int:
    """Congruent modulo 0xffff to the one's complement sum of `data`."""
    return int.from_bytes(data, "big") << (len(data) & 1) * 8


def _constant_sum(header: bytes, addresses: int) -> int:
    """Congruent to the sum of pseudo-header, ports and length, which a run of datagrams shares.

    `header`: what is in front of the payload; `addresses`: bytes of both, right in front of UDP.
    """
    # The length is in the pseudo-header, too (RFC 768).
    length = int.from_bytes(header[-4:-2], "big")
    return _sum(header[-_UDP_HEADER - addresses : -2]) + length + _UDP


def can_form(offloads: frozenset[str]) -> bool:
    """Whether a device with these offloads takes UDP super-packets of both families."""
    return {"csum", "uso4", "uso6"} <= offloads
