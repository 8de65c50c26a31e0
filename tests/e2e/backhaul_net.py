"""The network of the backhaul's end-to-end tests. The gateway has no IPv4 address at all.

                                    router            peer a
    client ──────── gateway ──────┬───────────────┬── fd00:64:a::2 │ 203.0.113.2 ──┐
    fd00:64::2      fd00:64::1    │ fd00:64:1::2  │                                ├── server
    IPv6 only       fd00:64:1::1  └───────────────┴── fd00:64:b::2 │ 203.0.113.6 ──┘   192.0.2.1
                    IPv6 only         IPv6 only       peer b, dual stack           IPv4 only

The server answers only those on its own links: what a peer does not masquerade gets no answer.
`cut` makes the router drop everything to and from one peer without a word, as a pulled cable
behind the next switch does: no carrier is lost, nobody is told.
"""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from tests.e2e.backhaul_peer import Keys, Peer
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace, wait_until
from tests.e2e.topology import PREFIX, SERVER4

PEER4 = {"a": "203.0.113.2", "b": "203.0.113.6"}  # what the server sees
SERVER_END4 = {"a": "203.0.113.1", "b": "203.0.113.5"}


@dataclass
class BackhaulNet:
    """The hosts of the picture; `peers` by their letters."""

    lab: Lab
    client: Namespace
    gateway: Namespace
    router: Namespace
    server: Namespace
    keys: Keys
    mtu: int
    peers: dict[str, Peer] = field(default_factory=dict)

    @property
    def peer(self) -> Peer:
        """The only peer, or the first."""
        return next(iter(self.peers.values()))

    def cut(self, letter: str = "a") -> None:
        """From now on nothing passes between the router and this peer, either way."""
        address = self.peers[letter].address
        self.router.run(
            "nft",
            f"add table inet cut_{letter} {{ chain c {{ type filter hook forward priority 0;"
            f" ip6 saddr {address} drop; ip6 daddr {address} drop; }} ; }}",
        )

    def mend(self, letter: str = "a") -> None:
        """Undoes a cut, if there is one."""
        self.router.run("nft", "delete", "table", "inet", f"cut_{letter}", check=False)

    def power_off(self, letter: str = "a") -> None:
        """This peer loses its power: nothing leaves it any more, and all that it knew is gone."""
        self.cut(letter)
        peer = self.peers[letter]
        peer.switch_off()
        for device in ("wan", "v4"):
            peer.namespace.ip("link", "del", device)

    def power_on(self, letter: str = "a") -> None:
        """This peer has started again, but for its sshd: with its addresses, keys and nothing else.

        The namespace is another, and so is all that the kernel kept in it.
        """
        peer = self.peers[letter]
        peer.switch_on(_host_of_peer(self, letter))
        self.mend(letter)


def backhaul_net(
    lab: Lab, *, peers: str = "a", mtu: int = 1500, hide: Iterable[str] = ()
) -> BackhaulNet:
    """Builds the picture with these peers, none of which runs sshd yet.

    `mtu` is that of all links but those between gateway, router and peers, which have 1500.
    `hide`: programs that the peers do not have.
    """
    client = lab.namespace("client")
    gateway = lab.namespace("gateway")
    gateway.sysctl(
        ipv4__ip_forward=0, ipv4__conf__all__rp_filter=0, ipv4__conf__default__rp_filter=0
    )
    router = lab.namespace("router")
    server = lab.namespace("server")
    router.sysctl(ipv6__conf__all__forwarding=1)
    server.sysctl(ipv6__conf__all__disable_ipv6=1)
    lab.link(client, "v6", gateway, "v6", mtu)
    client.ip("addr", "add", "fd00:64::2/64", "dev", "v6", "nodad")
    gateway.ip("addr", "add", "fd00:64::1/64", "dev", "v6", "nodad")
    client.ip("-6", "route", "add", PREFIX, "via", "fd00:64::1", "dev", "v6")
    lab.link(gateway, "wan", router, "gw", 1500)
    gateway.ip("addr", "add", "fd00:64:1::1/64", "dev", "wan", "nodad")
    router.ip("addr", "add", "fd00:64:1::2/64", "dev", "gw", "nodad")
    gateway.ip("-6", "route", "add", "default", "via", "fd00:64:1::2", "dev", "wan")
    server.ip("addr", "add", f"{SERVER4}/32", "dev", "lo")
    net = BackhaulNet(lab, client, gateway, router, server, Keys(lab), mtu)
    for letter in peers:
        host = _host_of_peer(net, letter)
        address = _address(letter)
        net.peers[letter] = Peer(host, net.keys, name=f"peer-{letter}", address=address, hide=hide)
    return net


def _address(letter: str) -> str:
    return f"fd00:64:{letter}::2"


