"""RFC 7915 §4.1 and §4.5: packets from IPv4."""

from __future__ import annotations

from tests.oracle import ICMP, IP, UDP, IPv6, IPv6ExtHdrFragment, Raw
from tests.vectors.build import (
    C6,
    OWN_ERROR,
    P4,
    PP,
    S4,
    S6,
    Step,
    Vector,
    clause_of,
    echo6,
    icmp4,
    opened,
    opened_tcp,
    own4,
    pieces,
    reply6,
    step,
    tcp4,
    tcp4_as_6,
    udp4,
    udp4_as_6,
)


def vectors() -> list[Vector]:
    """All of them."""
    return [
        Vector(name, clause_of(clause), (opened(), *steps))
        for name, clause, steps in (*_header_fields(), *_options(), *_fragments(), *_refusals())
    ] + [
        *(Vector(name, clause_of(clause), steps) for name, clause, steps in _transport()),
        *_without_checksum(),
    ]


Case = tuple[str, str, tuple[Step, ...]]


def _header_fields() -> list[Case]:
    late = udp4(ttl=1)
    return [
        ("udp", "§4.1: version, length, next header, addresses", (step(udp4(), udp4_as_6()),)),
        (
            "TOS becomes traffic class",
            "§4.1: Traffic Class",
            (step(udp4(tos=0xB9), udp4_as_6(tc=0xB9)),),
        ),
        ("flow label is zero", "§4.1: Flow Label", (step(udp4(id=0xFFFF), udp4_as_6(fl=0)),)),
        ("TTL 2", "§4.1: Hop Limit", (step(udp4(ttl=2), udp4_as_6(hlim=1)),)),
        (
            "TTL 1 is answered",
            "§4.1: Hop Limit",
            (step(late, own4(11, 0, 0, late), reason="hop-limit", free=OWN_ERROR),),
        ),
        (
            "no Fragment header with DF clear, up to 1280 bytes",
            "§4.1",
            (step(udp4(bytes(1232), flags=0, id=5), udp4_as_6(bytes(1232))),),
        ),
        (
            "no Fragment header with DF set",
            "§4.1",
            (step(udp4(bytes(1400), id=5), udp4_as_6(bytes(1400))),),
        ),
    ]


def _options() -> list[Case]:
    # Record route, with room for one address; a loose and a strict source route with one
    # address left; a loose one that is used up (pointer behind its end).
    record = b"\x07\x07\x04" + bytes(4) + b"\0"
    loose = b"\x83\x07\x04" + bytes((192, 0, 2, 1)) + b"\0"
    strict = b"\x01\x89\x07\x04" + bytes((192, 0, 2, 1))
    used_up = b"\x83\x07\x08" + bytes((192, 0, 2, 1)) + b"\0"

    def with_options(options: bytes) -> bytes:
        packet = bytearray(bytes(udp4()))
        packet[0] = 0x40 | (20 + len(options)) // 4
        packet[2:4] = (len(packet) + len(options)).to_bytes(2, "big")
        packet[20:20] = options
        checked = IP(bytes(packet))
        del checked.chksum
        return bytes(checked)

    refused = [
        (
            f"{name} source route",
            "§4.1: unexpired source route, ICMPv4 3/5",
            (
                step(
                    with_options(options),
                    own4(3, 5, 0, with_options(options)),
                    reason="source-route",
                    free=OWN_ERROR,
                ),
            ),
        )
        for name, options in (("loose", loose), ("strict", strict))
    ]
    return [
        (
            "options are ignored",
            "§4.1",
            (
                step(with_options(b"\x01\x01\x01\0"), udp4_as_6()),
                step(with_options(record), udp4_as_6()),
            ),
        ),
        ("a used up source route is ignored", "§4.1", (step(with_options(used_up), udp4_as_6()),)),
        *refused,
    ]


