"""The gateway's DNS64 with upstreams that are dead, slow, truncating, lying, lossy or restarted."""

from __future__ import annotations

import re
import resource
import time
from ipaddress import IPv6Address
from pathlib import Path

import pytest

from tests.e2e.conftest import StartGateway
from tests.e2e.dns_servers import (
    WEB4,
    make_certificate,
    start_liar,
    start_nsd,
    wait_for_answer,
)
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, wait_until
from tests.e2e.test_dns64 import WEB6, dig, short
from tests.e2e.topology import BASE, GATEWAY6, SERVER4, Topology, line


def config(*upstreams: str, extra: str = "", listen: str = '["v6"]') -> str:
    listed = ", ".join(f'"{upstream}"' for upstream in upstreams)
    return f"[dns64]\nenabled = true\nlisten = {listen}\nupstreams = [{listed}]\n{extra}"


def counter(gateway: Gateway, name: str) -> int:
    """One of the counters that SIGUSR1 logs."""
    before = len(gateway.log())
    gateway.status()
    return int(gateway.wait_for(rf"(?<=dns64-{name}=)\d+", after=before))


@pytest.fixture
def network(lab: Lab) -> Topology:
    return line(lab)


def test_one_that_is_dead_and_one_that_lives(network: Topology, start_gateway: StartGateway):
    start_nsd(network.server, SERVER4)
    # Nobody has 203.0.113.2's neighbour address; what is sent there is lost without a word.
    network.routers4[0].ip("route", "add", "blackhole", "203.0.113.77")
    gateway = start_gateway(network.gateway, config=config("203.0.113.77", SERVER4))
    for number in range(8):
        assert short(network.client, f"n{number}.wild.example.test", "AAAA")
    gateway.wait_for("upstream 203.0.113.77@53 does not answer")
    # Now it is left alone.
    before = counter(gateway, "upstream-timeouts")
    assert short(network.client, "www.example.test", "AAAA") == [WEB6]
    assert counter(gateway, "upstream-timeouts") == before


@pytest.mark.parametrize("mode", ["lying", "slow", "truncated", "once"])
def test_one_with_a_fault(mode: str, network: Topology, start_gateway: StartGateway):
    start_liar(network.server, SERVER4, mode)
    start_gateway(network.gateway, config=config(SERVER4))
    for name in ("one.test", "two.test"):
        assert short(network.client, name, "AAAA") == [WEB6]


def test_0x20_with_a_liar(network: Topology, start_gateway: StartGateway):
    start_liar(network.server, SERVER4, "lying")
    start_gateway(network.gateway, config=config(SERVER4, extra="use_0x20 = true\n"))
    assert short(network.client, "some.long.name.test", "AAAA") == [WEB6]


def test_one_percent_of_loss(network: Topology, start_gateway: StartGateway, lab: Lab):
    start_nsd(network.server, SERVER4)
    rules = lab.new_file("loss.nft")
    rules.write_text(
        "table inet loss {\n"
        " chain in { type filter hook input priority 0;"
        " udp dport 53 numgen random mod 100 0 drop; }\n"
        " chain out { type filter hook output priority 0;"
        " udp sport 53 numgen random mod 100 0 drop; }\n"
        "}\n"
    )
    network.server.run("nft", "-f", str(rules))
    start_gateway(network.gateway, config=config(SERVER4))
    names = lab.new_file("names")
    names.write_text("".join(f"n{n}.wild.example.test AAAA\n" for n in range(300)))
    out = dig(network.client, "+short", "-f", str(names))
    assert out.split() == [str(IPv6Address(BASE + "198.51.100.86"))] * 300


def test_restart_of_the_upstream(network: Topology, start_gateway: StartGateway):
    nsd = start_nsd(network.server, SERVER4)
    start_gateway(network.gateway, config=config(SERVER4))
    assert short(network.client, "a.wild.example.test", "AAAA")
    nsd.stop()
    assert "status: SERVFAIL" in dig(network.client, "b.wild.example.test", "AAAA")
    assert short(network.client, "a.wild.example.test", "AAAA")
    nsd.start()
    wait_for_answer(network.client, GATEWAY6, "b.wild.example.test")


