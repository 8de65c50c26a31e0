"""A running link_driver in the gateway's namespace of backhaul_net: one link without a gateway."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.e2e.backhaul_net import BackhaulNet
from tests.e2e.namespaces import Namespace, Process

DRIVER = Path(__file__).with_name("link_driver.py")
REMOTE4, LOCAL4 = "169.254.7.1", "169.254.7.2"


class Driver:
    """A running link_driver."""

    def __init__(self, namespace: Namespace, about: dict, options: list[str]) -> None:
        self.namespace = namespace
        about = {"target": "peer-a", "options": options, **about}
        # The default of udev, which not every machine has: everybody may open the driver.
        node = namespace.lab.new_file("tun")
        os.mknod(node, 0o600 | stat.S_IFCHR, os.stat("/dev/net/tun").st_rdev)
        node.chmod(0o666)
        self.process: Process = namespace.start(
            *("sh", "-c", f'mount --bind {node} /dev/net/tun && exec "$@"', "sh"),
            *("env", f"PYTHONPATH={DRIVER.parents[2]}", sys.executable, "-B", "-m"),
            *("tests.e2e.link_driver", json.dumps(about)),
            name="link",
            cwd=DRIVER.parents[2],
        )

    def said(self, word: str, timeout: float = 30) -> dict:
        found: dict = json.loads(self.process.wait_for(rf"^{word} (.*)$", timeout)[1])
        return found

    def ready(self) -> dict:
        return self.said("READY")

    def failed(self, timeout: float = 30) -> dict:
        """How it failed; everything that it started has ended."""
        failure = self.said("FAILED", timeout)
        self.over()
        return failure

    def over(self) -> None:
        assert self.process.wait_for(r"^children(.*)$", 15)[1].strip() == ""
        self.process.wait(5)
        assert not ssh_processes(self.namespace)

    def cancel(self, number: signal.Signals = signal.SIGTERM) -> None:
        self.process.send(number)
        self.process.wait_for("^CANCELLED", 15)
        self.over()

    def ssh(self) -> int:
        (pid,) = ssh_processes(self.namespace)
        return pid


def ssh_processes(namespace: Namespace) -> list[int]:
    pids = subprocess.run(
        ["ip", "netns", "pids", namespace.name], capture_output=True, text=True, check=True
    ).stdout.split()
    found = []
    for pid in pids:
        with suppress(OSError):
            if Path(f"/proc/{pid}/comm").read_text().strip() == "ssh":
                found.append(int(pid))
    return found


Drive = Callable[..., Driver]


def drives(net: BackhaulNet) -> Drive:
    """For a fixture: a function that starts a link from the gateway's host."""

    def start(options: list[str] | None = None, **about) -> Driver:
        return Driver(net.gateway, about, ["-F", str(net.keys.config), *(options or [])])

    return start


def pings(net: BackhaulNet) -> bool:
    return net.gateway.run("ping", "-c1", "-W2", REMOTE4, check=False).status == 0


def refused(drive: Drive, **about) -> dict:
    driver: Driver = drive(**about)
    return driver.failed()


def give_keys_to_nobody(net: BackhaulNet) -> None:
    for path in (net.keys.folder, *net.keys.folder.iterdir()):
        os.chown(path, 65534, 65534)
    net.lab.folder.chmod(0o755)
