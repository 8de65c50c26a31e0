"""Admission of clients and path MTUs, on routes that a fake tells."""

from __future__ import annotations

import errno
import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest

from gateway import clients
from gateway.clients import Clients
from gateway.route_query import (
    RTN_LOCAL,
    RTN_UNICAST,
    RTPROT_BGP,
    RTPROT_BIRD,
    RTPROT_ZEBRA,
    RouteInfo,
)

PREFIX = IPv6Network("fec0:0:0:ffff::/64")
STATIC = 4
BLACKHOLE = 6


def a(text: str) -> bytes:
    return IPv6Address(text).packed


def route(
    prefix: str,
    device: str = "lan0",
    *,
    protocol: int = STATIC,
    kind: int = RTN_UNICAST,
    table: int = 254,
) -> RouteInfo:
    network = IPv6Network(prefix)
    return RouteInfo(
        network.prefixlen,
        protocol,
        2,
        device,
        1500,
        kind,
        None,
        table,
        network.network_address.packed,
    )


class FakeRoutes:
    """Longest match over a list; counts the questions."""

    def __init__(self, *table: RouteInfo) -> None:
        self.table = list(table)
        self.asked: list[bytes] = []
        self.mtus: dict[bytes, int] = {}
        self.fails = False
        self.flushed = 0

    def route6(self, addr: bytes) -> RouteInfo | None:
        self.asked.append(addr)
        if self.fails:
            raise OSError(errno.ENOBUFS, "full")
        matching = [
            r
            for r in self.table
            if IPv6Address(addr) in IPv6Network((IPv6Address(r.destination), r.prefixlen))
        ]
        return max(matching, key=lambda r: r.prefixlen, default=None)

    def path_mtu(self, addr: bytes) -> int | None:
        self.asked.append(addr)
        if self.fails:
            raise OSError(errno.ENOBUFS, "full")
        return self.mtus.get(addr)

    def link_mtu(self, name: str, family: int) -> int:
        assert family == socket.AF_INET6
        return {"br0": 1420}.get(name, 0)

    def routes(self, family: int) -> list[RouteInfo]:
        assert family == socket.AF_INET6
        return self.table

    def flush(self) -> None:
        self.flushed += 1


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def build(
    *table: RouteInfo,
    allow: tuple[str, ...] = (),
    limit: int = 100,
    tap: str = "tap0",
    l3_device: str = "tap0",
) -> tuple[Clients, FakeRoutes, Clock]:
    query, clock = FakeRoutes(*table), Clock()
    made = Clients(
        query,
        prefixes=[PREFIX],
        allow=[IPv6Network(text) for text in allow],
        tap=tap,
        l3_device=l3_device,
        cache_limit=limit,
        clock=clock,
    )
    return made, query, clock


@pytest.mark.parametrize("source", ["fe80::1", "febf::1", "fd00:1::2", "fc00::1", "fec0::1"])
def test_never_global_addresses_are_served_without_a_question(source: str) -> None:
    who, query, _ = build()
    assert who.admit(a(source))
    assert not query.asked


@pytest.mark.parametrize("source", ["fe7f:ffff::1", "ff80::1", "fbff::1"])
def test_neighbours_of_those_ranges_are_not(source: str) -> None:
    who, _, _ = build(route("::/0", "wan0"))
    assert not who.admit(a(source))


@pytest.mark.parametrize(
    "source",
    [
        "::",
        "::1",
        "::192.0.2.1",
        "::ffff:192.0.2.1",
        "ff02::1",
        "ff0e::1",
        "fec0:0:0:ffff::192.0.2.1",
        "fec0:0:0:ffff:c0:2:100::",
    ],
)
@pytest.mark.parametrize("allow", [(), ("::/0",)])
def test_what_is_no_client_is_refused_whatever_is_allowed(
    source: str, allow: tuple[str, ...]
) -> None:
    who, query, _ = build(route("::/16"), route("ff00::/16"), allow=allow)
    assert not who.admit(a(source))
    assert not query.asked


@pytest.mark.parametrize(("length", "served"), [(16, True), (15, False), (3, False), (0, False)])
def test_a_route_shorter_than_16_bits_is_a_default_in_disguise(length: int, served: bool) -> None:
    network = IPv6Network(("2001::", length), strict=False)
    who, _, _ = build(route(str(network)))
    assert who.admit(a("2001:0:5::1")) is served


@pytest.mark.parametrize(
    ("protocol", "served"),
    [(STATIC, True), (188, True), (RTPROT_BGP, False), (RTPROT_BIRD, False), (RTPROT_ZEBRA, False)],
)
def test_a_route_out_of_a_table_of_the_internet_makes_no_client(
    protocol: int, served: bool
) -> None:
    who, _, _ = build(route("2001:db8::/32", protocol=protocol))
    assert who.admit(a("2001:db8::1")) is served


def test_the_host_itself_is_served_and_other_kinds_of_route_are_not() -> None:
    who, _, _ = build(
        route("2001:db8::1/128", "wan0", kind=RTN_LOCAL, table=255),
        route("2001:db8:2::/48", kind=BLACKHOLE),
    )
    assert who.admit(a("2001:db8::1"))
    assert not who.admit(a("2001:db8:2::1"))
    assert not who.admit(a("2001:db8:9::1"))


def test_behind_the_tap_is_nobody_but_behind_its_bridge_there_is() -> None:
    assert not build(route("2001:db8::/64", "tap0"))[0].admit(a("2001:db8::1"))
    bridged, _, _ = build(route("2001:db8::/64", "br0"), l3_device="br0")
    assert bridged.admit(a("2001:db8::1"))