def test_a_stale_answer_stands_in(network: Topology, start_gateway: StartGateway):
    nsd = start_nsd(network.server, SERVER4)
    settings = config(SERVER4, extra="serve_stale = 3600\nmax_ttl = 1\n")
    start_gateway(network.gateway, config=settings)
    assert short(network.client, "www.example.test", "A") == [WEB4]
    nsd.stop()
    time.sleep(1.1)
    out = dig(network.client, "www.example.test", "A")
    assert re.search(rf"^www\.example\.test\.\s+30\s+IN\s+A\s+{WEB4}$", out, re.MULTILINE)


def test_dns_over_tls(network: Topology, start_gateway: StartGateway):
    certificate = make_certificate(network.server, SERVER4)
    start_nsd(network.server, SERVER4, certificate=certificate)
    # Plain DNS is closed, so that nothing but TLS can have answered.
    network.server.run("nft", "add table inet shut")
    network.server.run(
        "nft", "add chain inet shut in { type filter hook input priority 0; th dport 53 drop; }"
    )
    trust = f'tls_ca_file = "{certificate}"\n'
    gateway = start_gateway(
        network.gateway, config=config(f"tls://{SERVER4}#dns.test", extra=trust)
    )
    assert short(network.client, "www.example.test", "AAAA") == [WEB6]
    assert short(network.client, "alias.example.test", "AAAA")[-1] == WEB6
    gateway.stop_cleanly()
    wrong = config(f"tls://{SERVER4}#other.test", extra=trust + "query_timeout = 2\n")
    gateway = start_gateway(network.gateway, config=wrong, name="wrong")
    assert "status: SERVFAIL" in dig(network.client, "www.example.test", "AAAA")
    gateway.stop_cleanly()
    # Nobody that this host trusts has signed it.
    unknown = config(f"tls://{SERVER4}#dns.test", extra="query_timeout = 2\n")
    start_gateway(network.gateway, config=unknown, name="unknown")
    assert "status: SERVFAIL" in dig(network.client, "www.example.test", "AAAA")


def test_interfaces_come_and_go(network: Topology, start_gateway: StartGateway):
    start_nsd(network.server, SERVER4)
    gateway = start_gateway(network.gateway, config=config(SERVER4, listen='["lan9"]'))
    for _ in range(2):
        before = len(gateway.log())
        network.gateway.ip("link", "add", "lan9", "type", "bridge")
        network.gateway.ip("addr", "add", "fd00:99::1/64", "dev", "lan9", "nodad")
        network.gateway.ip("link", "set", "lan9", "up")
        gateway.wait_for(r"answers on \[fd00:99::1\]:53", after=before)
        network.client.ip("route", "replace", "fd00:99::/64", "via", GATEWAY6)
        assert short(network.client, "www.example.test", "AAAA", server="fd00:99::1") == [WEB6]
        network.gateway.ip("link", "del", "lan9")
        gateway.wait_for(r"\[fd00:99::1\]:53 has gone", after=before)


def test_who_is_no_client_of_the_gateway_is_refused(network: Topology, start_gateway: StartGateway):
    start_nsd(network.server, SERVER4)
    start_gateway(network.gateway, "--allow", "2001:db8::/32", config=config(SERVER4))
    assert "status: REFUSED" in dig(network.client, "www.example.test", "AAAA")


def test_a_port_that_is_taken_is_named(network: Topology, lab: Lab):
    network.gateway.start("python3", "-c", TAKE_PORT, name="taken").wait_for("taken")
    gateway = Gateway(network.gateway, config=config(SERVER4, listen='["::1"]'))
    result = gateway.run()
    assert result.status == 1
    assert "another program listens on [::1]:53" in result.text
    assert "Traceback" not in result.text


