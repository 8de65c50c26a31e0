"""A translator as the fuzzer drives it, with the fast path in front or without."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from gateway.frames import FrameFormat
from tests.fuzz.reader import require, word_sum
from translate.fast_path import IP_AT, make_fast_path
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.siit.translator import Siit

LINK = bytes.fromhex("02c11e470001")
FORM = FrameFormat(True, bytes.fromhex("02c11e470101"), bytes.fromhex("02c11e470102"))

T = TypeVar("T", Nat64, Siit)


class Side(Generic[T]):
    """A translator, and optionally the fast path in front of it."""

    def __init__(self, nat: T, *, fast: bool) -> None:
        self.nat: T = nat
        self._wants_fast = fast
        self._fast: Callable[[bytearray, int, float], int] | None = None
        self.configure()

    def configure(self) -> None:
        """Makes the fast path anew, as the data plane does after changes; none without uplink."""
        self._fast = None
        if not self._wants_fast or (isinstance(self.nat, Nat64) and not self.nat.has_uplink):
            return
        settings = self.nat.settings
        self._fast = make_fast_path(
            self.nat.state.flows,
            vnet=FORM.vnet,
            ethernet4=FORM.ethernet4,
            ethernet6_tail=FORM.ethernet6_tail,
            lowest_ipv6_mtu=settings.lowest_ipv6_mtu,
            tos=settings.tos,
            traffic_class=settings.traffic_class,
        )

    def counted(self) -> int:
        """All discards so far."""
        return sum(self.nat.counters.values())

    def send(self, packet: Packet, now: float) -> list[bytes]:
        """The frames that come out, by way of the fast path where it takes the packet."""
        frame = frame_of(packet)
        if self._fast is not None and frame is not None:
            base = IP_AT - FORM.header_size
            buffer = bytearray(b"\xa5" * (base + len(frame) + 64))
            buffer += bytes(max(0, 256 - len(buffer)))
            buffer[base : base + len(frame)] = frame
            before = bytes(buffer)
            start = self._fast(buffer, len(frame), now)
            if start:
                return [bytes(buffer[start : base + len(frame)])]
            require(bytes(buffer) == before, "the fast path refused, but changed the buffer")
        return [FORM.join(out) for out in self.nat.translate(packet, now)]


def frame_of(packet: Packet) -> bytes | None:
    """The frame in which a kernel would hand the packet over; None where none would."""
    data = packet.data
    if not 40 <= len(data) <= 40 + 65535 or data[0] >> 4 not in (4, 6):
        return None
    v4 = data[0] >> 4 == 4
    if v4 and word_sum(data[: (data[0] & 15) * 4]) != 0xFFFF:
        # It verifies this before it forwards anything.
        return None
    start, protocol = (20, data[9]) if v4 else (40, data[6])
    vnet = bytes(10)
    if packet.partial:
        if protocol not in (6, 17) or len(data) < start + 20:
            return None
        size = (data[start + 12] >> 4) * 4 if protocol == 6 else 8
        head = 14 + start + size if packet.gso_type else 0
        numbers = (head, packet.gso_size, 14 + start, 16 if protocol == 6 else 6)
        vnet = bytes((1, packet.gso_type)) + b"".join(n.to_bytes(2, "little") for n in numbers)
    elif packet.gso_type:
        return None
    kind = b"\x08\x00" if v4 else b"\x86\xdd"
    return vnet + FORM.own_mac + (packet.link or LINK) + kind + data
