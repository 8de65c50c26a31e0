"""Cases of TAYGA's tests about addresses (test/addressing.py, test/mapping.py), told for a stateful
translator: which IPv4 hosts may be reached, and who may come in through a mapping.

TAYGA's own mappings (EAM, dynamic pool) are stateless and not told here. Where its suite wants
what an RFC does not, the test says so.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest

from tests.oracle import ICMP, IP, UDP, Bench, IPv6, Raw, read
from translate.addresses import Layout, Prefix6
from translate.pool4 import PoolRange
from translate.reasons import Reason
from translate.settings import Filtering

CLIENT = "2001:db8::2"
OWN6 = "3fff:6464::ac10:3"
OWN4 = "172.16.0.3"
POOL = "172.16.0.2"
SERVER = "192.168.1.2"


def translator(prefix: str, **changes: Any) -> Bench:
    return Bench(
        prefixes=(Prefix6(IPv6Network(prefix), Layout.RFC6052),),
        pool4=(PoolRange(IPv4Network(POOL)),),
        icmp6_source=IPv6Address(OWN6).packed,
        icmp4_source=IPv4Address(OWN4).packed,
        **changes,
    )


def embedded(addr4: str, prefix: str = "3fff:6464::") -> str:
    return str(IPv6Address(int(IPv6Address(prefix)) | int(IPv4Address(addr4))))


def to(dst: str, data: bytes = bytes(range(128)), sport: int = 6969) -> IPv6:
    return IPv6(src=CLIENT, dst=dst) / UDP(sport=sport, dport=69) / Raw(data)


# -- mapping.py: RFC 6052 §2.2 ------------------------------------------------------------

# (prefix, the address of 192.168.1.2, with a suffix, with octet u, with both)
LAYOUTS = {
    32: (
        "3fff:6464:c0a8:102::",
        "3fff:6464:c0a8:102::abcd",
        "3fff:6464:c0a8:102:ab00::",
        "3fff:6464:c0a8:102:abcd:ef12:5678:1234",
    ),
    40: (
        "3fff:6464:c0:a801:2::",
        "3fff:6464:c0:a801:2:abcd:ef12:5678",
        "3fff:6464:c0:a801:fb02::",
        "3fff:6464:c0:a801:cd02:1234:5678:1245",
    ),
    48: (
        "3fff:6464:0:c0a8:1:200::",
        "3fff:6464:0:c0a8:1:200:ef12:5678",
        "3fff:6464:0:c0a8:fa01:200::",
        "3fff:6464:0:c0a8:6901:200:ef12:5678",
    ),
    56: (
        "3fff:6464:0:c0:a8:102::",
        "3fff:6464:0:c0:a8:102:1234:5678",
        "3fff:6464:0:c0:dca8:102::",
        "3fff:6464:0:c0:eda8:102:4567:9817",
    ),
    64: (
        "3fff:6464::c0:a801:200:0",
        "3fff:6464::c0:a801:200:feed",
        "3fff:6464::15c0:a801:200:0",
        "3fff:6464::68c0:a801:200:face",
    ),
}


@pytest.mark.parametrize("length", LAYOUTS)
@pytest.mark.parametrize("form", range(4))
def test_octet_u_and_suffix_are_ignored(length, form):
    """All forms reach the server, and each is answered from the address that was asked."""
    bench = translator(f"3fff:6464::/{length}")
    dst = LAYOUTS[length][form]
    out = bench.one(to(dst))
    assert (out.src, out.dst, out.len) == (POOL, SERVER, 20 + 8 + 128)
    assert bytes(out[UDP].payload) == bytes(range(128))
    answer = IP(src=SERVER, dst=POOL) / UDP(sport=69, dport=out[UDP].sport) / Raw(b"answer")
    back = bench.one(answer)
    assert (back.src, back.dst) == (dst, CLIENT)


@pytest.mark.parametrize("length", [*LAYOUTS, 96])
def test_a_server_that_comes_first_has_a_clean_address(length):
    """v4 to v6: octet u and suffix are zero (RFC 6052 §2.2)."""
    bench = translator(f"3fff:6464::/{length}")
    other = {96: "3fff:6464::808:808"}.get(length)
    if other is None:
        other = str(
            IPv6Address(
                Prefix6(IPv6Network(f"3fff:6464::/{length}"), Layout.RFC6052).embed(
                    IPv4Address("8.8.8.8").packed
                )
            )
        )
    port = bench.one(to(other))[UDP].sport
    out = bench.one(IP(src=SERVER, dst=POOL) / UDP(sport=70, dport=port))
    assert out.src == (embedded(SERVER) if length == 96 else LAYOUTS[length][0])


def test_one_server_under_several_forms():
    """One IPv4 flow has one form at a time: the last one that the client used."""
    bench = translator("3fff:6464::/64")
    port = bench.one(to(LAYOUTS[64][0]))[UDP].sport
    assert bench.one(to(LAYOUTS[64][3]))[UDP].sport == port
    out = bench.one(IP(src=SERVER, dst=POOL) / UDP(sport=69, dport=port))
    assert out.src == LAYOUTS[64][3]


# -- addressing.py: which hosts -------------------------------------------------------------

# Within a network that is not global, and the neighbours of each.
NOT_GLOBAL = [
    "10.1.3.4",
    "100.69.96.2",
    "172.18.6.7",
    "192.168.22.69",
    "192.0.2.6",
    "198.51.100.10",
    "203.0.113.69",
    "198.18.0.0",
    "198.19.255.255",
]
GLOBAL = [
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "172.15.255.255",
    "172.32.0.0",
    "192.167.255.255",
    "192.169.0.0",
    "192.0.1.255",
    "192.0.3.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "198.17.255.255",
    "198.20.0.0",
    "192.88.99.52",
]
# RFC 7335 and RFC 6333: the suite has them pass under the well-known prefix. RFC 6052 §3.1 does
# not: it names RFC 5735 §3, which has 192.0.0.0/24, and the registry says that it is not global.
SERVICE_CONTINUITY = [f"192.0.0.{n}" for n in range(8)]

PREFIXES = {
    "well-known, strict": ("64:ff9b::", True),
    "well-known, not strict": ("64:ff9b::", False),
    "local use": ("64:ff9b:1::", True),
}


def reached(bench: Bench, prefix: str, addr4: str) -> None:
    """The client reaches the host, and the host the client through another's mapping."""
    out = bench.one(to(embedded(addr4, prefix)))
    assert (out.src, out.dst) == (POOL, addr4)
    bench.nat.state.end_session(next(iter(bench.nat.state.sessions())))
    port = bench.one(to(embedded("8.8.8.8", prefix)))[UDP].sport
    back = bench.one(IP(src=addr4, dst=POOL) / UDP(sport=70, dport=port))
    assert (back.src, back.dst) == (embedded(addr4, prefix), CLIENT)


