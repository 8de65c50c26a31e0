"""SshLink and MasterLink against a real sshd: up, every end, every refusal, nothing left.

The hosts are those of backhaul_net; the link runs alone in the gateway's namespace, without a
gateway.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from gateway.backhaul.ssh_command import MUST, MUST_FROM_8_7, link_command, version_of
from tests.e2e.backhaul_net import BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab, Namespace, Process, wait_until

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


@pytest.fixture
def net(lab: Lab) -> BackhaulNet:
    return backhaul_net(lab)


@pytest.fixture
def drive(net: BackhaulNet) -> Drive:
    def start(options: list[str] | None = None, **about) -> Driver:
        return Driver(net.gateway, about, ["-F", str(net.keys.config), *(options or [])])

    return start


def pings(net: BackhaulNet) -> bool:
    return net.gateway.run("ping", "-c1", "-W2", REMOTE4, check=False).status == 0


def test_up_and_a_clean_stop(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive()
    ready = driver.ready()
    assert re.fullmatch(r"tap\d+", ready["device"])
    assert {ready["remote"]} == peer.taps()
    assert ready["next_hop4"] == "203.0.113.1"
    assert ready["notes"] == []
    assert pings(net)
    net.gateway.run("ping", "-c1", "-W2", "-s", "1372", "-M", "do", REMOTE4)
    pool = peer.namespace.ip("route", "show", "192.0.0.6")
    assert f"192.0.0.6 via {LOCAL4} dev {ready['remote']}" in pool
    driver.cancel()
    # At once: the linger of 300 s plays no part in a clean stop.
    peer.wait_untouched(before, 5)


def test_abandoned_it_lingers_and_is_adopted(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive()
    driver.ready()
    driver.cancel(signal.SIGUSR1)
    wait_until(lambda: not peer.taps(), 10, "the peer's tap is gone")
    assert "blackhole 192.0.0.6" in peer.namespace.ip("route")
    assert "masquerade" in peer.ruleset()
    again = drive()
    again.ready()
    assert pings(net)
    again.cancel()
    peer.wait_untouched(before, 5)


@pytest.mark.parametrize("victim", ["sshd", "ssh", "script", "remote tap"])
def test_an_end_is_noticed_and_undone(net, drive, victim) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive(wish={"linger": 1})
    ready = driver.ready()
    # A heartbeat has to have been heard for anything to linger.
    expected = "the peer ended the connection"
    if victim == "sshd":
        peer.kill_sessions()
    elif victim == "ssh":
        os.kill(driver.ssh(), signal.SIGKILL)
        expected = "ssh was killed by signal 9"
    elif victim == "script":
        assert peer.kill(r"^/bin/sh -s") == 2
        expected = "the script on the peer has ended"
    else:
        # ssh lives on, silently: this is the supervisor's to find out.
        peer.namespace.ip("link", "del", ready["remote"])
        assert not pings(net)
        driver.cancel(signal.SIGUSR1)
        peer.wait_untouched(before, 15)
        return
    failure = driver.failed()
    assert failure["cause"].startswith(expected)
    assert failure["patience"] == "short"
    if victim == "script":  # both its processes: only the next start can repair that
        drive(wish={"linger": 1}).ready()
        return
    peer.wait_untouched(before, 15)


def test_a_cut_is_noticed_at_both_ends(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    before = peer.before()
    driver = drive(wish={"linger": 1, "heartbeat": 3})
    driver.ready()
    net.cut()
    failure = driver.failed()
    assert "cut" in failure["cause"]
    peer.wait_untouched(before, 15)


def test_a_hung_peer_session_is_taken_over(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    first = drive(wish={"heartbeat": 60})
    first.ready()
    peer.kill(r"^sshd: \S+@notty", signal.SIGSTOP)
    first.cancel(signal.SIGUSR1)
    second = drive()
    second.ready()
    assert pings(net)
    assert len(peer.processes(r"^sshd: \S+@notty")) == 1
    second.cancel()


def test_a_former_ssh_on_our_tap_is_ended_first(net, drive) -> None:
    net.peer.start_sshd()
    first = drive(tap="tap5", wish={"heartbeat": 60})
    first.ready()
    left = first.ssh()
    # It notices nothing by itself for as long as the test takes.
    net.cut()
    os.kill(driver_pid(first), signal.SIGKILL)
    wait_until(lambda: first.process.status is not None, 5, "the driver is gone")
    assert left in ssh_processes(net.gateway)
    net.mend()
    second = drive(tap="tap5", existing=True)
    second.ready()
    assert second.ssh() != left
    assert pings(net)
    second.cancel()


def test_heartbeats_keep_it_up(net, drive) -> None:
    net.peer.start_sshd()
    driver = drive(wish={"heartbeat": 2})
    driver.ready()
    # Many more than the first, in more time than the far end has patience.
    heard = "cat /run/tap64-peer.*/tap64-test/beat"
    wait_until(lambda: int(net.peer.run("sh", "-c", heard).out or 0) >= 9, 20, "heartbeats")
    assert pings(net)
    driver.cancel()


def driver_pid(driver: Driver) -> int:
    """`ip netns exec`, setpriv and env all become the driver."""
    return driver.process.pid


def test_stopped_while_it_still_connects(net, drive) -> None:
    net.peer.start_sshd()
    net.cut()
    driver = drive()
    driver.process.wait_for("^tap tap")
    wait_until(lambda: ssh_processes(net.gateway), 10, "ssh runs")
    driver.process.send(signal.SIGTERM)
    driver.process.wait_for("^CANCELLED", 10)
    driver.over()


def give_keys_to_nobody(net: BackhaulNet) -> None:
    for path in (net.keys.folder, *net.keys.folder.iterdir()):
        os.chown(path, 65534, 65534)
    net.lab.folder.chmod(0o755)


def test_local_device_busy(net, drive) -> None:
    """Held by somebody who is no ssh, and therefore left alone."""
    net.peer.start_sshd()
    failure = refused(drive, hold=True)
    assert failure["cause"] == "the local tap is held by another process, perhaps a former ssh"
    assert failure["patience"] == "short"


def test_an_unprivileged_user_runs_ssh(net, drive) -> None:
    """backhaul.user: uid, groups and home are the user's; the tap belongs to it."""
    peer = net.peer
    peer.start_sshd()
    give_keys_to_nobody(net)
    driver = drive(user="nobody", target="root@peer-a")
    driver.ready()
    status = Path(f"/proc/{driver.ssh()}/status").read_text()
    assert re.search(r"^Uid:\t65534\t65534\t65534\t65534$", status, re.M)
    assert re.search(r"^Gid:\t65534\t", status, re.M)
    assert re.search(r"^Groups:\t65534 ?$", status, re.M)
    environment = Path(f"/proc/{driver.ssh()}/environ").read_bytes().split(b"\0")
    assert b"HOME=/nonexistent" in environment
    assert b"USER=nobody" in environment
    assert pings(net)
    driver.cancel()


