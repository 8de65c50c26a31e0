"""What the tests of the translator share: scapy, and a second opinion on every packet.

This is the one module that imports scapy, because that is slow. Packets are built by scapy,
and what comes out is read by scapy and by the few lines of RFC 1071 below, never by the code
under test. A `Bench` is one translator with a clock that the test moves:

    client 2001:db8:1::10 ── [ fec0:0:0:ffff::/64 | pool4 203.0.113.8 ] ── server 198.51.100.80
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.packet import Packet as Layer
from scapy.packet import Raw

from translate.addresses import Layout, Prefix6
from translate.fast_path import BUFFER_SIZE, IP_AT, make_fast_path
from translate.nat64 import Nat64
from translate.packets import Packet
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Settings

__all__ = [
    "ICMP",
    "IP",
    "TCP",
    "UDP",
    "ICMPv6DestUnreach",
    "ICMPv6EchoReply",
    "ICMPv6EchoRequest",
    "ICMPv6PacketTooBig",
    "ICMPv6ParamProblem",
    "ICMPv6TimeExceeded",
    "ICMPv6Unknown",
    "IPv6",
    "IPv6ExtHdrDestOpt",
    "IPv6ExtHdrFragment",
    "IPv6ExtHdrHopByHop",
    "IPv6ExtHdrRouting",
    "Layer",
    "Raw",
]

CLIENT = "2001:db8:1::10"
OTHER_CLIENT = "2001:db8:1::20"
SERVER = "198.51.100.80"
OTHER_SERVER = "198.51.100.81"
ROUTER4 = "198.18.7.1"
ROUTER6 = "2001:db8:ffff::1"
POOL = "203.0.113.8"
PREFIX = "fec0:0:0:ffff::/64"
LINK = bytes.fromhex("02c11e470001")
START = 1000.0


def trailing(addr4: str, prefix: str = PREFIX) -> str:
    """The address with IPv4 in its last 32 bits."""
    return str(IPv6Address(int(IPv6Network(prefix).network_address) | int(IPv4Address(addr4))))


OWN6 = trailing("192.0.0.8")
SERVER6 = trailing(SERVER)
OTHER_SERVER6 = trailing(OTHER_SERVER)


def rfc6052(addr4: str) -> str:
    """The address under the /64 as RFC 6052 §2.2 lays it out: octet u, then four of IPv4."""
    head = IPv6Network(PREFIX).network_address.packed[:8]
    return str(IPv6Address(head + b"\0" + IPv4Address(addr4).packed + bytes(3)))


def make_settings(**changes: Any) -> Settings:
    """Settings of the bench, with keys replaced."""
    settings = Settings(
        prefixes=(Prefix6(IPv6Network(PREFIX), Layout.TRAILING),),
        pool4=(PoolRange(IPv4Network(POOL + "/32")),),
        icmp6_source=IPv6Address(OWN6).packed,
        icmp4_source=IPv4Address(POOL).packed,
    )
    return replace(settings, **changes)


class Bench:
    """A translator, its clock, and short ways to push packets through it."""

    def __init__(
        self,
        *,
        admit: Callable[[bytes], bool] = lambda _: True,
        path_mtu: Callable[[bytes], int] = lambda _: 1500,
        seed: int = 1,
        **changes: Any,
    ) -> None:
        self.nat = Nat64(
            make_settings(**changes),
            randbelow=random.Random(seed).randrange,
            admit=admit,
            path_mtu=path_mtu,
        )
        self.now = START

    def send(self, packet: Layer | bytes, **about: Any) -> list[Packet]:
        """What comes out for a packet; everything in it is checked to be well-formed."""
        out = self.nat.translate(Packet(bytes(packet), **about), self.now)
        for one in out:
            check_form(one.data)
        return out

    def one(self, packet: Layer | bytes, **about: Any) -> Layer:
        """The only packet that comes out, as scapy reads it; its checksums are right."""
        (out,) = self.send(packet, **about)
        if not out.partial:
            assert checksum_right(out.data), "transport checksum"
        return read(out.data)

    def refused(self, packet: Layer | bytes, reason: Reason, **about: Any) -> list[Packet]:
        """What is answered to a packet that must be discarded for exactly this reason."""
        before = dict(self.nat.counters)
        out = self.send(packet, **about)
        counted = {r for r, n in self.nat.counters.items() if n != before[r]}
        assert counted == {reason}
        assert self.nat.counters[reason] == before[reason] + 1
        for answer in out:
            assert checksum_right(answer.data)
        return out

    def advance(self, seconds: float) -> None:
        """Moves the clock and lets everything that is due expire."""
        self.now += seconds
        self.nat.expire(self.now, 1_000_000)

    def udp(self, *, sport: int = 40000, dport: int = 53, **kw: Any) -> Layer:
        """Sends a datagram from a client; the translated one."""
        return self.one(udp6(sport=sport, dport=dport, **kw))

    def connect(self, *, sport: int = 40000, dport: int = 80, src: str = CLIENT) -> int:
        """Opens a TCP connection with all three segments; the pool port."""
        out = self.one(tcp6("S", sport=sport, dport=dport, src=src))
        port: int = out[TCP].sport
        self.one(IP(src=SERVER, dst=out.src) / TCP(sport=dport, dport=port, flags="SA"))
        self.one(tcp6("A", sport=sport, dport=dport, src=src))
        return port


def fast_path_of(bench: Bench) -> Callable[[Layer | bytes], bytes | None]:
    """The fast path of a tun device over the bench's flows: the packet that it makes, or None."""
    settings = bench.nat.settings
    fast = make_fast_path(
        bench.nat.state.flows,
        vnet=False,
        ethernet4=b"",
        ethernet6_tail=b"",
        lowest_ipv6_mtu=settings.lowest_ipv6_mtu,
        tos=settings.tos,
        traffic_class=settings.traffic_class,
    )

    def carry(packet: Layer | bytes) -> bytes | None:
        data = bytes(packet)
        buffer = bytearray(BUFFER_SIZE)
        buffer[IP_AT : IP_AT + len(data)] = data
        start = fast(buffer, len(data), bench.now)
        return bytes(buffer[start : IP_AT + len(data)]) if start else None

    return carry


