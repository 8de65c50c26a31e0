"""The command lines for ssh, and which options of the user's may stand in them. Pure.

Of everything the user has (ssh_config, keys, agent, known hosts, jump hosts, port, certificates)
all stays effective, because ssh is asked for nothing but what this link depends on. For each
option ssh takes the first value it meets, and the command line before the files. So:

    1. what the link cannot do without: MUST, the tunnel
    2. the user's ssh_options
    3. what is better than ssh's defaults: times, only where the user has set none, in the files
       either (`ssh -G` tells)

`-o Tunnel=ethernet` stands before `-w`, which would otherwise set Tunnel to point-to-point,
silently. Verbose messages tell apart what ssh's normal ones call by one name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence

# First value wins, so nothing in the user's files can take these away. Without a session of
# our own (SessionType, RemoteCommand), stdin (StdinNull) and foreground there is no script, no
# heartbeat and no process to look after.
MUST: tuple[tuple[str, str], ...] = (
    ("BatchMode", "yes"),
    ("ControlMaster", "no"),
    ("ControlPersist", "no"),
    ("ExitOnForwardFailure", "yes"),
    ("ForwardAgent", "no"),
    ("ForwardX11", "no"),
    ("LogLevel", "DEBUG1"),
    ("PermitLocalCommand", "no"),
    ("RemoteCommand", "none"),
    ("RequestTTY", "no"),
)
# Unknown before OpenSSH 8.7, which then knows no such thing in its files either.
MUST_FROM_8_7: tuple[tuple[str, str], ...] = (
    ("ForkAfterAuthentication", "no"),
    ("SessionType", "default"),
    ("StdinNull", "no"),
)
_TUNNEL = ("Tunnel", "TunnelDevice", "ControlPath")

CONNECT_TIMEOUT = 10  # seconds

# ssh(1): options that take an argument, and those that are ours to decide about.
_WITH_ARGUMENT = "BbcDEeFIiJLlmOopPQRSWw"
_OURS = {
    **dict.fromkeys("fnNst", "the session, its input and the process are the gateway's"),
    **dict.fromkeys("MSO", "backhaul.control_path is for a running master connection"),
    **dict.fromkeys("w", "the gateway chooses the devices"),
    **dict.fromkeys("W", "the session is the gateway's"),
    **dict.fromkeys("GQV", "with it ssh makes no connection"),
    **dict.fromkeys("E", "the gateway reads ssh's messages"),
    **dict.fromkeys("q", "the gateway reads ssh's messages"),
}


def link_command(
    destination: str,
    device: int,
    command: str,
    *,
    remote_device: int | None = None,
    options: Sequence[str] = (),
    heartbeat: float = 10.0,
    version: tuple[int, int] = (9, 0),
    theirs: Mapping[str, str] | None = None,
) -> list[str]:
    """ssh with a tunnel of its own: local tap `device`, remote tap `remote_device` or any.

    `theirs`: what the user has set, as read_settings() tells.
    """
    remote = "any" if remote_device is None else str(remote_device)
    return [
        *("ssh", "-T", "-S", "none"),
        *_must(version),
        *("-o", "Tunnel=ethernet", "-w", f"{device}:{remote}"),
        *options,
        *_times(heartbeat, theirs or {}),
        *("--", destination, command),
    ]


def settings_command(destination: str, options: Sequence[str] = ()) -> list[str]:
    """ssh that prints what the user's options and files come to, without any of ours.

    Debian's BatchMode, wherever it is set, would bring an interval that nobody has chosen.
    """
    return ["ssh", "-G", "-T", "-o", "BatchMode=no", *options, "--", destination]


def read_settings(lines: Iterable[str]) -> dict[str, str]:
    """What such an ssh has printed: the names are lower case, as ssh prints them."""
    pairs = (line.strip().partition(" ") for line in lines)
    return {name: value for name, _, value in pairs}


def check_command(destination: str, control_path: str, options: Sequence[str] = ()) -> list[str]:
    """ssh that asks the master connection at `control_path` for its process number."""
    return ["ssh", "-S", control_path, *options, "-O", "check", "--", destination]


def slave_command(
    destination: str,
    control_path: str,
    command: str,
    *,
    options: Sequence[str] = (),
    version: tuple[int, int] = (9, 0),
) -> list[str]:
    """ssh with a session on the master's connection, or none at all.

    A slave that finds the socket dead, or the master with too many sessions, would make a
    connection of its own, without a tunnel and without a word. It would have to start
    ProxyCommand for it, and that fails. ProxyJump is another name for the same setting.
    """
    return [
        *("ssh", "-T", "-S", control_path, "-o", "ProxyCommand=false"),
        *_must(version),
        *options,
        *("--", destination, command),
    ]


def version_of(text: str) -> tuple[int, int]:
    """OpenSSH's version out of what `ssh -V` prints; (0, 0) for what is no OpenSSH."""
    match = re.search(r"OpenSSH[^\d]*(\d+)\.(\d+)", text)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def refused_option(options: Sequence[str]) -> str:
    """What is wrong with the user's ssh_options, one line; empty when they can be used."""
    words = list(options)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word in {"-", "--"}:
            return f"{word!r} is no option of ssh; the destination belongs in backhaul.to"
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            argument = ""
            if letter in _WITH_ARGUMENT:
                if not letters and not words:
                    return f"-{letter} lacks its argument: each word is a string of its own"
                argument, letters = letters or words.pop(0), ""
            if letter in _OURS:
                return f"-{letter} cannot be used: {_OURS[letter]}"
            if letter == "o" and (name := _fixed_name(argument)):
                return f"-o {name} cannot be used: the gateway sets it itself"
    return ""


def _fixed_name(setting: str) -> str:
    """The name of an option in `Name=value` or `Name value` that is not the user's to set."""
    name = re.split(r"[\s=]", setting.strip(), maxsplit=1)[0].lower()
    fixed = {key.lower(): key for key, _ in (*MUST, *MUST_FROM_8_7)}
    fixed |= {key.lower(): key for key in _TUNNEL}
    return fixed.get(name, "")


def _must(version: tuple[int, int]) -> list[str]:
    settings = MUST + (MUST_FROM_8_7 if version >= (8, 7) else ())
    return [word for name, value in settings for word in ("-o", f"{name}={value}")]


def _times(heartbeat: float, theirs: Mapping[str, str]) -> list[str]:
    """Our end gives up about when the far end does, after one to four thirds of `heartbeat`.

    ssh asks three times unless told otherwise. Debian's BatchMode alone would mean
    ServerAliveInterval=300. Nought and nothing look alike in what ssh tells.
    """
    ours = []
    if theirs.get("connecttimeout", "none") in {"none", "0"}:
        ours += ["-o", f"ConnectTimeout={CONNECT_TIMEOUT}"]
    if theirs.get("serveraliveinterval", "0") == "0":
        ours += ["-o", f"ServerAliveInterval={max(1, math.ceil(heartbeat / 3))}"]
    return ours
