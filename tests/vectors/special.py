"""Configured behaviour: static mappings, SYNs that wait, probes, marks, own sources, hairpin."""

from __future__ import annotations

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
    C6,
    CP,
    DNS,
    OTHER_C6,
    OTHER_S4,
    OTHER_S6,
    OWN_ERROR,
    P4,
    P4_AS6,
    PP,
    ROUTER6,
    S4,
    S6,
    WEB,
    Step,
    Vector,
    icmp4,
    icmp6,
    opened,
    opened_tcp,
    own4,
    own6,
    pieces,
    step,
    tcp4,
    tcp4_as_6,
    tcp6,
    tcp6_as_4,
    udp4,
    udp4_as_6,
    udp6,
    udp6_as_4,
)

FREE = ("identification", "inner-identification")
SERVICE = 8080


def vectors() -> list[Vector]:
    """All of them."""
    return [
        *_static(),
        *_stored_syns(),
        *_probes(),
        *_marks(),
        *_error_pool(),
        *_hairpin(),
        *_fragments(),
        *_others(),
    ]


def _static() -> list[Vector]:
    def mapping(protocol: str, port: int) -> dict[str, list[str]]:
        return {"static": [f"{protocol} {P4}:{PP} -> [{C6}]:{port}"]}

    def syn6(flags: str, **tcp: int) -> Layer:
        return IPv6(src=S6, dst=C6, hlim=63) / TCP(sport=WEB, dport=SERVICE, flags=flags, **tcp)

    answer6 = IPv6(src=C6, dst=S6) / TCP(sport=SERVICE, dport=WEB, flags="SA", seq=9, ack=2)
    answer4 = IP(src=P4, dst=S4, ttl=63, id=0) / TCP(sport=PP, dport=WEB, flags="SA", seq=9, ack=2)
    connection = (
        step(tcp4("S", seq=1), syn6("S", seq=1)),
        step(answer6, answer4),
        step(tcp4("A", seq=2, ack=10), syn6("A", seq=2, ack=10)),
    )
    asked = IPv6(src=S6, dst=C6, hlim=63) / UDP(sport=DNS, dport=SERVICE) / Raw(b"answer")
    other = IPv6(src=OTHER_S6, dst=C6, hlim=63) / UDP(sport=DNS, dport=SERVICE) / Raw(b"answer")
    seen = IPv6(src=S6, dst=C6, hlim=63) / UDP(sport=DNS, dport=SERVICE) / Raw(b"answer")
    ping4 = IP(src=S4, dst=P4, flags="DF") / ICMP(type=8, id=PP, seq=3) / Raw(b"ping")
    ping6 = IPv6(src=S6, dst=C6, hlim=63) / ICMPv6EchoRequest(id=7, seq=3, data=b"ping")
    pong6 = IPv6(src=C6, dst=S6) / ICMPv6EchoReply(id=7, seq=3, data=b"ping")
    pong4 = IP(src=P4, dst=S4, ttl=63, id=0) / ICMP(type=0, id=PP, seq=3) / Raw(b"ping")
    inside = IP(src=S4, dst=P4, ttl=63, id=0) / UDP(sport=DNS, dport=PP) / Raw(b"answer")
    return [
        Vector(
            "static mapping: a connection from IPv4",
            "RFC 6146 §3.1, §3.5.2.2",
            (
                *connection,
                # Reset and gone; the mapping stays.
                step(tcp4("R", seq=2), syn6("R", seq=2)),
                step(None, at=90_000),
                step(tcp4("S"), syn6("S"), at=90_000),
            ),
            mapping("tcp", SERVICE),
        ),
        Vector(
            "static mapping: open to everybody under address-dependent filtering",
            "RFC 6146 §3.1, §3.5.1",
            (step(udp4(), asked), step(udp4(src=OTHER_S4), other)),
            {**mapping("udp", SERVICE), "filtering": "address-dependent"},
        ),
        Vector(
            "static mapping: what the server behind it sends",
            "RFC 6146 §3.1, §3.5.1",
            (
                step(udp6(port=SERVICE), udp6_as_4()),
                step(udp4(), asked),
                step(
                    udp6(src=OTHER_C6),
                    own6_to(OTHER_C6, 1, 3, udp6(src=OTHER_C6)),
                    reason="pool4-exhausted",
                    free=OWN_ERROR,
                ),
            ),
            mapping("udp", SERVICE),
        ),
        Vector(
            "static mapping: an error from the server behind it",
            "RFC 6146 §3.5, RFC 7915 §5.2",
            (
                step(udp4(), asked),
                step(
                    icmp6(1, 4, 0, seen),
                    icmp4(3, 3, 0, inside, src=P4, dst=S4, ttl=63, id=0),
                    free=FREE,
                ),
            ),
            mapping("udp", SERVICE),
        ),
        Vector(
            "static mapping: a ping from IPv4",
            "RFC 6146 §3.1, §3.5.3",
            (step(ping4, ping6), step(pong6, pong4)),
            mapping("icmp", 7),
        ),
    ]


