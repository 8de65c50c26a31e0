"""`gateway --advertise`: hosts on the LAN learn address, route, prefix and DNS server alone.

client (accept_ra, nothing configured) ──v6── gateway ──v4── server

The client's kernel shows what it accepted; rdisc6 and our own parser read the rest.
"""

from __future__ import annotations

import signal
import socket
import time
from ipaddress import IPv6Address, IPv6Network

import pytest
from scapy.utils import PcapReader

from gateway.ra.messages import ADVERTISEMENT, RouterAdvertisement, parse_advertisement
from tests.e2e.conftest import StartGateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.topology import BASE, PREFIX, SERVER4, gateway_host

LAN = "fd00:64:77::"
ON_LINK = f'advertise.prefixes=["{LAN}/64"]'


@pytest.fixture
def lan(lab: Lab) -> tuple[Namespace, Namespace]:
    """Client and gateway; the client takes routes of any length from router advertisements."""
    client, gateway, server = lab.namespace("client"), gateway_host(lab), lab.namespace("server")
    lab.link(gateway, "v4", server, "v4", 1500)
    gateway.ip("addr", "add", "192.0.2.254/24", "dev", "v4")
    server.ip("addr", "add", f"{SERVER4}/24", "dev", "v4")
    lab.link(client, "v6", gateway, "v6", 1500)
    gateway.ip("addr", "add", f"{LAN}1/64", "dev", "v6", "nodad")
    client.sysctl(ipv6__conf__v6__accept_ra=1, ipv6__conf__v6__accept_ra_rt_info_max_plen=64)
    return client, gateway


def routes(client: Namespace) -> str:
    return client.ip("-6", "route", "show", "proto", "ra")


def heard(client: Namespace, lab: Lab, *, after: str) -> list[RouterAdvertisement]:
    """Router advertisements that came while the command ran, as our own parser reads them."""
    path = lab.new_file("ra.pcap")
    tcpdump = client.start(
        *("tcpdump", "--immediate-mode", "-i", "v6", "-U", "-w", str(path), "icmp6")
    )
    tcpdump.wait_for("listening on")
    client.run("sh", "-c", after, check=False)
    time.sleep(0.3)  # from the kernel through tcpdump to the file
    tcpdump.send(signal.SIGINT)
    tcpdump.wait(5)
    found = []
    with PcapReader(str(path)) as packets:
        for packet in packets:
            frame = bytes(packet)
            if frame[54:55] == bytes((ADVERTISEMENT,)):
                assert frame[21] == 255
                assert IPv6Address(frame[22:38]).is_link_local
                found.append(parse_advertisement(frame[54:]))
    return found