TAKE_PORT = (
    "import socket, time; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM);"
    " s.bind(('::1', 53)); print('taken', flush=True); time.sleep(60)"
)


def resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    text = Path(f"/proc/{pid}/status").read_text()
    match = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert match is not None
    return int(match[1]) * 1024


@pytest.mark.timeout(120)
def test_memory_is_bounded_under_a_flood_of_unique_names(
    network: Topology, start_gateway: StartGateway, lab: Lab
):
    start_nsd(network.server, SERVER4)
    limits = "cache_bytes = 4000000\ncache_entries = 100000\nqueries_per_second = 0\n"
    gateway = start_gateway(network.gateway, config=config(SERVER4, extra=limits))
    names = lab.new_file("names")

    def flood(first: int, count: int) -> None:
        names.write_text(
            "".join(f"n{n}.wild.example.test AAAA\n" for n in range(first, first + count))
        )
        out = network.client.run(
            *("dnsperf", "-s", GATEWAY6, "-d", str(names), "-n", "1", "-q", "100", "-t", "10"),
            timeout=60,
        ).out
        done = re.search(r"Queries completed:\s+(\d+)", out)
        assert done is not None, out
        assert int(done[1]) > 0.99 * count

    flood(0, 6_000)
    before = resident(gateway.process.pid)
    flood(10_000, 12_000)
    grown = resident(gateway.process.pid) - before
    assert grown < 3_000_000
    wait_until(lambda: short(network.client, "www.example.test", "AAAA"), 10, "answers again")


@pytest.mark.timeout(60)
def test_one_client_at_full_rate_does_not_starve_another(
    network: Topology, start_gateway: StartGateway, lab: Lab
):
    """Two hosts behind the same link, one of which asks as fast as it can."""
    start_nsd(network.server, SERVER4)
    network.client.ip("addr", "add", "fd00:64::77/64", "dev", "v6", "nodad")
    start_gateway(network.gateway, config=config(SERVER4))
    files = []
    for letter, count in (("x", 200_000), ("y", 150)):
        path = lab.new_file(f"names-{letter}")
        path.write_text("".join(f"{letter}{n}.wild.example.test AAAA\n" for n in range(count)))
        files.append(str(path))
    asking = ("dnsperf", "-s", GATEWAY6, "-d")
    flood = network.client.start(
        *asking, files[0], "-l", "20", "-q", "5000", "-c", "20", "-t", "1", "-a", "fd00:64::77"
    )
    flood.wait_for("Query timed out")  # from now on there is more than can be answered
    out = network.client.run(
        *(*asking, files[1], "-n", "1", "-Q", "50", "-q", "50", "-t", "5", "-a", "fd00:64::2"),
        timeout=30,
    ).out
    flood.end()
    done = re.search(r"Queries completed:\s+(\d+)", out)
    assert done is not None, out
    assert int(done[1]) >= 149, out


@pytest.mark.timeout(60)
def test_without_descriptors_datagrams_are_answered_and_later_everything(
    network: Topology, start_gateway: StartGateway
):
    start_nsd(network.server, SERVER4)
    gateway = start_gateway(network.gateway, config=config(SERVER4, extra="tcp_per_client = 200\n"))
    assert short(network.client, "www.example.test", "AAAA") == [WEB6]
    pid = gateway.process.pid
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used + 5, 1024))
    holder = network.client.start(
        "python3",
        "-c",
        "import socket, time\n"
        f"held = [socket.create_connection(('{GATEWAY6}', 53), 3) for _ in range(60)]\n"
        "print('held', flush=True)\n"
        "time.sleep(60)\n",
    )
    holder.wait_for("held")
    for number in range(3):
        assert short(network.client, f"n{number}.wild.example.test", "AAAA")
    holder.end()  # clients that vanish
    wait_until(
        lambda: short(network.client, "+tcp", "www.example.test", "AAAA") == [WEB6],
        15,
        "TCP is served again",
    )
    assert "Traceback" not in gateway.log()
