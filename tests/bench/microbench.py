"""Processor time of one frame in the fast path and in the slow path, without a device.

    python -m tests.bench.microbench [--frames 200000]

Sessions are made by passing first packets through the slow path; the frames then measured are
the ones that the fast path is for. A frame is rewritten where it lies, so its headers are put
back before every call; what that costs is measured alone and subtracted. Time is that of the
process, and of several repetitions the least counts: everything that disturbs adds to it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from gateway.frames import FrameFormat
from tests.bench.report import table
from translate.addresses import Layout, Prefix6
from translate.checksum import internet_checksum, ones_sum
from translate.fast_path import BUFFER_SIZE, IP_AT, FastPath, make_fast_path
from translate.nat64 import Nat64
from translate.packets import GSO_NONE, GSO_TCPV4, GSO_TCPV6, Packet
from translate.pool4 import PoolRange
from translate.settings import Settings

REPETITIONS = 7
NOW = 1000.0

CLIENT6 = IPv6Address("fd00:6464:1::2").packed
SERVER6 = IPv6Address("fec0:0:0:ffff::198.18.0.2").packed
SERVER4 = IPv4Address("198.18.0.2").packed
PORT, SERVER_PORT = 40000, 5001
SYN, SYN_ACK, ACK = 0x02, 0x12, 0x10
UDP, TCP = 17, 6
MSS = 1440


@dataclass(frozen=True, slots=True)
class Case:
    """One kind of frame, as it comes from the device."""

    name: str
    packet: Packet


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.microbench")
    parser.add_argument("--frames", type=int, default=200_000, help="for each repetition")
    frames = max(1, parser.parse_args(arguments).frames)
    rows = []
    for name, form in (
        ("tap", FrameFormat(True, host_mac=bytes(6), own_mac=b"\x02\0\0\0\0\x05")),
        ("tap, no vnet header", FrameFormat(False, host_mac=bytes(6), own_mac=b"\x02\0\0\0\0\x05")),
        ("tun", FrameFormat(True)),
    ):
        translator = _translator()
        fast = make_fast_path(
            translator.state.flows,
            vnet=form.vnet,
            ethernet4=form.ethernet4,
            ethernet6_tail=form.ethernet6_tail,
            lowest_ipv6_mtu=translator.settings.lowest_ipv6_mtu,
        )
        for case in _cases(translator):
            if case.packet.gso_type != GSO_NONE and not form.vnet:
                continue
            quick = _fast_seconds(fast, form, case, frames)
            slow = _slow_seconds(translator, case, max(1, frames // 20))
            rows.append([f"{name}: {case.name}", f"{quick * 1e6:.2f}", f"{slow * 1e6:.1f}"])
    print(table(["frame", "fast path, µs", "slow path, µs"], rows))
    return 0


def _translator() -> Nat64:
    prefix = Prefix6(IPv6Network("fec0:0:0:ffff::/64"), Layout.TRAILING)
    settings = Settings(
        prefixes=(prefix,),
        pool4=(PoolRange(IPv4Network("192.0.0.6/32")),),
        icmp6_source=prefix.embed(IPv4Address("192.0.0.8").packed),
        icmp4_source=IPv4Address("192.0.0.6").packed,
    )
    return Nat64(
        settings, randbelow=lambda n: n // 2, admit=lambda _: True, path_mtu=lambda _: 1500
    )


def _cases(translator: Nat64) -> list[Case]:
    """Open a UDP and a TCP session; return frames that belong to them."""
    small = bytes(range(64))
    udp6 = _ipv6(UDP, _udp(small))
    (first,) = translator.translate(Packet(udp6), NOW)
    pool4, pool_port = first.data[12:16], int.from_bytes(first.data[20:22], "big")
    udp4 = _ipv4(pool4, UDP, _udp(small, SERVER_PORT, pool_port))

    (syn,) = translator.translate(Packet(_ipv6(TCP, _tcp(SYN))), NOW)
    tcp_port = int.from_bytes(syn.data[20:22], "big")
    for flags in (SYN_ACK, ACK):
        answer = _ipv4(pool4, TCP, _tcp(flags, SERVER_PORT, tcp_port))
        if not translator.translate(Packet(answer), NOW):
            raise RuntimeError("the TCP session did not open")
    bulk = bytes(44 * MSS)
    bulk6 = _ipv6(TCP, _tcp(ACK, payload=bulk))
    bulk4 = _ipv4(pool4, TCP, _tcp(ACK, SERVER_PORT, tcp_port, bulk))
    return [
        Case("UDP 64 B up", Packet(udp6)),
        Case("UDP 64 B down", Packet(udp4)),
        Case("TCP ACK up", Packet(_ipv6(TCP, _tcp(ACK)))),
        Case("TCP ACK down", Packet(_ipv4(pool4, TCP, _tcp(ACK, SERVER_PORT, tcp_port)))),
        Case("TCP 62 KiB up", Packet(bulk6, partial=True, gso_type=GSO_TCPV6, gso_size=MSS)),
        Case("TCP 62 KiB down", Packet(bulk4, partial=True, gso_type=GSO_TCPV4, gso_size=MSS)),
    ]


def _fast_seconds(fast: FastPath, form: FrameFormat, case: Case, frames: int) -> float:
    frame = form.join(case.packet)
    buffer = bytearray(BUFFER_SIZE)
    base = IP_AT - form.header_size
    size = len(frame)
    buffer[base : base + size] = frame
    # What is rewritten: everything up to the end of the transport header's checksum.
    end = IP_AT + 60
    head = bytes(buffer[base:end])
    if not fast(buffer, size, NOW):
        raise RuntimeError(f"{case.name}: not carried by the fast path")

    def translated() -> None:
        for _ in range(frames):
            buffer[base:end] = head
            fast(buffer, size, NOW)

    def put_back() -> None:
        for _ in range(frames):
            buffer[base:end] = head

    return (_least_seconds(translated) - _least_seconds(put_back)) / frames


def _slow_seconds(translator: Nat64, case: Case, frames: int) -> float:
    packet = case.packet
    if not translator.translate(packet, NOW):
        raise RuntimeError(f"{case.name}: not carried by the slow path")

    def translated() -> None:
        for _ in range(frames):
            translator.translate(packet, NOW)

    return _least_seconds(translated) / frames


def _least_seconds(work: Callable[[], None]) -> float:
    least = float("inf")
    for _ in range(REPETITIONS):
        start = time.process_time()
        work()
        least = min(least, time.process_time() - start)
    return least


def _ipv6(protocol: int, segment: bytes) -> bytes:
    header = b"\x60\0\0\0" + len(segment).to_bytes(2, "big") + bytes([protocol, 64])
    return header + CLIENT6 + SERVER6 + _with_checksum(CLIENT6 + SERVER6, protocol, segment)


def _ipv4(pool4: bytes, protocol: int, segment: bytes) -> bytes:
    length = (20 + len(segment)).to_bytes(2, "big")
    header = b"\x45\0" + length + b"\0\0\x40\0" + bytes([64, protocol, 0, 0]) + SERVER4 + pool4
    checksum = internet_checksum(header).to_bytes(2, "big")
    segment = _with_checksum(SERVER4 + pool4, protocol, segment)
    return header[:10] + checksum + header[12:] + segment


def _udp(payload: bytes, source: int = PORT, destination: int = SERVER_PORT) -> bytes:
    ports = source.to_bytes(2, "big") + destination.to_bytes(2, "big")
    return ports + (8 + len(payload)).to_bytes(2, "big") + b"\0\0" + payload


def _tcp(
    flags: int, source: int = PORT, destination: int = SERVER_PORT, payload: bytes = b""
) -> bytes:
    ports = source.to_bytes(2, "big") + destination.to_bytes(2, "big")
    return ports + bytes(8) + bytes([0x50, flags]) + b"\xff\xff\0\0\0\0" + payload


def _with_checksum(addresses: bytes, protocol: int, segment: bytes) -> bytes:
    """Return `segment` with its checksum, or with the pseudo-header's sum if it is TCP in bulk."""
    at = 6 if protocol == UDP else 16
    pseudo = addresses + len(segment).to_bytes(4, "big") + bytes([0, 0, 0, protocol])
    checksum = ones_sum(pseudo) if len(segment) > MSS + 20 else internet_checksum(pseudo + segment)
    return segment[:at] + checksum.to_bytes(2, "big") + segment[at + 2 :]


if __name__ == "__main__":
    sys.exit(main())
