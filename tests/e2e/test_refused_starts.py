"""Mistakes: one line each with the remedy, the right exit status, and nothing changed.

gateway (a namespace with one IPv4 and one IPv6 link, nothing behind them)
"""

from __future__ import annotations

import re
import sys

import pytest

from tests.e2e.gateway_process import EXIT_CONFIGURATION, EXIT_HOST, Gateway
from tests.e2e.namespaces import Lab, Namespace, Result
from tests.e2e.snapshot import difference, snapshot
from tests.e2e.topology import PREFIX, gateway_host


@pytest.fixture(scope="module")
def shared_host(module_lab: Lab) -> Namespace:
    return _build(module_lab)


def _build(lab: Lab) -> Namespace:
    host = gateway_host(lab)
    neighbour = lab.namespace("neighbour")
    for name, address in (("v4", "203.0.113.1/24"), ("v6", "fd00:64::1/64")):
        lab.link(host, name, neighbour, name, 1500)
        host.ip("addr", "add", address, "dev", name)
    return host


def refused(
    host: Namespace,
    status: int,
    *arguments: str,
    config: str = "",
    wrapper: tuple[str, ...] = (),
) -> Result:
    """The result of a start that must fail with `status` and change nothing."""
    before = snapshot(host)
    gateway = Gateway(host, *arguments, config=config)
    result = gateway.run(wrapper=wrapper)
    assert result.status == status, result.text
    assert "Traceback" not in result.text
    assert all(line.startswith("gateway: ") for line in result.err.splitlines()), result.err
    assert difference(before, snapshot(host)) == ""
    assert not gateway.run_dir.exists()
    return result


def errors(result: Result) -> list[str]:
    return [line for line in result.err.splitlines() if line.startswith("gateway: error: ")]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--prefix", "fd00:64:1::/65"), r"prefix.*fd00:64:1::/65.*/96"),
        (("--prefix", "fd00:64:1::1/64"), r"prefix.*host bits|prefix.*fd00:64:1::/64"),
        (("--prefix", "nonsense"), r"prefix.*nonsense"),
        (("--pool4", "198.51.100.9/29"), r"pool4.*198\.51\.100\.8/29|pool4.*host bits"),
        (("--pool4", "198.51.100.8/29 9-3"), r"pool4.*9-3"),
        (("--allow", "192.0.2.0/24"), r"allow.*192\.0\.2\.0/24"),
        (("--deny4", "2001:db8::/32"), r"deny4.*2001:db8::/32"),
        (("--mtu", "1000"), r"mtu.*1280"),
        (("--mss-clamp", "sometimes"), r"mss_clamp.*sometimes"),
        (("--device", "tape"), r"device.*tape"),
        (("--set", "no_such_key=1"), r"no_such_key"),
        (("--no-such-flag",), r"--no-such-flag"),
        (("--advertise-merge",), r"--advertise-merge: no interface is named"),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else "",
)
def test_command_line(shared_host: Namespace, arguments: tuple[str, ...], named: str) -> None:
    result = refused(shared_host, EXIT_CONFIGURATION, *arguments)
    assert len(errors(result)) == 1
    assert re.search(named, result.err), result.err


def test_plan_that_cannot_be_written(shared_host: Namespace) -> None:
    wrapper = ("sh", "-c", '"$@" > /dev/full', "sh")
    result = refused(shared_host, EXIT_HOST, "--dry-run", wrapper=wrapper)
    (line,) = errors(result)
    assert "cannot write to standard output: " in line


def test_all_mistakes_of_a_file_at_once(shared_host: Namespace) -> None:
    result = refused(
        shared_host,
        EXIT_CONFIGURATION,
        config=(
            'prefix = "fd00:64:1::/65"\n'
            "mtuu = 1500\n"
            'pool4 = ["198.51.100.9/29"]\n'
            'offload = "yes"\n'
            "[timeouts]\nudp_default = -1\n"
        ),
    )
    text = "\n".join(errors(result))
    assert len(errors(result)) == 5
    for key in ("prefix", "mtuu", "pool4", "offload", "timeouts.udp_default"):
        assert re.search(rf"\b{re.escape(key)}\b", text), key


