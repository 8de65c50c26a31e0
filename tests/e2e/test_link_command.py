"""`gateway link` with real taps: every kind of stream, both families, and how links end.

west ──────── veth, 192.0.2.0/30 and fd00:7::/64 ──────── east
t0 169.254.7.2/30                                  t0 169.254.7.1/30
 └──────── frames over some byte stream ──────────────────┘
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.gateway_process import EXIT_CLEAN, EXIT_CONFIGURATION, EXIT_HOST, ROOT
from tests.e2e.namespaces import Lab, Namespace, Process, wait_until

RAW_STREAM = str(Path(__file__).with_name("raw_stream.py"))
LINK = f"{shlex.quote(sys.executable)} -m gateway link"
WEST4, EAST4 = "169.254.7.2", "169.254.7.1"
PORT = "6464"
CONNECTED = r": connected, "
# Broadcast, EtherType for experiments (IEEE 802), 14 bytes: the shortest frame there is.
SHORTEST = "ffffffffffff02000000000188b5"


@dataclass
class Pair:
    """Two hosts with a wire between them."""

    west: Namespace
    east: Namespace

    def ping(self, count: int = 3) -> None:
        """Through the link; AssertionError unless every echo is answered."""
        self.west.run("ping", "-c", str(count), "-i", "0.1", "-W", "3", EAST4)


@pytest.fixture
def pair(lab: Lab) -> Pair:
    west, east = lab.namespace("west"), lab.namespace("east")
    lab.link(west, "wire", east, "wire", 1500)
    for host, four, six in ((west, "192.0.2.1", "fd00:7::1"), (east, "192.0.2.2", "fd00:7::2")):
        host.ip("addr", "add", f"{four}/30", "dev", "wire")
        host.ip("addr", "add", f"{six}/64", "dev", "wire", "nodad")
    return Pair(west, east)


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "gateway", "link", *arguments]


def link(host: Namespace, *arguments: str) -> Process:
    return host.start(*command(*arguments), name="link", cwd=ROOT)


def west_end(pair: Pair, endpoint: str, *more: str) -> Process:
    return link(pair.west, endpoint, "--tap", "t0", "--address", f"{WEST4}/30", *more)


def east_end(pair: Pair, endpoint: str, *more: str) -> Process:
    return link(pair.east, endpoint, "--tap", "t0", "--address", f"{EAST4}/30", *more)


def raw(host: Namespace, *arguments: str) -> Process:
    return host.start(sys.executable, RAW_STREAM, *arguments, name="raw")


def stop(*processes: Process) -> None:
    """Each ends at SIGTERM with status 0 and without a bug on the way."""
    for process in processes:
        process.send(signal.SIGTERM)
        assert process.wait(10) == EXIT_CLEAN, process.log()
        assert "Traceback" not in process.log(), process.log()


def devices(host: Namespace) -> set[str]:
    return {line.split()[0].split("@")[0] for line in host.ip("-br", "link").splitlines()}


def has_carrier(host: Namespace) -> bool:
    return "LOWER_UP" in host.ip("-br", "link", "show", "t0")


@pytest.mark.parametrize(
    ("listen", "connect"),
    [
        ("listen:192.0.2.2:6464", "tcp://192.0.2.2:6464"),
        ("listen:[fd00:7::2]:6464", "tcp://[fd00:7::2]:6464"),
        ("listen:[::]:6464", "tcp://192.0.2.2:6464"),
        ("listen:[::]:6464", "tcp://[fd00:7::2]:6464"),
        ("listen:0.0.0.0:6464", "tcp://192.0.2.2:6464"),
    ],
)
def test_tcp(pair: Pair, listen: str, connect: str) -> None:
    east = east_end(pair, listen)
    east.wait_for("waiting for a far end")
    west = west_end(pair, connect)
    east.wait_for(CONNECTED)
    west.wait_for(CONNECTED)
    pair.ping()
    for process in (east, west):
        assert "neither authenticated nor encrypted" in process.log()
    stop(west)
    east.wait_for("closed the link")
    stop(east)
    assert "t0" not in devices(pair.west) | devices(pair.east)


def test_large_frames_and_many_of_them(pair: Pair) -> None:
    """Every byte of bulk TCP arrives, through frames of the largest size that the taps allow."""
    east = east_end(pair, "listen:192.0.2.2:6464", "--mtu", "65521")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464", "--mtu", "65521")
    west.wait_for(CONNECTED)
    pair.west.run("ping", "-c", "2", "-i", "0.2", "-M", "do", "-s", "65493", EAST4)
    send = "import hashlib,os,socket,sys\n"
    receive = (
        f"{send}s = socket.create_server(('{EAST4}', 7)); print('listening', flush=True)\n"
        "c, _ = s.accept(); h = hashlib.sha256()\n"
        "while d := c.recv(1 << 20): h.update(d)\n"
        "print('sum', h.hexdigest(), flush=True)\n"
    )
    send += (
        f"d = os.urandom(30_000_000); c = socket.create_connection(('{EAST4}', 7))\n"
        "c.sendall(d); c.close(); print(hashlib.sha256(d).hexdigest())\n"
    )
    receiver = pair.east.start(sys.executable, "-c", receive, name="receive")
    receiver.wait_for("listening")
    wanted = pair.west.run(sys.executable, "-c", send).out.strip()
    assert receiver.wait_for(r"sum (\w+)")[1] == wanted
    stop(west, east)


def test_listen_is_on_loopback_unless_told_otherwise(pair: Pair) -> None:
    east = east_end(pair, f"listen:{PORT}")
    said = east.wait_for(r"waiting for a far end at (.*)")[1]
    assert said == f"[::1]:{PORT}, 127.0.0.1:{PORT}"
    refused = pair.west.run(*command("tcp://192.0.2.2:6464", "--once"), check=False, cwd=ROOT)
    assert refused.status == EXIT_HOST
    assert "Connection refused: start `gateway link` there" in refused.err
    for host in ("127.0.0.1", "::1"):
        before = len(east.log())
        raw(pair.east, "tcp", host, PORT, f"hex:0000000e{SHORTEST}").wait_for("did hex")
        east.wait_for(r"closed the link\n.*waiting for a far end", after=before)
    stop(east)


def test_unix(pair: Pair, lab: Lab) -> None:
    path = lab.folder / "socket"
    east = east_end(pair, f"listen:unix:{path}")
    east.wait_for("waiting")
    wait_until(path.exists, 5, "the socket is there")
    assert path.stat().st_mode & 0o777 == 0o600
    west = west_end(pair, f"unix:{path}")
    east.wait_for(CONNECTED)
    pair.ping()
    assert not path.exists(), "one far end at a time"
    stop(west)
    wait_until(path.exists, 5, "it waits again")
    stop(east)
    assert not path.exists()


def test_unix_socket_of_a_killed_process_is_replaced(pair: Pair, lab: Lab) -> None:
    path = lab.folder / "socket"
    killed = east_end(pair, f"listen:unix:{path}")
    killed.wait_for("waiting")
    killed.send(signal.SIGKILL)
    killed.wait(5)
    assert path.is_socket()
    east = east_end(pair, f"listen:unix:{path}")
    east.wait_for("waiting")
    second = pair.west.run(*command(f"listen:unix:{path}", "--once"), check=False, cwd=ROOT)
    assert "another process listens at" in second.err
    stop(east)


def test_unix_path_that_is_a_file_is_left_alone(pair: Pair, lab: Lab) -> None:
    path = lab.new_file("precious")
    path.write_text("data")
    refused = pair.east.run(*command(f"listen:unix:{path}"), check=False, cwd=ROOT)
    assert refused.status == EXIT_HOST
    assert "is no socket" in refused.err
    assert path.read_text() == "data"


def test_exec_joins_std(pair: Pair) -> None:
    """The far end as the child of the near one, as with `exec:'ssh peer gateway link std:'`."""
    there = f"ip netns exec {pair.east.name} {LINK} std: --tap t0 --address {EAST4}/30"
    west = west_end(pair, f"exec:{there}")
    west.wait_for("exec: .*std:: connected")
    wait_until(lambda: has_carrier(pair.east), 10, "the far end is there")
    pair.ping()
    stop(west)
    wait_until(lambda: "t0" not in devices(pair.east), 10, "the far end has ended")


def test_std_in_a_shell_pipe(pair: Pair, lab: Lab) -> None:
    """Two `gateway link std:` joined by a pipe one way and a fifo the other."""
    fifo = lab.folder / "fifo"
    os.mkfifo(fifo)
    west, east = (
        f"ip netns exec {host.name} {LINK} std: --tap t0 --address {address}/30"
        for host, address in ((pair.west, WEST4), (pair.east, EAST4))
    )
    shell = pair.west.start("sh", "-c", f"{west} <{fifo} | {east} >{fifo}", name="pipe", cwd=ROOT)
    shell.wait_for(r"connected(.|\n)*connected")
    pair.ping()
    shell.end()


def test_pty(pair: Pair, lab: Lab) -> None:
    """Every byte value passes: a terminal that is not raw would change some."""
    path = lab.folder / "tty"
    east = east_end(pair, f"pty:{path}")
    east.wait_for("waiting for a far end at")
    assert not has_carrier(pair.east)
    west = link(
        pair.west,
        f"exec:{shlex.quote(sys.executable)} {ROOT}/tests/e2e/tty_cat.py {path}",
        *("--tap", "t0", "--address", f"{WEST4}/30", "--once"),
    )
    east.wait_for(CONNECTED)
    pattern = "".join(f"{value:02x}" for value in range(16))
    pair.west.run("ping", "-c", "3", "-i", "0.1", "-p", pattern, "-s", "1400", EAST4)
    everything = "".join(f"{value:02x}" for value in range(256))
    for start in range(0, 512, 32):
        pair.west.run("ping", "-c", "1", "-p", everything[start : start + 32], EAST4)
    stop(west)
    east.wait_for("closed the terminal")
    east.wait_for(r"closed the terminal(.|\n)*waiting for a far end")
    assert path.is_symlink()
    stop(east)
    assert not path.is_symlink()


def test_pty_leaves_a_file_alone(pair: Pair, lab: Lab) -> None:
    path = lab.new_file("precious")
    path.write_text("data")
    refused = pair.east.run(*command(f"pty:{path}"), check=False, cwd=ROOT)
    assert refused.status == EXIT_HOST
    assert "is no link to a terminal" in refused.err
    assert path.read_text() == "data"


def test_two_streams_joined_in_the_middle(pair: Pair, lab: Lab) -> None:
    """west ─ tcp ─ middle ─ unix ─ east; the middle has no tap, and no privilege."""
    path = lab.folder / "socket"
    lab.folder.chmod(0o755)
    east = east_end(pair, f"listen:unix:{path}")
    east.wait_for("waiting")
    path.chmod(0o666)
    middle = pair.east.start(
        *("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"),
        *command("listen:[fd00:7::2]:6464", f"unix:{path}"),
        name="middle",
        cwd=ROOT,
    )
    middle.wait_for("waiting")
    west = west_end(pair, "tcp://[fd00:7::2]:6464")
    east.wait_for(CONNECTED)
    pair.ping()
    stop(west)
    east.wait_for("closed the link")
    middle.wait_for(r"closed the link(.|\n)*waiting")
    stop(middle, east)


@pytest.mark.parametrize("length", ["0000000d", "0001000e", "53534820"])
def test_a_length_out_of_range_ends_the_link(pair: Pair, length: str) -> None:
    east = east_end(pair, f"listen:{PORT}", "--once")
    east.wait_for("waiting")
    client = raw(pair.east, "tcp", "::1", PORT, f"hex:0000000e{SHORTEST}{length}", "read")
    assert east.wait(10) == EXIT_HOST
    assert f"a length of {int(length, 16)}" in east.log()
    client.wait_for("end after")
    assert "Traceback" not in east.log()


def test_a_frame_split_anywhere_arrives_whole(pair: Pair) -> None:
    """Byte for byte at the tap, which a second program sees by tcpdump."""
    east = east_end(pair, f"listen:{PORT}")
    east.wait_for("waiting")
    capture = pair.east.start("tcpdump", "-lnxxi", "t0", "ether", "proto", "0x88b5", name="dump")
    capture.wait_for("listening on")
    frame = SHORTEST + "00" * 46 + "deadbeef"
    whole = f"{len(frame) // 2:08x}{frame}"
    pieces = [f"hex:{whole[at : at + 2]}" for at in range(0, len(whole), 2)]
    client = raw(pair.east, "tcp", "::1", PORT, *pieces, f"hex:{whole}", "sleep")
    client.wait_for(r"(did hex\n){69}")
    capture.wait_for(r"(dead beef(.|\n)*){2}")
    client.end()
    stop(east)


def test_an_end_inside_a_frame_is_said(pair: Pair) -> None:
    east = east_end(pair, f"listen:{PORT}", "--once")
    east.wait_for("waiting")
    raw(pair.east, "tcp", "::1", PORT, "hex:0000000e00").wait_for("did hex")
    assert east.wait(10) == EXIT_HOST
    assert "in the middle of a frame" in east.log()


def test_far_end_killed_and_back(pair: Pair) -> None:
    """The carrier goes with the far end, and the listener takes the next one."""
    east = east_end(pair, "listen:192.0.2.2:6464")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464")
    east.wait_for(CONNECTED)
    pair.ping()
    before = len(east.log())
    west.send(signal.SIGKILL)
    west.wait(5)
    east.wait_for("closed the link", after=before)
    wait_until(lambda: not has_carrier(pair.east), 5, "no carrier without a far end")
    again = west_end(pair, "tcp://192.0.2.2:6464")
    east.wait_for(CONNECTED, after=before)
    pair.ping()
    stop(again, east)


def test_the_connecting_end_comes_back_by_itself(pair: Pair) -> None:
    east = east_end(pair, "listen:192.0.2.2:6464")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464")
    west.wait_for(CONNECTED)
    east.send(signal.SIGKILL)
    east.wait(5)
    before = len(west.log())
    west.wait_for("Connection refused")
    east = east_end(pair, "listen:192.0.2.2:6464")
    west.wait_for(CONNECTED, after=before)
    pair.ping()
    stop(west, east)


def test_a_second_far_end_is_refused_and_disturbs_nothing(pair: Pair) -> None:
    east = east_end(pair, "listen:[::]:6464")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464")
    east.wait_for(CONNECTED)
    for host in ("tcp://192.0.2.2:6464", "tcp://[fd00:7::2]:6464"):
        second = pair.west.run(*command(host, "--once"), check=False, cwd=ROOT)
        assert second.status == EXIT_HOST
        assert "it takes one far end at a time" in second.err
    pair.ping()
    assert len(east.log().split(CONNECTED[2:].strip())) == 2
    stop(west, east)


@pytest.mark.timeout(90)
def test_a_cut_wire_is_found(pair: Pair) -> None:
    """Nobody says goodbye: both ends find out, and the listener is free for the next one."""
    east = east_end(pair, "listen:192.0.2.2:6464")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464")
    west.wait_for(CONNECTED)
    pair.ping()
    silence = "add table inet cut { chain c { type filter hook input priority 0; policy drop; } ; }"
    for host in (pair.west, pair.east):
        host.run("nft", silence)
    before = len(west.log())
    for end in (east, west):
        end.wait_for("does not answer any more", 40)
    assert not has_carrier(pair.east)
    for host in (pair.west, pair.east):
        host.run("nft", "delete table inet cut")
    west.wait_for(CONNECTED, 40, after=before)
    wait_until(lambda: has_carrier(pair.east), 10, "the listener has it again")
    pair.ping()
    stop(west, east)


def test_a_far_end_that_reads_nothing_costs_bounded_memory(pair: Pair) -> None:
    """What it does not take is dropped at the tap and counted there."""
    east = east_end(pair, f"listen:{PORT}")
    east.wait_for("waiting")
    client = raw(pair.east, "tcp", "::1", PORT, "slow:4", "frames:500", "sleep")
    east.wait_for(CONNECTED)
    pair.east.ip("neigh", "replace", WEST4, "lladdr", "02:00:00:00:00:02", "dev", "t0")
    before = memory_of(east)
    flood = (
        "import socket\n"
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
        f"for _ in range(100_000): s.sendto(bytes(1400), ('{WEST4}', 9))\n"
    )
    pair.east.run(sys.executable, "-c", flood)
    assert memory_of(east) - before < 4_000, "kB"
    dropped = int(pair.east.run("cat", "/proc/net/dev").out.split("t0:")[1].split()[11])
    assert dropped > 50_000
    client.wait_for("did slow")
    # It goes on where it was, with whole frames, though writes stopped in the middle of some.
    client.wait_for("did frames")
    client.end()
    stop(east)


def memory_of(process: Process) -> int:
    """Resident kB of the program behind `ip netns exec` and setpriv, which exec it."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0])


