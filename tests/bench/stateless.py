"""Subjects of `--mode siit`: 10,000 explicit mappings, the client's the last of them.

TAYGA has them as `map` lines of its configuration, the gateway as a map file; both are given the
same addresses, and neither has a NAT table beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from ipaddress import IPv4Address
from pathlib import Path

from tests.bench.subjects import (
    GATEWAY_PREFIX,
    GATEWAY_TARGET,
    START_LIMIT,
    TAYGA_PREFIX,
    Running,
    Subject,
    await_ping,
    forwarding,
    tayga_with,
)
from tests.bench.topology import Background, Topology

CLIENT6 = "fd00:6464:1::2"
MAPPINGS = 10_000
ROUTED = "198.19.0.0/16"
_FIRST = int(IPv4Address("198.19.0.1"))


def mappings() -> list[tuple[str, str]]:
    """The IPv4 and the IPv6 address of each mapping."""
    hosts = [f"fd00:6464:8::{number:x}" for number in range(1, MAPPINGS)]
    return [(str(IPv4Address(_FIRST + n)), host) for n, host in enumerate([*hosts, CLIENT6])]


def siit_subjects(tayga: str | None, devices: list[str]) -> list[Subject]:
    """Return forwarding, Debian's TAYGA, the one at path `tayga` if any, and the gateway."""
    subjects = [Subject("forwarding", "forwarding", "", forwarding)]
    builds = [("tayga", "tayga", "tayga")]
    if tayga is not None:
        builds.append(("newest", "newest-tayga", tayga))
    for kind, name, binary in builds:
        subjects.append(Subject(f"{name}-siit", kind, "siit", partial(_tayga, binary)))
    for device in devices:
        name = "gateway-siit" if device == "tap" else f"gateway-siit-{device}"
        subjects.append(Subject(name, "gateway", "siit", partial(_gateway, device)))
    return subjects


@contextmanager
def _tayga(binary: str, topology: Topology, directory: Path) -> Iterator[Running]:
    lines = "".join(f"map {addr4} {addr6}\n" for addr4, addr6 in mappings())
    with tayga_with(
        binary, topology, directory, f"prefix {TAYGA_PREFIX}\n{lines}", ROUTED
    ) as running:
        yield running


@contextmanager
def _gateway(device: str, topology: Topology, directory: Path) -> Iterator[Running]:
    path = directory / "siit.map"
    path.write_text("".join(f"{addr4} {addr6}\n" for addr4, addr6 in mappings()))
    command = [sys.executable, "-m", "gateway", "--mode", "siit", "--prefix", GATEWAY_PREFIX]
    command += ["--device", device, "--tap", "bench0", "--set", f'run_dir="{directory}"']
    command += ["--pool4", ROUTED, "--set", f'siit.map="{path}"']
    log = directory / "gateway.log"
    with Background(topology.gateway, command, log, name="gateway") as process:
        process.wait_for("ready", START_LIMIT)
        await_ping(topology, GATEWAY_TARGET, process)
        yield Running(GATEWAY_TARGET, process.pid)
