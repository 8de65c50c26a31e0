"""Stateless translation (RFC 7757, RFC 7915, RFC 6791).

2001:db8:aaaa::1 = 192.0.2.1  ─┐
2001:db8:bbbb::1 = 192.0.2.2  ─┼─ [ 2001:db8:64::/96 | routed 192.0.2.0/24 ] ─ 198.51.100.80
2001:db8:cccc::/124 = .16/28  ─┘
"""

from __future__ import annotations

from typing import Any

from tests.oracle import (
    ICMP,
    IP,
    TCP,
    UDP,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrFragment,
    Layer,
    Raw,
)
from tests.vectors.build import (
    IDENT,
    OWN_ERROR,
    S4,
    S6,
    Step,
    Vector,
    icmp4,
    icmp6,
    pieces,
    step,
)

HOST, HOST4, HOST_AS6 = "2001:db8:aaaa::1", "192.0.2.1", "2001:db8:64::c000:201"
NEAR, NEAR4, NEAR_AS6 = "2001:db8:bbbb::1", "192.0.2.2", "2001:db8:64::c000:202"
NET, NET4 = "2001:db8:cccc::5", "192.0.2.21"
WIDE, WIDE4 = "2001:db8:dddd:0:400::", "192.0.2.129"
STRANGER, ROUTER6, ROUTER4 = "2001:db8:9999::1", "2001:db8:ffff::1", "198.18.7.1"
ROUTER4_AS6 = "2001:db8:64::c612:701"
OWN4, OWN6 = "192.0.0.8", "2001:db8:64::c000:8"
MAPPINGS = [
    f"{HOST4} {HOST}",
    f"{NEAR4} {NEAR}",
    "192.0.2.16/28 2001:db8:cccc::/124",
    "192.0.2.128/26 2001:db8:dddd::/64",
]
INNER = (*IDENT, "inner-identification")


def settings(**siit: Any) -> dict[str, Any]:
    """Stateless mode with the mappings; keys of [siit] besides, or others by their name."""
    common: dict[str, Any] = {
        key: siit.pop(key) for key in ("icmp4_error_pool", "deny4") if key in siit
    }
    return {
        "mode": "siit",
        "pool4": ["192.0.2.0/24"],
        "icmp4_source": OWN4,
        **common,
        "siit": {"mappings": MAPPINGS, **siit},
    }


def udp6(src: str = HOST, dst: str = S6, data: bytes = b"query", **ip: Any) -> Layer:
    return IPv6(src=src, dst=dst, **{"hlim": 64, **ip}) / UDP(sport=5000, dport=53) / Raw(data)


def udp4(src: str = HOST4, dst: str = S4, data: bytes = b"query", **ip: Any) -> Layer:
    return (
        IP(src=src, dst=dst, **{"ttl": 63, "id": 0, **ip}) / UDP(sport=5000, dport=53) / Raw(data)
    )


def back4(dst: str = HOST4, **ip: Any) -> Layer:
    head = IP(src=S4, dst=dst, **{"ttl": 64, "flags": "DF", **ip})
    return head / UDP(sport=53, dport=5000) / Raw(b"answer")


def back6(dst: str = HOST, **ip: Any) -> Layer:
    return IPv6(src=S6, dst=dst, **{"hlim": 63, **ip}) / UDP(sport=53, dport=5000) / Raw(b"answer")


def opened() -> tuple[Step, Step]:
    """A datagram each way, of a flow that is not what the vector is about."""
    return step(udp6(), udp4()), step(back4(), back6())


def vector(name: str, clause: str, *steps: Step, **siit: Any) -> Vector:
    return Vector(name, clause, (*opened(), *steps), settings(**siit))


def vectors() -> list[Vector]:
    """All vectors of the file."""
    return [*_addresses(), *_plain(), *_fragments(), *_errors(), *_hairpins(), *_refusals()]


def _addresses() -> list[Vector]:
    return [
        vector(
            f"stateless: source {addr6}",
            "RFC 7757 §3.3",
            step(udp6(src=addr6), udp4(src=addr4)),
            step(back4(dst=addr4), back6(dst=addr6)),
        )
        for addr6, addr4 in (
            (HOST, HOST4),
            (NET, NET4),
            (WIDE, WIDE4),
            ("2001:db8:64::cb00:7107", "203.0.113.7"),
        )
    ]


