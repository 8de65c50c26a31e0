"""Vectors as values, packets for them, and the text of a file."""

from __future__ import annotations

import json
import textwrap
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from tests.oracle import (
    IP,
    TCP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    Layer,
    Raw,
    transport_sum,
    words,
)

C6 = "2001:db8:1::10"
OTHER_C6 = "2001:db8:1::20"
ROUTER6 = "2001:db8:ffff::1"
S4, S6 = "198.51.100.80", "2001:db8:64::c633:6450"
OTHER_S4, OTHER_S6 = "198.51.100.81", "2001:db8:64::c633:6451"
ROUTER4, ROUTER4_AS6 = "198.18.7.1", "2001:db8:64::c612:701"
P4, P4_AS6 = "203.0.113.8", "2001:db8:64::cb00:7108"
OWN6 = "2001:db8:64::c000:8"
CP, PP, DNS, WEB = 40000, 20000, 53, 80

SETTINGS: dict[str, Any] = {
    "prefix": ["2001:db8:64::/96"],
    "pool4": [f"{P4} {PP}-{PP}"],
    "icmp6_source": OWN6,
    "icmp4_source": P4,
    "mtu": 1500,
    "mss_clamp": "off",
}

IDENT = ("identification",)
# RFC 4443 and RFC 1812 leave these to whoever sends an error of its own.
OWN_ERROR = ("identification", "ttl", "tos")


@dataclass(frozen=True)
class Step:
    """One packet in, what has to come out, and the fields of that which are free."""

    packet: bytes | None
    out: tuple[bytes, ...] = ()
    reason: str = ""
    free: tuple[str, ...] = ()
    at: float = 0.0