def test_file_that_is_not_there(shared_host: Namespace) -> None:
    result = refused(shared_host, EXIT_CONFIGURATION, "--config", "/nonexistent/gateway.toml")
    assert "/nonexistent/gateway.toml" in result.err


def test_file_that_is_no_toml(shared_host: Namespace) -> None:
    result = refused(shared_host, EXIT_CONFIGURATION, config="mtu = = 5")
    assert len(errors(result)) == 1
    assert "line 2" in result.err


def test_without_cap_net_admin(shared_host: Namespace) -> None:
    result = refused(
        shared_host,
        EXIT_HOST,
        wrapper=("setpriv", "--inh-caps", "-net_admin", "--bounding-set", "-net_admin"),
    )
    assert re.search(r"root|CAP_NET_ADMIN", result.err)


def test_without_dev_net_tun(shared_host: Namespace) -> None:
    hide = 'mount -t tmpfs tmpfs /dev/net && exec "$@"'
    result = refused(
        shared_host, EXIT_HOST, wrapper=("unshare", "--mount", "sh", "-c", hide, "hide")
    )
    assert "/dev/net/tun" in result.err
    assert "modprobe tun" in result.err


def test_device_in_use(lab: Lab) -> None:
    host = _build(lab)
    code = (
        "import fcntl, os, struct, time; fd = os.open('/dev/net/tun', os.O_RDWR);"
        " fcntl.ioctl(fd, 0x400454CA, struct.pack('16sH22x', b'tap7', 0x1002));"
        " print('open', flush=True); time.sleep(60)"
    )
    holder = host.start(sys.executable, "-c", code)
    holder.wait_for("open")
    result = refused(host, EXIT_HOST, "--tap", "tap7")
    assert re.search(r"tap7.*(busy|in use)", result.err)


def test_device_of_another_program(lab: Lab) -> None:
    host = _build(lab)
    result = refused(host, EXIT_HOST, "--tap", "v4")
    assert "v4" in result.err
    assert "--tap" in result.err


@pytest.mark.parametrize("route", [("dev", "v6"), ("via", "fd00:64::2"), ("dev", "lo")])
def test_route_for_the_prefix_exists(lab: Lab, route: tuple[str, ...]) -> None:
    host = _build(lab)
    host.ip("-6", "route", "add", PREFIX, *route)
    result = refused(host, EXIT_HOST)
    assert PREFIX in result.err
    assert "route" in result.err


def test_address_in_the_prefix_exists(lab: Lab) -> None:
    host = _build(lab)
    host.ip("addr", "add", "fec0:0:0:ffff::1/64", "dev", "v6", "nodad")
    assert PREFIX in refused(host, EXIT_HOST).err


def test_ipv6_is_disabled(lab: Lab) -> None:
    host = _build(lab)
    host.sysctl(ipv6__conf__all__disable_ipv6=1, ipv6__conf__default__disable_ipv6=1)
    result = refused(host, EXIT_HOST)
    assert "IPv6" in result.err
    assert "disable_ipv6" in result.err


def test_run_directory_that_cannot_be_written(lab: Lab) -> None:
    host = _build(lab)
    result = refused(host, EXIT_HOST, "--set", "run_dir=/proc/tap64")
    assert "/proc/tap64" in result.err


def test_same_device_twice(lab: Lab) -> None:
    host = _build(lab)
    first = Gateway(host, "--tap", "tap0", name="first").start()
    second = Gateway(
        host,
        *("--tap", "tap0", "--prefix", "fd00:6464::/96", "--pool4", "198.51.100.8/29"),
        name="second",
        run_dir=first.run_dir,
    )
    before = snapshot(host)
    result = second.run()
    assert result.status == EXIT_HOST
    assert "tap0" in result.err
    assert difference(before, snapshot(host)) == ""
    first.stop_cleanly()
