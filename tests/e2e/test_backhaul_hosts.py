"""Hosts that change under a running backhaul: one reboots, one gets another address.

    client ──── gateway ═══ ssh ═══ peer ──── server
                fd00:64:1::1        fd00:64:a::2, switched off and on
                  → ...::9            → ...::77

In each case ssh's connection dies without a word, and the gateway makes another by itself.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.backhaul_chat import Chat
from tests.e2e.backhaul_net import PEER4, BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab, Process, wait_until
from tests.e2e.servers import start_http, write_random_file
from tests.e2e.topology import SERVER, SERVER4

PING = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
PORT = 7021

_ECHO = f"""
import socket
listener = socket.create_server(("{SERVER4}", {PORT}))
print("up", flush=True)
connection, _ = listener.accept()
while data := connection.recv(1000):
    connection.sendall(data)
"""
_TALK_TWICE = f"""
import pathlib, socket, sys, time
s = socket.create_connection(("{SERVER}", {PORT}), 5)
s.settimeout(30)
for word in (b"first", b"second"):
    s.sendall(word)
    assert s.recv(100) == word
    print(word.decode(), flush=True)
    while not pathlib.Path(sys.argv[1]).exists():
        time.sleep(0.05)
"""


class QuietConnection:
    """A connection over which something goes there and back, and again when it is told to."""

    def __init__(self, net: BackhaulNet) -> None:
        net.server.start(sys.executable, "-c", _ECHO, name="echo").wait_for("^up")
        self._go = net.lab.new_file("go")
        self._client = net.client.start(
            sys.executable, "-c", _TALK_TWICE, str(self._go), name="quiet"
        )
        self._client.wait_for("^first$")

    def speaks(self) -> None:
        self._go.touch()
        self._client.wait_for("^second$", 30)


def start_download(net: BackhaulNet, port: int, copy: Path) -> Process:
    """A download that asks after two silent seconds whether the server is still there."""
    return net.client.start(
        *("curl", "-sS", "--limit-rate", "4M", "--keepalive-time", "2", "-o", str(copy)),
        f"http://[{SERVER}]:{port}/big",
    )


def ends_of_ssh(net: BackhaulNet) -> str:
    """Both addresses of the established ssh connections of the gateway's host."""
    return net.gateway.run("ss", "-Htn", "state", "established", "dport", "= :22").out


@pytest.mark.timeout(120)
def test_peer_that_reboots_is_set_up_anew(lab: Lab) -> None:
    """Its connection tracking is lost, too: what a server sends meanwhile is answered by a reset.

    So a connection that was quiet goes on when the client speaks, and one on which the server
    was sending goes on or ends, depending on who is heard first; it does not hang.
    """
    net = backhaul_net(lab)
    net.peer.start_sshd()
    gateway = BackhaulGateway(net, linger=60).start_up()
    quiet = QuietConnection(net)
    http = start_http(net.server)
    write_random_file(http.folder / "big", 60_000_000)
    copy = net.lab.new_file("copy")
    download = start_download(net, http.port, copy)
    wait_until(lambda: copy.exists() and copy.stat().st_size > 1_000_000, 10, "it begins")

    net.power_off()
    gateway.wait_down(3)
    position = len(gateway.log())
    net.power_on()
    gateway.hurry()
    gateway.wait_for("nothing listens", 20, after=position)
    before = net.peer.before()
    net.peer.start_sshd()
    gateway.hurry()
    gateway.wait_up(20)

    net.client.run(*PING)
    fresh = net.client.run("curl", "-sS", "-m", "5", f"http://[{SERVER}]:{http.port}/whoami")
    assert fresh.out.split()[0] == PEER4["a"]
    quiet.speaks()
    held = copy.stat().st_size
    wait_until(
        lambda: download.status is not None or copy.stat().st_size > held + 1_000_000,
        45,
        "the download has ended or goes on",
    )
    assert download.status in {None, 56}, download.log()  # 56: reset by the other side
    assert net.peer.ruleset().count("masquerade") == 1
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 3)


class ByName(BackhaulGateway):
    """A gateway whose host has an /etc/hosts of its own, which can change while it runs."""

    def __init__(self, net: BackhaulNet, name: str, **keys: Any) -> None:
        self._hosts = net.lab.new_file("hosts")
        self._name = name
        self.knows_at(net.peer.address)
        super().__init__(net, to=f"root@{name}", **keys)

    def knows_at(self, address: str) -> None:
        # The same file, written over: that is what is mounted.
        self._hosts.write_text(f"127.0.0.1 localhost\n{address} {self._name}\n")

    def command(self, *arguments: str) -> list[str]:
        mounted = f'mount --bind {self._hosts} /etc/hosts && exec "$@"'
        return ["sh", "-c", mounted, "sh", *super().command(*arguments)]


@pytest.mark.timeout(120)
def test_peer_with_another_address_is_found_by_its_name(lab: Lab) -> None:
    """The name is looked up at each attempt, and not before."""
    net = backhaul_net(lab)
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    net.keys.knows("peer.example", 22, peer.host_key.with_suffix(".pub").read_text())
    gateway = ByName(net, "peer.example", linger=60)
    gateway.start_up()
    assert "[fd00:64:a::2]:22" in ends_of_ssh(net)
    chat = Chat(net)

    former, peer.address = peer.address, "fd00:64:a::77"
    assert peer.kill(r"^sshd: .*\[listener\]")
    peer.namespace.ip("addr", "add", f"{peer.address}/64", "dev", "wan", "nodad")
    peer.start_sshd()
    position = len(gateway.log())
    peer.namespace.ip("addr", "del", f"{former}/64", "dev", "wan")
    gateway.wait_down(3)
    # The name still leads to where nobody is.
    gateway.wait_for("backhaul: down: .*(does not answer|cannot be reached)", 25, after=position)
    assert not gateway.is_up()
    gateway.knows_at(peer.address)
    gateway.hurry()
    gateway.wait_up(20)
    assert "[fd00:64:a::77]:22" in ends_of_ssh(net)
    chat.goes_on(40)
    gateway.stop_cleanly()
    peer.namespace.ip("addr", "del", f"{peer.address}/64", "dev", "wan")
    peer.namespace.ip("addr", "add", f"{former}/64", "dev", "wan", "nodad")
    peer.wait_untouched(before, 3)


def test_host_with_another_address_connects_anew(lab: Lab) -> None:
    """As when a provider gives out another prefix: ssh itself would notice after its own timers."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before = net.peer.before()
    gateway = BackhaulGateway(net, heartbeat=20, linger=60).start_up()
    chat = Chat(net)
    ssh, position = gateway.ssh_pid(), len(gateway.log())
    net.gateway.ip("addr", "add", "fd00:64:1::9/64", "dev", "wan", "nodad")
    net.gateway.ip("addr", "del", "fd00:64:1::1/64", "dev", "wan")
    gateway.wait_down(3)
    assert re.search(r"backhaul: down: \d+ probes .* not answered", gateway.story(position))
    gateway.hurry()
    gateway.wait_up(20)
    assert gateway.ssh_pid() != ssh
    assert "[fd00:64:1::9]" in ends_of_ssh(net)
    chat.goes_on()
    # Long before its heartbeat is missed, the former session has gone.
    wait_until(lambda: len(net.peer.processes("^sshd: root")) == 1, 10, "one session")
    gateway.stop_cleanly()
    net.peer.wait_untouched(before, 3)