def _plain() -> list[Vector]:
    tcp = {"sport": 5000, "dport": 80, "seq": 7, "ack": 9}
    body = bytes(range(24))
    return [
        vector(
            "stateless: TCP",
            "RFC 7915 §4, §5",
            step(
                IPv6(src=HOST, dst=S6) / TCP(flags="PA", **tcp) / Raw(b"data"),
                IP(src=HOST4, dst=S4, ttl=63, id=0) / TCP(flags="PA", **tcp) / Raw(b"data"),
            ),
            step(
                IP(src=S4, dst=HOST4, flags="DF") / TCP(flags="SA", **tcp),
                IPv6(src=S6, dst=HOST, hlim=63) / TCP(flags="SA", **tcp),
            ),
        ),
        vector(
            "stateless: ping both ways",
            "RFC 7915 §4.2, §5.2",
            step(
                IPv6(src=HOST, dst=S6) / ICMPv6EchoRequest(id=7, seq=1, data=b"ping"),
                IP(src=HOST4, dst=S4, ttl=63, id=0) / ICMP(type=8, id=7, seq=1) / Raw(b"ping"),
            ),
            step(
                IP(src=S4, dst=HOST4) / ICMP(type=8, id=9, seq=1) / Raw(b"ping"),
                IPv6(src=S6, dst=HOST, hlim=63) / ICMPv6EchoRequest(id=9, seq=1, data=b"ping"),
            ),
            step(
                IPv6(src=HOST, dst=S6) / ICMPv6EchoReply(id=9, seq=1, data=b"ping"),
                IP(src=HOST4, dst=S4, ttl=63, id=0) / ICMP(type=0, id=9, seq=1) / Raw(b"ping"),
            ),
        ),
        *(
            vector(
                f"stateless: protocol {number} passes",
                "RFC 7915 §4.1, §5.1",
                step(
                    IPv6(src=HOST, dst=S6, nh=number, tc=0xB8) / Raw(body),
                    IP(src=HOST4, dst=S4, proto=number, tos=0xB8, ttl=63, id=0) / Raw(body),
                ),
                step(
                    IP(src=S4, dst=HOST4, proto=number, tos=0xB8, flags="DF") / Raw(body),
                    IPv6(src=S6, dst=HOST, nh=number, tc=0xB8, hlim=63) / Raw(body),
                ),
            )
            for number in (47, 50, 132)
        ),
        vector(
            "stateless: DF above 1260 bytes",
            "RFC 7915 §5.1",
            step(udp6(data=bytes(1232)), udp4(data=bytes(1232))),
            step(udp6(data=bytes(1233)), udp4(data=bytes(1233), flags="DF"), free=()),
        ),
    ]


