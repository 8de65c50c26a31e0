"""Admission with the kernel's own routing tables."""

from __future__ import annotations

import time
from ipaddress import IPv6Address, IPv6Network

from gateway.clients import Clients
from gateway.route_query import RouteQuery


def a(text: str) -> bytes:
    return IPv6Address(text).packed


def build() -> Clients:
    return Clients(
        RouteQuery(),
        prefixes=[IPv6Network("64:ff9b:1::/96")],
        allow=[],
        tap="tap0",
        l3_device="tap0",
        cache_limit=100,
        clock=time.monotonic,
    )


def links(run) -> None:
    for name in ("wan0", "lan0", "tap0"):
        run(f"ip link add {name} type veth peer name {name}p")
        run(f"ip link set {name} up")
        run(f"ip link set {name}p up")
    run("ip -6 addr add 2001:db8:1::1/64 dev wan0 nodad")
    run("ip -6 addr add 2001:db8:2::1/64 dev lan0 nodad")
    run("ip -6 route add default via 2001:db8:1::9 dev wan0")


def test_who_is_a_client_follows_the_routes(run) -> None:
    links(run)
    run("ip -6 route add 2001:db8:100::/40 via 2001:db8:2::2 dev lan0 proto bgp")
    run("ip -6 route add 2001:db8:200::/40 via 2001:db8:2::2 dev lan0 proto ospf")
    run("ip -6 route add 2400::/12 via 2001:db8:2::2 dev lan0")
    run("ip -6 route add blackhole 2001:db8:3::/48")
    run("ip -6 route add 64:ff9b:1::/96 dev tap0")
    run("ip -6 route add 2001:db8:4::/64 dev tap0")
    who = build()
    expected = {
        "2001:db8:1::1": True,  # the host itself
        "2001:db8:1::77": True,
        "2001:db8:2::77": True,
        "2001:db8:200::1": True,
        "fe80::1234": True,
        "fd00::1": True,
        "2a00::1": False,
        "2001:db8:100::1": False,
        "2400:1::1": False,
        "2001:db8:3::1": False,
        "64:ff9b:1::c000:201": False,
        "2001:db8:4::1": False,
        "::1": False,
        "ff02::1": False,
    }
    assert {text: who.admit(a(text)) for text in expected} == expected


def test_a_default_in_disguise_serves_nobody(run) -> None:
    links(run)
    run("ip -6 route del default")
    for prefix in ("2000::/3", "::/1", "8000::/1"):
        run(f"ip -6 route add {prefix} via 2001:db8:1::9 dev wan0")
    who = build()
    assert not who.admit(a("2a00::1"))
    assert not who.admit(a("9000::1"))
    assert who.admit(a("2001:db8:2::77"))


def test_a_default_of_a_routing_rule_serves_nobody(run) -> None:
    links(run)
    run("ip -6 route add default via 2001:db8:2::2 dev lan0 table 77")
    run("ip -6 rule add to 2a00::/16 table 77")
    assert not build().admit(a("2a00::1"))


def test_flush_sees_a_new_route(run) -> None:
    links(run)
    who = build()
    assert not who.admit(a("2001:db8:300::1"))
    run("ip -6 route add 2001:db8:300::/48 via 2001:db8:2::2 dev lan0 mtu 1400")
    assert not who.admit(a("2001:db8:300::1"))
    assert who.path_mtu(a("2001:db8:300::2")) == 1400
    who.flush()
    assert who.admit(a("2001:db8:300::1"))


def test_path_mtu_without_a_route(run) -> None:
    run("ip link set lo up")
    who = build()
    assert who.path_mtu(a("2001:db8::1")) == 1280
    assert who.path_mtu(bytes((203, 0, 113, 1))) == 576


def test_served_at_start(run) -> None:
    links(run)
    run("ip -6 route add 64:ff9b:1::/96 dev tap0")
    run("ip -6 route add 2001:db8:300::/48 via 2001:db8:2::2 dev lan0")
    run("ip -6 route add 2001:db8:100::/40 via 2001:db8:2::2 dev lan0 proto bgp")
    lines = build().served()
    assert lines[0] == "serves this host, link-local neighbours on tap0, fc00::/7, fec0::/10"
    assert lines[1].startswith("warning: serves 2001:db8:1::/64 on wan0")
    assert lines[2:4] == ["serves 2001:db8:2::/64 on lan0", "serves 2001:db8:300::/48 on lan0"]
    assert lines[4].startswith("warning: does not serve 1 prefix learnt by BGP")
    assert len(lines) == 5