def own6_to(dst: str, kind: int, code: int, about: Layer) -> Layer:
    """The translator's own error to another client."""
    error = own6(kind, code, 0, about)
    return icmp6(kind, code, 0, about, src=error.src, dst=dst)


def _stored_syns() -> list[Vector]:
    syn = tcp4("S", seq=9)
    stored = step(syn, reason="syn-stored")
    unanswered = (
        stored,
        step(syn, reason="syn-stored", at=3),
        step(None, at=5.9),
        step(None, own4(3, 3, 0, syn), reason="syn-timeout", free=OWN_ERROR, at=6),
        step(None, at=60),
    )
    return [
        Vector(
            f"a SYN from IPv4 is answered after six seconds, {filtering}",
            "RFC 6146 §3.5.2.2: CLOSED, §4: TCP_INCOMING_SYN",
            unanswered,
            {"filtering": filtering},
        )
        for filtering in ("endpoint-independent", "address-dependent")
    ] + [
        Vector(
            "simultaneous open",
            "RFC 6146 §3.5.2.2: CLOSED, V4 SYN stored, V6 SYN",
            (
                stored,
                step(tcp6("S", seq=1), tcp6_as_4("S", seq=1), at=5),
                step(tcp4("S", seq=9), tcp4_as_6("S", seq=9), at=5.5),
                step(None, at=7),
                # Established: it lives longer than TCP_TRANS.
                step(
                    tcp6("PA", b"hello", seq=2, ack=10),
                    tcp6_as_4("PA", b"hello", seq=2, ack=10),
                    at=1000,
                ),
                step(tcp4("A", seq=10, ack=7), tcp4_as_6("A", seq=10, ack=7), at=1000),
            ),
        ),
        Vector(
            "simultaneous open through an address-dependent filter",
            "RFC 6146 §3.5.2.2: CLOSED, address-dependent filtering",
            (
                *opened_tcp(),
                step(_other4("S", seq=5), reason="syn-stored"),
                step(_other6("S", seq=7), _other6_as_4("S", seq=7)),
                step(_other4("SA", seq=5, ack=8), _other4_as_6("SA", seq=5, ack=8)),
                step(None, at=7),
            ),
            {"filtering": "address-dependent"},
        ),
    ]


def _other4(flags: str, **tcp: int) -> Layer:
    head = IP(src=OTHER_S4, dst=P4, flags="DF")
    return head / TCP(sport=WEB, dport=PP, flags=flags, **tcp)


def _other4_as_6(flags: str, **tcp: int) -> Layer:
    return IPv6(src=OTHER_S6, dst=C6, hlim=63) / TCP(sport=WEB, dport=CP, flags=flags, **tcp)


def _other6(flags: str, **tcp: int) -> Layer:
    return IPv6(src=C6, dst=OTHER_S6) / TCP(sport=CP, dport=WEB, flags=flags, **tcp)


def _other6_as_4(flags: str, **tcp: int) -> Layer:
    head = IP(src=P4, dst=OTHER_S4, ttl=63, id=0)
    return head / TCP(sport=PP, dport=WEB, flags=flags, **tcp)


