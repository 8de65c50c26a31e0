"""Name servers for the tests of the DNS64: nsd with a zone, signed or not, and one that lies."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.namespaces import Namespace, Process, wait_until

ZONE = "example.test"
WEB4 = "198.51.100.80"


def zone_text(address: str) -> str:
    """The zone: names with IPv4, with IPv6, with both, aliases, and one too large for UDP."""
    text = " ".join(f'"{chr(97 + n % 26) * 200}"' for n in range(16))
    return (
        f"$ORIGIN {ZONE}.\n$TTL 60\n"
        "@ SOA ns hostmaster 1 3600 600 86400 30\n@ NS ns\n"
        f"ns A {address}\nwww A {WEB4}\n"
        "both A 198.51.100.82\nboth AAAA 2001:db8::82\n"
        "mapped A 198.51.100.83\nmapped AAAA ::ffff:198.51.100.83\n"
        "alias CNAME www\nold DNAME new\nhost.new A 198.51.100.85\n"
        f"large TXT {text}\n*.wild A 198.51.100.86\n"
    )


REVERSE_TEXT = (
    "$ORIGIN 100.51.198.in-addr.arpa.\n$TTL 60\n"
    f"@ SOA ns.{ZONE}. hostmaster.{ZONE}. 1 3600 600 86400 30\n@ NS ns.{ZONE}.\n"
    f"80 PTR www.{ZONE}.\n"
)


@dataclass
class Nsd:
    """nsd with its files; it can be stopped and started again."""

    namespace: Namespace
    folder: Path
    process: Process

    def start(self) -> None:
        config = str(self.folder / "nsd.conf")
        self.process = self.namespace.start("nsd", "-d", "-c", config, name="nsd")
        self.process.wait_for("nsd started")

    def stop(self) -> None:
        self.process.end()


def start_nsd(
    namespace: Namespace, address: str, *, signed: bool = False, certificate: Path | None = None
) -> Nsd:
    """nsd on port 53, and with a certificate (the file NAME.pem, NAME.key) also on 853."""
    folder = namespace.lab.new_file("nsd")
    folder.mkdir()
    (folder / "zone").write_text(zone_text(address))
    (folder / "reverse").write_text(REVERSE_TEXT)
    zone_file = "zone"
    if signed:
        sign(namespace, folder)
        zone_file = "zone.signed"
    tls = ""
    if certificate is not None:
        tls = (
            f"  ip-address: {address}@853\n  tls-port: 853\n"
            f'  tls-service-pem: "{certificate}"\n'
            f'  tls-service-key: "{certificate.with_suffix(".key")}"\n'
        )
    (folder / "nsd.conf").write_text(
        f"server:\n  ip-address: {address}\n{tls}"
        '  username: ""\n  chroot: ""\n  database: ""\n  rrl-ratelimit: 0\n'
        f'  zonesdir: "{folder}"\n  pidfile: "{folder}/nsd.pid"\n'
        f'  zonelistfile: "{folder}/zone.list"\n  xfrdfile: "{folder}/xfrd.state"\n'
        "  server-count: 1\n  verbosity: 1\nremote-control:\n  control-enable: no\n"
        f'zone:\n  name: "{ZONE}"\n  zonefile: "{zone_file}"\n'
        'zone:\n  name: "100.51.198.in-addr.arpa"\n  zonefile: "reverse"\n'
    )
    config = str(folder / "nsd.conf")
    process = namespace.start("nsd", "-d", "-c", config, name="nsd")
    process.wait_for("nsd started")
    return Nsd(namespace, folder, process)


def sign(namespace: Namespace, folder: Path) -> None:
    """Signs the zone with one key; `anchor` is what a validator has to trust."""
    made = namespace.run(
        *("dnssec-keygen", "-q", "-a", "ECDSAP256SHA256", "-f", "KSK", "-K", str(folder), ZONE)
    )
    key = folder / f"{made.out.strip()}.key"
    namespace.run(
        *("dnssec-signzone", "-q", "-z", "-S", "-K", str(folder), "-o", ZONE),
        *("-f", str(folder / "zone.signed"), str(folder / "zone")),
        cwd=folder,
    )
    record = next(line for line in key.read_text().splitlines() if not line.startswith(";"))
    match = re.search(r"DNSKEY\s+(\d+)\s+(\d+)\s+(\d+)\s+(.*)", record)
    assert match is not None, record
    numbers = f"{match[1]} {match[2]} {match[3]}"
    (folder / "anchor").write_text(
        f'trust-anchors {{ {ZONE}. static-key {numbers} "{match[4]}"; }};\n'
    )


def make_certificate(namespace: Namespace, address: str) -> Path:
    """A certificate of its own authority for an address: PATH.pem and PATH.key."""
    path = namespace.lab.new_file("dns.pem")
    namespace.run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-nodes", "-days", "2", "-subj", "/CN=dns.test"),
        *("-addext", f"subjectAltName=IP:{address},DNS:dns.test"),
        *("-keyout", str(path.with_suffix(".key")), "-out", str(path)),
    )
    return path


def start_liar(namespace: Namespace, address: str, mode: str) -> Process:
    """tests/e2e/dns_liar.py on port 53."""
    script = str(Path(__file__).with_name("dns_liar.py"))
    process = namespace.start(sys.executable, script, address, mode, name=f"liar-{mode}")
    process.wait_for("listening")
    return process


def wait_for_answer(namespace: Namespace, server: str, name: str, timeout: float = 15) -> None:
    """Returns once `server` answers a question about `name` with addresses."""

    def answered() -> bool:
        command = ("dig", f"@{server}", "+short", "+tries=1", "+time=2", name, "AAAA")
        # What is wrong is told on standard output, too, behind a semicolon.
        lines = namespace.run(*command, check=False).out.splitlines()
        return any(":" in line for line in lines if not line.startswith(";"))

    wait_until(answered, timeout, f"{server} answers about {name}", interval=0.2)
