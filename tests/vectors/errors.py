"""RFC 7915 §4.2, §4.3, §5.2, §5.3: ICMP errors that pass, each with the packet inside."""

from __future__ import annotations

from tests.oracle import IP, UDP, IPv6, Raw
from tests.vectors.build import (
    C6,
    CP,
    DNS,
    P4,
    PP,
    ROUTER4_AS6,
    S4,
    S6,
    Step,
    Vector,
    clause_of,
    echo6,
    icmp4,
    icmp6,
    opened,
    step,
)

# What the router saw: a packet of the flow on its way, some hops on.
SENT4 = IP(src=P4, dst=S4, ttl=60, id=0x1111) / UDP(sport=PP, dport=DNS) / Raw(b"query")
SENT4_AS6 = IPv6(src=C6, dst=S6, hlim=60) / UDP(sport=CP, dport=DNS) / Raw(b"query")
SENT6 = IPv6(src=S6, dst=C6, hlim=50) / UDP(sport=DNS, dport=CP) / Raw(b"answer")
SENT6_AS4 = IP(src=S4, dst=P4, ttl=50, id=0) / UDP(sport=DNS, dport=PP) / Raw(b"answer")

# RFC 7915 §4.2: code of Destination Unreachable to (type, code).
UNREACHABLE_4 = {
    **dict.fromkeys((0, 1, 5, 6, 7, 8, 11, 12), (1, 0)),
    3: (1, 4),
    **dict.fromkeys((9, 10, 13, 15), (1, 1)),
}
# RFC 7915 §4.2, figure 3: the octet of the IPv4 header to that of the IPv6 header.
POINTERS_4 = {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6, 12: 8, 15: 8, 16: 24, 19: 24}
NO_POINTERS_4 = (4, 5, 6, 7, 10, 11, 20)
# RFC 7915 §5.2.
UNREACHABLE_6 = {0: (3, 1), 1: (3, 10), 2: (3, 1), 3: (3, 1), 4: (3, 3)}
# RFC 7915 §5.2, figure 6.
POINTERS_6 = {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8, 8: 12, 23: 12, 24: 16, 39: 16}
NO_POINTERS_6 = (2, 3, 40)

# The outer header's, and those of the packet inside, which nobody has seen.
FREE = ("identification", "inner-identification")


def vectors() -> list[Vector]:
    """All of them."""
    return [
        Vector(name, clause_of(clause), (opened(), *steps))
        for name, clause, steps in (*_from_v4(), *_from_v6())
    ]


Case = tuple[str, str, tuple[Step, ...]]


def _pass4(
    kind: int, code: int, rest: int, kind6: int, code6: int, rest6: int, inner: bytes = b""
) -> Step:
    before = icmp4(kind, code, rest, inner or bytes(SENT4))
    after = icmp6(kind6, code6, rest6, SENT4_AS6, src=ROUTER4_AS6, dst=C6, hlim=63)
    return step(before, after, free=())


def _drop4(kind: int, code: int, rest: int = 0, reason: str = "icmp-type") -> Step:
    return step(icmp4(kind, code, rest, SENT4), reason=reason)


def _from_v4() -> list[Case]:
    out: list[Case] = [
        (
            f"from IPv4: destination unreachable, code {code}",
            "§4.2: Destination Unreachable",
            (_pass4(3, code, 0, kind6, code6, 0),),
        )
        for code, (kind6, code6) in UNREACHABLE_4.items()
    ]
    nested = icmp4(3, 1, 0, icmp4(3, 1, 0, SENT4, src=P4, dst=S4))
    unknown = icmp4(3, 1, 0, IP(src=P4, dst=S4) / UDP(sport=PP, dport=99) / Raw(b"x"))
    cut = bytes(SENT4)[:28]
    cut_as6 = bytes(SENT4_AS6)[:48]
    short = step(
        icmp4(11, 0, 0, cut),
        icmp6(3, 0, 0, cut_as6, src=ROUTER4_AS6, dst=C6, hlim=63),
        free=(),
    )
    return [
        *out,
        (
            "from IPv4: protocol unreachable",
            "§4.2: pointer to the Next Header field",
            (_pass4(3, 2, 0, 4, 1, 6),),
        ),
        (
            "from IPv4: precedence violation is dropped",
            "§4.2: Code 14",
            (_drop4(3, 14),),
        ),
        (
            "from IPv4: fragmentation needed, MTU 1400",
            "§4.2: MTU + 20",
            (_pass4(3, 4, 1400, 2, 0, 1420),),
        ),
        (
            "from IPv4: fragmentation needed, not above the own MTU",
            "§4.2: the minimum of the three",
            (_pass4(3, 4, 9000, 2, 0, 1500),),
        ),
        (
            "from IPv4: fragmentation needed, not below 1280",
            "§4.2, RFC 8200 §5",
            (_pass4(3, 4, 576, 2, 0, 1280),),
        ),
        ("from IPv4: TTL exceeded", "§4.2: Time Exceeded", (_pass4(11, 0, 0, 3, 0, 0),)),
        (
            "from IPv4: reassembly time exceeded",
            "§4.2: Time Exceeded, code unchanged",
            (_pass4(11, 1, 0, 3, 1, 0),),
        ),
        *(
            (
                f"from IPv4: parameter problem at octet {pointer}",
                "§4.2: figure 3",
                (_pass4(12, 0, pointer << 24, 4, 0, octet),),
            )
            for pointer, octet in POINTERS_4.items()
        ),
        (
            "from IPv4: parameter problem, bad length",
            "§4.2: Code 2",
            (_pass4(12, 2, 9 << 24, 4, 0, 6),),
        ),
        (
            "from IPv4: parameter problem, missing option, is dropped",
            "§4.2: Code 1",
            (_drop4(12, 1),),
        ),
        *(
            (
                f"from IPv4: parameter problem at octet {pointer} is dropped",
                "§4.2: figure 3, n/a",
                (_drop4(12, 0, pointer << 24),),
            )
            for pointer in NO_POINTERS_4
        ),
        (
            "from IPv4: an error inside an error is dropped",
            "§4.3",
            (step(nested, reason="icmp-inner"),),
        ),
        (
            "from IPv4: error about an unknown flow",
            "RFC 6146 §3.5",
            (step(unknown, reason="no-session"),),
        ),
        ("from IPv4: inner packet of 8 bytes", "§4.3", (short,)),
    ]


