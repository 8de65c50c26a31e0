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

The caller keeps the order: it finishes the train before it sends anything else, and at the end
of each burst, so a datagram never waits for one that has not arrived yet.
"""

from __future__ import annotations

import struct

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

Signature = tuple[bytes, ...]


class DatagramTrains:
    """At most one train at a time, for one device with virtio-net headers.

    `size` is the size of the frames that may join the open train, 0 when none is open.
    """

    __slots__ = (
        "_base",
        "_count",
        "_end",
        "_flows",
        "_head4",
        "_head6",
        "_link",
        "_payload",
        "_signature",
        "_to_v4",
        "_train",
        "_view",
        "size",
    )

    def __init__(self, flows: FlowTable, link: int) -> None:
        """`flows`: the UDP sessions; `link`: bytes of link-layer header (14 or 0)."""
        self._flows = flows
        self._link = link
        in_front = VNET_SIZE + link
        self._base = IP_AT - in_front
        self._head6 = struct.Struct(f"{in_front + 40 + _UDP_HEADER}s").unpack_from
        # Up to the total length; flags to protocol; addresses to UDP checksum.
        self._head4 = struct.Struct(f"{in_front + 4}s2x4s2x16s").unpack_from
        self._train = bytearray(BUFFER_SIZE)
        self._view = memoryview(self._train)
        self._signature: Signature = ()
        self._to_v4 = False
        self._payload = 0
        self._count = 0
        self._end = 0
        self.size = 0

    def signature(self, buffer: bytearray) -> Signature | None:
        """What a frame shares with others of its train, or None when it can be in none.

        The frame's IP header is at `IP_AT`, as for the fast path, and not yet translated.
        """
        base = self._base
        if buffer[base] != NEEDS_CSUM or buffer[base + 1]:
            return None
        version = buffer[IP_AT] >> 4
        if version == 6 and buffer[IP_AT + 6] == _UDP:
            return self._head6(buffer, base)
        if version == 4 and buffer[IP_AT] == 0x45 and buffer[IP_AT + 9] == _UDP:
            return self._head4(buffer, base)
        return None

    def begin(self, buffer: bytearray, start: int, size: int, signature: Signature) -> bool:
        """Opens a train with a frame that the fast path has just translated in `buffer`.

        `start`: where the translated frame begins; `size`: of the frame as it came. False
        when it is no use (no payload, or too large for two).
        """
        end = self._base + size
        to_v4 = len(signature) == 1
        payload = size - (VNET_SIZE + self._link + _UDP_HEADER + (40 if to_v4 else 20))
        if not 0 < payload < _MAX_BYTES // 2:
            return False
        length = end - start
        self._train[:length] = buffer[start:end]
        self._end = length
        self._payload = payload
        self._count = 1
        self._to_v4 = to_v4
        self._signature = signature
        self.size = size
        return True

    def append(self, buffer: bytearray, size: int) -> bool:
        """Takes one more frame of `self.size` bytes along; False when it does not belong."""
        base = self._base
        if self._to_v4:
            if self._head6(buffer, base) != self._signature:
                return False
        elif self._head4(buffer, base) != self._signature or buffer[IP_AT] >> 4 != 4:
            return False
        end = self._end
        payload = self._payload
        if self._count >= _MAX_DATAGRAMS or end + payload > _MAX_BYTES:
            return False
        stop = base + size
        self._train[end : end + payload] = buffer[stop - payload : stop]
        self._end = end + payload
        self._count += 1
        return True

    def finish(self) -> memoryview:
        """Closes the train; the frame to write, valid until the next `begin`."""
        self.size = 0
        if self._count > 1:
            self._make_super_packet()
        return self._view[: self._end]

    @property
    def count(self) -> int:
        """Datagrams in the train that is open or was finished last."""
        return self._count

    def _make_super_packet(self) -> None:
        """Turns the first datagram's headers into those of the whole train."""
        train, link = self._train, self._link
        header = 20 if self._to_v4 else 40
        ip = VNET_SIZE + link
        udp = ip + header
        added = (self._count - 1) * self._payload
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
            session.ident[0] = session.ident[0] + self._count - 1 & 0xFFFF


def can_form(offloads: frozenset[str]) -> bool:
    """Whether a device with these offloads takes UDP super-packets of both families."""
    return {"csum", "uso4", "uso6"} <= offloads
