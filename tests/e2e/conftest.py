"""Fixtures of the end-to-end tests. What they need and do not find is a failure, no skip."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab
from tests.e2e.topology import Topology, line

SECONDS_FOR_ONE_TEST = 60
PROGRAMS = {
    "busybox": "busybox",
    "curl": "curl",
    "delv": "bind9-dnsutils",
    "dash": "dash",
    "dig": "bind9-dnsutils",
    "dnsperf": "dnsperf",
    "dnssec-signzone": "bind9-utils",
    "ethtool": "ethtool",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "iptables": "iptables",
    "named": "bind9",
    "nft": "nftables",
    "nsd": "nsd",
    "openssl": "openssl",
    "ping": "iputils-ping",
    "radvd": "radvd",
    "rdisc6": "ndisc6",
    "setpriv": "util-linux",
    "ssh": "openssh-client",
    "sshd": "openssh-server",
    "sysctl": "procps",
    "tcpdump": "tcpdump",
    "tracepath": "iputils-tracepath",
    "traceroute": "traceroute",
    "unbound": "unbound",
    "unshare": "util-linux",
}
FAILED = pytest.StashKey[bool]()
LABS = pytest.StashKey[list[Lab]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test that hangs is a failure: each gets a time limit."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS_FOR_ONE_TEST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Marks what failed, and puts what the programs printed into the report."""
    report = yield
    if report.failed:
        node: pytest.Item | pytest.Collector | None = item
        while node is not None:
            node.stash[FAILED] = True
            for lab in node.stash.get(LABS, []):
                report.sections.extend((f"log {name}", text) for name, text in lab.logs())
            node = node.parent
    return report


@pytest.fixture(scope="session", autouse=True)
def needs() -> None:
    """Root, the tun driver and the programs of Debian that the tests run."""
    if os.geteuid() != 0:
        pytest.fail("the end-to-end tests need root: they make network namespaces", pytrace=False)
    if not Path("/dev/net/tun").exists():
        pytest.fail("no /dev/net/tun: load the module (modprobe tun)", pytrace=False)
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = sorted({PROGRAMS[name] for name in PROGRAMS if shutil.which(name) is None})
    if missing:
        pytest.fail(f"missing programs: apt-get install {' '.join(missing)}", pytrace=False)


def _open_lab(request: pytest.FixtureRequest, label: str) -> Iterator[Lab]:
    lab = Lab(label)
    request.node.stash.setdefault(LABS, []).append(lab)
    try:
        yield lab
    finally:
        keep = request.node.stash.get(FAILED, False)
        lab.close(keep_files=keep)
        if keep:
            print(f"kept the logs in {lab.folder}")


@pytest.fixture
def lab(request: pytest.FixtureRequest, needs: None) -> Iterator[Lab]:
    """An empty lab for one test."""
    yield from _open_lab(request, "test")


@pytest.fixture(scope="module")
def module_lab(request: pytest.FixtureRequest, needs: None) -> Iterator[Lab]:
    """An empty lab for all tests of a module."""
    yield from _open_lab(request, "module")


@pytest.fixture(scope="module")
def crossing(module_lab: Lab) -> Iterator[tuple[Topology, Gateway]]:
    """Client, gateway, one IPv4 router and server, with a gateway started without options.

    For tests that change nothing; the gateway has to end cleanly after all of them.
    """
    topology = line(module_lab)
    topology.route_prefix()
    gateway = Gateway(topology.gateway).start()
    yield topology, gateway
    gateway.stop_cleanly()


StartGateway = Callable[..., Gateway]


@pytest.fixture
def start_gateway(lab: Lab) -> Iterator[StartGateway]:
    """Starts gateways for one test; one that still runs at its end has to stop cleanly."""
    started: list[Gateway] = []

    def start(*arguments, **keywords) -> Gateway:
        gateway = Gateway(*arguments, **keywords)
        started.append(gateway)
        return gateway.start()

    yield start
    for gateway in started:
        if gateway.process.status is None:
            gateway.stop_cleanly()
