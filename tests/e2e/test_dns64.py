"""Names through the gateway: an IPv6-only client, the gateway's DNS64, nsd behind it on IPv4.

client ──── gateway ──── r4a ──── server: nsd on 192.0.2.1, HTTP on 198.51.100.80
fd00:64::2  fd00:64::1
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.dns_servers import WEB4, ZONE, Nsd, start_nsd
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace
from tests.e2e.servers import start_http
from tests.e2e.topology import BASE, GATEWAY6, SERVER4, Topology, line

CONFIG = f"""
[dns64]
enabled = true
listen = ["::1", "v6"]
upstreams = ["{SERVER4}"]
"""
WEB6 = str(IPv6Address(BASE + WEB4))


def dig(namespace: Namespace, *arguments: str, server: str = GATEWAY6) -> str:
    """What dig prints, asking once."""
    return namespace.run("dig", f"@{server}", "+tries=1", "+time=6", *arguments).out


def short(namespace: Namespace, *arguments: str, server: str = GATEWAY6) -> list[str]:
    return dig(namespace, "+short", *arguments, server=server).split()


class Site:
    def __init__(self, lab: Lab) -> None:
        self.topology: Topology = line(lab)
        self.client = self.topology.client
        self.topology.route_prefix()
        self.topology.server_address(WEB4)
        self.nsd: Nsd = start_nsd(self.topology.server, SERVER4, signed=True)
        self.http = start_http(self.topology.server)
        self.resolv_conf: Path = lab.new_file("resolv.conf")
        self.resolv_conf.write_text(f"nameserver {GATEWAY6}\n")

    def by_name(self, *command: str) -> str:
        """Runs a program whose resolv.conf names the gateway."""
        script = f'mount --bind {self.resolv_conf} /etc/resolv.conf && exec "$@"'
        return self.client.run("unshare", "-m", "sh", "-c", script, "sh", *command).out


@pytest.fixture(scope="module")
def site(module_lab: Lab) -> Iterator[Site]:
    found = Site(module_lab)
    gateway = Gateway(found.topology.gateway, config=CONFIG).start()
    found.gateway = gateway  # type: ignore[attr-defined]
    yield found
    gateway.stop_cleanly()


def test_an_address_in_the_prefix(site: Site):
    assert short(site.client, "www.example.test", "AAAA") == [WEB6]
    assert short(site.client, "www.example.test", "AAAA") == [WEB6]
    assert short(site.client, "+tcp", "www.example.test", "AAAA") == [WEB6]
    assert short(site.topology.gateway, "www.example.test", "AAAA", server="::1") == [WEB6]


def test_what_has_an_address_keeps_it(site: Site):
    assert short(site.client, "both.example.test", "AAAA") == ["2001:db8::82"]
    assert short(site.client, "www.example.test", "A") == [WEB4]


def test_excluded_aliases_and_no_names(site: Site):
    ask = site.client
    assert short(ask, "mapped.example.test", "AAAA") == [str(IPv6Address(BASE + "198.51.100.83"))]
    assert short(ask, "alias.example.test", "AAAA") == ["www.example.test.", WEB6]
    assert short(ask, "host.old.example.test", "AAAA")[-1] == str(
        IPv6Address(BASE + "198.51.100.85")
    )
    assert "status: NXDOMAIN" in dig(ask, "none.example.test", "AAAA")
    assert "ANSWER: 0" in dig(ask, "large.example.test", "AAAA")


def test_names_of_addresses(site: Site):
    assert short(site.client, "-x", WEB6)[-1] == "www.example.test."
    assert "status: NXDOMAIN" in dig(site.client, "-x", BASE + "198.51.100.81")


def test_hosts_find_the_prefix(site: Site):
    found = short(site.client, "ipv4only.arpa", "AAAA")
    assert sorted(found) == [str(IPv6Address(BASE + f"192.0.0.{n}")) for n in (170, 171)]


def test_an_answer_too_large_for_udp_on_either_side(site: Site):
    out = dig(site.client, "+ignore", "large.example.test", "TXT")
    assert " tc" in out
    assert len(dig(site.client, "large.example.test", "TXT")) > 3000


def test_getent(site: Site):
    assert site.by_name("getent", "ahostsv6", "www.example.test").split()[0] == WEB6


def test_curl_by_name_over_ipv6_only(site: Site):
    (site.http.folder / "hello").write_text("through both halves\n")
    url = f"http://www.example.test:{site.http.port}/hello"
    assert site.by_name("curl", "-sS", "--max-time", "15", url) == "through both halves\n"


def test_rfc6147_5_5_a_validating_client_gets_the_truth(site: Site):
    anchor = str(site.nsd.folder / "anchor")
    command = ("delv", f"@{GATEWAY6}", "-a", anchor, "+root=example.test", "+cdflag")
    known = site.client.run(*command, "www.example.test", "A").text
    assert "; fully validated" in known
    assert WEB4 in known
    # That there is no AAAA record is validated too, and nothing made up is in its place.
    absent = site.client.run(*command, "www.example.test", "AAAA").text
    assert "negative response, fully validated" in absent
    both = site.client.run(*command, "both.example.test", "AAAA").text
    assert "; fully validated" in both
    assert "2001:db8::82" in both


def test_a_client_that_validates_everything_gets_the_truth(site: Site):
    """unbound-host sets DO and CD, and would call what is made up bogus."""
    keys = (site.nsd.folder / "anchor").read_text()
    flags, algorithm, key = re.search(r'static-key (\d+) 3 (\d+) "(.*)"', keys).groups()  # type: ignore[union-attr]
    config = site.topology.lab.new_file("unbound-host.conf")
    config.write_text(
        f'server:\n  local-zone: "test." nodefault\n'
        f'  trust-anchor: "{ZONE}. DNSKEY {flags} 3 {algorithm} {key}"\n'
    )
    command = ("unbound-host", "-v", "-r", "-C", str(config))
    absent = site.by_name(*command, "-t", "AAAA", "www.example.test")
    assert "has no IPv6 address (secure)" in absent
    both = site.by_name(*command, "-t", "AAAA", "both.example.test")
    assert "2001:db8::82 (secure)" in both
    known = site.by_name(*command, "-t", "A", "www.example.test")
    assert f"{WEB4} (secure)" in known


def test_a_mangled_query_gets_a_formerr_and_an_answer_gets_nothing(site: Site):
    script = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        "s.settimeout(0.7)\n"
        f"s.connect(('{GATEWAY6}', 53))\n"
        "mangled = b'ab\\x01\\0\\0\\1' + bytes(6) + b'\\x3fxx'\n"
        "for data in (mangled, b'cd\\x81\\0\\0\\1' + bytes(6)):\n"
        "    s.send(data)\n"
        "    try:\n"
        "        print(s.recv(600).hex())\n"
        "    except TimeoutError:\n"
        "        print('nothing')\n"
    )
    replies = site.client.run("python3", "-c", script).out.split()
    assert replies == ["616281810000000000000000", "nothing"]


def test_the_state_shows_it(site: Site):
    gateway: Gateway = site.gateway  # type: ignore[attr-defined]
    short(site.client, "www.example.test", "AAAA")
    before = len(gateway.log())
    gateway.status()
    found = gateway.wait_for(r"dns64 .*dns64-cache-bytes=\d+.*", after=before)
    assert "dns64-engine-synthesised=0" not in found


def test_two_flags_make_a_router_the_exit_of_a_network(lab: Lab, start_gateway: StartGateway):
    """--dns64 listens where --advertise speaks, without being told."""
    topology = line(lab)
    start_nsd(topology.server, SERVER4)
    keys = f'[dns64]\nupstreams = ["{SERVER4}"]\n'
    start_gateway(topology.gateway, "--dns64", "--advertise", "v6", config=keys)
    assert short(topology.client, "www.example.test", "AAAA") == [WEB6]
    assert short(topology.gateway, "www.example.test", "AAAA", server="::1") == [WEB6]


def test_one_flag_serves_the_lan_and_not_the_way_out(lab: Lab, start_gateway: StartGateway):
    """Without --advertise: wherever there are addresses, but towards the IPv6 internet."""
    topology = line(lab)
    start_nsd(topology.server, SERVER4)
    router = topology.gateway
    for name, address in (("wan9", "2001:db8:99::1/64"), ("bare9", "")):
        router.ip("link", "add", name, "type", "bridge")
        if address:
            router.ip("addr", "add", address, "dev", name, "nodad")
        router.ip("link", "set", name, "up")
    router.ip("route", "add", "default", "via", "2001:db8:99::2", "dev", "wan9", "onlink")
    keys = f'[dns64]\nupstreams = ["{SERVER4}"]\n'
    gateway = start_gateway(router, "--dns64", config=keys)
    assert short(topology.client, "www.example.test", "AAAA") == [WEB6]
    assert short(router, "www.example.test", "AAAA", server="::1") == [WEB6]
    assert f"answers on [{GATEWAY6}]:53" in gateway.log()
    assert "%v6]:53" in gateway.log()
    for other in ("2001:db8:99::1", "%wan9", "%bare9", "only this host"):
        assert other not in gateway.log()
    # It becomes a LAN when the default route goes another way, or none.
    router.ip("-6", "route", "del", "default")
    gateway.wait_for(r"answers on \[2001:db8:99::1\]:53")


def test_one_flag_where_there_is_no_lan_says_so(lab: Lab, start_gateway: StartGateway):
    topology = line(lab)
    router = topology.gateway
    router.ip("route", "add", "default", "via", "fe80::99", "dev", "v6", "onlink")
    found = start_gateway(router, "--dns64", config=f'[dns64]\nupstreams = ["{SERVER4}"]\n').log()
    assert "only this host is answered: no interface but v6" in found
    assert "--advertise or dns64.listen" in found
    assert GATEWAY6 not in found


def test_a_lan_whose_port_is_taken_ends_nothing(lab: Lab, start_gateway: StartGateway):
    """A dnsmasq for virtual machines, say, that nobody has asked the gateway to replace."""
    topology = line(lab)
    start_nsd(topology.server, SERVER4)
    topology.gateway.start("python3", "-c", TAKE_PORT, name="taken").wait_for("taken")
    gateway = start_gateway(
        topology.gateway, "--dns64", config=f'[dns64]\nupstreams = ["{SERVER4}"]\n'
    )
    assert f"cannot listen on [{GATEWAY6}]:53 yet: Address already in use" in gateway.log()
    assert short(topology.gateway, "www.example.test", "AAAA", server="::1") == [WEB6]


TAKE_PORT = (
    "import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
    f" s.bind(('{GATEWAY6}', 53)); print('taken', flush=True); time.sleep(60)"
)
