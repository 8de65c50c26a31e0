"""`make demo`: the gateway between an IPv6-only client and an IPv4-only server, to look at.

    client  ──────────────  gateway  ──────────────  r4a  ──────────────  server
    fd00:64::2   fd00:64::1 │ tap0 │ 203.0.113.1   an IPv4 router      192.0.2.1
    only IPv6               both families                              only IPv4

Four network namespaces on this machine; its own network is not touched, and everything is
removed at the end, also after Ctrl-C. Shows ping, curl and ssh going through, what each end sees
of the other, and names, whose server the client learns by router advertisements. Exit
status 0 when everything worked, 1 when something did not, 130 after Ctrl-C.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.e2e.dns_servers import WEB4, start_nsd
from tests.e2e.gateway_process import EXIT_CLEAN, Gateway
from tests.e2e.namespaces import CommandFailed, Lab, Namespace, open_lab
from tests.e2e.servers import HttpServer, SshServer, start_http, start_sshd
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import GATEWAY4, GATEWAY6, PREFIX, SERVER, SERVER4, Topology, line

PROGRAMS = (
    *("ip", "nft", "sysctl", "ping", "traceroute", "curl", "ssh", "sshd", "setpriv"),
    *("nsd", "dig", "rdisc6", "unshare"),
)


class Demo:
    """Runs and shows the steps; remembers which of them did not work."""

    def __init__(self, lab: Lab) -> None:
        self.failures: list[str] = []
        self._topology = line(lab)
        self._topology.route_prefix()
        self._gateway = Gateway(self._topology.gateway)
        upstream = f'[dns64]\nupstreams = ["{SERVER4}"]\n'
        flags = ("--dns64", "--advertise", "v6")
        self._namer = Gateway(self._topology.gateway, *flags, config=upstream, name="namer")

    def run(self) -> None:
        topology = self._topology
        heading("Three hosts, and an IPv4 router that is in the way of none of them")
        print(_PICTURE)
        self.show(topology.client, "ip", "-brief", "addr")
        self.show(topology.client, "ip", "-6", "route")
        self.show(topology.server, "ip", "-brief", "addr")
        self.show(topology.server, "ip", "route")
        http = start_http(topology.server)
        ssh = start_sshd(topology.server, SERVER4)

        before = snapshot(topology.gateway)
        heading("The gateway, without any option")
        print("gateway$ gateway")
        self._gateway.start()
        indent(self._gateway.log())
        self.show(topology.gateway, "ip", "-6", "route")
        self.show(topology.gateway, "nft", "list", "ruleset")

        self._cross(topology, http, ssh)

        heading("What the gateway counted (SIGUSR1)")
        indent(self._gateway.status().line)

        heading("Stopped: the gateway host is as it was")
        print("gateway$ kill -TERM $(pidof gateway)")
        position = len(self._gateway.log())
        self.expect(self._gateway.stop() == EXIT_CLEAN, "the gateway stops cleanly")
        indent(self._gateway.log()[position:])
        left = difference(before, snapshot(topology.gateway))
        indent(left)
        self.expect(
            left == "", "links, addresses, routes, rules, nftables and sysctls are the same"
        )

        self._names(topology, http)

    def _names(self, topology: Topology, http: HttpServer) -> None:
        heading("Names, and a client that is told everything")
        client = topology.client
        topology.server_address(WEB4)
        start_nsd(topology.server, SERVER4)
        print("gateway$ gateway --dns64 --advertise v6")
        self._namer.start()
        indent("\n".join(line for line in self._namer.log().splitlines() if "dns64: " in line))
        self._namer.wait_for("advertise: on v6")
        out = self.show(client, "rdisc6", "-1", "v6")
        found = re.search(r"Recursive DNS server\s*: (\S+)", out)
        self.expect(found is not None, "a router advertisement names the DNS server")
        server = found[1] if found is not None else GATEWAY6
        self.show(client, "dig", f"@{server}", "+short", "www.example.test", "A")
        out = self.show(client, "dig", f"@{server}", "+short", "www.example.test", "AAAA")
        self.expect(":" in out, "the IPv4-only name has an IPv6 address")
        resolv_conf = topology.lab.new_file("resolv.conf")
        resolv_conf.write_text(f"nameserver {server}\n")
        url = f"http://www.example.test:{http.port}/whoami"
        print(f"client$ curl -sS {url}")
        script = f"mount --bind {resolv_conf} /etc/resolv.conf && exec curl -sS -m 10 {url}"
        out = self.output(lambda: client.run("unshare", "-m", "sh", "-c", script).out)
        self.expect(out.startswith(f"{GATEWAY4} "), "curl by name, over IPv6, from an IPv4 server")
        self.expect(self._namer.stop() == EXIT_CLEAN, "the gateway stops cleanly again")

    def _cross(self, topology: Topology, http: HttpServer, ssh: SshServer) -> None:
        client = topology.client
        heading("ping")
        out = self.show(client, "ping", "-n", "-c", "3", "-i", "0.3", "-W", "2", SERVER)
        self.expect("3 received" in out, "the IPv4 server answers to its IPv6 name")

        heading("traceroute: IPv4 routers have IPv6 names too")
        out = self.show(
            client, "traceroute", "-n", "-q", "1", "-w", "2", "-z", "20", "-m", "8", SERVER
        )
        self.expect("cb00:7102" in out, "the IPv4 router 203.0.113.2 shows up as a hop")

        heading("curl")
        url = f"http://[{SERVER}]:{http.port}/whoami"
        out = self.show(client, "curl", "-sS", "-m", "5", url)
        self.expect(out.startswith(f"{GATEWAY4} "), f"the server saw {GATEWAY4}, the gateway")

        heading("ssh, typed as it is")
        print(f"client$ ssh {SERVER} 'echo $SSH_CONNECTION'")
        out = self.output(lambda: ssh.login(client, SERVER, "echo $SSH_CONNECTION").out)
        self.expect(
            out.split()[0:1] == [GATEWAY4] and SERVER4 in out,
            "logged in; both ends of the connection are IPv4 there",
        )

        heading("What the server saw")
        print("server$ cat access.log")
        indent(http.process.log())

    def show(self, host: Namespace, *command: str) -> str:
        """Prints and runs a command; returns its output, whatever its exit status."""
        print(f"{host.role}$ {' '.join(command)}")
        return self.output(lambda: host.run(*command, check=False).text)

    def output(self, action: Callable[[], str]) -> str:
        """Prints what the action returns; a command that fails is output too."""
        try:
            text = action()
        except CommandFailed as error:
            text = str(error)
        indent(text)
        return text

    def expect(self, worked: bool, what: str) -> None:
        print(f"  {'ok' if worked else 'FAILED'}: {what}")
        if not worked:
            self.failures.append(what)


_PICTURE = f"""
  client  ────────────  gateway  ────────────  r4a  ────────────  server
  fd00:64::2              tap0                                    {SERVER4}
  only IPv6           {GATEWAY4}                              only IPv4

  The client knows one route, {PREFIX} to the gateway. In it the server
  is called {SERVER}.
