"""RFC 7915 §5.1, §5.1.1 and §5.5: packets from IPv6."""

from __future__ import annotations

from typing import Any

from tests.oracle import (
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    Layer,
    Raw,
    words,
)
from tests.vectors.build import (
    C6,
    CP,
    DNS,
    OWN_ERROR,
    P4,
    PP,
    S4,
    S6,
    Step,
    Vector,
    clause_of,
    echo6,
    own6,
    pieces,
    step,
    tcp6,
    tcp6_as_4,
    udp6,
    udp6_as_4,
)


def vectors() -> list[Vector]:
    """All of them."""
    return [
        Vector(name, clause_of(clause), steps)
        for name, clause, steps in (
            *_header_fields(),
            *_extension_headers(),
            *_fragments(),
            *_transport(),
            *_refusals(),
        )
    ]


Case = tuple[str, str, tuple[Step, ...]]


def _header_fields() -> list[Case]:
    size = 1260 - 28
    return [
        ("udp", "§5.1: version, lengths, protocol, addresses", (step(udp6(), udp6_as_4()),)),
        (
            "traffic class becomes TOS",
            "§5.1: Type of Service",
            (step(udp6(tc=0xB9), udp6_as_4(tos=0xB9)),),
        ),
        ("flow label is lost", "§5.1", (step(udp6(fl=0xABCDE), udp6_as_4()),)),
        (
            "DF clear up to 1260 bytes",
            "§5.1: Flags",
            (step(udp6(bytes(size)), udp6_as_4(bytes(size))),),
        ),
        (
            "DF set from 1261 bytes on",
            "§5.1: Flags",
            (step(udp6(bytes(size + 1)), udp6_as_4(bytes(size + 1), flags="DF")),),
        ),
        ("hop limit 2", "§5.1: Time to Live", (step(udp6(hlim=2), udp6_as_4(ttl=1)),)),
        (
            "hop limit 1 is answered",
            "§5.1: Time to Live",
            (step(udp6(hlim=1), own6(3, 0, 0, udp6(hlim=1)), reason="hop-limit", free=OWN_ERROR),),
        ),
        (
            "hop limit 0 is answered",
            "§5.1: Time to Live",
            (step(udp6(hlim=0), own6(3, 0, 0, udp6(hlim=0)), reason="hop-limit", free=OWN_ERROR),),
        ),
    ]


def _with(*headers: Layer, **ip: int) -> Layer:
    packet = IPv6(src=C6, dst=S6, hlim=64)
    for header in headers:
        packet /= header
    return packet / UDP(sport=CP, dport=DNS) / Raw(b"query")


def _extension_headers() -> list[Case]:
    used_up = IPv6ExtHdrRouting(segleft=0, addresses=["2001:db8::1"])
    left = IPv6ExtHdrRouting(segleft=1, addresses=[S6])
    all_of_them = _with(IPv6ExtHdrHopByHop(), IPv6ExtHdrDestOpt(), used_up, IPv6ExtHdrDestOpt())
    return [
        (
            "hop-by-hop options are skipped",
            "§5.1: Protocol",
            (step(_with(IPv6ExtHdrHopByHop()), udp6_as_4()),),
        ),
        (
            "destination options are skipped",
            "§5.1: Protocol",
            (step(_with(IPv6ExtHdrDestOpt()), udp6_as_4()),),
        ),
        (
            "a used up routing header is skipped",
            "§5.1",
            (step(_with(used_up), udp6_as_4()),),
        ),
        ("several extension headers", "§5.1", (step(all_of_them, udp6_as_4()),)),
        (
            "segments left: parameter problem at octet 43",
            "§5.1",
            (
                step(
                    _with(left),
                    own6(4, 0, 43, _with(left)),
                    reason="routing-header",
                    free=OWN_ERROR,
                ),
            ),
        ),
        (
            "segments left behind options: parameter problem at octet 51",
            "§5.1",
            (
                step(
                    _with(IPv6ExtHdrHopByHop(), left),
                    own6(4, 0, 51, _with(IPv6ExtHdrHopByHop(), left)),
                    reason="routing-header",
                    free=OWN_ERROR,
                ),
            ),
        ),
    ]