@pytest.mark.parametrize("name", PREFIXES)
@pytest.mark.parametrize("addr4", GLOBAL)
def test_global_hosts(name, addr4):
    prefix, strict = PREFIXES[name]
    reached(translator(f"{prefix}/96", wkp_strict=strict), prefix, addr4)


@pytest.mark.parametrize("name", ["well-known, not strict", "local use"])
@pytest.mark.parametrize("addr4", NOT_GLOBAL + SERVICE_CONTINUITY)
def test_other_hosts_where_they_may_be(name, addr4):
    prefix, strict = PREFIXES[name]
    reached(translator(f"{prefix}/96", wkp_strict=strict), prefix, addr4)


@pytest.mark.parametrize("addr4", NOT_GLOBAL + SERVICE_CONTINUITY)
def test_other_hosts_under_the_well_known_prefix(addr4):
    """Told so, from the translator's address. The suite wants 1/0; RFC 7915 §5.4 has 1/1."""
    bench = translator("64:ff9b::/96")
    packet = to(embedded(addr4, "64:ff9b::"))
    (answer,) = bench.refused(packet, Reason.PRIVATE_UNDER_WKP)
    out = read(answer.data)
    assert (out.src, out.dst, out.nh) == (OWN6, CLIENT, 58)
    assert (out.payload.type, out.payload.code) == (1, 1)
    assert answer.data[48:] == bytes(packet)


