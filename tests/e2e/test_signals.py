"""Signals to a running gateway.

client ──────── gateway ──────── server 192.0.2.1, 192.0.2.33
"""

from __future__ import annotations

import re
import signal
import time

from tests.e2e.conftest import StartGateway
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.servers import sha256_of, start_http, write_random_file
from tests.e2e.topology import BASE, SERVER, Topology, line

OTHER = f"{BASE}192.0.2.33"


def build(lab: Lab) -> Topology:
    topology = line(lab, mtus4=(1500,))
    topology.route_prefix()
    topology.server_address("192.0.2.33")
    return topology


def outcome(topology: Topology, address: str) -> str:
    result = topology.client.run("ping", "-n", "-c", "1", "-W", "2", address, check=False)
    if "1 received" in result.out:
        return "served"
    return "refused" if "Administratively prohibited" in result.out else "lost"


def test_reload_changes_who_is_served_and_drops_no_session(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = build(lab)
    http = start_http(topology.server)
    gateway = start_gateway(topology.gateway)
    digest = write_random_file(http.folder / "slow", 8_000_000)
    copy = lab.new_file("copy")
    download = topology.client.start(
        *("curl", "-sS", "--limit-rate", "2M", "-o", str(copy)),
        f"http://[{SERVER}]:{http.port}/slow",
    )
    wait_until(lambda: copy.exists() and copy.stat().st_size > 0, 5, "the download begins")
    assert outcome(topology, OTHER) == "served"

    gateway.configure('deny4 = ["192.0.2.32/28"]\n')
    gateway.reload()
    wait_until(lambda: outcome(topology, OTHER) == "refused", 5, "deny4 holds")
    assert outcome(topology, SERVER) == "served"

    gateway.configure('allow = ["2001:db8::/32"]\n')
    gateway.reload()
    wait_until(lambda: outcome(topology, OTHER) == "refused", 5, "allow holds for new sessions")

    gateway.configure("")
    gateway.reload()
    wait_until(lambda: outcome(topology, OTHER) == "served", 5, "both are gone again")

    assert download.status is None, "the download was to outlast the reloads"
    assert download.wait(20) == 0, download.log()
    assert sha256_of(copy) == digest


def test_reload_names_what_cannot_change(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    gateway.configure('prefix = "fd00:6464::/96"\nmtu = 1400\ndeny4 = ["192.0.2.32/28"]\n')
    position = gateway.reload()
    wait_until(lambda: outcome(topology, OTHER) == "refused", 5, "what can change has changed")
    answer = gateway.log()[position:]
    for key in ("prefix", "mtu"):
        assert re.search(rf"\b{key}\b", answer), answer
    assert "deny4" in answer
    assert outcome(topology, SERVER) == "served"
    assert "mtu 1500" in topology.gateway.ip("link", "show", "dev", "tap0")


def test_reload_of_a_faulty_file_changes_nothing(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, config='deny4 = ["192.0.2.32/28"]\n')
    gateway.configure('deny4 = ["192.0.2.33/28"]\nno_such_key = 1\n')
    position = gateway.reload()
    gateway.wait_for("no_such_key", after=position)
    gateway.wait_for("deny4", after=position)
    assert outcome(topology, OTHER) == "refused"
    assert outcome(topology, SERVER) == "served"
    gateway.config_path.unlink()
    position = gateway.reload()
    gateway.wait_for(re.escape(gateway.config_path.name), after=position)
    assert outcome(topology, SERVER) == "served"


def test_status_counts_sessions_that_begin_and_end(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway, config="[timeouts]\nicmp_default = 2\n")
    assert gateway.status().number("sessions") == 0
    assert outcome(topology, SERVER) == "served"
    assert outcome(topology, OTHER) == "served"
    assert gateway.status().number("sessions") == 2
    assert gateway.status().number("clients") == 1
    wait_until(lambda: gateway.status().number("sessions") == 0, 6, "the sessions expire")


def test_flood_of_signals(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway: Gateway = start_gateway(topology.gateway)
    for _ in range(20):
        gateway.reload()
        gateway.status()
    time.sleep(0.2)
    assert outcome(topology, SERVER) == "served"


def test_further_signals_do_not_disturb_a_stop(lab: Lab, start_gateway: StartGateway) -> None:
    topology = build(lab)
    gateway = start_gateway(topology.gateway)
    for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
        gateway.process.send(number)
    assert gateway.process.wait(20) == 0, gateway.log()
    assert "error" not in gateway.log()