@dataclass(frozen=True)
class Vector:
    """A named case: steps in order through one translator."""

    name: str
    clause: str
    steps: tuple[Step, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def step(
    packet: Layer | bytes | None,
    *out: Layer | bytes,
    reason: str = "",
    free: tuple[str, ...] = IDENT,
    at: float = 0.0,
) -> Step:
    """A step from packets of scapy or bytes."""
    data = None if packet is None else bytes(packet)
    return Step(data, tuple(map(bytes, out)), reason, free if out else (), at)


# -- packets --------------------------------------------------------------------------------
# A packet from the client has hop limit 64 and one from the server TTL 64 on arrival, so 63
# behind the translator. IPv4 identifications are 0 where the translator chooses them.


def udp6(data: bytes = b"query", src: str = C6, dst: str = S6, port: int = CP, **ip: Any) -> Layer:
    """A query from a client."""
    return IPv6(src=src, dst=dst, **{"hlim": 64, **ip}) / UDP(sport=port, dport=DNS) / Raw(data)


def udp6_as_4(data: bytes = b"query", dst: str = S4, port: int = PP, **ip: Any) -> Layer:
    """What the server gets for that."""
    head = IP(src=P4, dst=dst, **{"ttl": 63, "id": 0, **ip})
    return head / UDP(sport=port, dport=DNS) / Raw(data)


def udp4(data: bytes = b"answer", src: str = S4, port: int = PP, **ip: Any) -> Layer:
    """An answer from a server."""
    head = IP(src=src, dst=P4, **{"ttl": 64, "flags": "DF", **ip})
    return head / UDP(sport=DNS, dport=port) / Raw(data)


def udp4_as_6(data: bytes = b"answer", src: str = S6, **ip: Any) -> Layer:
    """What the client gets for that."""
    return IPv6(src=src, dst=C6, **{"hlim": 63, **ip}) / UDP(sport=DNS, dport=CP) / Raw(data)


def tcp6(flags: str, data: bytes = b"", **tcp: Any) -> Layer:
    """A segment from the client."""
    return IPv6(src=C6, dst=S6) / TCP(sport=CP, dport=WEB, flags=flags, **tcp) / Raw(data)


def tcp6_as_4(flags: str, data: bytes = b"", **tcp: Any) -> Layer:
    """What the server gets for that."""
    head = IP(src=P4, dst=S4, ttl=63, id=0)
    return head / TCP(sport=PP, dport=WEB, flags=flags, **tcp) / Raw(data)


def tcp4(flags: str, data: bytes = b"", **tcp: Any) -> Layer:
    """A segment from the server."""
    head = IP(src=S4, dst=P4, flags="DF")
    return head / TCP(sport=WEB, dport=PP, flags=flags, **tcp) / Raw(data)


def tcp4_as_6(flags: str, data: bytes = b"", **tcp: Any) -> Layer:
    """What the client gets for that."""
    head = IPv6(src=S6, dst=C6, hlim=63)
    return head / TCP(sport=WEB, dport=CP, flags=flags, **tcp) / Raw(data)


def echo6(data: bytes = b"ping") -> Layer:
    """A ping from the client; its identifier is 7."""
    return IPv6(src=C6, dst=S6) / ICMPv6EchoRequest(id=7, seq=3, data=data)


def reply6(data: bytes = b"ping") -> Layer:
    """The answer that the client gets."""
    return IPv6(src=S6, dst=C6, hlim=63) / ICMPv6EchoReply(id=7, seq=3, data=data)


def icmp4(kind: int, code: int, rest: int, body: Layer | bytes, **ip: Any) -> Layer:
    """An ICMPv4 message with a right checksum; `rest` is its second word."""
    message = rest.to_bytes(4, "big") + bytes(body)
    checksum = 0xFFFF - words(bytes((kind, code)) + message)
    head = IP(**{"src": ROUTER4, "dst": P4, "proto": 1, **ip})
    return head / Raw(bytes((kind, code)) + checksum.to_bytes(2, "big") + message)


def icmp6(kind: int, code: int, rest: int, body: Layer | bytes, **ip: Any) -> Layer:
    """An ICMPv6 message with a right checksum; `rest` is its second word."""
    message = rest.to_bytes(4, "big") + bytes(body)
    head = IPv6(**{"src": C6, "dst": S6, "nh": 58, **ip})
    checksum = 0xFFFF - transport_sum(bytes(head / Raw(bytes((kind, code, 0, 0)) + message)))
    return head / Raw(bytes((kind, code)) + checksum.to_bytes(2, "big") + message)


def own6(kind: int, code: int, rest: int, about: Layer | bytes) -> Layer:
    """The translator's own ICMPv6 error to the client about its packet."""
    return icmp6(kind, code, rest, about, src=OWN6, dst=C6)


def own4(kind: int, code: int, rest: int, about: Layer | bytes) -> Layer:
    """The translator's own ICMPv4 error to the server about its packet."""
    return icmp4(kind, code, rest, about, src=P4, dst=S4)


def pieces(upper: bytes, *sizes: int) -> list[tuple[int, bool, bytes]]:
    """(offset, more, bytes) of the fragments of a payload, all but the last of these sizes."""
    out, at = [], 0
    for size in (*sizes, len(upper)):
        part = upper[at : at + size]
        more = at + len(part) < len(upper)
        out.append((at, more, part))
        at += len(part)
        if not more:
            break
    return out


def clause_of(text: str) -> str:
    """The clause of a vector of RFC 7915, whose sections are given alone."""
    return f"RFC 7915 {text}" if text.startswith("§") else text


def opened() -> Step:
    """The first packet of a UDP flow, which makes mapping and session."""
    return step(udp6(), udp6_as_4())


def opened_tcp() -> tuple[Step, ...]:
    """The three segments that open a TCP connection."""
    return (
        step(tcp6("S", seq=1), tcp6_as_4("S", seq=1)),
        step(tcp4("SA", seq=9, ack=2), tcp4_as_6("SA", seq=9, ack=2)),
        step(tcp6("A", seq=2, ack=10), tcp6_as_4("A", seq=2, ack=10)),
    )


# -- the file -------------------------------------------------------------------------------


def text_of(title: str, vectors: list[Vector]) -> str:
    """The vectors as TOML."""
    lines = [f"# {title}", "# Made by `python -m tests.vectors.make`; tests/vectors/__init__.py"]
    lines[-1] += " explains the format."
    for vector in vectors:
        lines += ["", "[[vector]]", f"name = {json.dumps(vector.name)}"]
        lines.append(f"clause = {json.dumps(vector.clause, ensure_ascii=False)}")
        if vector.settings:
            lines.append(f"settings = {toml_of(vector.settings)}")
        for one in vector.steps:
            lines += ["", "[[vector.step]]", f"at = {one.at}"]
            lines.append(f"comment = {json.dumps(_comment(one))}")
            if one.packet is not None:
                lines.append(f"in = {_hex(one.packet)}")
            if one.out:
                lines += ["out = [", *(f"{_hex(data)}," for data in one.out), "]"]
            if one.free:
                lines.append(f"any = {json.dumps(list(one.free))}")
            if one.reason:
                lines.append(f"reason = {json.dumps(one.reason)}")
    return "\n".join(lines) + "\n"


def toml_of(value: Any) -> str:
    """A value as TOML, tables inline."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml_of(item)}" for key, item in value.items()) + " }"
    return json.dumps(value)


def _hex(data: bytes) -> str:
    return '"""\n' + "\n".join(textwrap.wrap(data.hex(" ", -4), 80)) + '"""'


def _comment(one: Step) -> str:
    before = "time passes" if one.packet is None else _summary(one.packet)
    after = " and ".join(map(_summary, one.out)) or "nothing"
    return f"{before} => {after}"


def _summary(data: bytes) -> str:
    """`v4 ADDRESS > ADDRESS PROTOCOL, N bytes`, for people who look for a packet in a file."""
    if len(data) < 20 or data[0] >> 4 not in (4, 6):
        return f"{len(data)} bytes"
    is_v4 = data[0] >> 4 == 4
    protocol = _PROTOCOLS.get(data[9 if is_v4 else 6], "protocol ?")
    at = (data[0] & 15) * 4 if is_v4 else 40
    if protocol.startswith("ICMP"):
        protocol += f" {data[at]}/{data[at + 1]}"
    src, dst = (data[12:16], data[16:20]) if is_v4 else (data[8:24], data[24:40])
    return f"{ip_address(src)} > {ip_address(dst)} {protocol}, {len(data)} bytes"


_PROTOCOLS = {
    0: "hop-by-hop options",
    1: "ICMP",
    6: "TCP",
    17: "UDP",
    43: "routing header",
    44: "fragment",
    50: "ESP",
    58: "ICMPv6",
    59: "no next header",
    60: "destination options",
    132: "SCTP",
}