@pytest.mark.parametrize("addr4", NOT_GLOBAL + SERVICE_CONTINUITY)
def test_servers_that_have_no_address_under_the_well_known_prefix(addr4):
    """ "Invalid SA", "v4 src". The suite wants 3/10; RFC 7915 §4.4 has 3/13."""
    bench = translator("64:ff9b::/96")
    port = bench.one(to("64:ff9b::808:808"))[UDP].sport
    packet = IP(src=addr4, dst=POOL) / UDP(sport=69, dport=port) / Raw(bytes(128))
    (answer,) = bench.refused(packet, Reason.PRIVATE_UNDER_WKP)
    out = read(answer.data)
    assert (out.src, out.dst, out[ICMP].type, out[ICMP].code) == (OWN4, addr4, 3, 13)
    assert answer.data[28:] == bytes(packet)


@pytest.mark.parametrize("protocol", ["udp", "icmp"])
def test_what_keeps_a_server_out_is_said(protocol):
    """Also where address-dependent filtering keeps it out (RFC 7915 §4.4)."""
    bench = translator("3fff:6464::/96", filtering=Filtering.ADDRESS_DEPENDENT)
    port = bench.one(to(embedded("8.8.8.8")))[UDP].sport
    if protocol == "icmp":
        ping = IPv6(src=CLIENT, dst=embedded("8.8.8.8"), nh=58) / Raw(
            bytes.fromhex("8000000000070001")
        )
        (out,) = bench.send(ping)
        packet = IP(src=SERVER, dst=POOL) / ICMP(type=8, id=read(out.data)[ICMP].id)
    else:
        packet = IP(src=SERVER, dst=POOL) / UDP(sport=69, dport=port)
    (answer,) = bench.refused(packet, Reason.FILTERED)
    out = read(answer.data)
    assert (out.src, out.dst, out[ICMP].type, out[ICMP].code) == (OWN4, SERVER, 3, 13)
    reply = IP(src=SERVER, dst=POOL) / ICMP(type=3, code=3) / Raw(bytes(packet))
    assert bench.send(reply) == [], "an error is not answered"


NOBODY = [
    "0.0.0.0",
    "0.0.0.1",
    "0.0.1.1",
    "0.1.1.1",
    "169.254.0.42",
    "169.254.69.42",
    "127.0.0.1",
    "127.0.1.1",
    "127.1.1.1",
    "224.0.0.1",
    "239.0.0.1",
    "255.255.255.255",
]
CLASS_E = ["240.0.0.1", "250.0.0.0", "251.5.6.7", "255.255.255.254"]


@pytest.mark.parametrize("addr4", [*NOBODY, *CLASS_E])
def test_nobody(addr4):
    """invalid_ranges: not translated in either direction (RFC 1812 §5.3.7).

    The suite wants silence where a client asks for one, and class E to pass. RFC 7915 §5.4 has an
    answer sent, which spares a client the wait (some DNS filters answer 0.0.0.0); class E is
    reserved (RFC 1122 §3.2.1.3), and routers beyond us would drop it.
    """
    bench = translator("3fff:4646::/96")
    packet = to(embedded(addr4, "3fff:4646::"))
    (answer,) = bench.refused(packet, Reason.DESTINATION_REFUSED)
    out = read(answer.data)
    assert (out.src, out.dst, out.payload.type, out.payload.code) == (OWN6, CLIENT, 1, 1)
    port = bench.one(to(embedded("8.8.8.8", "3fff:4646::")))[UDP].sport
    before = bench.nat.state.session_count
    assert bench.send(IP(src=addr4, dst=POOL) / UDP(sport=69, dport=port)) == []
    assert bench.nat.state.session_count == before


@pytest.mark.parametrize("addr4", [*NOT_GLOBAL, *GLOBAL, *NOBODY])
def test_a_source_inside_the_prefix(addr4):
    """ "v6 src": TAYGA maps it back to IPv4. A stateful translator must drop it (RFC 6146 §3.5)."""
    bench = translator("3fff:6464::/96")
    packet = IPv6(src=embedded(addr4), dst=embedded(SERVER)) / UDP(sport=1, dport=2)
    assert bench.refused(packet, Reason.SOURCE_INVALID) == []
