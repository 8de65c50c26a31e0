"""What ssh says, literally (OpenSSH 9.2p1), and what is made of it."""

from __future__ import annotations

import time

import pytest

from gateway.backhaul.link import Patience
from gateway.backhaul.ssh_errors import explain

SHORT, LONG = Patience.SHORT, Patience.LONG

BANNER = """\
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
@    WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED!     @
@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@
IT IS POSSIBLE THAT SOMEONE IS DOING SOMETHING NASTY!
Offending ED25519 key in /root/.ssh/known_hosts:1
Host key for peer has changed and you have requested strict checking.
Host key verification failed.
"""
LOCAL_END = "Tunnel device open failed.\nCould not request tunnel forwarding.\n"
OPEN = 'debug1: sys_tun_open: failed to open tunnel control device "/dev/net/tun"'
CONFIGURE = "debug1: sys_tun_open: failed to configure tunnel (mode 2)"
REFUSED_TUNNEL = "channel 0: open failed: connect failed: open failed\nTunnel forwarding failed\n"

CASES = {
    "tunnel not permitted": (
        "debug1: Remote: Server has rejected tunnel device forwarding\n" + REFUSED_TUNNEL,
        "the peer's sshd does not permit this tunnel",
        "PermitTunnel ethernet",
        LONG,
    ),
    "remote device busy, or no privilege there": (
        REFUSED_TUNNEL,
        "does not permit the tunnel or cannot open its tap",
        "a login that may make a tap (root)",
        LONG,
    ),
    "no /dev/net/tun": (
        f"{OPEN}: No such file or directory\n{LOCAL_END}",
        "no /dev/net/tun here",
        "modprobe tun",
        LONG,
    ),
    "no driver": (f"{OPEN}: No such device\n{LOCAL_END}", "no /dev/net/tun", "modprobe", LONG),
    "/dev/net/tun closed": (
        f"{OPEN}: Permission denied\n{LOCAL_END}",
        "may not open /dev/net/tun",
        "chmod 666",
        LONG,
    ),
    "local tap of another user": (
        f"{CONFIGURE}: Operation not permitted\n{LOCAL_END}",
        "does not belong to the user",
        "backhaul.user",
        LONG,
    ),
    "local tap busy": (
        f"{CONFIGURE}: Device or resource busy\n{LOCAL_END}",
        "held by another process",
        "wait",
        SHORT,
    ),
    "local tap, something else": (
        f"{CONFIGURE}: Invalid argument\n{LOCAL_END}",
        "cannot open the local tap: Invalid argument",
        "",
        SHORT,
    ),
    "local tap, at the normal level": (LOCAL_END, "cannot open the local tap", "in use", SHORT),
    "refused": (
        "ssh: connect to host 192.0.2.1 port 22: Connection refused",
        "nothing listens",
        "start sshd",
        SHORT,
    ),
    "no route": (
        "ssh: connect to host 192.0.2.1 port 22: No route to host",
        "cannot be reached: No route to host",
        "routes",
        SHORT,
    ),
    "unreachable": (
        "ssh: connect to host 2001:db8::1 port 22: Network is unreachable",
        "cannot be reached: Network is unreachable",
        "routes",
        SHORT,
    ),
    "blackhole": (
        "ssh: connect to host 192.0.2.1 port 22: Connection timed out",
        "does not answer",
        "firewalls",
        SHORT,
    ),
    "no banner": (
        "Connection timed out during banner exchange\nConnection to 192.0.2.1 port 22 timed out",
        "does not answer",
        "firewalls",
        SHORT,
    ),
    "DNS": (
        "ssh: Could not resolve hostname peer.example: Name or service not known",
        "has no address: Name or service not known",
        "DNS",
        SHORT,
    ),
    "login": (
        "root@192.0.2.1: Permission denied (publickey).",
        "accepts none of our keys",
        "authorized_keys",
        LONG,
    ),
    "too many keys": (
        "Received disconnect from 192.0.2.1 port 22:2: Too many authentication failures\n"
        "Disconnected from 192.0.2.1 port 22",
        "refused to try more keys",
        "IdentitiesOnly",
        LONG,
    ),
    "open key file": (
        "@         WARNING: UNPROTECTED PRIVATE KEY FILE!          @\n"
        'Load key "/root/k": bad permissions\nroot@h: Permission denied (publickey).',
        "private key that others can read",
        "chmod 600",
        LONG,
    ),
    "host key changed": (BANNER, "has CHANGED", "ssh-keygen -R", LONG),
    "host key unknown, strict": (
        "No ED25519 host key is known for h and you have requested strict checking.\n"
        "Host key verification failed.",
        "is not known here",
        "connect once by hand",
        LONG,
    ),
    "host key unknown, ask": (
        "Host key verification failed.",
        "is not known here",
        "connect once by hand",
        LONG,
    ),
    "bad option": (
        'command-line line 0: unsupported option "x".',
        'refuses its settings: command-line line 0: unsupported option "x".',
        "ssh_options",
        LONG,
    ),
    "bad option name": (
        "command-line: line 0: Bad configuration option: frobnicate",
        "refuses its settings",
        "ssh_options",
        LONG,
    ),
    "no algorithm": (
        "Unable to negotiate with 192.0.2.1 port 22: no matching host key type found. Their"
        " offer: ssh-rsa",
        "no matching host key type found. Their offer: ssh-rsa",
        "up to date",
        LONG,
    ),
    "sshd killed": (
        "Connection to 192.0.2.1 closed by remote host.",
        "the peer ended the connection",
        "",
        SHORT,
    ),
    "closed before the login": (
        "kex_exchange_identification: Connection closed by remote host\n"
        "Connection closed by 192.0.2.1 port 22",
        "before the login",
        "MaxStartups",
        SHORT,
    ),
    "reset": ("client_loop: send disconnect: Broken pipe", "was reset", "", SHORT),
    "cut": ("Timeout, server 192.0.2.1 not responding.", "was cut", "", SHORT),
    "window": (
        "channel 0: adjust 40 overflows remote window 4294967290",
        "overflowed",
        "",
        SHORT,
    ),
    "local forward in use": (
        "bind [127.0.0.1]:8080: Address already in use\n"
        "channel_setup_fwd_listener_tcpip: cannot listen to port: 8080\n"
        "Could not request local forwarding.",
        "a port that ssh_config forwards",
        "LocalForward",
        LONG,
    ),
    "no master": (
        "Control socket connect(/run/m): No such file or directory",
        "no master connection at /run/m",
        "ssh -M",
        SHORT,
    ),
    "dead master": (
        "Control socket connect(/run/m): Connection refused",
        "the master connection of /run/m is dead",
        "start the master again",
        SHORT,
    ),
    "master full": (
        "mux_client_request_session: session request failed: Session open refused by peer\n"
        "Connection closed by UNKNOWN port 65535",
        "serves no further session",
        "-O check",
        SHORT,
    ),
    "path too long": (
        'unix_listener: path "/run/xxxxxxxx" too long for Unix domain socket',
        "too long",
        "90 bytes",
        LONG,
    ),
}