def _pass6(
    kind: int, code: int, rest: int, kind4: int, code4: int, rest4: int, src: str = C6
) -> Step:
    before = icmp6(kind, code, rest, SENT6, src=src)
    after = icmp4(kind4, code4, rest4, SENT6_AS4, src=P4, dst=S4, ttl=63, id=0)
    return step(before, after, free=FREE)


def _drop6(kind: int, code: int, rest: int = 0, reason: str = "icmp-type") -> Step:
    return step(icmp6(kind, code, rest, SENT6), reason=reason)


def _from_v6() -> list[Case]:
    out: list[Case] = [
        (
            f"from IPv6: destination unreachable, code {code}",
            "§5.2: Destination Unreachable",
            (_pass6(1, code, 0, kind4, code4, 0),),
        )
        for code, (kind4, code4) in UNREACHABLE_6.items()
    ]
    nested = icmp6(1, 0, 0, icmp6(1, 0, 0, SENT6, src=S6, dst=C6))
    ping = IP(src=P4, dst=S4, ttl=63, id=0, proto=1) / Raw(_echo4(8))
    seen6 = IPv6(src=S6, dst=C6, hlim=50) / Raw(_echo6(129))
    seen6.nh = 58
    echo = (
        step(echo6(), ping),
        step(
            icmp6(1, 4, 0, seen6),
            icmp4(
                3,
                3,
                0,
                IP(src=S4, dst=P4, ttl=50, id=0, proto=1) / Raw(_echo4(0)),
                src=P4,
                dst=S4,
                ttl=63,
                id=0,
            ),
            free=FREE,
        ),
    )
    return [
        *out,
        *(
            (
                f"from IPv6: destination unreachable, code {code} is dropped",
                "§5.2: other codes",
                (_drop6(1, code),),
            )
            for code in (7, 255)
        ),
        (
            "from IPv6: packet too big, MTU 1400",
            "§5.2: MTU - 20",
            (_pass6(2, 0, 1400, 3, 4, 1380),),
        ),
        (
            "from IPv6: packet too big, not above the own MTU",
            "§5.2: the minimum of the three",
            (_pass6(2, 0, 9000, 3, 4, 1480),),
        ),
        ("from IPv6: hop limit exceeded", "§5.2: Time Exceeded", (_pass6(3, 0, 0, 11, 0, 0),)),
        (
            "from IPv6: reassembly time exceeded",
            "§5.2: Time Exceeded, code unchanged",
            (_pass6(3, 1, 0, 11, 1, 0),),
        ),
        *(
            (
                f"from IPv6: parameter problem at octet {pointer}",
                "§5.2: figure 6",
                (_pass6(4, 0, pointer, 12, 0, octet << 24),),
            )
            for pointer, octet in POINTERS_6.items()
        ),
        *(
            (
                f"from IPv6: parameter problem at octet {pointer} is dropped",
                "§5.2: figure 6, n/a",
                (_drop6(4, 0, pointer),),
            )
            for pointer in NO_POINTERS_6
        ),
        (
            "from IPv6: unknown next header",
            "§5.2: Code 1, protocol unreachable",
            (_pass6(4, 1, 6, 3, 2, 0),),
        ),
        (
            "from IPv6: unknown option is dropped",
            "§5.2: Code 2",
            (_drop6(4, 2, 40),),
        ),
        ("from IPv6: unknown error type is dropped", "§5.2", (_drop6(100, 0),)),
        (
            "from IPv6: an error inside an error is dropped",
            "§5.3",
            (step(nested, reason="icmp-inner"),),
        ),
        ("from IPv6: error about an echo reply", "§5.3", echo),
    ]


def _echo4(kind: int) -> bytes:
    """An echo message with the pool's identifier, by scapy."""
    return bytes(icmp4(kind, 0, PP << 16 | 3, b"ping"))[20:]


def _echo6(kind: int) -> bytes:
    """The same as the client has it."""
    return bytes(icmp6(kind, 0, 7 << 16 | 3, b"ping", src=S6, dst=C6))[40:]
