"""`gateway --prefix P --dns64 --advertise v6`: the whole promise to a host that is told nothing.

                          ┌── isp: the IPv6 internet
client ──v6── gateway ──┴── server: IPv4 only, nsd on 192.0.2.1, HTTP on 198.51.100.80
accept_ra=1   fd00:64:77::1

The client has no address, no route and no resolv.conf but what it makes of router advertisements:
address and route by its kernel, the name server by our own parser.
"""

from __future__ import annotations

import signal
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest
from scapy.utils import PcapReader

from gateway.ra.messages import ADVERTISEMENT, RouterAdvertisement, parse_advertisement
from tests.e2e.conftest import StartGateway
from tests.e2e.dns_servers import WEB4, start_nsd
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace, Process, wait_until
from tests.e2e.servers import HttpServer, start_http
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import SERVER4, gateway_host

PREFIX = "64:ff9b:1:fffe::/96"
BASE = "64:ff9b:1:fffe::"
LAN = "fd00:64:77::"
FLAGS = ("--prefix", PREFIX, "--dns64", "--advertise", "v6")
KEYS = f'[dns64]\nupstreams = ["{SERVER4}"]\n[advertise]\nprefixes = ["{LAN}/64"]\n'


class Ear:
    """What a client hears of router advertisements, as our own parser reads it."""

    def __init__(self, client: Namespace) -> None:
        self._path = client.lab.new_file("heard.pcap")
        self._tcpdump: Process = client.start(
            *("tcpdump", "--immediate-mode", "-i", "v6", "-U", "-w", str(self._path), "icmp6")
        )
        self._tcpdump.wait_for("listening on")

    def heard(self) -> list[RouterAdvertisement]:
        found = []
        with PcapReader(str(self._path)) as packets:
            for packet in packets:
                frame = bytes(packet)
                if frame[54:55] == bytes((ADVERTISEMENT,)):
                    found.append(parse_advertisement(frame[54:]))
        return found

    def stop(self) -> None:
        self._tcpdump.send(signal.SIGINT)
        self._tcpdump.wait(5)


class Site:
    def __init__(self, lab: Lab) -> None:
        self.client = lab.namespace("client")
        self.gateway = gateway_host(lab)
        self.server, isp = lab.namespace("server"), lab.namespace("isp")
        self.server.sysctl(ipv6__conf__all__disable_ipv6=1)
        lab.link(self.gateway, "v4", self.server, "v4", 1500)
        self.gateway.ip("addr", "add", "192.0.2.254/24", "dev", "v4")
        self.server.ip("addr", "add", f"{SERVER4}/24", "dev", "v4")
        self.server.ip("addr", "add", f"{WEB4}/32", "dev", "lo")
        self.server.ip("route", "add", "default", "via", "192.0.2.254")
        self.gateway.ip("route", "add", "default", "via", SERVER4)
        lab.link(self.gateway, "isp", isp, "v6", 1500)
        self.gateway.ip("addr", "add", "2001:db8:99::2/64", "dev", "isp", "nodad")
        self.gateway.ip("-6", "route", "add", "default", "via", "2001:db8:99::1", "dev", "isp")
        lab.link(self.client, "v6", self.gateway, "v6", 1500)
        self.gateway.ip("addr", "add", f"{LAN}1/64", "dev", "v6", "nodad")
        # What every Linux host has that is no router.
        self.client.sysctl(ipv6__conf__v6__accept_ra=1)
        start_nsd(self.server, SERVER4)
        self.http: HttpServer = start_http(self.server)
        (self.http.folder / "hello").write_text("by name, by IPv6, from IPv4\n")
        self.ear = Ear(self.client)
        self.resolv_conf: Path = lab.new_file("resolv.conf")

    def routes(self) -> str:
        return self.client.ip("-6", "route", "show", "proto", "ra")

    def is_configured(self) -> bool:
        addresses = self.client.ip("-6", "addr", "show", "dev", "v6", "scope", "global")
        return "default" in self.routes() and LAN[:-1] in addresses and "tentative" not in addresses

    def by_name(self, *command: str) -> str:
        """Runs a program with the resolv.conf that the advertisements led to."""
        script = f'mount --bind {self.resolv_conf} /etc/resolv.conf && exec "$@"'
        return self.client.run("unshare", "-m", "sh", "-c", script, "sh", *command).out


@pytest.fixture
def site(lab: Lab) -> Site:
    return Site(lab)


def last_words(said: RouterAdvertisement) -> set[int]:
    """Every lifetime of an advertisement but that of addresses already made."""
    return {
        said.router_lifetime,
        *(item.lifetime for item in said.pref64),
        *(item.lifetime for item in said.routes),
        *(item.lifetime for item in said.rdnss),
        *(item.preferred for item in said.prefixes),
    }


