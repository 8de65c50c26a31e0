"""What RFC 7915 and 6146 say of single packets, byte by byte, on a real tap in both modes.

    client 2001:db8:1::5 = 198.51.100.8 ─┐       ┌─ server 203.0.113.5 = 2001:db8:64::203.0.113.5
                                         └ tap0 ─┘
                                           ▲
                     one raw socket on the gateway host, in the place of both

In mode nat64 the client has static mappings of port and identifier 2000, in mode siit an explicit
one, so that one table holds for both. What is expected is built by scapy, with its checksums; only
the IPv4 identification is the gateway's to choose. The kernel is kept from answering itself.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_LSRR, IPOption_NOP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
)
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace

CLIENT, CLIENT4 = "2001:db8:1::5", "198.51.100.8"
SERVER, SERVER4 = "2001:db8:64::203.0.113.5", "203.0.113.5"
ROUTER4, ROUTER = "203.0.113.77", "2001:db8:64::203.0.113.77"
OWN, OWN4 = "2001:db8:64::192.0.0.8", "192.0.0.8"
BASE = """
prefix = "2001:db8:64::/96"
allow = "2001:db8:1::/48"
mss_clamp = "off"
limits.icmp_errors_per_second = 100000
limits.icmp_errors_burst = 100000
"""
NAT64 = f"""
pool4 = "{CLIENT4}"
static = [
    "udp {CLIENT4}:2000 -> [{CLIENT}]:2000",
    "tcp {CLIENT4}:2000 -> [{CLIENT}]:2000",
    "icmp {CLIENT4}:2000 -> [{CLIENT}]:2000",
]
"""
SIIT = f"""
mode = "siit"
siit.mappings = "{CLIENT4} {CLIENT}"
"""
MARK = b"the end of the case"


@dataclass
class Case:
    """Packets that go in, and those that have to come out, in this order."""

    name: str
    sent: list[Packet]
    wanted: list[Packet] = field(default_factory=list)


def up(upper: Packet, **fields) -> Packet:
    return IPv6(src=CLIENT, dst=SERVER, **fields) / upper


def up4(upper: Packet, **fields) -> Packet:
    return IP(src=CLIENT4, dst=SERVER4, id=0, **fields) / upper


def down(upper: Packet, **fields) -> Packet:
    return IPv6(src=SERVER, dst=CLIENT, **fields) / upper


def down4(upper: Packet, **fields) -> Packet:
    return IP(src=SERVER4, dst=CLIENT4, **fields) / upper


def udp(data: bytes = b"data", *, back: bool = False) -> Packet:
    ports = (4000, 2000) if back else (2000, 4000)
    return UDP(sport=ports[0], dport=ports[1]) / Raw(data)


def tcp(flags: str, *, back: bool = False) -> Packet:
    ports = (4000, 2000) if back else (2000, 4000)
    return TCP(sport=ports[0], dport=ports[1], flags=flags) / Raw(b"data")


def plain_cases() -> Iterator[Case]:
    """Headers, and sizes."""
    echo, echo4 = ICMPv6EchoRequest(id=2000, seq=3), ICMP(type=8, id=2000, seq=3)
    answer, answer4 = ICMPv6EchoReply(id=2000, seq=3), ICMP(type=0, id=2000, seq=3)
    yield Case("ping", [up(echo)], [up4(echo4, ttl=63)])
    yield Case("pong", [down4(answer4)], [down(answer, hlim=63)])
    for flags, back in (("S", False), ("SA", True), ("A", False), ("A", True)):
        if back:
            yield Case(
                f"tcp {flags} down",
                [down4(tcp(flags, back=True))],
                [down(tcp(flags, back=True), hlim=63)],
            )
        else:
            yield Case(f"tcp {flags} up", [up(tcp(flags))], [up4(tcp(flags), ttl=63)])
    for size in (0, 1232, 1233):
        flags = "DF" if size + 28 > 1260 else ""
        yield Case(
            f"up {size}", [up(udp(bytes(size)))], [up4(udp(bytes(size)), ttl=63, flags=flags)]
        )
        yield Case(
            f"down {size}",
            [down4(udp(bytes(size), back=True), flags="DF")],
            [down(udp(bytes(size), back=True), hlim=63)],
        )
    whole = bytes(down(udp(bytes(range(250)) * 5, back=True)))[40:]
    yield Case(
        "down without DF",
        [down4(udp(bytes(range(250)) * 5, back=True), id=0xABCD)],
        [
            down(IPv6ExtHdrFragment(nh=17, id=0xABCD, m=1) / Raw(whole[:1232]), hlim=63),
            down(IPv6ExtHdrFragment(nh=17, id=0xABCD, offset=154) / Raw(whole[1232:]), hlim=63),
        ],
    )
    yield Case("traffic class up", [up(udp(), tc=0xB9, fl=0x12345)], [up4(udp(), tos=0xB9, ttl=63)])
    yield Case(
        "tos down", [down4(udp(back=True), tos=0x2E)], [down(udp(back=True), tc=0x2E, hlim=63)]
    )


def header_cases() -> Iterator[Case]:
    """IPv6 extension headers and IPv4 options (RFC 7915 §4.1, §5.1)."""
    headers = {"hbh": IPv6ExtHdrHopByHop(), "dst": IPv6ExtHdrDestOpt(), "rh": IPv6ExtHdrRouting()}
    for order in permutations(headers):
        packet = IPv6(src=CLIENT, dst=SERVER)
        for name in order:
            packet /= headers[name].copy()
        yield Case(f"skipped {order}", [packet / udp()], [up4(udp(), ttl=63)])
    atomic = up(IPv6ExtHdrFragment(id=7) / udp())
    yield Case("atomic fragment", [atomic], [up4(udp(), ttl=63)])
    left = up(IPv6ExtHdrHopByHop() / IPv6ExtHdrRouting(type=2, segleft=1) / udp())
    yield Case("segments left", [left], [own6(ICMPv6ParamProblem(code=0, ptr=51), left)])
    behind = up(IPv6ExtHdrFragment(m=1, id=7) / IPv6ExtHdrDestOpt() / udp(bytes(24)))
    yield Case("header behind fragment", [behind], [own6(ICMPv6DestUnreach(code=1), behind)])
    nops = [IPOption_NOP()] * 4
    yield Case(
        "ipv4 options", [down4(udp(back=True), options=nops)], [down(udp(back=True), hlim=63)]
    )
    route = down4(udp(back=True), options=[IPOption_LSRR(routers=["1.2.3.4"])])
    yield Case("source route", [route], [own4(ICMP(type=3, code=5), route)])


def own6(upper: Packet, about: Packet) -> Packet:
    """An ICMPv6 error of the gateway's."""
    return IPv6(src=OWN, dst=CLIENT, hlim=0) / upper / IPv6(bytes(about))


