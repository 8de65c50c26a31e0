"""What breaks while it runs, and how it comes back: one TCP connection survives all of it.

    client ──── gateway ═══ ssh ═══ peer ──── server
                            cut, killed, its device deleted, stopped

While the backhaul is down, clients are told so at once, and are told so at a limited rate.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from collections.abc import Iterator

import pytest

from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.backhaul_running import Running, comes_back, one_gateway, up_again, warned
from tests.e2e.namespaces import Lab, Process, wait_until
from tests.e2e.servers import sha256_of, start_http, write_random_file
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import BASE, SERVER


@pytest.fixture(scope="module")
def gateway_for_all(module_lab: Lab) -> Iterator[Running]:
    yield from one_gateway(module_lab)


@pytest.fixture
def running(gateway_for_all: Running) -> Running:
    return up_again(gateway_for_all)


def test_ssh_killed(running: Running) -> None:
    _, gateway, chat = running
    position = len(gateway.log())
    before = gateway.ssh_pid()
    os.kill(before, signal.SIGKILL)
    gateway.wait_for("ssh", after=position)
    gateway.wait_up()
    assert gateway.ssh_pid() != before
    chat.goes_on()
    warned(gateway, position, r"\bssh\b.*(kill|signal|ended)")


def test_ssh_that_hangs_is_found_out(running: Running) -> None:
    """Carrier stays, the process stays: only probes notice."""
    _, gateway, chat = running
    before = gateway.ssh_pid()
    position = len(gateway.log())
    os.kill(before, signal.SIGSTOP)
    gateway.wait_down(5)
    warned(gateway, position, r"answer|probe")
    gateway.wait_up(20)
    assert gateway.ssh_pid() != before
    # Whoever continues it now finds nobody.
    with pytest.raises(ProcessLookupError):
        os.kill(before, signal.SIGCONT)
    chat.goes_on()


def test_sshd_session_killed(running: Running) -> None:
    net, gateway, chat = running
    position = len(gateway.log())
    net.peer.kill_sessions()
    gateway.wait_down(5)
    gateway.wait_up()
    chat.goes_on()
    warned(gateway, position, r"closed|ended|reset")


def test_sshd_killed_and_started_again(running: Running) -> None:
    net, gateway, _ = running
    position = len(gateway.log())
    net.peer.kill_sshd()
    gateway.wait_down()
    gateway.hurry()
    gateway.wait_for("listens", after=position)
    warned(gateway, position, "nothing listens", "start sshd")
    for _ in range(2):
        tried = len(gateway.log())
        gateway.hurry()
        gateway.wait_for("debug: backhaul: down: nothing listens", after=tried)
    assert not gateway.is_up()
    net.peer.start_sshd()
    comes_back(running)
    # Said once, however often it was tried meanwhile.
    assert len(re.findall("warning: .*listens", gateway.story(position))) == 1


def test_remote_device_deleted(running: Running) -> None:
    """ssh notices nothing (fact 3): only the probes do."""
    net, gateway, _ = running
    position = len(gateway.log())
    remote = gateway.backhaul().rpartition(":")[2]
    net.peer.namespace.ip("link", "del", remote)
    gateway.wait_down(5)
    # This was no stop: the session ends, and what keeps connections alive stays.
    wait_until(lambda: not net.peer.processes("^sshd: root"), 5, "the session has ended")
    assert "masquerade" in net.peer.ruleset()
    assert "blackhole 192.0.0.6" in net.peer.namespace.ip("route")
    comes_back(running)
    warned(gateway, position, r"answer|probe|device|tap")


def test_local_device_deleted(running: Running) -> None:
    net, gateway, _ = running
    local = gateway.backhaul().split(",")[2].partition(":")[0]
    position = len(gateway.log())
    net.gateway.ip("link", "del", local)
    gateway.wait_down(5)
    comes_back(running)
    warned(gateway, position, rf"{local}.*(deleted|gone|carrier)")


def test_cut_of_three_seconds(running: Running) -> None:
    net, gateway, _ = running
    position = len(gateway.log())
    net.cut()
    cut_at = time.monotonic()
    gateway.wait_down(3)
    assert time.monotonic() - cut_at < 3
    warned(gateway, position, r"answer|probe")
    wait_until(lambda: time.monotonic() - cut_at >= 3, 4, "three seconds")
    comes_back(running)


@pytest.mark.timeout(120)
def test_cut_that_outlasts_every_timer(running: Running) -> None:
    """As of a minute with the default timers: ssh gives up, the peer undoes, linger passes."""
    net, gateway, chat = running
    ssh = gateway.ssh_pid()
    position = len(gateway.log())
    net.cut()
    gateway.wait_down(3)
    wait_until(lambda: ssh not in gateway.children("ssh"), 20, "this ssh has given up")
    peer = net.peer
    wait_until(lambda: not peer.processes("^sshd: root"), 15, "the peer has ended the session")
    wait_until(lambda: "192.0.0.6" not in peer.namespace.ip("route"), 25, "linger has passed")
    assert "masquerade" not in peer.ruleset()
    gateway.wait_for(r"(?i)time.?out|timed out|not respond|no answer", after=position)
    net.mend()
    gateway.hurry()
    gateway.wait_up(25)
    # What the peer knew of the connection is in its connection tracking, and that it kept.
    chat.goes_on(30)


def way_out(net: BackhaulNet) -> bool:
    """Whether pool4 is routed into the link, in the table of its own."""
    return "default via 169.254." in net.gateway.ip("-4", "route", "show", "table", "all")


def test_clients_are_told_at_once_while_it_is_down(running: Running) -> None:
    net, gateway, _ = running
    before = gateway.status().number("uplink-down")
    assert way_out(net)
    net.cut()
    gateway.wait_down(3)
    try:
        # Not only dead: a tap of this name may have a carrier again before it is up.
        assert not way_out(net)
        started = time.monotonic()
        result = net.client.run(
            "curl", "-sS", "-m", "10", f"http://[{SERVER}]:8080/", check=False, timeout=15
        )
        assert time.monotonic() - started < 2
        assert result.status == 7, result.text
        assert re.search(r"unreachable|No route|connect to server", result.text), result.text
        ping = net.client.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", SERVER, check=False)
        assert len(re.findall(r"Destination unreachable: No route", ping.out)) == 3, ping.out
        assert gateway.status().number("uplink-down") > before
    finally:
        comes_back(running)


def test_what_clients_are_told_is_limited(running: Running) -> None:
    """Eight hundred datagrams at once are not as many errors (RFC 4443 §2.4 f)."""
    net, gateway, _ = running
    flood = (
        "import socket; s = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)\n"
        f"for n in range(800): s.sendto(b'x', ('{SERVER}', 9))"
    )

    def errors() -> int:
        text = net.client.run("cat", "/proc/net/snmp6").out
        return int(re.findall(r"^Icmp6InDestUnreachs\s+(\d+)", text, re.M)[0])

    net.cut()
    gateway.wait_down(3)
    try:
        told, before = errors(), gateway.status()
        net.client.run(sys.executable, "-c", flood)
        wait_until(
            lambda: gateway.status().number("uplink-down") >= before.number("uplink-down") + 700,
            5,
            "what the device queued of them is counted",
        )
        assert 20 <= errors() - told <= 300
        suppressed = gateway.status().number("errors-suppressed")
        assert suppressed - before.number("errors-suppressed") > 400
    finally:
        comes_back(running)


def test_hairpin_needs_no_backhaul(running: Running) -> None:
    """The kernel has no way to the pool but the translator's own, which is there all the time."""
    net, gateway, _ = running
    net.cut()
    gateway.wait_down(3)
    try:
        # The pool itself is no destination while nothing is mapped: refused, not unreachable.
        result = net.client.run("ping", "-n", "-c", "1", "-W", "1", f"{BASE}192.0.0.6", check=False)
        assert "No route" not in result.out, result.out
    finally:
        comes_back(running)


