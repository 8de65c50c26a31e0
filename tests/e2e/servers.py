"""The programs at the far end: files over HTTP, ssh, DNS, iperf3, and what was captured there."""

from __future__ import annotations

import hashlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Namespace, Process, Result

HTTP_PORT = 8080


@dataclass(frozen=True, slots=True)
class HttpServer:
    """A running file server; `folder` is what it serves and where PUT stores."""

    process: Process
    folder: Path
    port: int


def start_http(namespace: Namespace, address: str = "0.0.0.0", port: int = HTTP_PORT) -> HttpServer:
    folder = namespace.lab.new_file("www")
    folder.mkdir()
    script = Path(__file__).with_name("http_files.py")
    process = namespace.start(
        *(sys.executable, str(script), address, str(port), str(folder)), name="http"
    )
    process.wait_for("listening")
    return HttpServer(process, folder, port)


def write_random_file(path: Path, size: int) -> str:
    """Fills `path` with `size` random bytes; returns their SHA-256."""
    digest = hashlib.sha256()
    with path.open("wb") as target:
        while size:
            block = os.urandom(min(size, 1 << 20))
            target.write(block)
            digest.update(block)
            size -= len(block)
    return digest.hexdigest()


def sha256_of(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, "sha256").hexdigest()


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd with a key of its own on port 22 of its namespace."""

    process: Process
    client_key: Path

    def login(
        self, namespace: Namespace, address: str, *command: str, timeout: float = 30
    ) -> Result:
        """`ssh ADDRESS COMMAND` from another namespace."""
        return namespace.run(
            *("ssh", "-F", "none", "-i", str(self.client_key)),
            *("-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes", "-o", "ConnectTimeout=10"),
            *("-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"),
            *("-o", "LogLevel=ERROR", "-l", "root", address, *command),
            timeout=timeout,
        )


def start_sshd(namespace: Namespace, address: str) -> SshServer:
    folder = namespace.lab.new_file("ssh")
    folder.mkdir(mode=0o700)
    for name in ("host_key", "client_key"):
        namespace.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name))
    config = folder / "sshd_config"
    config.write_text(
        f"ListenAddress {address}\n"
        f"HostKey {folder / 'host_key'}\n"
        f"AuthorizedKeysFile {folder / 'client_key.pub'}\n"
        "PidFile none\n"
        "PermitRootLogin yes\n"
        "PasswordAuthentication no\n"
        "StrictModes no\n"
        "UseDNS no\n"
        "PrintMotd no\n"
        # PAM would refuse a root account without a password, as containers have it.
        "UsePAM yes\n"
    )
    # sshd insists on /run/sshd; a private /run gives it one without touching the machine's.
    process = namespace.start(
        *("unshare", "--mount", "sh", "-c"),
        f"mount -t tmpfs tmpfs /run && mkdir -m 755 /run/sshd"
        f" && exec /usr/sbin/sshd -D -e -f {config}",
        name="sshd",
    )
    process.wait_for("Server listening")
    return SshServer(process, folder / "client_key")


def start_dns(namespace: Namespace, address: str) -> Process:
    """nsd with the zone example.test: `www` is an address, `big` a text of 1,000 bytes."""
    folder = namespace.lab.new_file("nsd")
    folder.mkdir()
    text = " ".join(f'"{chr(97 + n) * 200}"' for n in range(5))
    (folder / "example.test").write_text(
        "$ORIGIN example.test.\n$TTL 60\n"
        "@ SOA ns hostmaster 1 3600 600 86400 60\n@ NS ns\n"
        f"ns A {address}\nwww A 198.51.100.80\nbig TXT {text}\n"
    )
    config = folder / "nsd.conf"
    config.write_text(
        "server:\n"
        f"  ip-address: {address}\n"
        '  username: ""\n  chroot: ""\n  database: ""\n'
        f'  zonesdir: "{folder}"\n  pidfile: "{folder}/nsd.pid"\n'
        f'  zonelistfile: "{folder}/zone.list"\n  xfrdfile: "{folder}/xfrd.state"\n'
        "  server-count: 1\n  verbosity: 1\n"
        "remote-control:\n  control-enable: no\n"
        'zone:\n  name: "example.test"\n  zonefile: "example.test"\n'
    )
    process = namespace.start("nsd", "-d", "-c", str(config), name="nsd")
    process.wait_for("nsd started")
    return process


def start_iperf(namespace: Namespace) -> Process:
    process = namespace.start("iperf3", "-s", "--forceflush", name="iperf3")
    process.wait_for("Server listening")
    return process


def start_capture(namespace: Namespace, device: str, expression: str, *, count: int) -> Process:
    """tcpdump in text form, ended after `count` packets; returns once it captures."""
    process = namespace.start(
        *("tcpdump", "-n", "-v", "-l", "-i", device, "-c", str(count), expression),
        name="tcpdump",
    )
    process.wait_for("listening on")
    return process