def _fragments() -> list[Vector]:
    upper6 = bytes(udp6(data=bytes(range(200))))[40:]
    upper4 = bytes(udp4(data=bytes(range(200))))[20:]
    there = []
    for (offset, more, part6), (_, _, part4) in reversed(
        list(zip(pieces(upper6, 80, 80), pieces(upper4, 80, 80), strict=True))
    ):
        there.append(
            step(
                IPv6(src=HOST, dst=S6)
                / IPv6ExtHdrFragment(nh=17, offset=offset // 8, m=int(more), id=0xABCD1234)
                / Raw(part6),
                IP(
                    src=HOST4,
                    dst=S4,
                    ttl=63,
                    proto=17,
                    id=0x1234,
                    frag=offset // 8,
                    flags=int(more),
                )
                / Raw(part4),
                free=(),
            )
        )
    answer4 = bytes(back4())[20:].ljust(24, b"x")
    return [
        vector("stateless: fragments, last first", "RFC 7915 §5.1.1", *there),
        vector(
            "stateless: a later fragment from IPv4",
            "RFC 7915 §4.1",
            step(
                IP(src=S4, dst=HOST4, proto=17, id=0x1234, frag=3, flags="MF") / Raw(answer4),
                IPv6(src=S6, dst=HOST, hlim=63)
                / IPv6ExtHdrFragment(nh=17, offset=3, m=1, id=0x1234)
                / Raw(answer4),
                free=(),
            ),
        ),
        vector(
            "stateless: fragments of ICMP",
            "RFC 7915 §4.2, §5.2",
            step(
                IP(src=S4, dst=HOST4, proto=1, id=1, flags="MF") / Raw(b"\x08" + bytes(23)),
                reason="fragment",
            ),
            step(
                IPv6(src=HOST, dst=S6)
                / IPv6ExtHdrFragment(nh=58, m=1, id=1)
                / Raw(b"\x80" + bytes(23)),
                reason="fragment",
            ),
        ),
    ]


def _errors() -> list[Vector]:
    lost4, lost6 = udp4(ttl=60), udp6(hlim=60)
    far6, far4 = udp6(src=S6, dst=HOST, hlim=60), udp4(src=S4, dst=HOST4, ttl=60)
    sctp = Raw(bytes(24))
    return [
        vector(
            "stateless: an error from a router of IPv4",
            "RFC 7915 §4.2, §4.3",
            step(
                icmp4(11, 0, 0, lost4, src=ROUTER4, dst=HOST4),
                icmp6(3, 0, 0, lost6, src=ROUTER4_AS6, dst=HOST, hlim=63),
            ),
            step(
                icmp4(3, 4, 1400, lost4, src=ROUTER4, dst=HOST4),
                icmp6(2, 0, 1420, lost6, src=ROUTER4_AS6, dst=HOST, hlim=63),
            ),
        ),
        vector(
            "stateless: an error from a router of IPv6",
            "RFC 7915 §5.2, §5.3, RFC 6791 §3",
            step(
                icmp6(3, 0, 0, far6, src=ROUTER6, dst=S6),
                icmp4(11, 0, 0, far4, src=OWN4, dst=S4, ttl=63, id=0),
                free=INNER,
            ),
            step(
                icmp6(2, 0, 1400, far6, src=HOST, dst=S6),
                icmp4(3, 4, 1380, far4, src=HOST4, dst=S4, ttl=63, id=0),
                free=INNER,
            ),
        ),
        vector(
            "stateless: one address for all routers of IPv6",
            "RFC 6791 §3",
            step(
                icmp6(3, 0, 0, far6, src=ROUTER6, dst=S6),
                icmp4(11, 0, 0, far4, src="203.0.113.9", dst=S4, ttl=63, id=0),
                free=INNER,
            ),
            icmp4_error_pool=["203.0.113.9/32"],
        ),
        vector(
            "stateless: an error about another protocol",
            "RFC 7915 §4.3",
            step(
                icmp4(
                    3,
                    1,
                    0,
                    IP(src=HOST4, dst=S4, proto=132, ttl=60) / sctp,
                    src=ROUTER4,
                    dst=HOST4,
                ),
                icmp6(
                    1,
                    0,
                    0,
                    IPv6(src=HOST, dst=S6, nh=132, hlim=60) / sctp,
                    src=ROUTER4_AS6,
                    dst=HOST,
                    hlim=63,
                ),
            ),
        ),
        vector(
            "stateless: an error about a later fragment",
            "RFC 7915 §4.3",
            step(
                icmp4(
                    11,
                    1,
                    0,
                    IP(src=HOST4, dst=S4, proto=17, ttl=60, id=5, frag=7) / sctp,
                    src=ROUTER4,
                    dst=HOST4,
                ),
                icmp6(
                    3,
                    1,
                    0,
                    IPv6(src=HOST, dst=S6, hlim=60)
                    / IPv6ExtHdrFragment(nh=17, offset=7, id=5)
                    / sctp,
                    src=ROUTER4_AS6,
                    dst=HOST,
                    hlim=63,
                ),
            ),
        ),
    ]


def _hairpins() -> list[Vector]:
    there, arrived = udp6(dst=NEAR_AS6), udp6(src=HOST_AS6, dst=NEAR, hlim=63)
    between4 = udp4(dst=NEAR4)
    lost = icmp6(1, 4, 0, arrived, src=NEAR, dst=HOST_AS6)
    told6 = udp6(dst=NEAR_AS6, hlim=63)
    return [
        vector(
            "stateless: intrinsic hairpin",
            "RFC 7757 §4.2.2",
            step(there, arrived),
            step(lost, icmp6(1, 4, 0, told6, src=NEAR_AS6, dst=HOST, hlim=63)),
        ),
        vector(
            "stateless: simple hairpin",
            "RFC 7757 §4.2.1",
            step(there, between4),
            step(udp4(dst=NEAR4, ttl=64), udp6(src=HOST_AS6, dst=NEAR, hlim=63)),
            step(
                icmp4(3, 3, 0, between4, src=NEAR4, dst=HOST4),
                icmp6(1, 4, 0, told6, src=NEAR_AS6, dst=HOST, hlim=63),
            ),
            hairpin="simple",
        ),
        vector(
            "stateless: no hairpin",
            "RFC 7757 §4.1",
            step(there, between4),
            step(udp4(dst=NEAR4, ttl=64), udp6(dst=NEAR, hlim=63)),
            hairpin="none",
        ),
    ]


def _refusals() -> list[Vector]:
    stranger, nobody = udp6(src=STRANGER), back4(dst="192.0.2.99")
    lost = udp6(dst="2001:db8:64::c000:263")
    return [
        vector(
            "stateless: a source without an IPv4 address",
            "RFC 7915 §5.1, RFC 4443 §3.1",
            step(
                stranger,
                icmp6(1, 5, 0, stranger, src=OWN6, dst=STRANGER),
                reason="source-unmapped",
                free=OWN_ERROR,
            ),
        ),
        vector(
            "stateless: an IPv4 address that is nobody's",
            "RFC 7915 §4.1, RFC 4443 §3.1",
            step(nobody, back6(dst="2001:db8:64::c000:263")),
            step(
                lost,
                icmp6(1, 3, 0, lost, src=OWN6, dst=HOST),
                reason="no-mapping",
                free=OWN_ERROR,
            ),
        ),
        vector(
            "stateless: UDP without a checksum in fragments",
            "RFC 7915 §4.5",
            step(
                IP(src=S4, dst=HOST4, flags="MF", id=7)
                / UDP(sport=53, dport=5000, chksum=0)
                / Raw(bytes(16)),
                reason="udp-zero-checksum",
            ),
        ),
        vector(
            "stateless: the hop limit runs out",
            "RFC 7915 §5.1",
            step(
                udp6(hlim=1),
                icmp6(3, 0, 0, udp6(hlim=1), src=OWN6, dst=HOST),
                reason="hop-limit",
                free=OWN_ERROR,
            ),
        ),
    ]