def _probes() -> list[Vector]:
    # RFC 6146 §3.5.2.2 wants a segment that the client answers; one outside its window is.
    probe = IPv6(src=S6, dst=C6, hlim=64) / TCP(sport=WEB, dport=CP, flags="A", window=0)
    silent = (*opened_tcp(), step(None, at=7439), step(None, probe, free=("ttl",), at=7442))
    alive = step(tcp6("A", seq=2, ack=10), tcp6_as_4("A", seq=2, ack=10), at=7450)
    late = tcp4("A", seq=10, ack=2)
    return [
        Vector(
            "a silent connection is probed and ends",
            "RFC 6146 §3.5.2.2: ESTABLISHED, §4: TCP_EST, TCP_TRANS",
            (*silent, step(None, at=7690), step(late, reason="no-mapping", at=7690)),
        ),
        Vector(
            "a silent connection is probed and lives",
            "RFC 6146 §3.5.2.2: ESTABLISHED, TRANS",
            (*silent, alive, step(late, tcp4_as_6("A", seq=10, ack=2), at=10_000)),
        ),
    ]


def _marks() -> list[Vector]:
    settings = {"tos": 0x28, "traffic_class": 0xB8}
    data = bytes(range(100))
    halves4 = [
        IP(src=S4, dst=P4, tos=3, proto=17, id=5, flags="MF" * more, frag=at // 8) / Raw(part)
        for at, more, part in pieces(bytes(udp4(data))[20:], 48)
    ]
    halves6 = [
        IPv6(src=S6, dst=C6, hlim=63, tc=0xB8)
        / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(more), id=5)
        / Raw(part)
        for at, more, part in pieces(bytes(udp4_as_6(data))[40:], 48)
    ]
    seen4 = IP(src=P4, dst=S4, ttl=60, id=0x1111, tos=0x28)
    seen4_as_6 = IPv6(src=C6, dst=S6, hlim=60, tc=0x28)
    query4 = seen4 / UDP(sport=PP, dport=DNS) / Raw(b"query")
    query6 = seen4_as_6 / UDP(sport=CP, dport=DNS) / Raw(b"query")
    seen6 = IPv6(src=S6, dst=C6, hlim=50, tc=0xB8) / UDP(sport=DNS, dport=CP) / Raw(b"answer")
    seen6_as_4 = IP(src=S4, dst=P4, ttl=50, id=0, tos=0xB8) / UDP(sport=DNS, dport=PP)
    return [
        Vector(
            "marks are set, in both directions",
            "RFC 7915 §4.1, §5.1: configurable",
            (
                step(udp6(tc=0x51), udp6_as_4(tos=0x28)),
                step(udp4(tos=0x51), udp4_as_6(tc=0xB8)),
                *(step(one, other) for one, other in zip(halves4, halves6, strict=True)),
            ),
            settings,
        ),
        Vector(
            "marks are set to zero",
            "RFC 7915 §4.1, §5.1: configurable",
            (step(udp6(tc=0x51), udp6_as_4(tos=0)), step(udp4(tos=0x51), udp4_as_6(tc=0))),
            {"tos": 0, "traffic_class": 0},
        ),
        Vector(
            "marks of errors, and not of what is inside",
            "RFC 7915 §4.1, §4.3, §5.1, §5.3",
            (
                step(udp6(), udp6_as_4(tos=0x28)),
                step(
                    icmp4(11, 0, 0, query4, tos=0xC0),
                    icmp6(3, 0, 0, query6, src="2001:db8:64::c612:701", dst=C6, hlim=63, tc=0xB8),
                    free=(),
                ),
                step(
                    icmp6(1, 4, 0, seen6),
                    icmp4(
                        3, 3, 0, seen6_as_4 / Raw(b"answer"), src=P4, dst=S4, ttl=63, id=0, tos=0x28
                    ),
                    free=FREE,
                ),
            ),
            settings,
        ),
    ]