def test_allow_alone_decides() -> None:
    who, query, _ = build(route("2001:db8:1::/64"), allow=("2001:db8:2::/64",))
    assert who.admit(a("2001:db8:2::1"))
    for source in ("2001:db8:1::1", "fe80::1", "fd00::1", "2001:db8:2:1::1"):
        assert not who.admit(a(source))
    assert not query.asked


def test_answers_are_kept_until_a_flush() -> None:
    who, query, _ = build(route("2001:db8::/64"))
    for _ in range(3):
        assert who.admit(a("2001:db8::1"))
        assert not who.admit(a("2a00::1"))
    assert len(query.asked) == 2
    query.table.clear()
    who.flush()
    assert query.flushed == 1
    assert not who.admit(a("2001:db8::1"))


def test_the_cache_keeps_what_is_used_and_no_more_than_its_limit() -> None:
    who, query, _ = build(route("2001:db8::/64"), limit=3)
    for last in (1, 2, 3):
        who.admit(a(f"2001:db8::{last}"))
    who.admit(a("2001:db8::1"))
    who.admit(a("2a00::1"))  # drops 2, the least recently used
    query.asked.clear()
    for last in (1, 3):
        who.admit(a(f"2001:db8::{last}"))
    assert not query.asked
    who.admit(a("2001:db8::2"))
    assert query.asked == [a("2001:db8::2")]


def test_without_an_answer_a_source_is_refused_but_asked_about_again() -> None:
    who, query, _ = build(route("2001:db8::/64"))
    query.fails = True
    assert not who.admit(a("2001:db8::1"))
    query.fails = False
    assert who.admit(a("2001:db8::1"))


def test_path_mtu_is_asked_again_after_its_lifetime() -> None:
    who, query, clock = build()
    server = IPv4Address("203.0.113.5").packed
    query.mtus[server] = 1400
    assert who.path_mtu(server) == 1400
    query.mtus[server] = 1300
    clock.now += clients.PATH_MTU_LIFETIME - 0.001
    assert who.path_mtu(server) == 1400
    clock.now += 0.001
    assert who.path_mtu(server) == 1300
    query.mtus[server] = 1200
    who.flush()
    assert who.path_mtu(server) == 1200


@pytest.mark.parametrize(
    ("address", "told", "expected"),
    [
        ("2001:db8::1", None, 1280),
        ("2001:db8::1", 1279, 1280),
        ("2001:db8::1", 1281, 1281),
        ("203.0.113.5", None, 576),
        ("203.0.113.5", 67, 68),
        ("203.0.113.5", 575, 575),
    ],
)
def test_path_mtu_has_floors_and_values_without_a_route(
    address: str, told: int | None, expected: int
) -> None:
    who, query, _ = build()
    packed = IPv4Address(address).packed if "." in address else a(address)
    if told is not None:
        query.mtus[packed] = told
    assert who.path_mtu(packed) == expected
    query.fails = True
    who.flush()
    assert who.path_mtu(packed) in {1280, 576}


def test_path_mtu_to_a_link_local_client_is_that_of_its_link() -> None:
    who, query, _ = build(l3_device="br0")
    assert who.path_mtu(a("fe80::2")) == 1420
    assert not query.asked


def test_path_mtus_are_bounded() -> None:
    who, query, _ = build(limit=2)
    for last in (1, 2, 3):
        who.path_mtu(bytes((203, 0, 113, last)))
    query.asked.clear()
    who.path_mtu(bytes((203, 0, 113, 3)))
    who.path_mtu(bytes((203, 0, 113, 2)))
    assert not query.asked
    who.path_mtu(bytes((203, 0, 113, 1)))
    assert query.asked


def test_served_names_prefixes_and_warns_of_those_beside_the_default_route() -> None:
    who, _, _ = build(
        route("::/0", "wan0"),
        route("2001:db8:1::/64", "lan0"),
        route("2001:db8:2::/64", "wan0"),
        route("fd00:2::/64", "wan0"),
        route("fe80::/64", "lan0"),
        route("ff00::/8", "lan0", kind=5),
        route("fec0:0:0:ffff::/64", "tap0"),
        route("2001:db8:3::/64", "tap0"),
        route("2001:db8:4::/64", "lan0", table=100),
        route("2001:db8:5::/64", "lan0", protocol=RTPROT_BGP),
        route("2001:db8:6::/64", "lan0", protocol=RTPROT_BGP),
        route("2001:db8:7::/64", "lan0", protocol=RTPROT_BIRD),
    )
    first, *lines = who.served()
    assert "this host" in first
    assert "tap0" in first
    assert lines[0] == "serves 2001:db8:1::/64 on lan0"
    assert lines[1].startswith(
        "warning: serves 2001:db8:2::/64 on wan0, the interface of a default"
    )
    assert lines[2] == "serves fd00:2::/64 on wan0"
    assert lines[3].startswith("warning: does not serve 2 prefixes learnt by BGP")
    assert lines[4].startswith("warning: does not serve 1 prefix learnt by BIRD")
    assert len(lines) == 5


def test_served_takes_a_default_in_disguise_for_an_uplink() -> None:
    who, _, _ = build(route("2000::/3", "wan0"), route("2001:db8:2::/64", "wan0"))
    assert who.served()[1].startswith("warning: serves 2001:db8:2::/64 on wan0")


def test_served_with_allow_lists_only_that() -> None:
    who, _, _ = build(route("2001:db8:1::/64"), allow=("2001:db8:2::/64",))
    assert who.served() == ["serves 2001:db8:2::/64 (allow)"]


def test_served_stays_short() -> None:
    who, _, _ = build(*(route(f"2001:db8:{n:x}::/48") for n in range(1, 101)))
    lines = who.served()
    assert len(lines) == 34
    assert lines[-1] == "serves 68 more prefixes"