def test_a_host_without_any_configuration_reaches_ipv4(
    lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    client, gateway = lan
    process = start_gateway(gateway, "--advertise", "v6", "--set", ON_LINK)
    wait_until(lambda: PREFIX in routes(client), 10, "the route arrives")
    wait_until(lambda: LAN[:-1] in client.ip("addr", "show", "dev", "v6"), 5, "an address is made")
    wait_until(lambda: "tentative" not in client.ip("addr"), 5, "the address can be used")
    assert "default" not in routes(client)
    client.run("ping", "-n", "-c", "1", "-W", "2", BASE + SERVER4)
    assert "no default router" in process.log()
    process.stop_cleanly()
    wait_until(lambda: PREFIX not in routes(client), 3, "the last word takes the route back")


def test_a_solicitation_is_answered_with_every_option(
    lab: Lab, lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    client, gateway = lan
    dns = 'advertise.dns=["fd00:64:77::53"]'
    start_gateway(gateway, "--advertise", "v6", "--set", ON_LINK, "--set", dns)
    wait_until(lambda: PREFIX in routes(client), 10, "the first advertisement")
    # Multicast advertisements keep three seconds apart.
    (said, *_) = heard(client, lab, after="rdisc6 -1 -w 5000 v6")
    assert said.router_lifetime == 0
    assert [(item.prefix, item.lifetime) for item in said.pref64] == [
        (IPv6Network("fec0:0:0:ffff::/96"), 1800)
    ]
    assert [(item.prefix, item.lifetime) for item in said.routes] == [(IPv6Network(PREFIX), 1800)]
    assert [str(server) for item in said.rdnss for server in item.servers] == ["fd00:64:77::53"]
    assert [item.prefix for item in said.prefixes] == [IPv6Network(f"{LAN}/64")]
    mac = gateway.ip("-o", "link", "show", "v6").split("link/ether ")[1].split()[0]
    assert said.link.hex(":") == mac
    seen = client.run("rdisc6", "-1", "-w", "5000", "v6").out
    for words in ("fec0:0:0:ffff::/64", "fd00:64:77::53", f"{LAN}/64", "Router lifetime"):
        assert words in seen


def test_the_end_says_that_everything_is_over(
    lab: Lab, lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    client, gateway = lan
    process = start_gateway(gateway, "--advertise", "v6", "--set", ON_LINK)
    wait_until(lambda: PREFIX in routes(client), 10, "the first advertisement")
    pid = process.process.pid
    last = heard(client, lab, after=f"kill {pid}; sleep 1.5")[-1]
    assert process.process.wait(10) == 0
    assert last.router_lifetime == 0
    assert [item.lifetime for item in (*last.pref64,)] == [0]
    assert [item.lifetime for item in (*last.routes,)] == [0]
    assert [item.preferred for item in last.prefixes] == [0]


def test_with_a_way_out_the_gateway_is_the_default_router_and_follows_its_loss(
    lab: Lab, lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    client, gateway = lan
    isp = lab.namespace("isp")
    lab.link(gateway, "isp", isp, "v6", 1500)
    gateway.ip("addr", "add", "2001:db8:99::2/64", "dev", "isp", "nodad")
    gateway.ip("-6", "route", "add", "default", "via", "2001:db8:99::1", "dev", "isp")
    start_gateway(gateway, "--advertise", "v6")
    wait_until(lambda: "default" in routes(client), 10, "a default route arrives")
    assert PREFIX not in routes(client)
    gateway.ip("-6", "route", "del", "default")
    wait_until(lambda: "default" not in routes(client), 10, "the default route is taken back")
    assert PREFIX in routes(client)


def test_an_interface_may_come_later_and_come_back(
    lab: Lab, lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    _, gateway = lan
    process = start_gateway(gateway, "--advertise", "late")
    process.wait_for("late is not there")
    other = lab.namespace("other")
    for _ in range(2):
        other.sysctl(
            ipv6__conf__default__accept_ra=1, ipv6__conf__default__accept_ra_rt_info_max_plen=64
        )
        lab.link(other, "v6", gateway, "late", 1500)
        wait_until(lambda: PREFIX in routes(other), 15, "the route arrives on the new link")
        other.ip("link", "del", "v6")
    assert "Traceback" not in process.log()


def test_garbage_and_floods_of_solicitations_do_no_harm(
    lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    client, gateway = lan
    process = start_gateway(gateway, "--advertise", "v6")
    wait_until(lambda: PREFIX in routes(client), 10, "the first advertisement")
    flood = (
        "import socket,sys\n"
        "s=socket.socket(socket.AF_INET6,socket.SOCK_RAW,socket.IPPROTO_ICMPV6)\n"
        "s.setsockopt(41,socket.IPV6_MULTICAST_HOPS,255)\n"
        "i=socket.if_nametoindex('v6')\n"
        "for n in range(3000):\n"
        "    body=b'\\x85\\0\\0\\0\\0\\0\\0\\0'+bytes([n%256,n%3])*(n%40)\n"
        "    s.sendto(body,('ff02::2',0,0,i))\n"
    )
    client.run("python3", "-c", flood)
    process.status()
    assert "Traceback" not in process.log()
    assert "bugs=0" in process.log()
    client.run("rdisc6", "-1", "-w", "5000", "v6")


def test_beside_radvd_or_networkd_the_snippet_is_printed_and_nothing_is_sent(
    lan: tuple[Namespace, Namespace],
) -> None:
    client, gateway = lan
    from tests.e2e.gateway_process import Gateway

    result = Gateway(gateway).run("--advertise", "v6", "--advertise-merge", "--set", ON_LINK)
    assert result.status == 0, result.text
    for words in ("interface v6", "nat64prefix fec0:0:0:ffff::/96", "[IPv6PREF64Prefix]"):
        assert words in result.out
    assert PREFIX not in routes(client)


def test_the_snippet_is_one_that_radvd_accepts(lab: Lab, lan: tuple[Namespace, Namespace]) -> None:
    _, gateway = lan
    from tests.e2e.gateway_process import Gateway

    result = Gateway(gateway).run("--advertise", "v6", "--advertise-merge", "--set", ON_LINK)
    text, _, _ = result.out.partition("[Match]")
    # Debian's radvd 2.19 does not know PREF64 yet; everything else it has to take.
    config = lab.new_file("radvd.conf")
    lines = [line for line in text.splitlines() if not line.startswith("    nat64prefix")]
    config.write_text("\n".join(line for line in lines if not line.startswith("#")))
    config.chmod(0o644)
    gateway.run("radvd", "--configtest", "-C", str(config), "-p", str(lab.new_file("pid")))


def test_socket_of_solicitations_is_gone_after_the_end(
    lan: tuple[Namespace, Namespace], start_gateway: StartGateway
) -> None:
    _, gateway = lan
    process = start_gateway(gateway, "--advertise", "v6")
    assert socket.inet_pton(socket.AF_INET6, "ff02::2").hex() in gateway.run(
        "cat", "/proc/net/igmp6"
    ).out.replace(":", "")
    process.stop_cleanly()
    assert not gateway.run("ss", "-Hwln").out.strip()