def _error_pool() -> list[Vector]:
    pool = "203.0.113.64"
    seen6 = IPv6(src=S6, dst=C6, hlim=50) / UDP(sport=DNS, dport=CP) / Raw(b"answer")
    inside = IP(src=S4, dst=P4, ttl=50, id=0) / UDP(sport=DNS, dport=PP) / Raw(b"answer")

    def translated(src: str) -> Layer:
        return icmp4(11, 0, 0, inside, src=src, dst=S4, ttl=63, id=0)

    by_router = icmp6(3, 0, 0, seen6, src=ROUTER6)
    by_client = icmp6(3, 0, 0, seen6)
    return [
        Vector(
            "an error of an IPv6 router comes from the error pool",
            "RFC 6791 §3",
            (
                opened(),
                step(by_router, translated(pool), free=FREE),
                step(by_client, translated(P4), free=FREE),
            ),
            {"icmp4_error_pool": [f"{pool}/32"]},
        ),
        Vector(
            "an error of an IPv6 router without an error pool",
            "RFC 6791 §3",
            (opened(), step(by_router, translated(P4), free=FREE)),
        ),
    ]


def _hairpin() -> list[Vector]:
    two_ports = {"pool4": [f"{P4} {PP}-{PP + 1}"]}
    there = IPv6(src=OTHER_C6, dst=P4_AS6, hlim=64) / UDP(sport=40001, dport=PP) / Raw(b"to you")
    seen = IPv6(src=P4_AS6, dst=C6, hlim=63) / UDP(sport=PP + 1, dport=CP) / Raw(b"to you")
    # As the router in front of the client saw it, some hops on.
    worn = IPv6(src=P4_AS6, dst=C6, hlim=50) / UDP(sport=PP + 1, dport=CP) / Raw(b"to you")
    sent = IPv6(src=OTHER_C6, dst=P4_AS6, hlim=50) / UDP(sport=40001, dport=PP) / Raw(b"to you")

    def refused(kind: int, code: int) -> Step:
        before = icmp6(kind, code, 0, worn, src=C6, dst=P4_AS6)
        after = icmp6(kind, code, 0, sent, src=P4_AS6, dst=OTHER_C6, hlim=63)
        return step(before, after, free=("ttl",))

    def tcp(flags: str, back: bool, **more: int) -> Step:
        a, b = (C6, OTHER_C6) if back else (OTHER_C6, C6)
        a_port, b_port = (CP, 40001) if back else (40001, CP)
        a_pool, b_pool = (PP, PP + 1) if back else (PP + 1, PP)
        before = IPv6(src=a, dst=P4_AS6) / TCP(sport=a_port, dport=b_pool, flags=flags, **more)
        after = IPv6(src=P4_AS6, dst=b, hlim=63) / TCP(
            sport=a_pool, dport=b_port, flags=flags, **more
        )
        return step(before, after, free=("ttl",))

    late = IPv6(src=OTHER_C6, dst=P4_AS6, hlim=1) / UDP(sport=40001, dport=PP)
    return [
        Vector(
            "hairpin: errors come back",
            "RFC 6146 §3.8, RFC 4787 REQ-9",
            (
                opened(),
                step(there, seen, free=("ttl",)),
                refused(1, 4),
                refused(3, 1),
            ),
            two_ports,
        ),
        Vector(
            "hairpin: tcp",
            "RFC 6146 §3.8",
            (
                *opened_tcp(),
                tcp("S", False, seq=1),
                tcp("SA", True, seq=9, ack=2),
                tcp("A", False, seq=2, ack=10),
                tcp("FA", True, seq=10, ack=2),
            ),
            two_ports,
        ),
        Vector(
            "hairpin: no hop left",
            "RFC 7915 §5.1",
            (
                opened(),
                step(late, own6_to(OTHER_C6, 3, 0, late), reason="hop-limit", free=OWN_ERROR),
            ),
            two_ports,
        ),
    ]