def _host_of_peer(net: BackhaulNet, letter: str) -> Namespace:
    """A dual-stack host on its two links, with nothing running."""
    host = net.lab.namespace(f"peer{letter}")
    net.lab.link(host, "wan", net.router, f"p{letter}", 1500)
    net.lab.link(host, "v4", net.server, f"p{letter}", net.mtu)
    address, prefix = _address(letter), f"fd00:64:{letter}::1"
    host.sysctl(
        # No router yet, and strict about sources, as distributions set it.
        ipv4__ip_forward=0,
        ipv4__conf__all__rp_filter=1,
        ipv4__conf__default__rp_filter=1,
    )
    host.ip("addr", "add", f"{address}/64", "dev", "wan", "nodad")
    net.router.ip("addr", "add", f"{prefix}/64", "dev", f"p{letter}", "nodad")
    host.ip("-6", "route", "add", "default", "via", prefix, "dev", "wan")
    host.ip("addr", "add", f"{PEER4[letter]}/30", "dev", "v4")
    net.server.ip("addr", "add", f"{SERVER_END4[letter]}/30", "dev", f"p{letter}", "noprefixroute")
    # With several addresses, a datagram socket would answer from the nearest one.
    route = (PEER4[letter], "dev", f"p{letter}", "src", SERVER4)
    net.server.ip("route", "add", *route)
    host.ip("route", "add", "default", "via", SERVER_END4[letter], "dev", "v4")
    return host


QUICK = {"heartbeat": 2, "linger": 3, "probe_interval": 0.2, "probes_missed": 3}


class BackhaulGateway(Gateway):
    """A gateway with a backhaul to `to`, with short timers unless `keys` says otherwise."""

    def __init__(
        self,
        net: BackhaulNet,
        *arguments: str,
        to: str | list[str] = "root@peer-a",
        config: str = "",
        name: str = "gateway",
        namespace: Namespace | None = None,
        run_dir: Path | None = None,
        **keys: object,
    ) -> None:
        values = {
            "to": [to] if isinstance(to, str) else to,
            "ssh_options": ["-F", str(net.keys.config)],
            **QUICK,
            **keys,
        }
        table = "".join(f"{key} = {_toml(value)}\n" for key, value in values.items())
        super().__init__(
            namespace or net.gateway,
            *arguments,
            config=f"{config}\n[backhaul]\n{table}",
            name=name,
            run_dir=run_dir,
        )

    def backhaul(self) -> str:
        """The word of the status line about the backhaul: `up,root@peer-a,tap1:tap0`."""
        before = len(self.log())
        self.process.send(signal.SIGUSR1)
        # There is no more of a status line where nothing is translated.
        return self.process.wait_for(r"\bbackhaul=(\S+)\n.*\n", 10, after=before).group(1)

    def is_up(self) -> bool:
        return self.backhaul().startswith("up,")

    def wait_up(self, timeout: float = 15, *, to: str = "") -> str:
        """Waits until the backhaul is up, to this destination if one is given."""

        def up() -> bool:
            self.alive()
            word = self.backhaul()
            return word.startswith("up,") and f",{to}" in word

        self._wait(up, timeout, "is up")
        return self.backhaul()

    def wait_down(self, timeout: float = 10) -> None:
        """Waits until the backhaul is not up, and the log says so."""
        self._wait(lambda: not self.is_up(), timeout, "is down")

    def _wait(self, condition: Callable[[], bool], timeout: float, what: str) -> None:
        try:
            wait_until(condition, timeout, what, interval=0.1)
        except AssertionError as error:
            raise AssertionError(f"the backhaul {what}: {error}\n{self.story()}") from None

    def story(self, position: int = 0) -> str:
        """The log without what was only asked for: the status, which ends with the backhaul."""
        asked = re.compile(
            r"^.*info: unit=.*\n(.*info: counters .*\n(.*info: backhaul: .*\n)?)?", re.M
        )
        return asked.sub("", self.log()[position:])

    def hurry(self) -> None:
        """Tells it to try at once, whatever time it waits."""
        self.process.send(signal.SIGUSR2)

    def alive(self) -> None:
        assert self.process.status is None, f"ended: {self.process.status}\n{self.story()}"

    def start_up(self) -> BackhaulGateway:
        """Starts it and returns once the backhaul is up."""
        self.start()
        self.wait_up()
        return self

    def children(self, pattern: str) -> dict[int, str]:
        """Processes that the gateway started, by id, whose command line matches."""
        found = {}
        for pid in _descendants(self.process.pid):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
            if re.search(pattern, line):
                found[pid] = line
        return found

    def ssh_pid(self) -> int:
        """The one ssh that it runs."""
        found = self.children(r"^(\S*/)?ssh ")
        assert len(found) == 1, found
        return next(iter(found))


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in file.read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found


def _toml(value: object) -> str:
    # JSON's strings, numbers, booleans and lists are TOML's.
    return json.dumps(value)
