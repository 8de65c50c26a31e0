"""Port forwarding behind the masquerade, on a real kernel.

Each test has a namespace of its own (conftest.py); nft shows what the kernel was told.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

from gateway.host.nft import Masquerade

POOL = ["192.0.0.6/32"]
TWO = ["tcp 192.0.0.6:80", "udp 192.0.0.6:5353"]


def test_rules_of_forwards(run) -> None:
    table = Masquerade("tap0", POOL, TWO)
    table.apply()
    text = run("nft list table ip tap64_tap0")
    assert "type nat hook prerouting priority dstnat; policy accept;" in text
    assert "fib daddr type local tcp dport 80 dnat to 192.0.0.6:80" in text
    assert "fib daddr type local udp dport 5353 dnat to 192.0.0.6:5353" in text
    assert "ip saddr 192.0.0.6 masquerade" in text
    assert table.undo() is None
    assert run("nft list ruleset") == ""


def test_table_is_replaced_as_a_whole(run) -> None:
    Masquerade("tap0", POOL, TWO).apply()
    Masquerade("tap0", POOL, ["tcp 192.0.0.6:8080"]).apply()
    text = run("nft list ruleset")
    assert text.count("dnat to") == 1
    assert "tcp dport 8080 dnat to 192.0.0.6:8080" in text
    assert text.count("masquerade") == 1
    Masquerade("tap0", POOL).apply()
    assert "prerouting" not in run("nft list ruleset")


def test_only_what_is_addressed_to_the_host_is_forwarded(run) -> None:
    """A neighbour connects to the host's address, and through it to another one."""
    child = subprocess.Popen(["unshare", "-n", "sleep", "60"])
    try:
        while os.readlink(f"/proc/{child.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            pass
        enter = f"nsenter -t {child.pid} -n"
        run(f"ip link add left type veth peer name right netns {child.pid}")
        run("ip addr add 203.0.113.1/24 dev left")
        run("ip link set left up")
        run(f"{enter} ip addr add 203.0.113.2/24 dev right")
        run(f"{enter} ip link set right up")
        run(f"{enter} ip route add default via 203.0.113.1")
        run("ip addr add 192.0.0.6/32 dev lo")
        with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
            switch.write("1")
        Masquerade("tap0", POOL, ["tcp 192.0.0.6:80"]).apply()
        with socket.create_server(("192.0.0.6", 80)) as server:
            server.settimeout(3)
            connect = (
                "import socket; s = socket.create_connection(('{}', 80), 1);"
                " print(s.getpeername()[0])"
            )
            to_host = [*enter.split(), sys.executable, "-c", connect.format("203.0.113.1")]
            got = subprocess.run(to_host, capture_output=True, text=True, check=False)
            assert got.stdout == "203.0.113.1\n", got.stderr
            connection, (source, _) = server.accept()
            connection.close()
            assert source == "203.0.113.2"
            through = [*enter.split(), sys.executable, "-c", connect.format("198.51.100.7")]
            assert subprocess.run(through, capture_output=True, check=False).returncode != 0
    finally:
        child.kill()
        child.wait()