def own4(upper: Packet, about: Packet) -> Packet:
    return IP(src="0.0.0.0", dst=SERVER4, ttl=0, id=0) / upper / IP(bytes(about))


def from_router(upper: Packet, inner: Packet) -> Packet:
    return IP(src=ROUTER4, dst=CLIENT4) / upper / inner


def from_router6(upper: Packet, inner: Packet) -> Packet:
    return IPv6(src=ROUTER, dst=CLIENT, hlim=63) / upper / inner


def error_cases() -> Iterator[Case]:
    """Every type and code that crosses, and neighbours that do not (RFC 7915 §4.2, §5.2)."""
    sent4, sent6 = up4(udp(), ttl=60), up(udp(), hlim=60)
    known = {0: 0, 1: 0, 3: 4, 5: 0, 6: 0, 7: 0, 8: 0, 9: 1, 10: 1, 11: 0, 12: 0, 13: 1, 15: 1}
    for code in (*range(4), *range(5, 17)):
        wanted = [from_router6(ICMPv6DestUnreach(code=known[code]), sent6)] if code in known else []
        if code == 2:
            wanted = [from_router6(ICMPv6ParamProblem(code=1, ptr=6), sent6)]
        yield Case(f"4 to 6: 3/{code}", [from_router(ICMP(type=3, code=code), sent4)], wanted)
    for code in (0, 1):
        wanted = [from_router6(ICMPv6TimeExceeded(code=code), sent6)]
        yield Case(f"4 to 6: 11/{code}", [from_router(ICMP(type=11, code=code), sent4)], wanted)
    for mtu, mtu6 in ((576, 1280), (1260, 1280), (1261, 1281), (1480, 1500), (1500, 1500)):
        sent = from_router(ICMP(type=3, code=4, nexthopmtu=mtu), sent4)
        yield Case(
            f"4 to 6: mtu {mtu}", [sent], [from_router6(ICMPv6PacketTooBig(mtu=mtu6), sent6)]
        )
    pointers = dict.fromkeys(range(12, 16), 8) | dict.fromkeys(range(16, 20), 24)
    pointers |= {0: 0, 1: 1, 2: 4, 3: 4, 8: 7, 9: 6}
    for pointer in range(22):
        sent = from_router(ICMP(type=12, code=0, ptr=pointer), sent4)
        problem = ICMPv6ParamProblem(code=0, ptr=pointers.get(pointer, 0))
        wanted = [from_router6(problem, sent6)] if pointer in pointers else []
        yield Case(f"4 to 6: pointer {pointer}", [sent], wanted)
    for kind in (4, 5, 6, 9, 10, 13, 15, 17, 40):
        yield Case(f"4 to 6: type {kind}", [from_router(ICMP(type=kind), sent4)])
    about_error = IP(src=CLIENT4, dst=SERVER4) / ICMP(type=3, code=3) / down4(udp(back=True))
    yield Case("4 to 6: about an error", [from_router(ICMP(type=3, code=1), about_error)])


