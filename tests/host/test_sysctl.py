"""gateway/host/sysctl.py: what a forwarding switch overwrites comes back, no more, no less."""

from __future__ import annotations

import pytest

from gateway.host import sysctl as module
from gateway.host.plan import HostError
from gateway.host.sysctl import Forwarding, Sysctl, touched_values


@pytest.fixture
def links(run):
    """Two interfaces; made in the test's namespace by calling it."""

    def make() -> None:
        run("ip link add a.10 type veth peer name b0")

    return make


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_own_values_of_interfaces_and_default_come_back(sysctl, links, family) -> None:
    links()
    sysctl(f"{family}/conf/a.10/forwarding", "1")
    sysctl(f"{family}/conf/default/forwarding", "1")
    before = touched_values(family)
    change = Forwarding(family, before)
    change.apply()
    assert sysctl(f"{family}/conf/b0/forwarding") == "1"
    assert change.undo() is None
    assert touched_values(family) == before


@pytest.mark.parametrize("old", ["0", "1"])
def test_ipv4_accept_redirects_comes_back(sysctl, old) -> None:
    sysctl("ipv4/conf/all/accept_redirects", old)
    change = Forwarding("ipv4", touched_values("ipv4"))
    change.apply()
    assert sysctl("ipv4/conf/all/accept_redirects") == "0"
    change.undo()
    assert sysctl("ipv4/conf/all/accept_redirects") == old


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_what_somebody_else_changed_meanwhile_stays(sysctl, links, family) -> None:
    links()
    sysctl(f"{family}/conf/a.10/forwarding", "1")
    change = Forwarding(family, touched_values(family))
    change.apply()
    sysctl(f"{family}/conf/a.10/forwarding", "0")
    sysctl("ipv4/conf/all/accept_redirects", "1")
    change.undo()
    assert sysctl(f"{family}/conf/a.10/forwarding") == "0"
    if family == "ipv4":
        assert sysctl("ipv4/conf/all/accept_redirects") == "1"


def test_switch_turned_off_by_somebody_else_is_left_alone(sysctl, links) -> None:
    change = Forwarding("ipv6", touched_values("ipv6"))
    change.apply()
    sysctl("ipv6/conf/all/forwarding", "0")
    sysctl("ipv6/conf/default/forwarding", "1")
    assert "not ours" in (change.undo() or "")
    assert sysctl("ipv6/conf/default/forwarding") == "1"


@pytest.mark.parametrize("default", ["0", "1"])
def test_interface_that_came_later_gets_the_old_default(sysctl, links, default) -> None:
    sysctl("ipv6/conf/default/forwarding", default)
    change = Forwarding("ipv6", touched_values("ipv6"))
    change.apply()
    links()
    assert sysctl("ipv6/conf/b0/forwarding") == "1"
    change.undo()
    assert sysctl("ipv6/conf/b0/forwarding") == default


def test_interface_that_went_away_is_no_error(sysctl, links, run) -> None:
    links()
    change = Forwarding("ipv6", touched_values("ipv6"))
    change.apply()
    run("ip link del b0")
    assert change.undo() is None


def test_sysctl_changed_by_somebody_else_is_left_alone(sysctl) -> None:
    change = Sysctl("ipv6/conf/lo/accept_ra", "1", "2")
    change.apply()
    sysctl("ipv6/conf/lo/accept_ra", "0")
    assert change.undo() == "it is 0 now, which is not ours"
    assert sysctl("ipv6/conf/lo/accept_ra") == "0"


def test_sysctl_of_a_vanished_interface(links, run) -> None:
    links()
    change = Sysctl("ipv6/conf/a.10/accept_ra", "1", "2")
    change.apply()
    run("ip link del b0")
    assert change.undo() == "its interface is gone"
    with pytest.raises(HostError, match=r"cannot set net\.ipv6\.conf\.a/10\.accept_ra = 2"):
        change.apply()


def test_read_only_proc_sys_names_the_container(monkeypatch) -> None:
    def read_only(path, text):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(type(module.ROOT), "write_text", read_only)
    with pytest.raises(HostError, match=r"read-only here.*docker run --sysctl"):
        Sysctl("ipv4/ip_forward", "0", "1").apply()