def test_the_users_ssh_config_cannot_break_it(net, drive) -> None:
    """Everything that would take away session, stdin, foreground, messages or the tunnel."""
    net.peer.start_sshd()
    net.keys.alias(
        "hostile",
        net.peer.address,
        "ControlMaster auto",
        f"ControlPath {net.keys.folder}/%C",
        "ControlPersist yes",
        "RemoteCommand uptime",
        "RequestTTY force",
        "SessionType none",
        "StdinNull yes",
        "ForkAfterAuthentication yes",
        "PermitLocalCommand yes",
        f"LocalCommand touch {net.keys.folder}/local-command",
        "LogLevel QUIET",
        "Tunnel point-to-point",
        "TunnelDevice 77:77",
        "BatchMode no",
    )
    net.keys.knows(net.peer.address, 22, net.peer.host_key.with_suffix(".pub").read_text())
    driver = drive(target="hostile")
    ready = driver.ready()
    assert ready["device"] != "tap77"
    assert pings(net)
    assert not (net.keys.folder / "local-command").exists()
    assert not [path for path in net.keys.folder.iterdir() if path.is_socket()]
    driver.cancel()


def test_the_ssh_of_this_machine_takes_every_option(net) -> None:
    """What `ssh -G` understands of the command line."""
    version = version_of(net.gateway.run("ssh", "-V").err)
    argv = link_command("peer", 7, "true", version=version)
    said = net.gateway.run("ssh", "-G", "-F", "none", *argv[1:]).out.lower().splitlines()
    for name, value in (*MUST, *MUST_FROM_8_7):
        # It leaves out what is none, and says some words in another way.
        words = {"no": "(no|false)", "yes": "(yes|true)", "DEBUG1": "debug1?"}.get(value, value)
        pattern = re.compile(f"{name.lower()} {words}")
        assert value == "none" or any(map(pattern.fullmatch, said)), name
    assert "tunnel ethernet" in said
    assert "tunneldevice 7:any" in said
    assert not [line for line in said if line.startswith(("controlpath", "remotecommand"))]