def error6_cases() -> Iterator[Case]:
    came4, came6 = down4(udp(back=True), id=0, ttl=60), down(udp(back=True), hlim=60)
    known = {0: 1, 1: 10, 2: 1, 3: 1, 4: 3}
    for code in range(8):
        wanted = [up4(ICMP(type=3, code=known[code]) / came4, ttl=63)] if code in known else []
        yield Case(f"6 to 4: 1/{code}", [up(ICMPv6DestUnreach(code=code) / came6)], wanted)
    for code in (0, 1):
        wanted = [up4(ICMP(type=11, code=code) / came4, ttl=63)]
        yield Case(f"6 to 4: 3/{code}", [up(ICMPv6TimeExceeded(code=code) / came6)], wanted)
    for mtu, mtu4 in ((1280, 1260), (1500, 1480), (9000, 1480), (0xFFFFFFFF, 1480)):
        wanted = [up4(ICMP(type=3, code=4, nexthopmtu=mtu4) / came4, ttl=63)]
        yield Case(f"6 to 4: mtu {mtu}", [up(ICMPv6PacketTooBig(mtu=mtu) / came6)], wanted)
    pointers = dict.fromkeys(range(8, 24), 12) | dict.fromkeys(range(24, 40), 16)
    pointers |= {0: 0, 1: 1, 4: 2, 5: 2, 6: 9, 7: 8}
    for pointer in (*range(10), 23, 24, 39, 40, 0x01000004):
        sent = up(ICMPv6ParamProblem(code=0, ptr=pointer) / came6)
        problem = ICMP(type=12, code=0, ptr=pointers.get(pointer, 0))
        wanted = [up4(problem / came4, ttl=63)] if pointer in pointers else []
        yield Case(f"6 to 4: pointer {pointer}", [sent], wanted)
    sent = up(ICMPv6ParamProblem(code=1, ptr=6) / came6)
    yield Case("6 to 4: 4/1", [sent], [up4(ICMP(type=3, code=2) / came4, ttl=63)])
    yield Case("6 to 4: 4/2", [up(ICMPv6ParamProblem(code=2) / came6)])