def test_a_flood_into_a_tap_that_is_down_is_counted(pair: Pair) -> None:
    east = east_end(pair, f"listen:{PORT}")
    east.wait_for("waiting")
    pair.east.ip("link", "set", "t0", "down")
    raw(pair.east, "tcp", "::1", PORT, "flood:500", "sleep").wait_for("did flood")
    east.wait_for(CONNECTED)

    def refused() -> bool:
        before = len(east.log())
        east.send(signal.SIGUSR1)
        return east.wait_for(r"refused=(\d+)", after=before)[1] == "500"

    wait_until(refused, 10, "500 frames counted")
    stop(east)


def test_the_tap_removed_under_it(pair: Pair) -> None:
    east = east_end(pair, f"listen:{PORT}", "--once")
    east.wait_for("waiting")
    client = raw(pair.east, "tcp", "::1", PORT, "sleep")
    east.wait_for(CONNECTED)
    pair.east.ip("link", "del", "t0")
    assert east.wait(10) == EXIT_HOST
    assert "the tap was removed" in east.log()
    client.end()


def test_exec_stderr_is_logged_and_its_status_told(pair: Pair) -> None:
    ended = pair.east.run(
        *command("exec:echo what went wrong >&2; exit 3", "--once"), check=False, cwd=ROOT
    )
    assert ended.status == EXIT_HOST
    assert "exec: what went wrong" in ended.err
    assert "the command ended with status 3: what went wrong" in ended.err