def udp6(
    *,
    sport: int = 40000,
    dport: int = 53,
    src: str = CLIENT,
    dst: str = SERVER6,
    data: bytes = b"query",
    **ip: Any,
) -> Layer:
    """A datagram from a client."""
    return IPv6(src=src, dst=dst, **ip) / UDP(sport=sport, dport=dport) / Raw(data)


def tcp6(
    flags: str,
    *,
    sport: int = 40000,
    dport: int = 80,
    src: str = CLIENT,
    dst: str = SERVER6,
    data: bytes = b"",
    **tcp: Any,
) -> Layer:
    """A segment from a client."""
    return IPv6(src=src, dst=dst) / TCP(sport=sport, dport=dport, flags=flags, **tcp) / Raw(data)


def echo6(*, ident: int = 7, dst: str = SERVER6, src: str = CLIENT, data: bytes = b"ping") -> Layer:
    """An echo request from a client."""
    return IPv6(src=src, dst=dst) / ICMPv6EchoRequest(id=ident, seq=3, data=data)


def read(data: bytes) -> Layer:
    """The packet as scapy understands it."""
    return IP(data) if data[0] >> 4 == 4 else IPv6(data)


# -- the second opinion -------------------------------------------------------------------


def words(data: bytes | bytearray) -> int:
    """The one's complement sum of RFC 1071 §4.1, word by word, 0..0xffff."""
    total = 0
    for at in range(0, len(data) - 1, 2):
        total += data[at] << 8 | data[at + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def check_form(data: bytes) -> None:
    """Asserts what every packet on a wire owes: lengths, IPv4 header checksum, a hop left."""
    assert data[0] >> 4 in (4, 6)
    if data[0] >> 4 == 4:
        assert data[0] == 0x45, "20-byte header"
        assert int.from_bytes(data[2:4], "big") == len(data), "total length"
        assert words(data[:20]) == 0xFFFF, "header checksum"
        assert data[8] >= 1, "TTL"
        assert not data[6] & 0x80, "reserved flag"
    else:
        assert int.from_bytes(data[4:6], "big") + 40 == len(data), "payload length"
        assert data[7] >= 1, "hop limit"


def upper(data: bytes | bytearray) -> tuple[int, bytes | bytearray, bytes | bytearray]:
    """(protocol, transport bytes, addresses) of an unfragmented packet, headers walked over."""
    if data[0] >> 4 == 4:
        return data[9], data[(data[0] & 15) * 4 :], data[12:20]
    protocol, at = data[6], 40
    while protocol in (0, 43, 60):
        protocol, at = data[at], at + 8 + data[at + 1] * 8
    return protocol, data[at:], data[8:40]


def is_fragment(data: bytes) -> bool:
    """Whether this is a fragment of a packet (of its IPv6 headers, the first is looked at)."""
    if data[0] >> 4 == 4:
        return bool(int.from_bytes(data[6:8], "big") & 0x3FFF)
    return data[6] == 44


def transport_sum(data: bytes | bytearray) -> int:
    """The sum over transport and pseudo-header; 0xffff when the checksum is right."""
    protocol, payload, addresses = upper(data)
    if protocol == 1:
        return words(payload)
    length = len(payload)
    pseudo = addresses + length.to_bytes(4, "big") + protocol.to_bytes(4, "big")
    return words(pseudo + payload)


def checksum_right(data: bytes) -> bool:
    """Whether the transport checksum is right; IPv4 UDP may have none."""
    protocol, payload, _ = upper(data)
    if protocol == 17 and payload[6:8] == b"\0\0":
        return data[0] >> 4 == 4
    return transport_sum(data) == 0xFFFF


def pseudo_sum(packet: Layer) -> int:
    """What a partial checksum field holds: the pseudo-header's sum, not complemented."""
    data = bytes(packet)
    protocol, payload, addresses = upper(data)
    return words(addresses + len(payload).to_bytes(4, "big") + protocol.to_bytes(4, "big"))


def udp4(
    port: int,
    *,
    sport: int = 53,
    src: str = SERVER,
    dst: str = POOL,
    data: bytes = b"answer",
    **ip: Any,
) -> Layer:
    """A datagram from a server to a pool port."""
    return IP(src=src, dst=dst, **ip) / UDP(sport=sport, dport=port) / Raw(data)


def tcp4(
    flags: str,
    port: int,
    *,
    sport: int = 80,
    src: str = SERVER,
    dst: str = POOL,
    data: bytes = b"",
    **tcp: Any,
) -> Layer:
    """A segment from a server to a pool port."""
    return IP(src=src, dst=dst) / TCP(sport=sport, dport=port, flags=flags, **tcp) / Raw(data)


def echo4(ident: int, *, kind: int = 0, src: str = SERVER, dst: str = POOL) -> Layer:
    """An echo reply (or request, `kind` 8) from a server to a pool identifier."""
    return IP(src=src, dst=dst) / ICMP(type=kind, id=ident, seq=3) / Raw(b"ping")


def error4(kind: int, code: int, rest: int, inner: Any, src: str = ROUTER4, **ip: Any) -> Layer:
    """An ICMPv4 error to the pool about `inner`; `rest` is its second word."""
    body = rest.to_bytes(4, "big") + bytes(inner)
    checksum = 0xFFFF - words(bytes((kind, code)) + body)
    message = bytes((kind, code)) + checksum.to_bytes(2, "big") + body
    return IP(src=src, dst=POOL, proto=1, **ip) / Raw(message)


def error6(kind: int, code: int, rest: int, inner: Any, src: str = ROUTER6, **ip: Any) -> Layer:
    """An ICMPv6 error to the server's address about `inner`; `rest` is its second word."""
    body = rest.to_bytes(4, "big") + bytes(inner)
    head = IPv6(src=src, dst=SERVER6, nh=58, **ip)
    checksum = 0xFFFF - transport_sum(bytes(head / Raw(bytes((kind, code, 0, 0)) + body)))
    return head / Raw(bytes((kind, code)) + checksum.to_bytes(2, "big") + body)