def test_a_host_that_is_told_nothing_reaches_an_ipv4_server_by_name(
    site: Site, start_gateway: StartGateway
) -> None:
    before = snapshot(site.gateway)
    assert not site.client.ip("-4", "addr", "show", "dev", "v6")
    assert not site.routes()
    gateway = start_gateway(site.gateway, *FLAGS, config=KEYS)
    wait_until(site.is_configured, 15, "the client's kernel has made address and route")

    said = site.ear.heard()[0]
    assert [item.prefix for item in said.pref64] == [IPv6Network(PREFIX)]
    (servers,) = [item.servers for item in said.rdnss]
    assert servers == (IPv6Address(f"{LAN}1"),)
    site.resolv_conf.write_text("".join(f"nameserver {server}\n" for server in servers))

    expected = str(IPv6Address(BASE + WEB4))
    assert site.by_name("getent", "ahosts", "www.example.test").split()[0] == expected
    url = f"http://www.example.test:{site.http.port}/hello"
    assert site.by_name("curl", "-sS", "-m", "15", url) == "by name, by IPv6, from IPv4\n"
    # Both ways of learning the prefix lead to the same (RFC 7050, RFC 8781).
    found = site.by_name("dig", "+short", "ipv4only.arpa", "AAAA").split()
    assert sorted(found) == [f"{BASE}c000:aa", f"{BASE}c000:ab"]

    gateway.stop_cleanly()
    wait_until(lambda: not site.routes().count("default"), 5, "the default route is taken back")
    wait_until(lambda: last_words(site.ear.heard()[-1]) == {0}, 5, "the last word")
    assert site.ear.heard()[-1].rdnss[0].servers == servers
    assert site.ear.heard()[-1].pref64[0].prefix == IPv6Network(PREFIX)
    asked = ("dig", f"@{LAN}1", "+tries=1", "+time=1", "www.example.test", "AAAA")
    assert site.client.run(*asked, check=False).status != 0
    assert difference(before, snapshot(site.gateway)) == ""


def test_everything_is_taken_back_when_the_gateway_fails(
    site: Site, start_gateway: StartGateway
) -> None:
    gateway = start_gateway(site.gateway, *FLAGS, config=KEYS)
    wait_until(site.is_configured, 15, "the client's kernel has made address and route")
    site.gateway.ip("link", "del", "tap0")
    assert gateway.process.wait(15) == 1
    wait_until(lambda: last_words(site.ear.heard()[-1]) == {0}, 5, "the last word")
    assert "default" not in site.routes()


def test_the_gateway_does_not_configure_itself_by_what_it_says(
    site: Site, start_gateway: StartGateway
) -> None:
    """Not even where the LAN's interface takes router advertisements although it forwards."""
    site.gateway.sysctl(ipv6__conf__v6__accept_ra=2, ipv6__conf__v6__accept_ra_rt_info_max_plen=128)
    routes = site.gateway.ip("-6", "route", "show", "dev", "v6")
    addresses = site.gateway.ip("-6", "addr", "show", "dev", "v6")
    gateway = start_gateway(site.gateway, *FLAGS, config=KEYS)
    wait_until(site.is_configured, 15, "the client's kernel has made address and route")
    assert site.gateway.ip("-6", "route", "show", "dev", "v6") == routes
    assert site.gateway.ip("-6", "addr", "show", "dev", "v6") == addresses
    gateway.stop_cleanly()


def test_both_name_the_interface_that_came_last(site: Site, start_gateway: StartGateway) -> None:
    """A LAN that is plugged in later: DNS64 and advertisements follow together."""
    site.gateway.ip("link", "set", "v6", "down")
    gateway = start_gateway(site.gateway, *FLAGS, config=KEYS)
    gateway.wait_for("v6 is not there, not up")
    site.gateway.ip("link", "set", "v6", "up")
    # Addresses of its own are lost with the link.
    site.gateway.ip("addr", "replace", f"{LAN}1/64", "dev", "v6", "nodad")
    wait_until(site.is_configured, 20, "the client's kernel has made address and route")
    gateway.wait_for(rf"answers on \[{LAN}1\]:53")

    def names_the_server() -> bool:
        said = site.ear.heard()
        return bool(said and said[-1].rdnss) and said[-1].rdnss[0].servers == (
            IPv6Address(f"{LAN}1"),
        )

    wait_until(names_the_server, 20, "the name server is advertised")


def test_sighup_takes_the_interface_away_and_gives_it_back(
    site: Site, start_gateway: StartGateway
) -> None:
    flags, keys = FLAGS[:3], KEYS.replace("[advertise]\n", '[advertise]\ninterfaces = ["v6"]\n')
    gateway: Gateway = start_gateway(site.gateway, *flags, config=keys)
    wait_until(site.is_configured, 15, "the client's kernel has made address and route")
    gateway.configure(keys.replace('["v6"]', "[]"))
    gateway.wait_for("re-read: advertise.interfaces", after=gateway.reload())
    wait_until(lambda: last_words(site.ear.heard()[-1]) == {0}, 5, "the last word")
    wait_until(lambda: "default" not in site.routes(), 5, "the route is taken back")
    # Who has the name server's address still gets answers: it is a LAN, advertised to or not.
    assert f"[{LAN}1]:53 has gone" not in gateway.log()
    gateway.configure(keys)
    gateway.wait_for("re-read: advertise.interfaces", after=gateway.reload())
    wait_until(lambda: "default" in site.routes(), 10, "the route is back")
    gateway.stop_cleanly()