def _fragments() -> list[Case]:
    data = bytes(range(256)) * 6
    upper6 = bytes(udp6(data))[40:]
    upper4 = bytes(udp6_as_4(data))[20:]
    steps = [
        step(
            IPv6(src=C6, dst=S6, hlim=64)
            / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(more), id=0xABCD1234)
            / Raw(part6),
            IP(src=P4, dst=S4, ttl=63, proto=17, id=0x1234, flags="MF" * more, frag=at // 8)
            / Raw(part4),
            free=(),
        )
        for (at, more, part6), (_, _, part4) in zip(
            pieces(upper6, 1232), pieces(upper4, 1232), strict=True
        )
    ]
    first, last = (
        bytes(
            IPv6(src=C6, dst=S6, hlim=64)
            / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(more), id=0x5555)
            / Raw(part)
        )
        for at, more, part in pieces(upper6, 1232)
    )
    first4, last4 = (
        bytes(
            IP(src=P4, dst=S4, ttl=63, proto=17, id=0x5555, flags="MF" * more, frag=at // 8)
            / Raw(part)
        )
        for at, more, part in pieces(upper4, 1232)
    )
    overlapping = (
        IPv6(src=C6, dst=S6)
        / IPv6ExtHdrFragment(nh=17, offset=1224 // 8, m=0, id=0x5555)
        / Raw(upper6[1224:])
    )
    tiny = IPv6(src=C6, dst=S6) / IPv6ExtHdrFragment(nh=6, offset=0, m=1, id=9) / Raw(bytes(16))
    odd = (
        IPv6(src=C6, dst=S6)
        / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=0x5555)
        / Raw(upper6[:1230])
    )
    odd4 = IP(src=P4, dst=S4, ttl=63, proto=17, id=0x5555, flags="MF") / Raw(upper4[:1230])
    atomic = (
        IPv6(src=C6, dst=S6, hlim=64)
        / IPv6ExtHdrFragment(nh=17, offset=0, m=0, id=0x00057777)
        / Raw(bytes(udp6())[40:])
    )
    return [
        ("fragments", "§5.1.1: low 16 bits of the identification, offset, MF", tuple(steps)),
        (
            "fragments out of order",
            "§5.1.1, RFC 6146 §3.4",
            (
                step(last, reason="fragment-held"),
                step(first, first4, last4, free=()),
            ),
        ),
        (
            "fragments that overlap",
            "RFC 6146 §3.4, RFC 5722 §4",
            (
                step(first, first4, free=()),
                step(overlapping, reason="fragment-overlap"),
                step(last, reason="fragment-overlap"),
            ),
        ),
        (
            "a first fragment without ports",
            "RFC 6146 §3.4, RFC 1858",
            (step(tiny, reason="fragment-tiny"),),
        ),
        (
            "a fragment whose length is no multiple of 8 passes",
            "§5.1.1: the receiver decides",
            (step(odd, odd4, free=()),),
        ),
        (
            "atomic fragment",
            "§5.1.1: identification, offset 0, MF clear, DF clear",
            (step(atomic, udp6_as_4(id=0x7777), free=()),),
        ),
    ]


def _transport() -> list[Case]:
    options = [("MSS", 1300), ("SAckOK", b""), ("Timestamp", (7, 0)), ("NOP", None), ("WScale", 7)]
    syn: dict[str, Any] = {"seq": 77, "window": 1234, "options": options}
    urgent: dict[str, Any] = {"seq": 5, "ack": 6, "urgptr": 3, "window": 9}
    wrong = udp6().copy()
    wrong[UDP].chksum = 0x1111
    right6 = int.from_bytes(bytes(udp6())[46:48], "big")
    right4 = int.from_bytes(bytes(udp6_as_4())[26:28], "big")
    wrong4 = udp6_as_4().copy()
    # As far from the right one as before, in one's complement arithmetic.
    wrong4[UDP].chksum = words(
        b"".join(part.to_bytes(2, "big") for part in (0x1111, 0xFFFF - right6, right4))
    )
    # With this payload the sum over the IPv4 packet is all ones, so its checksum would be 0.
    rest = 0xFFFF - words(_sum_of_udp4(b"\0\0"))
    zero = rest.to_bytes(2, "big")
    echo4 = IP(src=P4, dst=S4, ttl=63, id=0) / ICMP(type=8, id=PP, seq=3) / Raw(b"ping")
    odd4 = IP(src=P4, dst=S4, ttl=63, id=0) / ICMP(type=8, id=PP, seq=3) / Raw(b"pings")
    return [
        (
            "tcp segment with options",
            "§5.5",
            (step(tcp6("S", **syn), tcp6_as_4("S", **syn)),),
        ),
        (
            "tcp flags, urgent pointer and data",
            "§5.5",
            (
                step(tcp6("S", seq=4), tcp6_as_4("S", seq=4)),
                step(
                    tcp6("UPAEC", b"odd", **urgent),
                    tcp6_as_4("UPAEC", b"odd", **urgent),
                ),
            ),
        ),
        ("udp of odd length", "§5.5", (step(udp6(b"odd"), udp6_as_4(b"odd")),)),
        ("udp without data", "§5.5", (step(udp6(b""), udp6_as_4(b"")),)),
        ("a wrong checksum stays equally wrong", "§5.5", (step(wrong, wrong4),)),
        (
            "a UDP checksum of 0 is written as all ones",
            "§5.5, RFC 768",
            (step(udp6(zero), udp6_as_4(zero)),),
        ),
        ("echo request", "§5.2: Echo Request", (step(echo6(), echo4),)),
        ("echo request of odd length", "§5.2", (step(echo6(b"pings"), odd4),)),
    ]


def _sum_of_udp4(data: bytes) -> bytes:
    """What the UDP checksum of the translated query covers, its own field zero."""
    packet = bytes(udp6_as_4(data))
    udp = packet[20:26] + b"\0\0" + packet[28:]
    return packet[12:20] + b"\0\x11" + len(udp).to_bytes(2, "big") + udp


def _refusals() -> list[Case]:
    sctp = IPv6(src=C6, dst=S6, nh=132) / Raw(bytes(16))
    esp = IPv6(src=C6, dst=S6, nh=50) / Raw(bytes(16))
    none = IPv6(src=C6, dst=S6, nh=59)
    group_query = IPv6(src=C6, dst=S6, nh=58) / Raw(
        bytes.fromhex("8200 7d2c 0000 0000") + bytes(16)
    )
    solicitation = IPv6(src=C6, dst=S6, nh=58, hlim=255) / Raw(b"\x87\0\0\0" + bytes(20))
    cut = bytes(udp6())[:-1]
    behind = IPv6(src=C6, dst=S6) / IPv6ExtHdrDestOpt() / ICMPv6EchoRequest(id=1)
    half = bytes(IPv6(src=C6, dst=S6, nh=17) / Raw(bytes(7)))
    return [
        (
            "SCTP is refused",
            "§5.1, RFC 6146 §3.4",
            (
                step(sctp, own6(1, 4, 0, sctp), reason="unknown-protocol", free=OWN_ERROR),
                step(esp, own6(1, 4, 0, esp), reason="unknown-protocol", free=OWN_ERROR),
            ),
        ),
        ("no next header", "§5.1", (step(none, reason="no-next-header"),)),
        ("multicast listener query", "§5.2: dropped", (step(group_query, reason="icmp-type"),)),
        ("neighbour solicitation", "§5.2: dropped", (step(solicitation, reason="icmp-type"),)),
        ("packet shorter than it says", "§5.1", (step(cut, reason="bad-length"),)),
        ("cut short in the UDP header", "§5.1", (step(half, reason="malformed"),)),
        (
            "echo request behind an option",
            "§5.1",
            (
                step(
                    behind,
                    IP(src=P4, dst=S4, ttl=63, id=0) / ICMP(type=8, id=PP, seq=0),
                ),
            ),
        ),
        (
            "no TCP ports in a short segment",
            "§5.1",
            (
                step(
                    bytes(IPv6(src=C6, dst=S6, nh=6) / Raw(bytes(TCP(sport=CP))[:19])),
                    reason="malformed",
                ),
            ),
        ),
    ]
