"""The dynamic pool on disk: written whole or not at all, read with distrust."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from gateway import pool_state
from translate.address_pool import AddressPool

NETS = [IPv4Network("198.51.100.0/29")]
HOSTS = [IPv6Address(f"fd00::{n}").packed for n in range(1, 5)]


def filled():
    pool = AddressPool(NETS)
    for n, host in enumerate(HOSTS):
        assert pool.assign(host, 1000.0 + n)
    return pool


def entries(pool):
    return {item.addr6: (item.addr4, item.last) for item in pool}


def test_what_is_saved_is_loaded_again_with_the_age_of_each_use(tmp_path):
    path = tmp_path / "state" / "pool"
    pool = filled()
    pool_state.save(path, pool, now=2000.0, wall=1_700_000_000.0)
    again = AddressPool(NETS)
    # Another boot: its clock began anew, and 500 seconds have gone by.
    assert pool_state.load(path, again, now=10.0, wall=1_700_000_500.0) == []
    expected = {
        host: (addr4, last - 2000 - 500 + 10) for host, (addr4, last) in entries(pool).items()
    }
    assert entries(again) == expected


def test_a_missing_file_is_an_empty_one(tmp_path):
    assert pool_state.load(tmp_path / "none", AddressPool(NETS), now=0, wall=0) == []


def test_a_clock_that_was_set_back_makes_nothing_last_longer_than_from_now_on(tmp_path):
    path = tmp_path / "pool"
    pool_state.save(path, filled(), now=1010.0, wall=2_000_000_000.0)
    again = AddressPool(NETS)
    assert pool_state.load(path, again, now=50.0, wall=1_000_000_000.0) == []
    assert [item.last for item in again] == [50.0] * 4


def test_lines_that_do_not_fit_are_told_and_the_others_are_used(tmp_path):
    path = tmp_path / "pool"
    path.write_bytes(
        b"# comment\n\n198.51.100.2 fd00::1 5\n203.0.113.1 fd00::2 5\nrubbish\n"
        b"198.51.100.2 fd00::3 5\n198.51.100.3 fd00::1 5\n198.51.100.4 fd00::4\n\xff\xfe\n"
        b"198.51.100.4 fd00::4 x\n198.51.100.5 fd00::5 7\n"
    )
    pool = AddressPool(NETS)
    faults = pool_state.load(path, pool, now=100.0, wall=100.0)
    assert [str(IPv4Address(item.addr4)) for item in pool] == ["198.51.100.2", "198.51.100.5"]
    assert len(faults) == 6
    assert faults[0].startswith(f"{path}:4: skipped")
    assert faults[-1].endswith("2 more lines were skipped")


def test_what_cannot_be_read_is_told(tmp_path):
    (fault,) = pool_state.load(tmp_path, AddressPool(NETS), now=0, wall=0)
    assert str(tmp_path) in fault


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "pool"
    path.write_text("old")

    def fail(self, target):
        raise OSError("no space left")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="no space"):
        pool_state.save(path, filled(), now=0, wall=0)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