@pytest.mark.parametrize("name", list(CASES))
def test_each_message(name) -> None:
    text, cause, remedy, patience = CASES[name]
    noise = ["OpenSSH_9.2p1 Debian", "debug1: Connecting to peer port 22.", "Warning: Permanently"]
    failure = explain([*noise, *text.splitlines()], 255)
    assert cause in failure.cause
    assert remedy in failure.remedy
    assert failure.patience is patience
    assert "\n" not in str(failure)


def test_what_no_rule_knows_is_passed_on() -> None:
    failure = explain(["debug1: x", "something new", "debug1: y"], 255)
    assert failure.cause == "ssh: something new"


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (255, "ssh ended with status 255 and said nothing"),
        (-9, "ssh was killed by signal 9"),
        (-15, "ssh was killed by signal 15"),
        (None, "ssh has closed its output, but has not ended"),
    ],
)
def test_silence(status, cause) -> None:
    assert explain(["debug1: Exit status -1"], status).cause == cause


@pytest.mark.parametrize("word", ["REVOKED ", "sys_tun_open: ", "bind ", "sys_tun_open: x: "])
def test_a_peer_that_says_much_does_not_cost_much(word) -> None:
    lines = [word * (500 // len(word))] * 400
    began = time.process_time()
    explain(lines, 255)
    assert time.process_time() - began < 2.0


def test_the_order_of_what_is_said_matters() -> None:
    failed, why = "Host key verification failed.", "Offending key is revoked"
    assert explain([why, failed], 255).cause == "the peer's host key is revoked"
    assert explain([failed, why], 255).cause == "the peer's host key is not known here"
