"""MSS clamping: what TCP sees when a link next to the gateway is small.

    client ══1500══ r6a ──A── gateway ──B── r4a ══1500══ server

A (IPv6 side) or B (IPv4 side) has an MTU of 1400; neither end can know. `mss` in the SYN
that the server gets limits what the server sends, in the SYN-ACK that the client gets what
the client sends.
"""

from __future__ import annotations

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab
from tests.e2e.servers import start_capture, start_http
from tests.e2e.topology import SERVER, Topology, line


def mss_seen(topology: Topology) -> tuple[int, int]:
    """MSS in the SYN at the server and in the SYN-ACK at the client."""
    http = start_http(topology.server)
    at_server = start_capture(
        topology.server, "v4", "tcp[tcpflags] & (tcp-syn|tcp-ack) == tcp-syn", count=1
    )
    at_client = start_capture(topology.client, "v6", "ip6 and tcp and ip6[53] & 18 == 18", count=1)
    topology.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    found = [int(capture.wait_for(r"mss (\d+)").group(1)) for capture in (at_server, at_client)]
    return found[0], found[1]


@pytest.mark.parametrize(
    ("mtu6", "mtu4", "option", "expected"),
    [
        # An IPv6 packet of 1400 bytes has room for 1340, whichever way it goes.
        pytest.param(1400, 1500, "auto", (1340, 1340), id="small-link-to-the-client"),
        # An IPv4 packet of 1400 bytes has room for 1360.
        pytest.param(1500, 1400, "auto", (1360, 1360), id="small-link-to-the-server"),
        pytest.param(1500, 1500, "1200", (1200, 1200), id="fixed"),
        # A fixed value lowers, it never raises: the client offers 1440.
        pytest.param(1500, 1500, "1450", (1440, 1450), id="fixed-above-what-the-client-says"),
        pytest.param(1400, 1400, "off", (1440, 1460), id="off"),
    ],
)
def test_mss(
    lab: Lab,
    start_gateway: StartGateway,
    mtu6: int,
    mtu4: int,
    option: str,
    expected: tuple[int, int],
) -> None:
    topology = line(lab, mtus6=(1500, mtu6), mtus4=(mtu4, 1500))
    topology.route_prefix()
    start_gateway(topology.gateway, "--mss-clamp", option)
    assert mss_seen(topology) == expected


def test_mtu_of_the_device_counts(lab: Lab, start_gateway: StartGateway) -> None:
    topology = line(lab)
    topology.route_prefix()
    start_gateway(topology.gateway, "--mtu", "1280")
    assert mss_seen(topology) == (1220, 1220)
    assert "mtu 1280" in topology.gateway.ip("link", "show", "dev", "tap0")