def _fragments() -> list[Vector]:
    data = bytes(range(200))

    def piece(number: int, src: str = C6) -> Layer:
        """The second half of a datagram with this identification."""
        body = bytes(udp6(data, src=src))[40:]
        head = IPv6(src=src, dst=S6, hlim=64)
        return head / IPv6ExtHdrFragment(nh=17, offset=12, m=0, id=number) / Raw(body[96:])

    def held(number: int, src: str = C6, at: float = 0.0) -> Step:
        return step(piece(number, src), reason="fragment-held", at=at)

    def refused(number: int) -> Step:
        return step(piece(number), reason="fragment-limit")

    lost = step(None, reason="fragment-lost", at=2.0)
    first = IPv6(src=C6, dst=S6, hlim=64) / IPv6ExtHdrFragment(nh=17, offset=0, m=1, id=1)
    first4 = IP(src=P4, dst=S4, ttl=63, proto=17, id=1, flags="MF")
    return [
        Vector(
            "fragments: no more datagrams than the limit",
            "RFC 6146 §3.4: limited resources",
            (held(1), held(2), refused(3), lost, held(3, at=2.0)),
            {"limits": {"fragments": 2}},
        ),
        Vector(
            "fragments: no more datagrams of a client than its limit",
            "RFC 6146 §3.4: limited resources",
            (held(1), refused(2), held(2, OTHER_C6)),
            {"limits": {"fragments_per_client": 1}},
        ),
        Vector(
            "fragments that wait for the first end after two seconds",
            "RFC 6146 §3.4, §4: FRAGMENT_MIN",
            (
                held(1),
                step(None, at=1.9),
                lost,
                step(
                    first / Raw(bytes(udp6(data))[40:136]),
                    first4 / Raw(bytes(udp6_as_4(data))[20:116]),
                    free=(),
                    at=2.0,
                ),
            ),
        ),
        Vector(
            "fragments wait as long as is configured",
            "RFC 6146 §4: FRAGMENT_MIN",
            (
                held(1),
                step(None, at=9.9),
                step(None, reason="fragment-lost", at=10.0),
            ),
            {"timeouts": {"fragment_min": 10.0}},
        ),
    ]


def _others() -> list[Vector]:
    unsummed = udp4().copy()
    unsummed[UDP].chksum = 0
    forwarded = udp4_as_6().copy()
    forwarded[UDP].chksum = 0
    second = "2001:db8:65::c633:6450"
    third = "2001:db8:66:0:c6:3364:5000::"
    trailing = "2001:db8:66::198.51.100.80"
    prefixes = ["2001:db8:64::/96", "2001:db8:65::/96", "2001:db8:66::/64"]

    def answer(src: str) -> Layer:
        head = IPv6(src=src, dst=C6, hlim=63)
        return head / UDP(sport=DNS, dport=CP) / Raw(b"answer")

    return [
        Vector(
            "UDP without checksum, forward",
            "RFC 7915 §4.5, RFC 6935 §4",
            (opened(), step(unsummed, forwarded)),
            {"udp_zero_checksum": "forward"},
        ),
        *(
            Vector(
                f"several prefixes: {name}",
                "RFC 6146 §3.5.4: pool6",
                (step(udp6(dst=server), udp6_as_4()), step(udp4(), answer(server))),
                {"prefix": prefixes, "layout": "rfc6052"},
            )
            for name, server in (("the second", second), ("the third", third))
        ),
        Vector(
            "an error of a server comes from the address that the client uses",
            "RFC 7915 §4.2; RFC 6052 §2.2",
            (
                step(udp6(dst=trailing), udp6_as_4()),
                step(
                    icmp4(3, 3, 0, udp6_as_4(), src=S4),
                    icmp6(1, 4, 0, udp6(dst=trailing, hlim=63), src=trailing, dst=C6, hlim=63),
                    free=(),
                ),
            ),
            {"prefix": ["2001:db8:66::/64"], "layout": "rfc6052"},
        ),
        Vector(
            "several prefixes: IPv4 begins under the first",
            "RFC 6146 §3.5.4",
            (
                step(udp6(dst=second), udp6_as_4()),
                step(udp4(src=OTHER_S4), udp4_as_6(src=OTHER_S6)),
            ),
            {"prefix": prefixes, "layout": "rfc6052"},
        ),
        Vector(
            "deterministic ports",
            "RFC 7422 §2",
            (step(udp6(), udp6_as_4(port=PP + 16)), step(udp4(port=PP + 16), udp4_as_6())),
            {"pool4": [f"{P4} {PP}-{PP + 255}"], "deterministic": "2001:db8:1::/120 by 128"},
        ),
    ]
