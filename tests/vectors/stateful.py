"""RFC 6146 §3.5 and §3.8, RFC 6052 §2: mappings, filtering, lifetimes, addresses."""

from __future__ import annotations

from tests.oracle import IP, UDP, IPv6, Raw
from tests.vectors.build import (
    C6,
    DNS,
    OTHER_C6,
    OTHER_S4,
    OTHER_S6,
    OWN_ERROR,
    P4,
    P4_AS6,
    PP,
    ROUTER6,
    Step,
    Vector,
    icmp4,
    icmp6,
    opened,
    opened_tcp,
    own4,
    own6,
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

# RFC 6052 §2.4, table 1: 192.0.2.33 under prefixes of each length.
EXAMPLES = {
    "2001:db8::/32": "2001:db8:c000:221::",
    "2001:db8:100::/40": "2001:db8:1c0:2:21::",
    "2001:db8:122::/48": "2001:db8:122:c000:2:2100::",
    "2001:db8:122:300::/56": "2001:db8:122:3c0:0:221::",
    "2001:db8:122:344::/64": "2001:db8:122:344:c0:2:2100::",
    "2001:db8:122:344::/96": "2001:db8:122:344::192.0.2.33",
}


def vectors() -> list[Vector]:
    """All of them."""
    return [*_addresses(), *_udp(), *_tcp(), *_refusals(), _hairpin()]


def _addresses() -> list[Vector]:
    found = []
    for prefix, server6 in EXAMPLES.items():
        client = "2600:db8::10"
        answer = IPv6(src=server6, dst=client, hlim=63) / UDP(sport=DNS, dport=40000)
        found.append(
            Vector(
                f"192.0.2.33 under {prefix}",
                "RFC 6052 §2.2, §2.4",
                (
                    step(udp6(dst=server6, src=client), udp6_as_4(dst="192.0.2.33")),
                    step(udp4(src="192.0.2.33"), answer / Raw(b"answer")),
                ),
                {"prefix": [prefix], "layout": "rfc6052", "icmp6_source": "2600:db8::64"},
            )
        )
    return found


def _udp() -> list[Vector]:
    other = step(udp4(src=OTHER_S4), udp4_as_6(src=OTHER_S6))
    second = step(udp6(dst=OTHER_S6), udp6_as_4(dst=OTHER_S4))
    prohibited = icmp4(3, 13, 0, udp4(src=OTHER_S4), src=P4, dst=OTHER_S4)
    nobody = step(udp4(), own4(3, 1, 0, udp4()), reason="no-mapping", free=OWN_ERROR)
    return [
        Vector(
            "one mapping for all destinations",
            "RFC 6146 §3.5.1: endpoint-independent mapping",
            (opened(), second, other, step(udp4(), udp4_as_6())),
        ),
        Vector(
            "another server may use the mapping",
            "RFC 6146 §3.5.1: endpoint-independent filtering",
            (opened(), other),
        ),
        Vector(
            "another server may not use the mapping",
            "RFC 6146 §3.5.1: address-dependent filtering",
            (
                opened(),
                step(udp4(src=OTHER_S4), prohibited, reason="filtered", free=OWN_ERROR),
                second,
                other,
            ),
            {"filtering": "address-dependent"},
        ),
        Vector("no mapping", "RFC 6146 §3.5.1: Host Unreachable", (nobody,)),
        Vector(
            "a session lives five minutes",
            "RFC 6146 §4: UDP_DEFAULT",
            (
                opened(),
                step(udp4(), udp4_as_6(), at=299),
                step(udp4(), udp4_as_6(), at=598),
                step(None, at=900),
                step(udp4(), own4(3, 1, 0, udp4()), reason="no-mapping", free=OWN_ERROR, at=900),
            ),
        ),
        Vector(
            "no port left",
            "RFC 6146 §3.5.1: Address Unreachable",
            (
                opened(),
                step(
                    udp6(port=40002),
                    own6(1, 3, 0, udp6(port=40002)),
                    reason="pool4-exhausted",
                    free=OWN_ERROR,
                ),
            ),
        ),
        Vector(
            "parity is kept",
            "RFC 6146 §3.5.1.1, RFC 4787 REQ-4",
            (
                step(udp6(port=40001), udp6_as_4(port=PP + 1)),
                step(udp6(port=40000), udp6_as_4(port=PP)),
            ),
            {"pool4": [f"{P4} {PP}-{PP + 1}"]},
        ),
    ]


def _tcp() -> list[Vector]:
    closing = (
        step(tcp6("FA", seq=2, ack=10), tcp6_as_4("FA", seq=2, ack=10)),
        step(tcp4("FA", seq=10, ack=3), tcp4_as_6("FA", seq=10, ack=3)),
        step(tcp6("A", seq=3, ack=11), tcp6_as_4("A", seq=3, ack=11)),
    )
    late = step(tcp4("A", seq=10, ack=2), reason="no-mapping", at=1000)
    return [
        Vector("handshake", "RFC 6146 §3.5.2.2", opened_tcp()),
        Vector(
            "a segment without SYN opens nothing",
            "RFC 6146 §3.5.2.2: CLOSED",
            (step(tcp6("A", seq=1, ack=1), reason="no-session"),),
        ),
        Vector(
            "an established connection lives two hours",
            "RFC 6146 §4: TCP_EST",
            (
                *opened_tcp(),
                step(tcp4("A", seq=10, ack=2), tcp4_as_6("A", seq=10, ack=2), at=7400),
            ),
        ),
        Vector(
            "a closed connection lives four minutes",
            "RFC 6146 §3.5.2.2: V4 FIN + V6 FIN RCV, §4: TCP_TRANS",
            (*opened_tcp(), *closing, step(None, at=1000), late),
        ),
        Vector(
            "a reset connection that goes on is established again",
            "RFC 6146 §3.5.2.2: TRANS",
            (
                *opened_tcp(),
                step(tcp4("R", seq=10), tcp4_as_6("R", seq=10)),
                step(tcp6("A", seq=2, ack=10), tcp6_as_4("A", seq=2, ack=10), at=100),
                step(tcp4("A", seq=10, ack=2), tcp4_as_6("A", seq=10, ack=2), at=1000),
            ),
        ),
        Vector(
            "a reset connection ends after four minutes",
            "RFC 6146 §3.5.2.2: TRANS",
            (
                *opened_tcp(),
                step(tcp4("R", seq=10), tcp4_as_6("R", seq=10)),
                step(None, at=1000),
                late,
            ),
        ),
    ]


def _refusals() -> list[Vector]:
    def refused(packet: object, code: int, reason: str) -> Step:
        return step(packet, own6(1, code, 0, packet), reason=reason, free=OWN_ERROR)

    loop = udp6(dst="2001:db8:64::7f00:1")
    private = udp6(dst="64:ff9b::10.0.0.1")
    private_answer = icmp6(1, 1, 0, private, src=ROUTER6, dst=C6)
    return [
        Vector(
            "source in the prefix",
            "RFC 6146 §3.5: hairpin loop",
            (step(udp6(src=P4_AS6), reason="source-invalid"),),
        ),
        Vector(
            "multicast source",
            "RFC 7915 §5.1",
            (step(udp6(src="ff02::1"), reason="source-invalid"),),
        ),
        Vector(
            "not in the prefix", "RFC 6146 §3.5", (step(udp6(dst=OTHER_C6), reason="not-ours"),)
        ),
        Vector(
            "not in the pool",
            "RFC 6146 §3.5",
            (step(IP(src=OTHER_S4, dst="203.0.113.9") / UDP(), reason="not-ours"),),
        ),
        Vector(
            "loopback behind the prefix",
            "RFC 1812 §5.3.7",
            (refused(loop, 1, "destination-refused"),),
        ),
        Vector(
            "private address under the well-known prefix",
            "RFC 6052 §3.1",
            (step(private, private_answer, reason="private-under-wkp", free=OWN_ERROR),),
            {"prefix": ["64:ff9b::/96"], "icmp6_source": ROUTER6},
        ),
        Vector(
            "neither version",
            "RFC 8200 §3",
            (step(b"\x50" + bytes(39), reason="unknown-version"),),
        ),
    ]


def _hairpin() -> Vector:
    to_pool = (
        IPv6(src=OTHER_C6, dst=P4_AS6, hlim=64) / UDP(sport=40001, dport=PP) / Raw(b"neighbour")
    )
    answer = IPv6(src=C6, dst=P4_AS6, hlim=64) / UDP(sport=40000, dport=PP + 1) / Raw(b"hello")
    seen = IPv6(src=P4_AS6, dst=C6, hlim=63) / UDP(sport=PP + 1, dport=40000) / Raw(b"neighbour")
    back = IPv6(src=P4_AS6, dst=OTHER_C6, hlim=63) / UDP(sport=PP, dport=40001) / Raw(b"hello")
    return Vector(
        "hairpin",
        "RFC 6146 §3.8",
        (
            opened(),
            step(to_pool, seen),
            step(answer, back),
        ),
        {"pool4": [f"{P4} {PP}-{PP + 1}"]},
    )