def refused(drive: Drive, **about) -> dict:
    driver: Driver = drive(**about)
    return driver.failed()


@pytest.mark.parametrize("permit", ["no", "point-to-point"])
def test_tunnel_not_permitted(net, drive, permit) -> None:
    net.peer.start_sshd(permit_tunnel=permit)
    failure = refused(drive)
    assert failure["cause"] == "the peer's sshd does not permit this tunnel"
    assert "PermitTunnel ethernet" in failure["remedy"]
    assert failure["patience"] == "long"


def test_remote_device_busy(net, drive) -> None:
    net.peer.start_sshd()
    first = drive()
    number = int(first.ready()["remote"].removeprefix("tap"))
    second = Driver(
        net.gateway,
        {"remote_device": number, "wish": {"tag": "tap64-second"}},
        ["-F", str(net.keys.config)],
    )
    failure = second.said("FAILED")
    assert "does not permit the tunnel or cannot open its tap" in failure["cause"]
    assert pings(net)


def test_local_device_of_another_user(net, drive) -> None:
    net.peer.start_sshd()
    give_keys_to_nobody(net)
    failure = refused(drive, user="nobody", owner="daemon", target="root@peer-a")
    assert failure["cause"] == "the local tap does not belong to the user that ssh runs as"
    assert failure["patience"] == "long"


def test_wrong_key(net, drive) -> None:
    net.peer.start_sshd(authorized="")
    failure = refused(drive)
    assert failure["cause"] == "the peer accepts none of our keys"
    assert "authorized_keys" in failure["remedy"]
    assert failure["patience"] == "long"


def test_changed_host_key(net, drive) -> None:
    peer = net.peer
    other = net.lab.new_file("other-key")
    peer.namespace.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(other))
    peer.start_sshd(host_key=other)
    failure = refused(drive)
    assert "has CHANGED" in failure["cause"]
    assert failure["patience"] == "long"


@pytest.mark.parametrize("strict", ["ask", "yes"])
def test_unknown_host_key(net, drive, strict) -> None:
    net.peer.start_sshd()
    net.keys.known_hosts.write_text("")
    failure = refused(drive, options=["-o", f"StrictHostKeyChecking={strict}"])
    assert failure["cause"] == "the peer's host key is not known here"
    assert failure["patience"] == "long"


def test_accept_new_is_the_users_to_choose(net, drive) -> None:
    net.peer.start_sshd()
    net.keys.known_hosts.write_text("")
    drive(options=["-o", "StrictHostKeyChecking=accept-new"]).ready()


