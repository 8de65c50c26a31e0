"""conf/dns64/: Unbound, BIND and PowerDNS with our examples, and the gateway behind their answers.

The examples run as they are, but for what ties them to an installed system (directories, users)
and to the root of the DNS: the zone of these tests is on a server of the test.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.dns_servers import WEB4, start_nsd, wait_for_answer
from tests.e2e.gateway_process import ROOT
from tests.e2e.namespaces import Lab
from tests.e2e.servers import start_http
from tests.e2e.test_dns64 import WEB6, dig, short
from tests.e2e.topology import BASE, GATEWAY6, SERVER4, Topology, line

EXAMPLES = ROOT / "conf" / "dns64"


@pytest.fixture
def network(lab: Lab) -> Topology:
    topology = line(lab)
    topology.route_prefix()
    topology.server_address(WEB4)
    start_nsd(topology.server, SERVER4)
    return topology


def unbound(lab: Lab) -> tuple[str, ...]:
    config = lab.new_file("unbound.conf")
    config.write_text(
        (EXAMPLES / "unbound.conf").read_text()
        + '\nserver:\n  username: ""\n  chroot: ""\n  pidfile: ""\n  use-syslog: no\n'
        '  local-zone: "test." nodefault\n  domain-insecure: "test."\n'
        f'stub-zone:\n  name: "example.test"\n  stub-addr: {SERVER4}\n'
        "remote-control:\n  control-enable: no\n"
    )
    return ("unbound", "-d", "-c", str(config))


def bind(lab: Lab) -> tuple[str, ...]:
    folder = lab.new_file("bind")
    folder.mkdir()
    text = (EXAMPLES / "named.conf").read_text()
    text, count = re.subn(
        r'directory ".*";',
        f'directory "{folder}"; pid-file none; session-keyfile none; dnssec-validation no;',
        text,
    )
    assert count == 1
    config: Path = folder / "named.conf"
    config.write_text(
        f"{text}\ncontrols {{ }};\n"
        f'zone "example.test" {{ type static-stub; server-addresses {{ {SERVER4}; }}; }};\n'
    )
    return ("named", "-g", "-n", "1", "-c", str(config))


def recursor(lab: Lab) -> tuple[str, ...]:
    folder = lab.new_file("pdns")
    folder.mkdir()
    (folder / "recursor.conf").write_text(
        (EXAMPLES / "recursor.conf").read_text()
        + f"\nsocket-dir={folder}\ndnssec=off\nhint-file=no\nsecurity-poll-suffix=\n"
        "dont-query=\nlua-config-file=\ndisable-syslog=yes\n"
        f"forward-zones=example.test={SERVER4}\n"
    )
    return ("pdns_recursor", f"--config-dir={folder}", "--daemon=no", "--write-pid=no")


@pytest.mark.parametrize("program", [unbound, bind, recursor])
def test_an_example_with_the_gateway(
    program, network: Topology, start_gateway: StartGateway, lab: Lab
):
    start_gateway(network.gateway)
    network.gateway.start(*program(lab))
    wait_for_answer(network.client, GATEWAY6, "www.example.test", timeout=30)
    assert short(network.client, "www.example.test", "AAAA") == [WEB6]
    assert short(network.client, "both.example.test", "AAAA") == ["2001:db8::82"]
    if program is not recursor:
        # The recursor has no way to exclude addresses, and asks the internet for ipv4only.arpa.
        assert short(network.client, "mapped.example.test", "AAAA")[-1].endswith(":c633:6453")
        assert len(short(network.client, "ipv4only.arpa", "AAAA")) == 2
    http = start_http(network.server)
    (http.folder / "hello").write_text("by way of the example\n")
    found = short(network.client, "www.example.test", "AAAA")[0]
    url = f"http://[{found}]:{http.port}/hello"
    assert network.client.run("curl", "-sS", "--max-time", "15", url).out == (
        "by way of the example\n"
    )


def test_every_example_has_our_prefix():
    for name in ("unbound.conf", "named.conf", "Corefile", "recursor.conf"):
        text = (EXAMPLES / name).read_text()
        assert f"{BASE}/96" in text, name


def test_bind_as_the_upstream_of_ours(network: Topology, start_gateway: StartGateway, lab: Lab):
    """A recursor with a dns64 of its own makes no difference: what it says is an address."""
    folder = lab.new_file("recursor")
    folder.mkdir()
    config = folder / "named.conf"
    config.write_text(
        f'options {{ directory "{folder}"; pid-file none; session-keyfile none;'
        " listen-on port 5353 { 127.0.0.1; }; listen-on-v6 { none; }; dnssec-validation no; };\n"
        "controls { };\n"
        f'zone "example.test" {{ type static-stub; server-addresses {{ {SERVER4}; }}; }};\n'
    )
    network.gateway.start("named", "-g", "-n", "1", "-c", str(config))
    keys = '[dns64]\nenabled = true\nlisten = ["v6"]\nupstreams = ["127.0.0.1@5353"]\n'
    start_gateway(network.gateway, config=keys)
    wait_for_answer(network.client, GATEWAY6, "www.example.test", timeout=30)
    assert short(network.client, "alias.example.test", "AAAA")[-1] == WEB6
    assert short(network.client, "-x", "2001:db8::82") == []
    assert "status: NXDOMAIN" in dig(network.client, "none.example.test", "AAAA")
