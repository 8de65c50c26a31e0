"""Links of every kind below the same translation: a command, TCP, sockets, other ssh set-ups.

    client ──── gateway ═ exec: tcp:// listen: unix: ═ `gateway link` on the peer ──── server

The far end of a byte stream does nothing but join it to a tap; addresses, route and masquerade
are set up there by hand, as an administrator would.
"""

from __future__ import annotations

import re
import signal
import sys
from pathlib import Path

import pytest

from tests.e2e.backhaul_chat import Chat
from tests.e2e.backhaul_net import PEER4, BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.backhaul_peer import USER
from tests.e2e.gateway_process import ROOT, Gateway
from tests.e2e.namespaces import Lab, Process, wait_until
from tests.e2e.servers import sha256_of, start_http, write_random_file
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import PREFIX, SERVER

PING = ("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", SERVER)
LOCAL4, REMOTE4 = "169.254.64.2", "169.254.64.1"
ADDRESSES = f"{LOCAL4}/30 {REMOTE4}"
POOL = "192.0.0.6"
TAP = "bh0"


def prepare(net: BackhaulNet) -> None:
    """By hand, on the peer: the tap, its address, the route back, forwarding, masquerade."""
    peer = net.peer
    peer.run("ip", "tuntap", "add", TAP, "mode", "tap")
    peer.namespace.ip("link", "set", TAP, "addrgenmode", "none")
    peer.namespace.ip("link", "set", TAP, "up")
    peer.namespace.ip("addr", "add", f"{REMOTE4}/30", "dev", TAP)
    peer.namespace.ip("route", "add", POOL, "via", LOCAL4, "dev", TAP)
    for device in (TAP, "v4"):
        peer.namespace.sysctl(**{f"ipv4__conf__{device}__forwarding": 1})
    peer.run(
        "nft",
        "add table ip byhand { chain c { type nat hook postrouting priority 100;"
        f" ip saddr {POOL} masquerade; }} ; }}",
    )


def far_end(net: BackhaulNet, *endpoint: str) -> Process:
    return net.peer.start(
        *(sys.executable, "-m", "gateway", "link", *endpoint, "--tap", TAP), name="link", cwd=ROOT
    )


def serves(net: BackhaulNet) -> None:
    """Ping, and a megabyte each way."""
    assert "2 received" in net.client.run(*PING).out
    http = start_http(net.server)
    digest = write_random_file(http.folder / "down", 1_000_000)
    copy = net.lab.new_file("copy")
    url = f"http://[{SERVER}]:{http.port}"
    net.client.run("curl", "-sS", "-m", "20", "-o", str(copy), f"{url}/down")
    net.client.run("curl", "-sS", "-m", "20", "-T", str(copy), f"{url}/up")
    assert sha256_of(http.folder / "up") == digest
    seen = net.client.run("curl", "-sS", "-m", "5", f"{url}/whoami").out
    assert seen.split()[0] == PEER4["a"]
    http.process.end()


def test_tcp_link_that_breaks_and_comes_back(lab: Lab) -> None:
    net = backhaul_net(lab)
    prepare(net)
    listener = f"listen:[{net.peer.address}]:6464"
    far = far_end(net, listener)
    # Neither authenticated nor encrypted, and that is said at either end.
    far.wait_for(r"(?i)neither.*encrypt|not .*encrypt|unencrypted")
    before = snapshot(net.gateway)
    gateway = BackhaulGateway(net, to=f"tcp://[{net.peer.address}]:6464", addresses=ADDRESSES)
    gateway.start_up()
    assert re.search(r"(?i)neither.*encrypt|not .*encrypt|unencrypted", gateway.log())
    serves(net)
    chat = Chat(net)
    far.end()
    gateway.wait_down(5)
    ping = net.client.run("ping", "-n", "-c", "1", "-W", "1", SERVER, check=False)
    assert "No route" in ping.out, ping.out
    far_end(net, listener)
    gateway.wait_up(20)
    chat.goes_on()
    gateway.stop_cleanly()
    assert difference(before, snapshot(net.gateway)) == ""


