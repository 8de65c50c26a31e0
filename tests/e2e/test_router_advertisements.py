"""A gateway host whose own IPv6 comes from router advertisements keeps it.

    router (radvd) ──v6── gateway ──v4── server
                     └─late── (another such link that appears later)

The advertised default route lives 8 s, so one that is not renewed is gone in time to be seen.
"""

from __future__ import annotations

import time

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import BASE, SERVER4, gateway_host

ROUTER_LIFETIME = 8


def build(lab: Lab) -> tuple[Namespace, Namespace]:
    """Gateway and router; the gateway has its IPv4 side too."""
    gateway, server = gateway_host(lab), lab.namespace("server")
    router = lab.namespace("router")
    router.sysctl(ipv6__conf__all__forwarding=1)
    lab.link(gateway, "v4", server, "v4", 1500)
    gateway.ip("addr", "add", "192.0.2.254/24", "dev", "v4")
    server.ip("addr", "add", f"{SERVER4}/24", "dev", "v4")
    return gateway, router


def advertise(lab: Lab, router: Namespace, device: str, prefix: str) -> None:
    """Sends RAs out of the router's device every 3 to 4 s, with a default route."""
    config = lab.new_file("radvd.conf")
    config.write_text(
        f"interface {device} {{\n"
        "  AdvSendAdvert on; MinRtrAdvInterval 3; MaxRtrAdvInterval 4;\n"
        f"  AdvDefaultLifetime {ROUTER_LIFETIME};\n"
        f"  prefix {prefix} {{ AdvValidLifetime 600; AdvPreferredLifetime 300; }};\n"
        "};\n"
    )
    config.chmod(0o644)
    pid_file = lab.new_file("radvd.pid")
    router.start(
        *("radvd", "--nodaemon", "--logmethod", "stderr", "--debug", "1"),
        *("-C", str(config), "-p", str(pid_file)),
    )


def default_route(gateway: Namespace, device: str) -> str:
    return gateway.ip("-6", "route", "show", "default", "dev", device)


@pytest.fixture
def living_on_ras(lab: Lab) -> tuple[Namespace, Namespace]:
    """Gateway and router, once the gateway has a default route from an RA."""
    gateway, router = build(lab)
    lab.link(gateway, "v6", router, "v6", 1500)
    advertise(lab, router, "v6", "2001:db8:aa::/64")
    wait_until(lambda: "proto ra" in default_route(gateway, "v6"), 15, "an RA arrives")
    return gateway, router


def test_default_route_survives_the_start(
    lab: Lab, living_on_ras: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    gateway, _ = living_on_ras
    before = snapshot(gateway)
    assert gateway.sysctl_value("net.ipv6.conf.v6.accept_ra") == "1"
    process = start_gateway(gateway)
    assert gateway.sysctl_value("net.ipv6.conf.v6.accept_ra") == "2"
    deadline = time.monotonic() + ROUTER_LIFETIME + 3
    while time.monotonic() < deadline:
        assert "proto ra" in default_route(gateway, "v6"), process.log()
        time.sleep(0.5)
    gateway.run("ping", "-n", "-c", "1", "-W", "2", f"{BASE}{SERVER4}")
    process.stop_cleanly()
    assert gateway.sysctl_value("net.ipv6.conf.v6.accept_ra") == "1"
    assert "proto ra" in default_route(gateway, "v6")
    assert difference(before, snapshot(gateway)) == ""


def test_interface_that_comes_up_later_keeps_its_advertisements(
    lab: Lab, start_gateway: StartGateway
) -> None:
    gateway, router = build(lab)
    process = start_gateway(gateway)
    lab.link(gateway, "late", router, "late", 1500)
    advertise(lab, router, "late", "2001:db8:bb::/64")
    wait_until(
        lambda: "proto ra" in default_route(gateway, "late"),
        20,
        "the interface that came later gets a default route",
    )
    time.sleep(ROUTER_LIFETIME + 1)
    assert "proto ra" in default_route(gateway, "late")
    process.stop_cleanly()
    assert gateway.sysctl_value("net.ipv6.conf.late.accept_ra") == "1"
    assert gateway.sysctl_value("net.ipv6.conf.all.forwarding") == "0"


def test_interface_that_refuses_advertisements_still_does(
    lab: Lab, start_gateway: StartGateway
) -> None:
    gateway, router = build(lab)
    lab.link(gateway, "v6", router, "v6", 1500)
    gateway.sysctl(ipv6__conf__v6__accept_ra=0)
    start_gateway(gateway)
    assert gateway.sysctl_value("net.ipv6.conf.v6.accept_ra") == "0"