def _fragments() -> list[Case]:
    data = bytes(range(256)) * 5 + bytes(120)
    upper6 = bytes(udp4_as_6(data))[40:]
    head6 = IPv6(src=S6, dst=C6, hlim=63)

    def pieces6(*sizes: int, ident: int) -> list[bytes]:
        return [
            bytes(
                head6 / IPv6ExtHdrFragment(nh=17, offset=at // 8, m=int(more), id=ident) / Raw(part)
            )
            for at, more, part in pieces(upper6, *sizes)
        ]

    pieces4 = [
        IP(src=S4, dst=P4, ttl=64, proto=17, id=0xBEEF, flags="MF" * more, frag=at // 8) / Raw(part)
        for at, more, part in pieces(bytes(udp4(data))[20:], 1000)
    ]
    first4, last4 = map(bytes, pieces4)
    first6, last6 = pieces6(1000, ident=0xBEEF)
    # Without a checksum the whole datagram is needed to compute one.
    unsummed = bytearray(bytes(udp4(bytes(range(40))))[20:])
    unsummed[6:8] = b"\0\0"
    one, two = (
        IP(src=S4, dst=P4, ttl=64, proto=17, id=5, flags="MF" * more, frag=at // 8) / Raw(part)
        for at, more, part in pieces(bytes(unsummed), 24)
    )
    return [
        (
            "fragments out of order",
            "§4.1, RFC 6146 §3.4",
            (
                step(last4, reason="fragment-held"),
                step(first4, first6, last6, free=()),
            ),
        ),
        (
            "fragments of UDP without checksum are put together",
            "§4.5",
            (
                step(one, reason="fragment-held"),
                step(two, udp4_as_6(bytes(range(40))), free=()),
            ),
        ),
        (
            "fragmented to 1280 bytes with DF clear",
            "§4.1: identification in the low 16 bits",
            (step(udp4(data, flags=0, id=0xBEEF), *pieces6(1232, ident=0xBEEF), free=()),),
        ),
        (
            "fragments",
            "§4.1: Fragment header from identification, offset and MF",
            tuple(
                step(one, other, free=())
                for one, other in zip(pieces4, pieces6(1000, ident=0xBEEF), strict=True)
            ),
        ),
    ]


def _transport() -> list[Case]:
    reply4 = IP(src=S4, dst=P4, flags="DF") / ICMP(type=0, id=PP, seq=3) / Raw(b"ping")
    request4 = IP(src=P4, dst=S4, ttl=63, id=0) / ICMP(type=8, id=PP, seq=3) / Raw(b"ping")
    unsummed = udp4().copy()
    unsummed[UDP].chksum = 0
    return [
        (
            "tcp",
            "§4.5",
            (
                *opened_tcp(),
                step(tcp4("PA", b"data", seq=10, ack=2), tcp4_as_6("PA", b"data", seq=10, ack=2)),
                step(tcp4("A", b"odd", seq=14, ack=2), tcp4_as_6("A", b"odd", seq=14, ack=2)),
            ),
        ),
        ("echo reply", "§4.2: Echo Reply", (step(echo6(), request4), step(reply4, reply6()))),
        (
            "UDP without checksum gets one",
            "§4.5",
            (opened(), step(unsummed, udp4_as_6())),
        ),
    ]


def _without_checksum() -> list[Vector]:
    unsummed = udp4().copy()
    unsummed[UDP].chksum = 0
    refusal = own4(3, 13, 0, unsummed)
    answers = {
        "drop": step(unsummed, reason="udp-zero-checksum"),
        "reject": step(unsummed, refusal, reason="udp-zero-checksum", free=OWN_ERROR),
    }
    return [
        Vector(
            f"UDP without checksum, {mode}",
            "RFC 7915 §4.5: configurable",
            (opened(), answer),
            {"udp_zero_checksum": mode},
        )
        for mode, answer in answers.items()
    ]


def _refusals() -> list[Case]:
    sctp = IP(src=S4, dst=P4, proto=132) / Raw(bytes(16))
    dropped = [
        (
            f"ICMP type {kind} is dropped",
            "§4.2",
            (step(icmp4(kind, 0, PP << 16 | 3, bytes(12), src=S4), reason="icmp-type"),),
        )
        # Source quench, redirect, router advertisement and solicitation, timestamp and its
        # reply, information request and reply, address mask request and reply.
        for kind in (4, 5, 9, 10, 13, 14, 15, 16, 17, 18)
    ]
    return [
        (
            "SCTP is refused",
            "§4.1, RFC 6146 §3.4",
            (step(sctp, own4(3, 2, 0, sctp), reason="unknown-protocol", free=OWN_ERROR),),
        ),
        ("packet longer than its frame", "§4.1", (step(bytes(udp4())[:-1], reason="bad-length"),)),
        ("cut short in the header", "§4.1", (step(bytes(udp4())[:19], reason="malformed"),)),
        (
            "loopback source",
            "§4.1: illegal source address",
            (step(udp4(src="127.0.0.1"), reason="source-invalid"),),
        ),
        (
            "multicast source",
            "§4.1: illegal source address",
            (step(udp4(src="224.0.0.1"), reason="source-invalid"),),
        ),
        *dropped,
    ]