def test_listening_link(lab: Lab) -> None:
    """The gateway waits, the peer connects: for a peer behind somebody else's NAT."""
    net = backhaul_net(lab)
    prepare(net)
    gateway = BackhaulGateway(net, to="listen:[fd00:64:1::1]:6465", addresses=ADDRESSES)
    gateway.start()
    far_end(net, "tcp://[fd00:64:1::1]:6465")
    gateway.wait_up()
    serves(net)
    gateway.stop_cleanly()


def test_command_link_over_ssh(lab: Lab) -> None:
    """`gateway link std:` at the far end of any remote shell."""
    net = backhaul_net(lab)
    net.peer.start_sshd(permit_tunnel="no")
    prepare(net)
    remote = f"cd {ROOT} && exec {sys.executable} -m gateway link std: --tap {TAP}"
    command = f"exec ssh -F {net.keys.config} root@peer-a '{remote}'"
    gateway = BackhaulGateway(net, to=f"exec:{command}", addresses=ADDRESSES).start_up()
    serves(net)
    # The command dies; a new one takes its place.
    net.peer.kill_sessions()
    gateway.wait_down(5)
    gateway.wait_up(20)
    net.client.run(*PING)
    gateway.stop_cleanly()
    wait_until(lambda: not net.peer.processes("link std:"), 5, "the far end has ended, too")


def test_command_that_fails_is_named(lab: Lab) -> None:
    net = backhaul_net(lab)
    gateway = BackhaulGateway(net, to="exec:echo sorry, not today >&2; exit 3")
    gateway.start()
    gateway.wait_for("(?i)status 3")
    gateway.wait_for("sorry, not today")
    gateway.stop_cleanly()


def test_unix_socket_and_two_joined_streams(lab: Lab) -> None:
    """gateway ─ unix: ─ `gateway link A B` ─ tcp ─ `gateway link` ─ tap."""
    net = backhaul_net(lab)
    prepare(net)
    path = lab.new_file("s")
    far_end(net, f"listen:[{net.peer.address}]:6466").wait_for("listen|wait")
    joint = net.gateway.start(
        *(sys.executable, "-m", "gateway", "link", f"listen:unix:{path}"),
        f"tcp://[{net.peer.address}]:6466",
        name="joint",
        cwd=ROOT,
    )
    wait_until(path.exists, 10, "the socket is there")
    gateway = BackhaulGateway(net, to=f"unix:{path}", addresses=ADDRESSES).start_up()
    serves(net)
    gateway.stop_cleanly()
    assert "Traceback" not in joint.log()


def master(net: BackhaulNet, path: Path, *options: str) -> Process:
    """The user's own connection, running before the gateway."""
    process = net.gateway.start(
        *("ssh", "-F", str(net.keys.config), "-M", "-S", str(path), "-N"),
        *("-o", "ControlPersist=no", *options, "root@peer-a"),
        name="master",
    )
    wait_until(path.exists, 10, "the control socket is there")
    return process


