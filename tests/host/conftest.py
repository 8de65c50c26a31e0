"""Every test of this folder runs in a child process with a network namespace of its own.

The namespace has no name: it is gone with the last process in it, however the test ended. It
starts with a loopback that is up and the kernel's default sysctls. Fixtures are made in the
parent; what the test itself opens, starts as a thread or leaves behind is the child's.
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import traceback
import warnings

import pytest

CLONE_NEWNET = 0x40000000


def _new_namespace() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWNET)")


def _child(item: pytest.Function, report: int) -> int:
    """Run the test; 0 when it passed, 1 with a traceback on `report`, 2 with a skip's reason."""
    try:
        _new_namespace()
        run("ip link set lo up")
        arguments = {name: item.funcargs[name] for name in item._fixtureinfo.argnames}
        item.obj(**arguments)
    except pytest.skip.Exception as skip:
        os.write(report, str(skip).encode())
        return 2
    except BaseException:
        os.write(report, traceback.format_exc().encode()[-60_000:])
        return 1
    return 0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool:
    if os.geteuid() != 0:
        pytest.fail("needs root: a network namespace is made for each test")
    reading, writing = os.pipe()
    sys.stdout.flush()
    with warnings.catch_warnings():
        # Other tests of the session may have left threads; the child uses none of them.
        warnings.simplefilter("ignore", DeprecationWarning)
        pid = os.fork()
    if pid == 0:
        os.close(reading)
        status = 3
        try:
            status = _child(pyfuncitem, writing)
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(status)
    os.close(writing)
    try:
        with open(reading, "rb") as report:
            text = report.read().decode(errors="replace")
        _, status = os.waitpid(pid, 0)
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    code = os.waitstatus_to_exitcode(status)
    if code == 2:
        pytest.skip(text)
    if code:
        pytest.fail(text or f"the test's process ended with {code}", pytrace=False)
    return True


def run(command: str) -> str:
    """Standard output of a command, which must succeed."""
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode:
        raise OSError(errno.EIO, f"{command}: {done.stderr}{done.stdout}")
    return done.stdout


@pytest.fixture(name="run")
def run_fixture():
    return run


@pytest.fixture
def snapshot(sysctl):
    """snapshot() is everything of this namespace that the gateway may change, as text."""

    def values() -> str:
        keys = [
            f"{family}/conf/{device}/{key}"
            for family, key in (("ipv4", "forwarding"), ("ipv6", "forwarding"))
            for device in sorted(os.listdir(f"/proc/sys/net/{family}/conf"))
        ]
        keys += [
            f"ipv6/conf/{device}/{key}"
            for device in sorted(os.listdir("/proc/sys/net/ipv6/conf"))
            for key in ("accept_ra", "disable_ipv6")
        ]
        keys += ["ipv4/conf/all/accept_redirects"]
        # Routes in every table but the addresses' own; those follow what `ip addr` shows.
        commands = ("ip -6 route", "ip -4 route", "ip -o addr", "ip neigh show nud permanent")
        texts = [f"{key} = {sysctl(key)}" for key in keys]
        texts += [run(command) for command in commands]
        # The queueing discipline appears when a device first comes up and never leaves.
        texts += [re.sub(r" qdisc \w+", "", run("ip -o link")), run("nft list ruleset")]
        return "\n".join(texts)

    return values


INSTANCE = """
import sys
from ipaddress import IPv4Network, IPv6Network
from gateway.host.setup import HostSpec, plan_host
from gateway.tap import close_device, open_device
name, prefix, pool, run_dir, mtu = sys.argv[1:]
device = open_device("tap", name, offload=True)
spec = HostSpec(name, "tap", int(mtu), bytes.fromhex("020000000005"), [IPv6Network(prefix)],
                [IPv4Network(pool)], True, run_dir)
plan = plan_host(spec, log=lambda line: print(line, flush=True))
plan.apply()
print("READY", flush=True)
sys.stdin.readline()
plan.undo()
close_device(device)
"""


class Instance:
    """A process that opens the device and applies the plan as a gateway does."""

    def __init__(self, name: str, run_dir: str, prefix: str, pool: str, mtu: int) -> None:
        arguments = [sys.executable, "-c", INSTANCE, name, prefix, pool, run_dir, str(mtu)]
        self.process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={"PYTHONPATH": os.pathsep.join([".", *sys.path]), "PATH": os.environ["PATH"]},
        )
        self.said: list[str] = []
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line == "READY\n":
                return
            self.said.append(line.rstrip())
        raise AssertionError(f"the instance did not start: {self.said}")

    def stop(self) -> list[str]:
        out, _ = self.process.communicate("stop\n", timeout=30)
        assert self.process.returncode == 0, out
        return out.splitlines()

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def instance(tmp_path):
    """instance(name) starts a gateway's host set-up in a process of its own."""
    started: list[Instance] = []

    def start(
        name: str,
        prefix: str = "fec0:0:0:ffff::/64",
        pool: str = "192.0.0.6/32",
        mtu: int = 1500,
    ) -> Instance:
        started.append(Instance(name, str(tmp_path / "run"), prefix, pool, mtu))
        return started[-1]

    return start


@pytest.fixture
def sysctl():
    """sysctl(key) reads, sysctl(key, value) writes; keys are paths below /proc/sys/net."""

    def access(key: str, value: str | None = None) -> str:
        path = f"/proc/sys/net/{key}"
        if value is not None:
            with open(path, "w") as file:
                file.write(value)
        with open(path) as file:
            return file.read().strip()

    return access
