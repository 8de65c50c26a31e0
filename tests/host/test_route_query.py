"""RTM_GETROUTE against this machine's kernel.

wan0 ── peer end in the same namespace (never answers)
lan0 ── likewise
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from ipaddress import ip_address

import pytest

from gateway import route_query
from gateway.route_query import RTN_LOCAL, RTN_UNICAST, RTPROT_BGP, RouteQuery


def b(text: str) -> bytes:
    return ip_address(text).packed


@pytest.fixture
def lab(run):
    """lab() makes the devices; a function because the namespace is there only in the test."""

    def build() -> RouteQuery:
        for name in ("wan0", "lan0"):
            run(f"ip link add {name} type veth peer name {name}p")
            run(f"ip link set {name} up")
            run(f"ip link set {name}p up")
        run("ip -6 addr add 2001:db8:1::1/64 dev wan0 nodad")
        run("ip addr add 192.0.2.1/24 dev wan0")
        run("ip -6 route add default via 2001:db8:1::9 dev wan0")
        run("ip route add default via 192.0.2.9 dev wan0")
        return RouteQuery()

    return build


def test_the_matching_route_is_told_with_its_own_length(lab, run) -> None:
    query = lab()
    run("ip -6 route add 2001:db8:2::/47 via 2001:db8:1::8 dev wan0 proto bgp")
    connected = query.route6(b("2001:db8:1::77"))
    assert connected is not None
    assert (connected.prefixlen, connected.oif_name, connected.gateway) == (64, "wan0", None)
    assert connected.oif == socket.if_nametoindex("wan0")
    assert connected.type == RTN_UNICAST
    learnt = query.route6(b("2001:db8:3:ffff::1"))
    assert learnt is not None
    assert (learnt.prefixlen, learnt.protocol) == (47, RTPROT_BGP)
    assert learnt.gateway == b("2001:db8:1::8")
    assert learnt.destination == b("2001:db8:2::")
    assert learnt.table == 254
    default = query.route6(b("2a00::1"))
    assert default is not None
    assert (default.prefixlen, default.destination) == (0, bytes(16))


def test_the_host_itself_is_local(lab) -> None:
    query = lab()
    for own in (query.route6(b("2001:db8:1::1")), query.route4(b("192.0.2.1"))):
        assert own is not None
        assert own.type == RTN_LOCAL


def test_ipv4_routes(lab, run) -> None:
    query = lab()
    run("ip route add 198.51.100.0/25 via inet6 fe80::8 dev lan0")
    route = query.route4(b("198.51.100.9"))
    assert route is not None
    assert (route.prefixlen, route.oif_name, route.gateway) == (25, "lan0", b("fe80::8"))
    default = query.route4(b("203.0.113.1"))
    assert default is not None
    assert (default.prefixlen, default.gateway) == (0, b("192.0.2.9"))


@pytest.mark.parametrize("kind", ["prohibit", "unreachable", "blackhole", "throw"])
def test_routes_that_lead_nowhere_are_none(lab, run, kind: str) -> None:
    query = lab()
    run("ip -6 route del default")
    run("ip route del default")
    run(f"ip -6 route add {kind} 2001:db8:2::/48")
    run(f"ip route add {kind} 198.51.100.0/24")
    assert query.route6(b("2001:db8:2::1")) is None
    assert query.route4(b("198.51.100.1")) is None
    assert query.path_mtu(b("2001:db8:2::1")) is None
    assert query.route6(b("2a00::1")) is None
    assert query.route4(b("203.0.113.1")) is None


def test_a_large_table_number_is_told_whole(lab, run) -> None:
    query = lab()
    run("ip -6 route add 2001:db8:2::/48 dev lan0 table 70000")
    run("ip -6 rule add to 2001:db8:2::/48 table 70000")
    route = query.route6(b("2001:db8:2::1"))
    assert route is not None
    assert (route.table, route.oif_name) == (70000, "lan0")


def test_the_first_of_several_next_hops_is_told(lab, run) -> None:
    query = lab()
    run(
        "ip -6 route add 2001:db8:2::/48 nexthop via 2001:db8:1::8 dev wan0"
        " nexthop via fe80::7 dev lan0"
    )
    run("ip route add 198.51.100.0/24 nexthop via 192.0.2.8 nexthop dev lan0")
    for route, hop in (
        (query.route6(b("2001:db8:2::1")), b("2001:db8:1::8")),
        (query.route4(b("198.51.100.1")), b("192.0.2.8")),
    ):
        assert route is not None
        assert (route.oif_name, route.gateway) == ("wan0", hop)
        assert route.mtu == 1500


def test_a_nexthop_object_is_resolved(lab, run, sysctl) -> None:
    query = lab()
    run("ip nexthop add id 7 via 2001:db8:1::8 dev wan0")
    run("ip -6 route add 2001:db8:2::/48 nhid 7")
    sysctl("ipv4/nexthop_compat_mode", "0")
    route = query.route6(b("2001:db8:2::1"))
    assert route is not None
    assert (route.prefixlen, route.oif_name, route.gateway) == (48, "wan0", b("2001:db8:1::8"))


def test_mtu_is_the_routes_own_or_the_devices(lab, run, sysctl) -> None:
    query = lab()
    run("ip -6 route add 2001:db8:2::/48 dev lan0 mtu 1400")
    run("ip -6 route add 2001:db8:3::/48 dev lan0")
    run("ip route add 198.51.100.0/24 dev lan0")

    def mtus() -> list[int | None]:
        routes = [
            query.route6(b("2001:db8:2::1")),
            query.route6(b("2001:db8:3::1")),
            query.route4(b("198.51.100.1")),
        ]
        return [route and route.mtu for route in routes]

    assert mtus() == [1400, 1500, 1500]
    assert query.path_mtu(b("2001:db8:2::1")) == 1400
    run("ip link set lan0 mtu 1450")
    assert mtus() == [1400, 1500, 1500]
    query.flush()
    assert mtus() == [1400, 1450, 1450]
    assert query.path_mtu(b("198.51.100.1")) == 1450
    sysctl("ipv6/conf/lan0/mtu", "1380")  # as a router advertisement sets it
    query.flush()
    assert mtus() == [1400, 1380, 1450]
    assert query.path_mtu(b("2001:db8:3::1")) == 1380


def test_what_the_kernel_learnt_from_icmp_is_in_path_mtu_alone(lab, run) -> None:
    query = lab()
    assert query.path_mtu(b("203.0.113.1")) == 1500
    # A "fragmentation needed" for a UDP socket of ours, as a router on the way sends it.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as ours:
        ours.connect(("203.0.113.1", 9))
        source, port = ours.getsockname()
        ip = struct.Struct(">BBHHHBBH4s4s")
        inner = ip.pack(0x45, 0, 1500, 0, 0x4000, 64, 17, 0, b(source), b("203.0.113.1"))
        icmp = struct.pack(">BBHHH", 3, 4, 0, 0, 1300) + inner
        icmp += struct.pack(">HHHH", port, 9, 1480, 0)
        icmp = icmp[:2] + checksum(icmp) + icmp[4:]
        packet = ip.pack(0x45, 0, 20 + len(icmp), 0, 0, 64, 1, 0, b("192.0.2.9"), b(source))
        packet = packet[:10] + checksum(packet) + packet[12:] + icmp
        mac = link_address(run, "wan0")
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as wire:
            wire.bind(("wan0p", 0))
            wire.send(bytes.fromhex(mac.replace(":", "")) + bytes(6) + b"\x08\x00" + packet)
        deadline = time.monotonic() + 5
        while query.path_mtu(b("203.0.113.1")) == 1500 and time.monotonic() < deadline:
            time.sleep(0.01)
    assert query.path_mtu(b("203.0.113.1")) == 1300
    assert query.path_mtu(b("203.0.113.2")) == 1500
    route = query.route4(b("203.0.113.1"))
    assert route is not None
    assert (route.prefixlen, route.mtu) == (0, 1500)


def link_address(run, device: str) -> str:
    words = run(f"ip -o link show {device}").split()
    return words[words.index("link/ether") + 1]


def checksum(data: bytes) -> bytes:
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", total ^ 0xFFFF)


def test_an_answer_to_an_older_question_is_skipped(lab) -> None:
    query = lab()
    ask_and_abandon(query, b("2001:db8:1::5"))
    route = query.route6(b("2a00::1"))
    assert route is not None
    assert route.prefixlen == 0
    ask_and_abandon(query, b("2001:db8:1::5"))
    assert all(r.table for r in query.routes(socket.AF_INET6))
    assert query.path_mtu(b("2a00::1")) == 1500


def ask_and_abandon(query: RouteQuery, addr: bytes) -> None:
    """Sends a question as an interrupted call would leave it: its answer waits in the queue."""
    body = struct.pack("=BBBBBBBBIHH", socket.AF_INET6, 128, 0, 0, 0, 0, 0, 0, 0x2000, 20, 1)
    header = struct.pack("=IHHII", 48, 26, 1, 0xDEAD, 0)
    query._socket.send(header + body + addr)


def test_a_lost_answer_is_asked_for_again(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    query = lab()
    receive = query._receive
    failures = [errno.ENOBUFS, errno.ENOBUFS]

    def failing(wanted: int):
        if failures:
            receive(wanted)
            raise OSError(failures.pop(), "overrun")
        return receive(wanted)

    monkeypatch.setattr(query, "_receive", failing)
    route = query.route6(b("2001:db8:1::5"))
    assert route is not None
    assert route.prefixlen == 64
    failures.append(errno.EPERM)  # nothing that asking again would change
    with pytest.raises(OSError, match="overrun"):
        query.route6(b("2001:db8:1::5"))
    failures.extend([errno.ENOBUFS] * 3)
    with pytest.raises(OSError, match="overrun"):
        query.route6(b("2001:db8:1::5"))


def test_silence_ends_in_a_timeout(lab, monkeypatch: pytest.MonkeyPatch) -> None:
    query = lab()
    query._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", 0, 50_000))
    receive = query._receive

    def deaf(wanted: int):
        receive(wanted)
        return receive(wanted)

    monkeypatch.setattr(query, "_receive", deaf)
    with pytest.raises(TimeoutError):
        query.route6(b("2001:db8:1::5"))


def test_sequence_numbers_wrap(lab) -> None:
    query = lab()
    query._sequence = 0xFFFFFFFE
    for _ in range(4):
        assert query.route6(b("2001:db8:1::5")) is not None
    assert query._sequence == 3


def test_a_dump_lists_every_table(lab, run) -> None:
    query = lab()
    run("ip -6 route add 2001:db8:2::/48 dev lan0 table 70000")
    run("ip route add 198.51.100.0/24 dev lan0")
    for number in range(300):
        run(f"ip -6 route add 2001:db8:{number + 16:x}::/48 dev lan0")
    six = {(r.destination, r.prefixlen, r.table) for r in query.routes(socket.AF_INET6)}
    assert (b("2001:db8:2::"), 48, 70000) in six
    assert (bytes(16), 0, 254) in six
    assert len([r for r in six if r[1] == 48]) == 301
    four = {(r.destination, r.prefixlen, r.oif_name) for r in query.routes(socket.AF_INET)}
    assert (b("198.51.100.0"), 24, "lan0") in four
    assert (bytes(4), 0, "wan0") in four


def test_input_routing_is_asked_of_the_kernel(lab, run, sysctl) -> None:
    query = lab()
    lan = socket.if_nametoindex("lan0")
    run("ip route add 192.0.0.6/32 dev lan0")
    question = b("192.0.0.6"), b("203.0.113.1"), lan
    assert query.input_error4(*question) == errno.EHOSTUNREACH  # nothing is forwarded yet
    sysctl("ipv4/ip_forward", "1")
    sysctl("ipv4/conf/lan0/rp_filter", "1")
    assert query.input_error4(*question) == 0
    run("ip route replace 192.0.0.6/32 dev wan0")
    assert query.input_error4(*question) in {errno.EXDEV, errno.EINVAL}
    sysctl("ipv4/conf/lan0/rp_filter", "0")
    assert query.input_error4(*question) == 0


def test_a_device_that_is_gone_has_no_mtu(lab) -> None:
    query = lab()
    assert query.link_mtu("nosuch0", socket.AF_INET) == 0
    assert query.link_mtu("lan0", socket.AF_INET) == 1500


def test_close_closes() -> None:
    query = RouteQuery()
    number = query._socket.fileno()
    query.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_a_question_costs_little(lab) -> None:
    """A flood of made-up sources must not stop the data plane: well under a millisecond each."""
    query = lab()
    start = time.perf_counter()
    for number in range(1000):
        query.route6(b("2a00::")[:12] + number.to_bytes(4))
    assert (time.perf_counter() - start) / 1000 < 500e-6


def test_damaged_attributes_are_passed_over() -> None:
    message = struct.pack("=BBBBBBBBI", socket.AF_INET6, 48, 0, 0, 254, 3, 0, 1, 0)
    short = struct.pack("=HHB3x", 5, 4, 1)
    beyond = struct.pack("=HH", 400, 1)
    data = bytearray(message + short + beyond)
    parsed = route_query._parse(data, 0, len(data))
    assert (parsed.prefixlen, parsed.oif, parsed.destination) == (48, 0, b"")


def test_flags_in_an_attributes_type_are_no_part_of_it() -> None:
    message = struct.pack("=BBBBBBBBI", socket.AF_INET6, 48, 0, 0, 254, 3, 0, 1, 0)
    metrics = struct.pack("=HHHHI", 12, 8 | 0x8000, 8, 2, 1400)
    data = bytearray(message + metrics)
    assert route_query._parse(data, 0, len(data)).mtu == 1400