def test_master_connection_with_a_tunnel(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    path = lab.new_file("c")
    running = master(net, path, "-o", "Tunnel=ethernet", "-w", "any:any")
    # A device with a reader is set up, but never down again: frames would be lost for good.
    for namespace in (net.gateway, net.peer.namespace):
        namespace.ip("link", "set", "tap0", "addrgenmode", "none")
        namespace.ip("link", "set", "tap0", "up")
    before = net.peer.before()
    gateway_before = snapshot(net.gateway)
    gateway = BackhaulGateway(net, control_path=str(path)).start_up()
    word = gateway.backhaul()
    serves(net)
    # No connection of our own.
    assert len(net.peer.processes("^sshd: root@notty")) == 1
    assert not gateway.children(r"ssh .*-w")
    gateway.stop_cleanly()
    # The user's connection is not ours to end, nor is its device.
    assert running.status is None
    assert word == "up,root@peer-a,tap0:tap0"
    assert difference(gateway_before, snapshot(net.gateway)) == ""
    net.peer.wait_untouched(before, 3)


def test_master_that_dies_never_becomes_a_connection_of_its_own(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    path = lab.new_file("c")
    running = master(net, path, "-o", "Tunnel=ethernet", "-w", "any:any")
    gateway = BackhaulGateway(net, control_path=str(path)).start_up()
    # The socket file stays behind, which to ssh is a reason to connect by itself.
    running.send(signal.SIGKILL)
    gateway.wait_down(5)
    gateway.wait_for(r"(?i)master|control_path")
    wait_until(lambda: not net.peer.processes("^sshd: root@notty"), 8, "no connection is left")
    assert not gateway.is_up()
    path.unlink(missing_ok=True)
    master(net, path, "-o", "Tunnel=ethernet", "-w", "any:any")
    gateway.wait_up(30)
    net.client.run(*PING)
    gateway.stop_cleanly()


def test_master_without_a_tunnel_is_refused(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    path = lab.new_file("c")
    master(net, path)
    gateway = BackhaulGateway(net, control_path=str(path))
    gateway.start()
    gateway.wait_for(r"(?i)master.* -w|-w .*master")
    assert not gateway.is_up()
    gateway.stop_cleanly()


def test_control_path_without_a_master_is_refused(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    gateway = BackhaulGateway(net, control_path=str(lab.new_file("c")))
    gateway.start()
    gateway.wait_for(r"(?i)no master|no .*control|no such file|not running|master.*(-M|start)")
    assert not net.peer.processes("^sshd: root@notty")
    gateway.stop_cleanly()


EXAMPLES = ROOT / "conf" / "backhaul"


def by_hand(net: BackhaulNet) -> str:
    """The peer as conf/backhaul prepares it, for an unprivileged user; the line for its key."""
    net.peer.run("env", f"TAP64_USER={USER}", "sh", str(EXAMPLES / "prepare-peer"), "up")
    hold = net.peer.folder / "tap64-hold"
    hold.write_bytes((EXAMPLES / "tap64-hold").read_bytes())
    hold.chmod(0o755)
    lines = (EXAMPLES / "authorized_keys").read_text().splitlines()
    (line,) = [text for text in lines if text and not text.startswith("#")]
    options = line.partition(" ssh-ed25519 ")[0].replace("/usr/local/sbin/tap64-hold", str(hold))
    assert str(hold) in options
    return f"{options} {net.keys.public}"


def test_peer_prepared_by_hand(lab: Lab) -> None:
    """As conf/backhaul has it: a key that allows this device and nothing else."""
    net = backhaul_net(lab)
    net.peer.start_sshd(authorized=by_hand(net))
    before = net.peer.before()
    gateway = BackhaulGateway(
        net, to=f"{USER}@peer-a", peer_setup=False, remote_device=7, addresses=ADDRESSES
    ).start_up()
    assert gateway.backhaul().endswith(":tap7")
    serves(net)
    chat = Chat(net)
    net.peer.kill_sessions()
    gateway.wait_down()
    gateway.wait_up(20)
    chat.goes_on()
    chat.end()
    gateway.stop_cleanly()
    # The device's first carrier has brought the kernel's own route for multicast.
    wait_until(
        lambda: all("ff00::/8" in line for line in net.peer.traces(before).splitlines()),
        10,
        "the peer is as before",
    )
    # Nothing else can be had with this key: no command of one's own, no other device.
    ssh = ("ssh", "-F", str(net.keys.config), "-o", "ExitOnForwardFailure=yes")
    asked = net.client.run(*ssh, f"{USER}@peer-a", "id", check=False, timeout=15)
    assert "uid=" not in asked.out
    other = net.gateway.run(
        *(*ssh, "-o", "Tunnel=ethernet", "-w", "any:3", f"{USER}@peer-a"), check=False, timeout=15
    )
    assert "Tunnel forwarding failed" in other.err


def test_key_for_one_device_allows_no_other(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd(authorized=by_hand(net))
    gateway = BackhaulGateway(
        net, to=f"{USER}@peer-a", peer_setup=False, remote_device=3, addresses=ADDRESSES
    )
    gateway.start()
    gateway.wait_for(r"backhaul: down: .*not permit.*tunnel=")
    assert not gateway.is_up()
    gateway.stop_cleanly()


def test_tunnel_that_carries_ipv6(lab: Lab) -> None:
    """The other way round: the clients' own packets go through, the peer translates."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    peer_before = net.peer.before()
    gateway_before = snapshot(net.gateway)
    gateway = BackhaulGateway(
        net, "--backhaul-carries", "ipv6", clients6=["fd00:64::/64"], linger=1
    ).start_up()
    far = Gateway(net.peer.namespace, name="far-gateway").start()
    # The way there is a route, not a translator.
    assert PREFIX in net.gateway.ip("-6", "route")
    serves(net)
    net.cut()
    gateway.wait_down(4)
    ping = net.client.run("ping", "-n", "-c", "1", "-W", "1", SERVER, check=False)
    assert "unreachable" in ping.out, ping.out
    net.mend()
    gateway.wait_up(20)
    net.client.run(*PING)
    gateway.stop_cleanly()
    far.stop_cleanly()
    assert difference(gateway_before, snapshot(net.gateway)) == ""
    net.peer.wait_untouched(peer_before, 5)


@pytest.mark.parametrize(
    ("to", "pattern"),
    [
        ("", "empty|destination"),
        ("-oProxyCommand=x", "option|begin|host"),
        ("tcp://peer-a", "port|PORT"),
        ("listen:99999", "port|65535"),
        ("exec:", "command"),
        ("http://peer-a", "http|scheme"),
    ],
)
def test_destination_that_cannot_be_is_a_fault_of_the_configuration(
    lab: Lab, to: str, pattern: str
) -> None:
    net = backhaul_net(lab, peers="")
    result = BackhaulGateway(net, to=to).run()
    assert result.status == 78, result.text
    assert re.search(pattern, result.text), result.text
    assert "Traceback" not in result.text


def test_dry_run_names_what_would_be_done(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.peer.start_sshd()
    before, gateway_before = net.peer.before(), snapshot(net.gateway)
    gateway = BackhaulGateway(net, to=["root@peer-a", "root@peer-b"])
    result = gateway.run("--dry-run")
    assert result.status == 0, result.text
    for named in (
        *(f"rule from {POOL}", "route unreachable", "tap for the backhaul, mtu 1500"),
        "connect to root@peer-a, then root@peer-b, as tap64-",
    ):
        assert named in result.text, result.text
    assert difference(gateway_before, snapshot(net.gateway)) == ""
    assert net.peer.traces(before) == ""
    # What it says is what comes.
    found = re.search(r"address (\S+) on it, (\S+) at the far end", result.text)
    assert found, result.text
    gateway.start_up()
    assert f"the link is {found[1]} here, {found[2]} there" in gateway.log()
    gateway.stop_cleanly()


def test_dry_run_with_addresses_that_are_in_use(lab: Lab) -> None:
    net = backhaul_net(lab)
    net.gateway.ip("addr", "add", "169.254.9.1/24", "dev", "lo")
    options = ("--set", "backhaul.addresses=169.254.9.6/30 169.254.9.5")
    result = BackhaulGateway(net, *options).run("--dry-run")
    assert result.status == 1, result.text
    assert "169.254.9.4/30 is in use on lo" in result.text, result.text


def test_two_flags_of_the_command_line(lab: Lab) -> None:
    """What the issue's first line promises, without any configuration of a backhaul."""
    net = backhaul_net(lab)
    net.peer.start_sshd()
    gateway = Gateway(
        net.gateway,
        *("--prefix", PREFIX, "--backhaul", "root@peer-a"),
        config=f'[backhaul]\nssh_options = ["-F", "{net.keys.config}"]\n',
    ).start()
    wait_until(
        lambda: gateway.status().values.get("backhaul", "").startswith("up,"), 15, "it is up"
    )
    net.client.run(*PING)
    gateway.stop_cleanly()
