"""The far end of a backhaul: a machine of its own with a real sshd.

A `Peer` is a network namespace and, in it, a namespace of processes and one of mounts, so that
it looks like another machine to whatever runs there: /run and /proc are its own, it has users
of its own, programs can be hidden from it, and ending its first process ends all the others, as
switching a machine off does. sshd is a process like any other there: it can be killed and
started again while what a session left behind lives on.

    peer a  ┌ first process (a shell that reaps orphans)
            ├ sshd [listener] ─ sshd: root@notty ─ sh (the gateway's script)
            └ what lingers

`Keys` is what belongs to the user at the gateway: key, known hosts and an ssh_config, given to
ssh with -F, so that the user's own configuration is what decides, and nobody's real one is read.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Lab, Namespace, Process, Result, wait_until
from tests.e2e.snapshot import difference, snapshot

USER = "carrier"  # an unprivileged user that only peers have
USER_ID = 64064
SSH_PORT = 22
OF_LOGINS = {"sshd", "motd.dynamic", "mount", "mount/utab", "mount/utab.lock"}
# What goes and comes with a device, whose own line is enough.
OF_DEVICES = re.compile(r"^[+-]sysctl net\.ipv[46]\.(conf|neigh)\.tap\d+\.")


class Keys:
    """The ssh key, known hosts and ssh_config of whoever runs the gateway."""

    def __init__(self, lab: Lab) -> None:
        self.folder = lab.new_file("ssh-user")
        self.folder.mkdir(mode=0o700)
        self.key = self.folder / "id_ed25519"
        self.known_hosts = self.folder / "known_hosts"
        self.known_hosts.touch()
        self.config = self.folder / "config"
        self.config.write_text(
            "Host *\n"
            f"  IdentityFile {self.key}\n"
            "  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n"
            "  GlobalKnownHostsFile /dev/null\n"
        )
        self._made = False

    def make(self, namespace: Namespace) -> None:
        if not self._made:
            make_key(namespace, self.key)
            self._made = True

    @property
    def public(self) -> str:
        return self.key.with_suffix(".pub").read_text()

    def knows(self, address: str, port: int, public: str) -> None:
        """Adds a host key: the type and key of `public`."""
        name = address if port == SSH_PORT else f"[{address}]:{port}"
        with self.known_hosts.open("a") as file:
            file.write(f"{name} {' '.join(public.split()[:2])}\n")

    def alias(self, name: str, address: str, *lines: str) -> None:
        """Makes `name` mean `address`, with further lines of ssh_config(5)."""
        with self.config.open("a") as file:
            file.write(f"Host {name}\n  HostName {address}\n")
            file.writelines(f"  {line}\n" for line in lines)


def make_key(namespace: Namespace, path: Path) -> None:
    """Makes an ed25519 key without a passphrase: `path` and `path`.pub."""
    namespace.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "test", "-f", str(path))


@dataclass(frozen=True, slots=True)
class Before:
    """How a peer was: its network, its processes, its /run."""

    network: list[str]
    processes: frozenset[int]
    run: frozenset[str]


class Peer:
    """One far end. `name` is its alias in the user's ssh_config, `address` where sshd listens."""

    def __init__(
        self,
        namespace: Namespace,
        keys: Keys,
        *,
        name: str,
        address: str,
        hide: Iterable[str] = (),
    ) -> None:
        self.namespace = namespace
        self.lab = namespace.lab
        self.keys = keys
        self.name = name
        self.address = address
        self.folder = self.lab.new_file(name)
        self.folder.mkdir(mode=0o755)
        # A home has to be open to its user alone, and the way to it to everyone.
        self.lab.folder.chmod(0o755)
        self.host_key = self.folder / "host_key"
        make_key(namespace, self.host_key)
        self._hide = tuple(hide)
        self._start_machine()
        keys.make(namespace)
        keys.alias(name, address)
        keys.knows(address, SSH_PORT, self.host_key.with_suffix(".pub").read_text())

    def _start_machine(self) -> None:
        users = {
            "passwd": f"{USER}:x:{USER_ID}:{USER_ID}::{self.folder / 'home'}:/bin/sh\n",
            "group": f"{USER}:x:{USER_ID}:\n",
            "shadow": f"{USER}:*:19000:0:99999:7:::\n",
        }
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        os.chown(home, USER_ID, USER_ID)
        script = ["set -e", "mount -t tmpfs -o mode=755 tmpfs /run", "mkdir -m 755 /run/sshd"]
        for name, line in users.items():
            mine = self.folder / name
            mine.write_text(Path("/etc", name).read_text() + line)
            script.append(f"mount --bind {mine} /etc/{name}")
        # udev gives it to everyone; containers need not.
        device = self.folder / "tun"
        script.append(f"[ -e {device} ] || mknod -m 666 {device} c 10 200")
        script.append(f"mount --bind {device} /dev/net/tun")
        # What is bound over them cannot be executed, by root either.
        for program in self._hide:
            for folder in ("/usr/sbin", "/usr/bin", "/sbin", "/bin"):
                path = f"{folder}/{program}"
                script.append(f"if [ -e {path} ]; then mount --bind /dev/null {path}; fi")
        # A shell that waits for a child reaps whatever else it inherits, as init does.
        script += ["echo running", "sleep infinity", ":"]
        machine = self.namespace.start(
            *("unshare", "--mount", "--pid", "--fork", "--kill-child=KILL", "--mount-proc"),
            *("sh", "-c", "\n".join(script)),
            name=f"{self.name}-machine",
        )
        machine.wait_for("^running")
        self.machine = machine
        self.first = next(
            pid for pid in self._pids() if _inner_pid(pid) == 1
        )  # as this machine numbers it

    # What runs there.

    def entering(self, *command: str) -> list[str]:
        """The command as it runs on this machine, to be started in its network namespace."""
        return ["nsenter", f"--target={self.first}", "--mount", "--pid", "--", *command]

    def run(self, *command: str, check: bool = True, timeout: float = 30) -> Result:
        return self.namespace.run(*self.entering(*command), check=check, timeout=timeout)

    def start(self, *command: str, name: str = "", cwd: Path | None = None) -> Process:
        return self.namespace.start(
            *self.entering(*command), name=name or f"{self.name}-{Path(command[0]).name}", cwd=cwd
        )

    def start_sshd(
        self,
        *,
        permit_tunnel: str = "ethernet",
        authorized: str | None = None,
        host_key: Path | None = None,
        port: int = SSH_PORT,
        extra: str = "",
    ) -> Process:
        """Starts sshd; every user is let in with the user's key, or as `authorized` says."""
        authorized_keys = self.folder / f"authorized_keys-{port}"
        authorized_keys.write_text(self.keys.public if authorized is None else authorized)
        config = self.folder / f"sshd_config-{port}"
        config.write_text(
            f"ListenAddress {self.address}\nPort {port}\n"
            f"HostKey {host_key or self.host_key}\n"
            f"AuthorizedKeysFile {authorized_keys}\n"
            f"PermitTunnel {permit_tunnel}\n"
            "PidFile none\nPermitRootLogin yes\nPasswordAuthentication no\nStrictModes no\n"
            "UseDNS no\nPrintMotd no\nPrintLastLog no\n"
            # PAM would refuse a root account without a password, as containers have it.
            f"UsePAM yes\n{extra}"
        )
        process = self.start(
            "/usr/sbin/sshd", "-D", "-e", "-f", str(config), name=f"{self.name}-sshd"
        )
        process.wait_for("Server listening")
        return process

    def processes(self, pattern: str = "") -> dict[int, str]:
        """Process id, as this machine numbers it, and command line of all that match."""
        found = {}
        for pid in self._pids():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
                if re.search(pattern, line):
                    found[pid] = line.strip()
        return found

    def kill(self, pattern: str, number: signal.Signals = signal.SIGKILL) -> int:
        """Kills all of its processes whose command line matches; how many there were."""
        victims = self.processes(pattern)
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        return len(victims)

    def listens(self) -> bool:
        """Whether an sshd waits for connections there."""
        return bool(self.processes(r"^sshd: .*\[listener\]"))

    def kill_sessions(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Kills sshd's sessions and lets the listener live."""
        assert self.kill(r"^sshd: \S+(@notty| \[priv\])", number), self.processes()

    def kill_sshd(self) -> None:
        """Kills listener and sessions: nobody can log in any more."""
        assert self.kill(r"^sshd: |^\S*/sshd "), self.processes()
        wait_until(lambda: not self.processes(r"^sshd: |^\S*/sshd "), 5, "sshd is gone")

    def script_pid(self) -> int:
        """The process of the script that reads stdin; the other is its child."""
        found = self.processes(r"^/bin/sh -s")
        (pid,) = (pid for pid in found if _parent(pid) not in found)
        return pid

    def switch_off(self) -> None:
        """Ends everything there at once."""
        os.kill(self.first, signal.SIGKILL)
        self.machine.wait(5)

    def switch_on(self, namespace: Namespace) -> None:
        """Starts it again, switched off before: the same disk, another network namespace."""
        self.namespace = namespace
        self._start_machine()

    def _pids(self) -> list[int]:
        text = self.namespace.run("ip", "netns", "pids", self.namespace.name).out
        return [int(pid) for pid in text.split()]

    # What its network looks like.

    def taps(self) -> set[str]:
        """Names of all tap devices there."""
        # ip asks /sys, which `ip netns exec` alone shows as of this namespace.
        text = self.namespace.run("ip", "tuntap", "show").out
        return set(re.findall(r"^(\w+): tap\b", text, re.M))

    def ruleset(self) -> str:
        return self.namespace.run("nft", "list", "ruleset").out

    def run_files(self) -> set[str]:
        """What is in its /run that a login did not put there."""
        root = Path(f"/proc/{self.first}/root/run")
        return {str(path.relative_to(root)) for path in root.rglob("*")} - OF_LOGINS

    def before(self) -> Before:
        """How it is now, with no gateway connected."""
        return Before(
            snapshot(self.namespace), frozenset(self.processes()), frozenset(self.run_files())
        )

    def traces(self, before: Before) -> str:
        """What is there that was not there before, a line each; empty when there is nothing."""
        changes = difference(before.network, snapshot(self.namespace)).splitlines()
        lines = [line for line in changes if not OF_DEVICES.match(line)]
        lines += [
            f"process {pid} {line}"
            for pid, line in self.processes().items()
            # What is about to end is no trace, and a listener that was started again is none.
            if pid not in before.processes and not re.search(r"sbin/sshd|nsenter", line)
        ]
        lines += [f"file /run/{name}" for name in self.run_files() - before.run]
        return "\n".join(lines)

    def wait_untouched(self, before: Before, timeout: float) -> None:
        """Returns once nothing is left of any gateway; AssertionError with what still is."""
        try:
            wait_until(lambda: not self.traces(before), timeout, "traces", interval=0.2)
        except AssertionError:
            left = self.traces(before)
            assert not left, f"after {timeout} s still on the peer:\n{left}"


def _parent(pid: int) -> int:
    """The process's parent, 0 when it has gone."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return 0


def _inner_pid(pid: int) -> int:
    """The process id as the innermost namespace of the process numbers it."""
    with suppress(OSError):
        found = re.search(r"^NSpid:.*\t(\d+)$", Path(f"/proc/{pid}/status").read_text(), re.M)
        if found:
            return int(found.group(1))
    return 0
