"""What the peer's script is told and what its answers mean."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network

import pytest

from gateway.backhaul import peer_script
from gateway.backhaul.link import (
    LinkAddressTaken,
    LinkFailed,
    LinkWish,
    Patience,
    PoolTaken,
    Ready,
)
from gateway.backhaul.peer_script import read_answer

WISH = LinkWish(
    pool4=(IPv4Network("192.0.0.6/32"), IPv4Network("198.18.0.0/24")),
    local4=IPv4Interface("169.254.7.2/30"),
    remote4=IPv4Interface("169.254.7.1/30"),
    mtu=1500,
    masquerade=True,
    tag="tap64-test",
    heartbeat=10,
    linger=300,
    run="0a1b2c3d",
)


def test_every_wish_is_said() -> None:
    assert peer_script.command(WISH) == (
        "exec /bin/sh -s -- pool=192.0.0.6/32,198.18.0.0/24 local=169.254.7.2"
        " remote=169.254.7.1/30 mtu=1500 tag=tap64-test run=0a1b2c3d heartbeat=10 linger=300"
        " masquerade=yes carries=ipv4 clients6=- own=yes"
    )


def test_the_other_way() -> None:
    six = replace(
        WISH,
        pool4=(),
        masquerade=False,
        carries="ipv6",
        clients6=(IPv6Network("2001:db8::/48"), IPv6Network("fd00::/8")),
        heartbeat=0.5,
        linger=0.1,
    )
    command = peer_script.command(six, own_connection=False)
    assert "pool=- " in command
    assert "heartbeat=2 linger=1 masquerade=no carries=ipv6" in command
    assert command.endswith("clients6=2001:db8::/48,fd00::/8 own=no")


@pytest.mark.parametrize("tag", ["", "1tap", "-tap", "tap 1", "tap;reboot", "tap'", "t" * 41])
def test_a_tag_that_a_shell_could_read_otherwise_is_refused(tag) -> None:
    with pytest.raises(ValueError, match="tag"):
        peer_script.command(replace(WISH, tag=tag))


def test_the_longest_tag() -> None:
    assert f"tag={'t' * 40} " in peer_script.command(replace(WISH, tag="t" * 40))


def test_the_script_begins_with_its_last_line_and_has_no_tail() -> None:
    script = peer_script.script()
    assert script.endswith(b'\nmain "$@"\n')
    # Only functions and one constant stand at the left margin.
    body = [line for line in script.decode().splitlines() if line and line[0] not in " #}"]
    assert [line for line in body if not line.rstrip().endswith(("{", "}"))] == [
        "METRIC=30000",
        'main "$@"',
    ]


def test_the_script_asks_no_clock_that_can_jump() -> None:
    asked = r"\bdate\b|\$\{?(SECONDS|EPOCH)|-newer|-[acm]min\b|-[acm]time\b|%[XYZ]\b"
    assert not re.search(asked, peer_script.script().decode())


def test_ready() -> None:
    assert read_answer("READY tap3 fe:00:00:00:00:01 nft 192.0.2.254", "tap0") == Ready(
        "tap0", "tap3", IPv4Address("192.0.2.254")
    )


def test_ready_with_notes() -> None:
    ready = read_answer("READY tap3 - ipt - no default route; FORWARD drops: do this\n", "tap0")
    assert ready == Ready("tap0", "tap3", None, ("no default route", "FORWARD drops: do this"))


@pytest.mark.parametrize("line", ["READY", "READY tap7", "READY  - - -"])
def test_what_a_peer_prepared_by_hand_may_say(line) -> None:
    ready = read_answer(line, "tap0")
    assert ready is not None
    assert ready.device == "tap0"
    assert ready.next_hop4 is None


@pytest.mark.parametrize("line", ["", "Welcome to peer", "READYtap0", "ready tap0", "\x1b[0m"])
def test_what_a_login_shell_prints_is_passed_over(line) -> None:
    assert read_answer(line, "tap0") is None


@pytest.mark.parametrize(
    ("reason", "kind", "patience"),
    [
        ("link address 169.254.7.1 is taken here: eth0", LinkAddressTaken, Patience.SHORT),
        ("pool 192.0.0.6/32 is used here by tap64-b", PoolTaken, Patience.LONG),
        ("pool 192.0.0.6/32 is routed here already: x", PoolTaken, Patience.LONG),
        ("pool 192.0.0.6/32 is kept here for tap64-b, whose", PoolTaken, Patience.SHORT),
        ("not root here (uid 5): log in as root", LinkFailed, Patience.LONG),
        ("cannot masquerade, neither nft nor iptables", LinkFailed, Patience.LONG),
        ("no tunnel: sshd gave this session none", LinkFailed, Patience.LONG),
        ("another set-up is busy here (5:5)", LinkFailed, Patience.SHORT),
        ("", LinkFailed, Patience.SHORT),
    ],
)
def test_fail(reason, kind, patience) -> None:
    with pytest.raises(LinkFailed) as raised:
        read_answer(f"FAIL {reason}", "tap0")
    assert type(raised.value) is kind
    assert raised.value.patience is patience
    assert reason in raised.value.cause


@pytest.mark.parametrize(
    ("line", "named"),
    [("FREE 192.0.0.5", True), ("FREE", False), ("FREE nonsense", False), ("", False)],
)
def test_a_free_pool_is_named(line, named) -> None:
    with pytest.raises(PoolTaken) as raised:
        read_answer("FAIL pool 192.0.0.6/32 is used here by tap64-b", "tap0")
    peer_script.name_free_pool(raised.value, line)
    assert ("set pool4 to 192.0.0.5," in str(raised.value)) is named
    assert "set pool4" in raised.value.remedy


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("used here by tap64-b", "set pool4 to 192.0.0.5, which is free there, and start again"),
        (
            "kept here for tap64-b, whose connection has ended",
            "wait, or set pool4 to 192.0.0.5, which is free there, and start again",
        ),
    ],
)
def test_what_is_only_kept_will_be_free_by_itself(said, remedy) -> None:
    with pytest.raises(PoolTaken) as raised:
        read_answer(f"FAIL pool 192.0.0.6/32 is {said}", "tap0")
    assert ("wait" in raised.value.remedy) is ("kept" in said)
    peer_script.name_free_pool(raised.value, "FREE 192.0.0.5")
    assert raised.value.remedy == remedy


def test_what_the_far_end_says_is_harmless() -> None:
    line = "READY $(reboot) 02:00:00:00:00:01 nft - \x1b[2Ja\x07b; " + "c" * 9000
    ready = read_answer(line, "tap0")
    assert ready is not None
    assert ready.remote == ""
    assert ready.notes[0] == "?[2Ja?b"
    assert len(ready.notes[1]) < 2000
    with pytest.raises(LinkFailed) as raised:
        read_answer("FAIL \x1b]0;x\x07", "tap0")
    assert str(raised.value).isprintable()