"""


def heading(text: str) -> None:
    print(f"\n\033[1m── {text}\033[0m" if sys.stdout.isatty() else f"\n── {text}", flush=True)


def indent(text: str) -> None:
    for line_ in text.rstrip().splitlines():
        print(f"  {line_}".rstrip())
    sys.stdout.flush()


def obstacles() -> list[str]:
    """What this machine lacks for the demo, one line each with the remedy."""
    found = []
    if os.geteuid() != 0:
        found.append("network namespaces need root: sudo make demo")
    if not Path("/dev/net/tun").exists():
        found.append("there is no /dev/net/tun: modprobe tun")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        found.append(f"missing programs: {', '.join(missing)}; `make packages` installs them")
    return found


def main() -> int:
    missing = obstacles()
    for problem in missing:
        print(f"demo: {problem}", file=sys.stderr)
    if missing:
        return 1

    def interrupted(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupted)
    signal.signal(signal.SIGHUP, interrupted)
    try:
        with open_lab("demo") as lab:
            demo = Demo(lab)
            demo.run()
    except KeyboardInterrupt:
        print("\ninterrupted; everything is removed again", file=sys.stderr)
        return 130
    except (AssertionError, OSError) as error:
        print(f"\ndemo: {error}", file=sys.stderr)
        return 1
    print()
    if demo.failures:
        print(f"{len(demo.failures)} of the steps did not work: {'; '.join(demo.failures)}")
        return 1
    print("Everything worked, and everything is removed again.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
