"""One run of the peer's script in a namespace, below a stand-in for sshd, without any ssh."""

from __future__ import annotations

import io
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

from gateway.backhaul import peer_script
from gateway.backhaul.link import LinkWish
from tests.e2e.namespaces import Namespace, wait_until

SHELLS = {"dash": ["dash"], "bash": ["bash", "--posix"], "busybox": ["busybox", "ash"]}
WISH = LinkWish(
    pool4=(IPv4Network("192.0.0.6/32"),),
    local4=IPv4Interface("169.254.7.2/30"),
    remote4=IPv4Interface("169.254.7.1/30"),
    mtu=1400,
    masquerade=True,
    tag="tap64-test",
    heartbeat=3,
    linger=300,
)


def wish(**changes) -> LinkWish:
    return replace(WISH, **changes)


class Session:
    """A started script. `tap`: what stands in for sshd opens; `-` for a session without."""

    def __init__(
        self,
        peer: Namespace,
        wanted: LinkWish = WISH,
        *,
        shell: str = "dash",
        tap: str = "tap%d",
        hidden: Iterable[str] = (),
        uid: int = 0,
        path: str = "/usr/bin:/bin",
        own: bool = True,
        before: str = "",
    ) -> None:
        """`before`: a command to run first, in the mount namespace of the script alone."""
        words = peer_script.command(wanted, own_connection=own).split()
        assert words[:3] == ["exec", "/bin/sh", "-s"]
        hide = "".join(
            f'mount --bind /dev/null "$(readlink -f "$(command -v {name})")"; ' for name in hidden
        )
        hide += f"{before}; " if before else ""
        program = Path(__file__).with_name("tap_holder_sshd.py")
        self.popen = subprocess.Popen(
            [
                *("ip", "netns", "exec", peer.name, "sh", "-c", f'{hide}exec "$@"', "sh"),
                *(sys.executable, "-B", str(program), tap, *SHELLS[shell], *words[2:]),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PEER_UID": str(uid), "PEER_PATH": path},
            start_new_session=True,
        )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()
        self.say(peer_script.script())

    def _read(self) -> None:
        # Closed here: whoever closes what another thread reads waits for it, maybe for ever.
        assert isinstance(self.popen.stdout, io.RawIOBase)
        with io.BufferedReader(self.popen.stdout) as lines:
            for line in lines:
                self.lines.put(line.decode().strip())
        self.lines.put("<end>")

    def say(self, data: bytes) -> None:
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            while data:
                data = data[os.write(self.popen.stdin.fileno(), data) :]

    def line(self, timeout: float = 20) -> str:
        """The next line that the script says, `<end>` behind the last."""
        return self.lines.get(timeout=timeout)

    def ready(self) -> list[str]:
        """The fields of READY, the notes as one; the first heartbeat is sent."""
        line = self.line()
        assert line.startswith("READY "), line
        self.say(peer_script.HEARTBEAT)
        return line.split(maxsplit=5)[1:]

    def script_pid(self) -> int:
        found = Path(f"/proc/{self.popen.pid}/task/{self.popen.pid}/children").read_text().split()
        assert len(found) == 1
        return int(found[0])

    def hang_up(self) -> None:
        """The client's end is gone, sshd has not noticed more than that."""
        assert self.popen.stdin is not None
        with suppress(BrokenPipeError):
            self.popen.stdin.close()

    def kill(self) -> None:
        """sshd is killed, and with it tap and pipes."""
        self.popen.send_signal(signal.SIGKILL)
        self.popen.wait(10)

    def wait_killed(self, timeout: float = 20) -> None:
        """Returns when the script has ended what stands in for sshd."""
        assert self.popen.wait(timeout) == -signal.SIGKILL

    def close(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.wait(10)
        assert self.popen.stdin is not None
        self.popen.stdin.close()


def processes(peer: Namespace) -> list[int]:
    """Every process of the namespace."""
    return [int(word) for word in _netns_pids(peer)]


def _netns_pids(peer: Namespace) -> list[str]:
    return subprocess.run(
        ["ip", "netns", "pids", peer.name], capture_output=True, text=True, check=True
    ).stdout.split()


def state_folder(peer: Namespace) -> Path:
    inode = Path(f"/run/netns/{peer.name}").stat().st_ino
    return Path(f"/run/tap64-peer.{inode}")


def wait_gone(peer: Namespace, timeout: float = 20) -> None:
    """Returns when no process and no file of any script is left in the namespace."""
    wait_until(lambda: not processes(peer), timeout, "the script's processes are gone")
    assert not state_folder(peer).exists()