def test_nothing_listens(drive) -> None:
    failure = refused(drive)
    assert failure["cause"] == "nothing listens on the peer's ssh port"
    assert failure["patience"] == "short"


def test_no_answer_and_no_route(net, drive) -> None:
    failure = refused(drive, target="2001:db8::1")
    assert failure["cause"] == "the peer cannot be reached: Network is unreachable"
    net.cut()
    failure = refused(drive, options=["-o", "ConnectTimeout=1"])
    assert failure["cause"] == "the peer does not answer"


def test_a_login_without_a_shell(net, drive) -> None:
    net.peer.start_sshd(extra="ForceCommand /bin/true\n")
    failure = refused(drive)
    assert failure["cause"] == "the peer runs no script for us"


def test_what_the_script_refuses(net, drive) -> None:
    net.peer.start_sshd()
    net.peer.namespace.ip("addr", "add", f"{REMOTE4}/32", "dev", "lo")
    failure = refused(drive)
    assert failure["kind"] == "LinkAddressTaken"
    assert REMOTE4 in failure["cause"]


# Connection sharing.

MASTER = ("-M", "-N", "-T", "-o", "ControlPersist=no", "-o", "BatchMode=yes")


def start_master(net: BackhaulNet, *tunnel: str) -> tuple[Process, str]:
    path = str(net.keys.folder / "master")
    process = net.gateway.start(
        *("ssh", "-F", str(net.keys.config), "-S", path, *MASTER, *tunnel, "peer-a"), name="master"
    )
    wait_until(
        lambda: Path(path).exists() or process.status is not None, 10, "the master has its socket"
    )
    # The socket is there before the tunnel is.
    if tunnel:
        wait_until(lambda: net.peer.taps() or "tun" in net.peer.namespace.ip("link"), 10, "tunnel")
    return process, path


def test_a_master_is_used_and_left_alone(net, drive) -> None:
    peer = net.peer
    peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    before = peer.before()
    net.gateway.ip("link", "set", "tap4", "up")
    driver = drive(control_path=path)
    assert driver.ready()["device"] == "tap4"
    assert pings(net)
    driver.process.send(signal.SIGTERM)
    driver.process.wait_for("^CANCELLED", 15)
    assert process.status is None
    route = peer.namespace.ip("route")
    assert "192.0.0.6" not in route
    assert "169.254.7" not in route
    assert "masquerade" not in peer.ruleset()
    assert len(before.run) == len(peer.run_files())


def test_a_master_that_is_killed_is_noticed(net, drive) -> None:
    net.peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    driver = drive(control_path=path)
    driver.ready()
    process.send(signal.SIGKILL)
    assert driver.failed()["cause"]
    failure = refused(drive, control_path=path)
    assert failure["cause"] == f"the master connection of {path} is dead"


@pytest.mark.parametrize(
    ("tunnel", "said"),
    [
        ((), "has no tunnel"),
        (("-w", "4:any"), "has only a point-to-point tunnel (tun4), no ethernet one"),
    ],
)
def test_a_master_without_tunnel_is_refused(net, drive, tunnel, said) -> None:
    net.peer.start_sshd(permit_tunnel="yes")
    process, path = start_master(net, *tunnel)
    driver = drive(control_path=path)
    failure = driver.said("FAILED")
    assert failure["cause"] == f"the master connection (process {process.pid}) {said}"
    assert failure["patience"] == "long"


def test_no_master(net, drive) -> None:
    net.peer.start_sshd()
    failure = refused(drive, control_path="/nonexistent/master")
    assert failure["cause"] == "there is no master connection at /nonexistent/master"


def test_a_stopped_master_is_given_up(net, drive) -> None:
    net.peer.start_sshd()
    process, path = start_master(net, "-o", "Tunnel=ethernet", "-w", "4:any")
    process.send(signal.SIGSTOP)
    failure = drive(control_path=path).said("FAILED")
    assert failure["cause"].startswith(f"the master connection of {path} does not answer")
