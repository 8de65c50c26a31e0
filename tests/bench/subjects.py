"""The ways of forwarding that are compared, each started for its turn and removed after it.

One at a time has a device, routes and a NAT table in the gateway namespace, so that none
pays for another's connection tracking: the first NAT chain of a namespace turns it on for
every packet. Like is compared with like: a translator with a masqueraded pool with TAYGA
behind the kernel's masquerade, a routed pool with TAYGA with a routed pool.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.bench.topology import (
    SERVER4,
    SERVER6,
    SERVER_LINK,
    Background,
    BenchError,
    Topology,
    run,
)

GATEWAY_PREFIX = "fec0:0:0:ffff::/64"
GATEWAY_TARGET = f"fec0:0:0:ffff::{SERVER4}"
GATEWAY_POOL4 = "198.18.1.8/29"

TAYGA_DEVICE = "tayga0"
# An own prefix: 0.9.2 refuses 64:ff9b:1::/96 as reserved, and the well-known prefix for
# addresses that are not global.
TAYGA_PREFIX = "fd00:6464:64::/96"
TAYGA_TARGET = f"fd00:6464:64::{SERVER4}"
TAYGA_POOL4 = "198.18.2.0/24"
TAYGA_ADDRESS4 = "198.18.2.1"

START_LIMIT = 10.0


@dataclass(frozen=True, slots=True)
class Running:
    """A subject that forwards: `target` is the server as the client addresses it."""

    target: str
    pid: int | None


@dataclass(frozen=True, slots=True)
class Subject:
    """One row of the table. `kind` and `pool` say what it is compared with."""

    name: str
    kind: str  # "forwarding", "tayga", "newest" (another TAYGA) or "gateway"
    pool: str  # "masquerade", "routed" or ""
    start: Callable[[Topology, Path], AbstractContextManager[Running]]


def all_subjects(tayga: str | None, devices: list[str]) -> list[Subject]:
    """Return forwarding, Debian's TAYGA, the one at path `tayga` if any, and the gateway."""
    subjects = [Subject("forwarding", "forwarding", "", forwarding)]
    builds = [("tayga", "tayga", "tayga")]
    if tayga is not None:
        builds.append(("newest", "newest-tayga", tayga))
    for kind, name, binary in builds:
        for pool in ("masquerade", "routed"):
            start = partial(_tayga, binary, pool == "masquerade")
            subjects.append(Subject(f"{name}-{pool}", kind, pool, start))
    for device in devices:
        for pool in ("masquerade", "routed"):
            name = f"gateway-{pool}" if device == "tap" else f"gateway-{pool}-{device}"
            start = partial(_gateway, device, pool == "masquerade")
            subjects.append(Subject(name, "gateway", pool, start))
    return subjects


@contextmanager
def forwarding(topology: Topology, directory: Path) -> Iterator[Running]:
    await_ping(topology, SERVER6)
    yield Running(SERVER6, None)


@contextmanager
def _tayga(binary: str, masquerade: bool, topology: Topology, directory: Path) -> Iterator[Running]:
    nat = _kernel_masquerade(topology.gateway, TAYGA_POOL4) if masquerade else nullcontext()
    words = f"prefix {TAYGA_PREFIX}\ndynamic-pool {TAYGA_POOL4}\n"
    with nat, tayga_with(binary, topology, directory, words, TAYGA_POOL4) as running:
        yield running


@contextmanager
def tayga_with(
    binary: str, topology: Topology, directory: Path, words: str, routed: str
) -> Iterator[Running]:
    """TAYGA with these lines of configuration, and the network that is routed to it."""
    path = shutil.which(binary, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if path is None:
        raise BenchError(f"{binary}: not found; apt-get install tayga, or name a build")
    configuration = directory / "tayga.conf"
    head = f"tun-device {TAYGA_DEVICE}\nipv4-addr {TAYGA_ADDRESS4}\ndata-dir {directory}\n"
    configuration.write_text(head + words)
    (directory / "dynamic.map").unlink(missing_ok=True)
    gateway = topology.gateway
    run(["ip", "tuntap", "add", "dev", TAYGA_DEVICE, "mode", "tun"], namespace=gateway)
    try:
        run(["ip", "link", "set", TAYGA_DEVICE, "up"], namespace=gateway)
        for destination in (TAYGA_PREFIX, routed):
            run(["ip", "route", "add", destination, "dev", TAYGA_DEVICE], namespace=gateway)
        command = [path, "--config", str(configuration), "--nodetach"]
        with Background(gateway, command, directory / "tayga.log", name="tayga") as process:
            await_ping(topology, TAYGA_TARGET, process)
            yield Running(TAYGA_TARGET, process.pid)
    finally:
        run(["ip", "link", "del", TAYGA_DEVICE], namespace=gateway)


@contextmanager
def _kernel_masquerade(namespace: str, pool4: str) -> Iterator[None]:
    rule = f'ip saddr {pool4} oifname "{SERVER_LINK}" masquerade'
    chain = f"type nat hook postrouting priority 100; {rule};"
    run(
        ["nft", f"table ip bench_tayga {{ chain postrouting {{ {chain} }}; }}"],
        namespace=namespace,
    )
    try:
        yield
    finally:
        run(["nft", "delete", "table", "ip", "bench_tayga"], namespace=namespace)


@contextmanager
def _gateway(
    device: str, masquerade: bool, topology: Topology, directory: Path
) -> Iterator[Running]:
    command = [sys.executable, "-m", "gateway", "--prefix", GATEWAY_PREFIX]
    command += ["--device", device, "--tap", "bench0", "--set", f'run_dir="{directory}"']
    if not masquerade:
        command += ["--pool4", GATEWAY_POOL4]
    log = directory / "gateway.log"
    with Background(topology.gateway, command, log, name="gateway") as process:
        process.wait_for("ready", START_LIMIT)
        await_ping(topology, GATEWAY_TARGET, process)
        yield Running(GATEWAY_TARGET, process.pid)


def await_ping(topology: Topology, target: str, process: Background | None = None) -> None:
    """Wait until the server answers at `target`; this also resolves every neighbour."""
    for _ in range(int(START_LIMIT)):
        try:
            run(["ping", "-6", "-n", "-c1", "-W1", target], namespace=topology.client)
            return
        except BenchError:
            if process is not None:
                process.check()
    raise BenchError(f"no ping reply from {target} after {START_LIMIT:g} s")
