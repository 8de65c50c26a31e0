"""What is said to the script that sets up the far end of an ssh link, and what it answers.

The script itself is peer_undo.sh, peer_look.sh and peer.sh, package data; the last one's head tells
how it works.
It arrives over the session's stdin, so the command of the session is only a shell with arguments;
behind the script stdin carries a line for each heartbeat, and the word `stop`.

The login shell of the far end (sh, fish, csh, ...) reads the command line first. There is nothing
to quote for any of them, because every argument is made of `PLAIN` characters only.
"""

from __future__ import annotations

import math
import re
from functools import cache
from importlib import resources
from ipaddress import IPv4Address

from gateway.backhaul.link import (
    LinkAddressTaken,
    LinkFailed,
    LinkWish,
    Patience,
    PoolTaken,
    Ready,
)

_FILES = ("peer_undo.sh", "peer_look.sh", "peer.sh")

HEARTBEAT = b"\n"
STOP = b"stop\n"
GONE = "GONE"

# Twice the pace at which the script looks; less would take one late wake-up for silence.
SHORTEST_HEARTBEAT = 2

_PLAIN = re.compile(r"[A-Za-z0-9=.:,/-]+")
_KEPT = re.compile(r"pool \S+ is kept here")  # a linger, which will pass
_DEVICE = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_.-]{0,14}")
_LONGEST_ANSWER = 2000  # characters
_TAG = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,39}")


@cache
def script() -> bytes:
    """The script, to be written to the session's stdin before anything else."""
    folder = resources.files(__package__)
    return b"\n".join(folder.joinpath(name).read_bytes() for name in _FILES)


def command(wish: LinkWish, *, own_connection: bool = True) -> str:
    """The session's command. `own_connection`: the ssh connection ends with this link.

    Raises ValueError for a tag that could not name an nftables table.
    """
    if not _TAG.fullmatch(wish.tag):
        raise ValueError(f"tag {wish.tag!r}: a letter, then up to 39 letters, digits and -")
    arguments = [
        f"pool={','.join(map(str, wish.pool4)) or '-'}",
        f"local={wish.local4.ip}",
        f"remote={wish.remote4}",
        f"mtu={wish.mtu}",
        f"tag={wish.tag}",
        f"run={wish.run}",
        f"heartbeat={max(SHORTEST_HEARTBEAT, math.ceil(wish.heartbeat))}",
        f"linger={math.ceil(wish.linger)}",
        f"masquerade={'yes' if wish.masquerade else 'no'}",
        f"carries={wish.carries}",
        f"clients6={','.join(map(str, wish.clients6)) or '-'}",
        f"own={'yes' if own_connection else 'no'}",
    ]
    for word in arguments:
        assert _PLAIN.fullmatch(word), word
    return f"exec /bin/sh -s -- {' '.join(arguments)}"


def read_answer(line: str, device: str) -> Ready | None:
    """What a line of the session's stdout says; None for one that is not the script's.

    Login shells may print more than they should. Raises LinkFailed for `FAIL ...`.
    """
    word, _, rest = plain_text(line.strip()[:_LONGEST_ANSWER]).partition(" ")
    if word == "FAIL":
        raise _failure(rest.strip())
    if word != "READY":
        return None
    fields = [*rest.split(maxsplit=4), "", "", "", "", ""]
    remote, _mac, _firewall, hop, notes = fields[:5]
    return Ready(
        device,
        remote if _DEVICE.fullmatch(remote) else "",
        _address(hop),
        tuple(note for note in (part.strip() for part in notes.split(";")) if note),
    )


def name_free_pool(failure: PoolTaken, line: str) -> None:
    """Puts the address that the script's line behind `FAIL pool` offers into the remedy."""
    word, _, free = line.partition(" ")
    if word == "FREE" and (address := _address(free.strip())):
        change = f"set pool4 to {address}, which is free there, and start again"
        failure.remedy = f"wait, or {change}" if failure.patience is Patience.SHORT else change


def plain_text(text: str) -> str:
    """What the far end says, with nothing in it that a terminal or a log would obey."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _address(text: str) -> IPv4Address | None:
    try:
        return IPv4Address(text)
    except ValueError:
        return None


# The beginning of a reason, what to do about it, and how soon to try again.
_REMEDIES: tuple[tuple[str, str, Patience], ...] = (
    ("no tunnel", "PermitTunnel ethernet in the peer's sshd_config", Patience.LONG),
    ("several tunnels", "start the master connection with one -w only", Patience.LONG),
    ("the tunnel is point-to-point", "PermitTunnel ethernet (or yes) there", Patience.LONG),
    ("not root", "see docs/backhaul.md, The peer", Patience.LONG),
    ("no ip command", "", Patience.LONG),
    ("neither /run", "", Patience.LONG),
    ("cannot masquerade", "install nftables there, or set backhaul.masquerade", Patience.LONG),
    ("cannot write /run/", "make room there", Patience.LONG),
    ("cannot write /var/run/", "make room there", Patience.LONG),
    ("cannot write", "turn forwarding on from outside the container", Patience.LONG),
    ("no /proc", "", Patience.LONG),
)


def _failure(reason: str) -> LinkFailed:
    cause = f"the peer cannot be set up: {reason or 'no reason given'}"
    if reason.startswith("link address"):
        return LinkAddressTaken(cause, "set backhaul.addresses to something free on both ends")
    if _KEPT.match(reason):
        return PoolTaken(cause, "wait: it is tried again until then")
    if reason.startswith("pool "):
        return PoolTaken(cause, "set pool4 to something that is free there", patience=Patience.LONG)
    for beginning, remedy, patience in _REMEDIES:
        if reason.startswith(beginning):
            return LinkFailed(cause, remedy, patience=patience)
    return LinkFailed(cause)