def refusals() -> Iterator[Case]:
    """What is answered, and what is dropped in silence."""
    for hops in (0, 1):
        packet = up(udp(), hlim=hops)
        yield Case(f"hop limit {hops}", [packet], [own6(ICMPv6TimeExceeded(), packet)])
        packet = down4(udp(back=True), ttl=hops)
        yield Case(f"ttl {hops}", [packet], [own4(ICMP(type=11, code=0), packet)])
    expired = up(ICMPv6DestUnreach(code=4) / down(udp(back=True)), hlim=1)
    yield Case("hop limit of an error", [expired])
    for address in ("127.0.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255", "169.254.1.1"):
        bad = IP(src=address, dst=CLIENT4) / udp(back=True)
        yield Case(f"from {address}", [bad])
        packet = IPv6(src=CLIENT, dst=f"2001:db8:64::{address}") / udp()
        yield Case(f"to {address}", [packet], [own6(ICMPv6DestUnreach(code=1), packet)])
    for address in ("::", "::1", "ff02::1"):
        yield Case(f"from {address}", [IPv6(src=address, dst=SERVER) / udp()])
    for cut in (1, 20, 30):
        yield Case(f"udp cut by {cut}", [Raw(bytes(up(udp(bytes(30))))[:-cut])])
        yield Case(f"udp4 cut by {cut}", [Raw(bytes(down4(udp(bytes(30), back=True)))[:-cut])])
    ping = IPv6(src=CLIENT, dst=OWN) / ICMPv6EchoRequest(id=1, data=b"own")
    pong = IPv6(src=OWN, dst=CLIENT, hlim=0) / ICMPv6EchoReply(id=1, data=b"own")
    yield Case("own address", [ping], [pong])


