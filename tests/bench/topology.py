"""The three network namespaces that every benchmarked way of forwarding shares.

    client (IPv6 only)        gateway                                  server
    fd00:6464:1::2/64 ─veth─ fd00:6464:1::1/64
                              198.18.0.1/24 ─────────── veth ────────── 198.18.0.2/24
                              fd00:6464:2::1/64                         fd00:6464:2::2/64

A translator is reached at an address that it maps to 198.18.0.2 (RFC 2544 benchmarking
addresses); the server's IPv6 address on the same link serves plain forwarding only. Both
links have an MTU of 1500. The namespaces' names contain our process id, and nothing is done
to the namespace the benchmark is started in.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

REPOSITORY = Path(__file__).resolve().parents[2]

SERVER4 = "198.18.0.2"
SERVER6 = "fd00:6464:2::2"
CLIENT_LINK = "to-client"
SERVER_LINK = "to-server"


class BenchError(Exception):
    """A step of the benchmark failed; the text is one line for the report."""


@dataclass(frozen=True, slots=True)
class Topology:
    """Names of the three namespaces."""

    client: str
    gateway: str
    server: str


def run(command: list[str], *, namespace: str | None = None, limit: float = 10) -> str:
    """Return what `command` printed; BenchError when it fails or takes over `limit` seconds."""
    argv = in_namespace(namespace, command)
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=limit, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{command[0]}: no end after {limit:g} s") from None
    except OSError as error:
        raise BenchError(f"{command[0]}: {error.strerror}") from None
    if done.returncode:
        raise BenchError(f"{' '.join(command[:4])}: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def in_namespace(namespace: str | None, command: list[str]) -> list[str]:
    """Return the arguments that run `command` in `namespace`, under the same process id."""
    return ["ip", "netns", "exec", namespace, *command] if namespace else command


def last_line(text: str) -> str:
    """Return the last line of `text` with a letter in it."""
    lines = [line.strip() for line in text.splitlines() if re.search("[a-z]", line)]
    return lines[-1] if lines else "failed without a message"


class Background:
    """A process in a namespace, with its output in a file, ended at the latest by `stop`.

    It is in a session of its own, so that Ctrl-C reaches the benchmark alone, which then
    ends things in order.
    """

    def __init__(self, namespace: str, command: list[str], log: Path, *, name: str = "") -> None:
        self.name = name or command[0]
        self.log = log
        self._output: IO[bytes] = log.open("wb")
        try:
            self.process = subprocess.Popen(
                in_namespace(namespace, command),
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                cwd=REPOSITORY,
            )
        except OSError as error:
            self._output.close()
            raise BenchError(f"{self.name}: {error.strerror}") from None

    def __enter__(self) -> Background:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return int(self.process.pid)

    def output(self) -> str:
        """Return what the process has printed so far."""
        return self.log.read_text(errors="replace")

    def check(self) -> None:
        """Raise BenchError, with the last thing it said, if the process has ended."""
        status = self.process.poll()
        if status is not None:
            raise BenchError(f"{self.name} ended ({status}): {last_line(self.output())}")

    def wait_for(self, text: str, limit: float) -> None:
        """Wait until the process has printed `text`; BenchError when it ends or is too slow."""
        deadline = time.monotonic() + limit
        while text not in self.output():
            self.check()
            if time.monotonic() > deadline:
                raise BenchError(f"{self.name}: no '{text}' after {limit:g} s")
            time.sleep(0.01)

    def wait(self, limit: float) -> str:
        """Wait until the process ends by itself and return its output."""
        try:
            status = self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name}: no end after {limit:g} s") from None
        if status:
            raise BenchError(f"{self.name} ended ({status}): {last_line(self.output())}")
        return self.output()

    def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL, which is a BenchError, after ten seconds."""
        try:
            if self.process.poll() is None:
                self.process.terminate()
                self.process.wait(10)
        except subprocess.TimeoutExpired:
            raise BenchError(f"{self.name}: still there 10 s after SIGTERM") from None
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait(10)
            self._output.close()


@contextmanager
def built_topology() -> Iterator[Topology]:
    """Build the namespaces of the picture above; remove them whatever happens."""
    names = [f"bench{os.getpid()}-{role}" for role in ("client", "gateway", "server")]
    topology = Topology(*names)
    made: list[str] = []
    try:
        for name in names:
            run(["ip", "netns", "add", name])
            made.append(name)
            # No address is to be tentative when the first packet is sent.
            run(["sysctl", "-qw", "net.ipv6.conf.default.accept_dad=0"], namespace=name)
            run(["ip", "link", "set", "lo", "up"], namespace=name)
        _connect(topology)
        yield topology
    finally:
        for name in reversed(made):
            subprocess.run(["ip", "netns", "del", name], timeout=10, check=False)


def _connect(topology: Topology) -> None:
    client, gateway, server = topology.client, topology.gateway, topology.server
    for link, end in ((CLIENT_LINK, client), (SERVER_LINK, server)):
        veth = ["ip", "link", "add", "name", link, "netns", gateway, "type", "veth"]
        run([*veth, "peer", "name", "eth0", "netns", end])
        run(["ip", "link", "set", "eth0", "up"], namespace=end)
        run(["ip", "link", "set", link, "up"], namespace=gateway)
    for namespace, link, address in (
        (client, "eth0", "fd00:6464:1::2/64"),
        (gateway, CLIENT_LINK, "fd00:6464:1::1/64"),
        (gateway, SERVER_LINK, "198.18.0.1/24"),
        (gateway, SERVER_LINK, "fd00:6464:2::1/64"),
        (server, "eth0", f"{SERVER4}/24"),
        (server, "eth0", f"{SERVER6}/64"),
    ):
        run(["ip", "address", "add", address, "dev", link], namespace=namespace)
    for namespace, via in (
        (client, "fd00:6464:1::1"),
        (server, "fd00:6464:2::1"),
        (server, "198.18.0.1"),
    ):
        run(["ip", "route", "add", "default", "via", via], namespace=namespace)
    for key in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        run(["sysctl", "-qw", f"{key}=1"], namespace=gateway)
