"""The command lines of ssh, and which options a user may add."""

from __future__ import annotations

import subprocess

import pytest
import trio

from gateway.backhaul import ssh_command, ssh_session
from gateway.backhaul.ssh_command import (
    MUST,
    MUST_FROM_8_7,
    check_command,
    link_command,
    read_settings,
    refused_option,
    slave_command,
    version_of,
)
from gateway.backhaul.ssh_session import user_settings


def settings(argv: list[str]) -> list[tuple[str, str]]:
    """Every `-o` in order."""
    pairs = [argv[at + 1] for at, word in enumerate(argv) if word == "-o"]
    return [(name, value) for name, _, value in (pair.partition("=") for pair in pairs)]


def test_ethernet_is_asked_for_before_the_devices() -> None:
    argv = link_command("peer", 7, "true")
    at = argv.index("-w")
    assert argv[at - 1] == "Tunnel=ethernet"
    assert argv[at + 1] == "7:any"
    assert argv[-3:] == ["--", "peer", "true"]


def test_a_fixed_remote_device() -> None:
    argv = link_command("peer", 7, "true", remote_device=0)
    assert argv[argv.index("-w") + 1] == "7:0"


def test_ours_comes_before_the_users_and_the_users_before_our_wishes() -> None:
    argv = link_command("peer", 7, "true", options=["-p", "2222", "-o", "ConnectTimeout=3"])
    assert argv.index("-w") < argv.index("-p") < argv.index("ServerAliveInterval=4")
    first = dict(reversed(settings(argv)))
    assert first["ConnectTimeout"] == "3"
    for name, value in (*MUST, *MUST_FROM_8_7):
        assert first[name] == value


@pytest.mark.parametrize(
    ("heartbeat", "interval"), [(1, "1"), (3, "1"), (3.1, "2"), (10, "4"), (30, "10")]
)
def test_both_ends_give_up_together(heartbeat, interval) -> None:
    argv = link_command("peer", 7, "true", heartbeat=heartbeat)
    assert dict(settings(argv))["ServerAliveInterval"] == interval


@pytest.mark.parametrize(
    ("config", "connect", "alive"),
    [
        ("", "10", "4"),
        ("BatchMode yes", "10", "4"),  # Debian's means an interval of 300
        ("ConnectTimeout 45", "45", "4"),
        ("ServerAliveInterval 60", "10", "60"),
        ("ServerAliveCountMax 9", "10", "4"),
        ("ConnectTimeout 45\n ServerAliveInterval 60\n Compression yes", "45", "60"),
    ],
)
@pytest.mark.trio
async def test_times_of_the_users_files_stay(tmp_path, config, connect, alive) -> None:
    """What ssh itself makes of our command line, with the user's file behind it."""
    file = tmp_path / "config"
    file.write_text(f"Host other\n ConnectTimeout 3\nHost peer\n {config}\n")
    options = ["-F", str(file)]
    theirs = await user_settings("root@peer", options, None)
    argv = link_command("root@peer", 7, "true", options=options, theirs=theirs)
    said = subprocess.run(["ssh", "-G", *argv[1:]], capture_output=True, text=True, check=True)
    result = read_settings(said.stdout.splitlines())
    assert (result["connecttimeout"], result["serveraliveinterval"]) == (connect, alive)
    assert result["compression"] == ("yes" if "Compression" in config else "no")
    assert result["serveralivecountmax"] == ("9" if "CountMax" in config else "3")


@pytest.mark.trio
async def test_options_come_before_files(tmp_path) -> None:
    file = tmp_path / "config"
    file.write_text("ConnectTimeout 45\nServerAliveInterval 60\n")
    options = ["-F", str(file), "-o", "ConnectTimeout=3"]
    theirs = await user_settings("peer", options, None)
    assert (theirs["connecttimeout"], theirs["serveraliveinterval"]) == ("3", "60")


@pytest.mark.trio
async def test_an_ssh_that_does_not_tell_is_not_waited_for(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(ssh_session, "SETTINGS_WITHIN", 0.3)
    file = tmp_path / "config"
    file.write_text('Match exec "sleep 60"\n ConnectTimeout 45\n')
    with trio.fail_after(10):
        assert await user_settings("peer", ["-F", str(file)], None) == {}


def test_an_old_ssh_is_not_told_what_it_does_not_know() -> None:
    old = dict(settings(link_command("peer", 7, "true", version=(8, 6))))
    new = dict(settings(link_command("peer", 7, "true", version=(8, 7))))
    assert set(new) - set(old) == {name for name, _ in MUST_FROM_8_7}


def test_a_slave_cannot_become_a_connection_of_its_own() -> None:
    argv = slave_command("peer", "/run/m", "true", options=["-o", "ProxyCommand=nc %h %p"])
    assert argv[argv.index("-S") + 1] == "/run/m"
    assert next(value for name, value in settings(argv) if name == "ProxyCommand") == "false"
    assert "-w" not in argv


def test_check() -> None:
    assert check_command("peer", "/run/m") == ["ssh", "-S", "/run/m", "-O", "check", "--", "peer"]


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("OpenSSH_9.2p1 Debian-2+deb12u10, OpenSSL 3.0.19 27 Jan 2026", (9, 2)),
        ("OpenSSH_10.0p2 Ubuntu-5ubuntu5, OpenSSL 3.5.3", (10, 0)),
        ("OpenSSH_for_Windows_8.6p1, LibreSSL 3.4.3", (8, 6)),
        ("Dropbear v2022.83", (0, 0)),
        ("", (0, 0)),
    ],
)
def test_versions(text, version) -> None:
    assert version_of(text) == version


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["-p", "2222"],
        ["-p2222"],
        ["-46C"],
        ["-i", "/root/.ssh/key", "-J", "jump@host"],
        ["-F", "/etc/tap64/ssh_config"],
        ["-o", "StrictHostKeyChecking=accept-new"],
        ["-oConnectTimeout=3"],
        ["-o", "Ciphers aes128-gcm@openssh.com"],
        ["-c", "aes128-gcm@openssh.com", "-b", "192.0.2.1"],
    ],
)
def test_options_that_may_be_used(options) -> None:
    assert refused_option(options) == ""


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-N"], "-N cannot be used"),
        (["-4fN"], "-f cannot be used"),
        (["-n"], "-n cannot be used"),
        (["-M"], "-M cannot be used"),
        (["-S", "/run/m"], "-S cannot be used: backhaul.control_path"),
        (["-w", "1:1"], "-w cannot be used"),
        (["-w1:1"], "-w cannot be used"),
        (["-tt"], "-t cannot be used"),
        (["-q"], "-q cannot be used"),
        (["-o", "Tunnel=point-to-point"], "-o Tunnel cannot be used"),
        (["-o", "tunneldevice 1:1"], "-o TunnelDevice cannot be used"),
        (["-oBatchMode=no"], "-o BatchMode cannot be used"),
        (["-o", " SessionType=none"], "-o SessionType cannot be used"),
        (["peer"], "'peer' is no option of ssh"),
        (["-p", "22", "--", "peer"], "'--' is no option of ssh"),
        (["-p"], "-p lacks its argument"),
        (["-p 22", "root@peer"], "'root@peer' is no option of ssh"),
    ],
)
def test_options_that_would_break_the_link(options, said) -> None:
    assert refused_option(options).startswith(said)


def test_every_fixed_option_is_refused_to_the_user() -> None:
    for name, _ in (*ssh_command.MUST, *ssh_command.MUST_FROM_8_7):
        assert refused_option(["-o", f"{name}=x"])