@pytest.fixture(scope="module", params=[NAT64, SIIT], ids=["nat64", "siit"])
def host(module_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    namespace = module_lab.namespace("gateway")
    gateway = Gateway(namespace, "--tap", "tap0", config=BASE + request.param).start()
    hook = "{ type filter hook ingress device tap0 priority 0; policy drop; }"
    namespace.run("nft", f"add table netdev quiet; add chain netdev quiet tap {hook}")
    yield namespace
    assert gateway.status().number("bugs") == 0
    gateway.stop_cleanly()


def macs(host: Namespace) -> tuple[str, str]:
    """The gateway's Ethernet address and the host's on the tap."""
    neighbour = re.search(r"lladdr (\S+)", host.ip("-6", "neigh", "show", "fe80::5", "dev", "tap0"))
    device = re.search(r"link/ether (\S+)", host.ip("link", "show", "tap0"))
    assert neighbour
    assert device
    return neighbour.group(1), device.group(1)


def exchange(host: Namespace, cases: list[list[bytes]]) -> list[list[bytes]]:
    """What the gateway writes to the tap for each list of frames."""
    gateway, device = macs(host)
    end = Ether(dst=gateway, src=device) / IPv6(src=CLIENT, dst=OWN) / ICMPv6EchoRequest(data=MARK)
    lines = "\n".join(" ".join(frame.hex() for frame in [*case, bytes(end)]) for case in cases)
    script = str(Path(__file__).with_name("tap_exchange.py"))
    printed = host.run(sys.executable, script, "tap0", MARK.hex(), stdin=lines).out
    return [[bytes.fromhex(frame) for frame in line.split()] for line in printed.split("\n")[:-1]]


def frame(host: Namespace, packet: Packet) -> bytes:
    gateway, device = macs(host)
    data = bytes(packet)
    kind = 0x0800 if data[0] >> 4 == 4 else 0x86DD
    return bytes(Ether(dst=gateway, src=device, type=kind)) + data


def filled(wanted: Packet, got: bytes) -> bytes:
    """`wanted` with what the gateway may choose taken from `got`; scapy makes the checksums."""
    wanted = wanted.copy()
    if IPv6 in wanted and wanted.version == 6:
        if wanted.hlim == 0:
            wanted.hlim, wanted.tc = got[7], (got[0] << 4 | got[1] >> 4) & 0xFF
        return bytes(wanted)
    if wanted.ttl == 0:
        wanted.ttl, wanted.tos = got[8], got[1]
    if wanted.src == "0.0.0.0":
        wanted.src = ".".join(map(str, got[12:16]))
    inner = wanted.getlayer(IP, 2)
    for layer, at in ((wanted, 4), (inner, 32)):
        if layer is not None and layer.id == 0:
            layer.id = int.from_bytes(got[at : at + 2])
    return bytes(wanted)


TABLES = [plain_cases, header_cases, error_cases, error6_cases, refusals]


@pytest.mark.parametrize("table", TABLES)
def test_packets(host: Namespace, table) -> None:
    cases = list(table())
    first = [frame(host, up(udp()))]  # in mode nat64 the session that errors are about
    answers = exchange(host, [first, *([frame(host, p) for p in c.sent] for c in cases)])[1:]
    assert len(answers) == len(cases)
    wrong = []
    for case, frames in zip(cases, answers, strict=True):
        got = [data[14:] for data in frames]
        wanted = [filled(want, data) for want, data in zip(case.wanted, got, strict=False)]
        if got != wanted or len(got) != len(case.wanted):
            shown = [data.hex() for data in got]
            wrong.append(f"{case.name}: got {shown}, wanted {[data.hex() for data in wanted]}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_fragments_in_every_order(host: Namespace, order: tuple[int, ...]) -> None:
    number = 1000 + 100 * order[0] + 10 * order[1]
    data = bytes(range(112))
    whole6, whole4 = bytes(up(udp(data)))[40:], bytes(up4(udp(data)))[20:]
    back6, back4 = bytes(down(udp(data, back=True)))[40:], bytes(down4(udp(data, back=True)))[20:]
    cut = [slice(0, 40), slice(40, 80), slice(80, 120)]

    def header(n: int) -> Packet:
        return IPv6ExtHdrFragment(nh=17, offset=5 * n, m=n < 2, id=number)

    def place(n: int) -> dict:
        return {"proto": 17, "flags": "MF" if n < 2 else "", "frag": 5 * n}

    sent6 = [up(header(n) / Raw(whole6[cut[n]])) for n in order]
    sent4 = [down4(Raw(back4[cut[n]]), **place(n) | {"id": number}) for n in order]
    wanted4 = [
        IP(src=CLIENT4, dst=SERVER4, id=number, ttl=63, **place(n)) / Raw(whole4[cut[n]])
        for n in range(3)
    ]
    wanted6 = [down(header(n) / Raw(back6[cut[n]]), hlim=63) for n in range(3)]
    got = exchange(host, [[frame(host, packet) for packet in sent] for sent in (sent6, sent4)])
    for answers, wanted in zip(got, (wanted4, wanted6), strict=True):
        assert sorted(data[14:] for data in answers) == sorted(bytes(packet) for packet in wanted)


def test_the_link(host: Namespace) -> None:
    """Neighbours are answered, frames of other kinds are not, and padding is cut off."""
    gateway, device = macs(host)
    to = Ether(dst=gateway, src=device)
    everyone = Ether(dst="ff:ff:ff:ff:ff:ff", src=device)
    asked = everyone / ARP(op=1, hwsrc=device, psrc="10.9.9.9", pdst=OWN4)
    said = Ether(dst=device, src=gateway) / ARP(
        op=2, hwsrc=gateway, psrc=OWN4, hwdst=device, pdst="10.9.9.9"
    )
    solicited = (
        Ether(dst="33:33:ff:00:00:05", src=device)
        / IPv6(src="fe80::1", dst="ff02::1:ff00:5", hlim=255)
        / ICMPv6ND_NS(tgt="fe80::5")
        / ICMPv6NDOptSrcLLAddr(lladdr=device)
    )
    advertised = (
        Ether(dst=device, src=gateway)
        / IPv6(src="fe80::5", dst="fe80::1", hlim=255)
        / ICMPv6ND_NA(tgt="fe80::5", R=1, S=1, O=1)
        / ICMPv6NDOptDstLLAddr(lladdr=gateway)
    )
    routed = solicited.copy()
    routed[IPv6].hlim = 254
    other = everyone / ARP(op=1, hwsrc=device, psrc="10.9.9.9", pdst="10.9.9.8")
    tagged = to / Dot1Q(vlan=5) / up(udp())
    padded = bytes(to / up(udp(b"x"))) + b"\xa5" * 30
    crossed = bytes(up4(udp(b"x"), ttl=63))
    cases = [asked, other, solicited, routed, tagged, to / Raw(b""), to / Raw(b"\x60"), padded]
    answers = exchange(host, [[bytes(case)] for case in cases])
    assert [bytes(said)] == [data[: len(bytes(said))] for data in answers[0]]
    assert answers[2] == [bytes(advertised)]
    assert [answers[n] for n in (1, 3, 4, 5, 6)] == [[]] * 5
    assert len(answers[7]) == 1
    assert len(answers[7][0]) == 14 + len(crossed)
    assert answers[7][0][14 + 20 :] == crossed[20:]