@pytest.mark.timeout(200)
def test_running_download_survives_a_cut_and_a_reconnect(running: Running) -> None:
    net, gateway, _ = running
    http = start_http(net.server)
    digest = write_random_file(http.folder / "big", 30_000_000)
    copy = net.lab.new_file("copy")
    download: Process = net.client.start(
        *("curl", "-sS", "--limit-rate", "4M", "-o", str(copy)),
        f"http://[{SERVER}]:{http.port}/big",
    )
    wait_until(lambda: copy.exists() and copy.stat().st_size > 1_000_000, 5, "it begins")
    net.cut()
    gateway.wait_down(3)
    time.sleep(2.5)  # the cut of the title
    net.mend()
    gateway.hurry()
    gateway.wait_up(20)
    held = copy.stat().st_size
    wait_until(lambda: copy.stat().st_size > held, 45, "it goes on after the cut")
    os.kill(gateway.ssh_pid(), signal.SIGKILL)
    gateway.wait_down()
    gateway.hurry()
    gateway.wait_up(20)
    assert download.status is None, "it was to outlast all of this"

    def ended() -> bool:
        # On a machine that stands still for seconds the peer may have given us up once more.
        if gateway.backhaul().startswith("down,"):
            gateway.hurry()
        return download.status is not None

    # What was lost is sent again when TCP's timer, doubled at each try, next runs out.
    wait_until(ended, 100, "it has ended")
    assert download.wait(1) == 0, download.log()
    assert sha256_of(copy) == digest
    http.process.end()


def test_gateway_killed_and_started_again(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before_peer, before_gateway = net.peer.before(), snapshot(net.gateway)
    gateway = BackhaulGateway(net, heartbeat=5).start_up()
    net.client.run("ping", "-n", "-c", "1", "-W", "2", SERVER)
    gateway.kill()
    gateway.start_up()
    net.client.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
    # One tap, one rule, one session: nothing has doubled.
    assert len(re.findall("192.0.0.6", net.gateway.ip("-4", "rule"))) == 1
    wait_until(lambda: len(net.peer.processes("^sshd: root")) == 1, 5, "one session")
    gateway.stop_cleanly()
    net.peer.wait_untouched(before_peer, 2)
    assert difference(before_gateway, snapshot(net.gateway)) == ""


def test_gateway_killed_and_undone(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before_peer, before_gateway = net.peer.before(), snapshot(net.gateway)
    gateway = BackhaulGateway(net, linger=1).start_up()
    gateway.kill()
    result = gateway.undo()
    assert result.status == 0, result.text
    assert difference(before_gateway, snapshot(net.gateway)) == ""
    net.peer.wait_untouched(before_peer, 10)