def test_exec_of_what_is_no_command_is_not_tried_again(pair: Pair) -> None:
    ended = pair.east.run(*command("exec:/nonexistent"), check=False, cwd=ROOT)
    assert ended.status == EXIT_HOST
    assert "correct the command behind exec:" in ended.err


def test_exec_and_all_it_started_end_with_the_link(pair: Pair, lab: Lab) -> None:
    """Also what ignores SIGTERM."""
    pids = lab.new_file("pids")
    script = f"trap '' TERM; sleep 1001 & echo $$ $! >{pids}; wait; sleep 1002"
    east = link(pair.east, f"exec:{script}")
    wait_until(lambda: pids.exists() and len(pids.read_text().split()) == 2, 10, "it runs")
    numbers = pids.read_text().split()
    east.wait_for(CONNECTED)
    stop(east)
    wait_until(lambda: not any(map(runs, numbers)), 5, "all of it was ended")


def runs(pid: str) -> bool:
    """Whether the process is there and does not only wait to be reaped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_endless_stderr_does_not_fill_the_log(pair: Pair) -> None:
    east = link(pair.east, "exec:yes >&2 & cat", "--once")
    east.wait_for(r"exec: y")
    stop(east)
    assert len(east.log()) < 10_000
    assert "more lines were not logged" in east.log()


@pytest.mark.parametrize(
    ("redirection", "said"),
    [
        ("</dev/null", "standard input is a file"),
        (f"<{ROOT}/Makefile", "standard input is a file"),
        ("<&-", "standard input is closed"),
        (">/dev/null", "standard output is a file"),
        (">&-", "standard output is closed"),
    ],
)
def test_std_takes_no_files(pair: Pair, redirection: str, said: str) -> None:
    """Each beside a good other end: a socket for input, a pipe for output."""
    script = (
        "import socket, subprocess, sys\n"
        "ours, theirs = socket.socketpair()\n"
        f"command = {LINK + ' std: ' + redirection!r}\n"
        "sys.exit(subprocess.run(command, shell=True, stdin=theirs).returncode)\n"
    )
    ended = pair.east.run(sys.executable, "-c", script, check=False, cwd=ROOT)
    assert ended.status == EXIT_HOST
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_the_set_up_for_a_gateway_and_its_undoing(pair: Pair) -> None:
    """Route back to pool4, forwarding and masquerade; nothing of it stays."""
    pair.east.ip("route", "add", "default", "via", "192.0.2.1")
    before = pair.east.run("nft", "list", "ruleset").out
    routes = pair.east.ip("route")
    east = east_end(pair, f"listen:{PORT}", "--pool4", "192.0.0.6/32")
    east.wait_for("waiting", 30)
    assert f"192.0.0.6 via {WEST4} dev t0" in pair.east.ip("route")
    assert "masquerade" in pair.east.run("nft", "list", "ruleset").out
    assert pair.east.sysctl_value("net.ipv4.conf.t0.forwarding") == "1"
    stop(east)
    assert pair.east.run("nft", "list", "ruleset").out == before
    assert pair.east.ip("route") == routes
    assert pair.east.sysctl_value("net.ipv4.conf.wire.forwarding") == "0"


def test_an_existing_tap_is_used_and_stays(pair: Pair) -> None:
    pair.east.ip("tuntap", "add", "t0", "mode", "tap")
    pair.east.ip("addr", "add", f"{EAST4}/30", "dev", "t0")
    pair.east.ip("link", "set", "t0", "up")
    refused = pair.east.run(
        *command(f"listen:{PORT}", "--tap", "t0", "--address", "192.0.2.9/30"),
        check=False,
        cwd=ROOT,
    )
    assert refused.status == EXIT_HOST
    assert "t0 exists already" in refused.err
    east = link(pair.east, "listen:192.0.2.2:6464", "--tap", "t0")
    east.wait_for("waiting")
    west = west_end(pair, "tcp://192.0.2.2:6464")
    east.wait_for(CONNECTED)
    pair.ping()
    stop(west, east)
    assert "t0" in devices(pair.east)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("root@peer",), "exec:'ssh root@peer gateway link std:'"),
        (("tcp:peer:1",), "tcp://peer:1 is right"),
        (("std:", "std:"), "one end only"),
        (("std:", "listen:7", "pty:"), "give one, or two"),
        (("std:", "listen:7", "--tap", "t0"), "nothing of a tap"),
        (("listen:7", "--address", "192.0.2.1"), "ADDRESS/LENGTH"),
        (("listen:7", "--mtu", "1279"), "1280 to 65521"),
        (("listen:7", "--pool4", "192.0.0.6/32"), "goes with one IPv4 --address"),
        (("listen:7", "--gateway", "192.0.2.1"), "go with --pool4"),
        (
            ("listen:7", "--address", "10.0.0.1/24", "--pool4", "192.0.0.6/32"),
            "--gateway ADDR is needed",
        ),
        (("listen:7", "--adress", "x"), "did you mean --address"),
    ],
)
def test_mistakes_in_the_command_line(pair: Pair, arguments: tuple[str, ...], said: str) -> None:
    refused = pair.east.run(*command(*arguments), check=False, cwd=ROOT)
    assert refused.status == EXIT_CONFIGURATION
    assert said in refused.err
