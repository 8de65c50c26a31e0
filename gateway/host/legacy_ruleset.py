"""Reads old ("legacy") iptables, which has no netlink interface, by its own tool.

iptables-legacy-save is asked only where the kernel says that the table exists, because asking
would load it. Nothing here changes anything.
"""

from __future__ import annotations

import ipaddress
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gateway.host.ruleset import (
    CT_ESTABLISHED,
    CT_INVALID,
    CT_NEW,
    CT_RELATED,
    DEVICE_NAME_SIZE,
    HOOK_FORWARD,
    Between,
    Bitwise,
    Chain,
    Decide,
    Load,
    LoadHeader,
    Rule,
    RulesetError,
    Step,
    Table,
    Unknown,
    state_steps,
    target_steps,
)

_CT_STATES: Final = {
    "INVALID": CT_INVALID,
    "ESTABLISHED": CT_ESTABLISHED,
    "RELATED": CT_RELATED,
    "NEW": CT_NEW,
    "UNTRACKED": 64,
}

_LEGACY: Final = {
    "ip": ("/proc/net/ip_tables_names", "iptables-legacy-save"),
    "ip6": ("/proc/net/ip6_tables_names", "ip6tables-legacy-save"),
}
_SAVE_SECONDS: Final = 20


def read_legacy(family: str) -> Table | None:
    """The filter table of old iptables for "ip" or "ip6"; None when the kernel has none.

    Raises RulesetError.
    """
    names, program = _LEGACY[family]
    try:
        if "filter" not in Path(names).read_text("ascii").split():
            return None
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RulesetError(
            f"{names} cannot be read ({error.strerror}), so it is not known whether old iptables "
            f"rules let the gateway's packets through; look as root with: {program} -t filter"
        ) from error
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin:/usr/local/sbin")
    if path is None:
        raise RulesetError(
            f"the kernel has old iptables rules (filter table of {family}) and {program} is not "
            "installed, so it is not known whether they let the gateway's packets through; "
            "install iptables, or move the rules to nftables"
        )
    try:
        done = subprocess.run(
            [path, "-t", "filter"],
            check=True,
            capture_output=True,
            text=True,
            timeout=_SAVE_SECONDS,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RulesetError(
            f"{program} failed ({error}), so it is not known whether old iptables rules let the "
            f"gateway's packets through; look with: {program} -t filter"
        ) from error
    return parse_legacy(family, done.stdout)


_LEGACY_HOOKS: Final = {"FORWARD": HOOK_FORWARD}


def parse_legacy(family: str, text: str) -> Table:
    """The table that iptables-legacy-save printed."""
    table = Table(family, "filter", legacy=True)
    for line in text.splitlines():
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            table.chains[name] = Chain(name, _LEGACY_HOOKS.get(name), policy == "DROP")
        elif line.startswith("-A "):
            words = shlex.split(line)
            chain = table.chains.get(words[1])
            if chain is not None:
                chain.rules.append(
                    Rule(f"rule `{line}`", tuple(_legacy_steps(table, family, words[2:])))
                )
    return table


def _legacy_steps(table: Table, family: str, words: list[str]) -> Iterator[Step]:
    inverted = False
    position = 0
    while position < len(words):
        word = words[position]
        value = words[position + 1] if position + 1 < len(words) else ""
        position += 1
        if word == "!":
            inverted = True
            continue
        if word in {"-i", "-o"}:
            yield from _legacy_device(value, "iifname" if word == "-i" else "oifname", inverted)
        elif word in {"-s", "-d"}:
            yield from _legacy_address(family, value, word == "-s", inverted)
        elif word in {"--ctstate", "--state"}:
            names = value.split(",")
            if set(names) <= _CT_STATES.keys():
                yield from state_steps(sum(_CT_STATES[n] for n in set(names)), inverted)
            else:
                yield Unknown()  # SNAT and DNAT are no states
        elif word in {"-j", "-g"}:
            if value in table.chains:
                yield Decide("jump" if word == "-j" else "goto", value)
            else:
                yield from target_steps(value)
            return
        elif word not in {"-m", "--comment"}:
            if word.startswith("-"):
                yield Unknown()
                inverted = False
            continue  # its arguments, if any, come next and mean nothing here
        inverted = False
        position += 1


def _legacy_device(name: str, what: str, inverted: bool) -> Iterator[Step]:
    if name == "+":
        return
    wanted = name.removesuffix("+").encode()
    if not name.endswith("+"):
        wanted = wanted.ljust(DEVICE_NAME_SIZE, b"\0")
    yield Load(0, what, DEVICE_NAME_SIZE)
    yield Between(0, wanted, wanted, inverted)


def _legacy_address(family: str, text: str, source: bool, inverted: bool) -> Iterator[Step]:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        yield Unknown()  # a mask with holes
        return
    size = 4 if family == "ip" else 16
    offset = (12 if source else 16) if family == "ip" else (8 if source else 24)
    value = network.network_address.packed
    yield LoadHeader(0, offset, size)
    yield Bitwise(0, 0, network.netmask.packed, bytes(size))
    yield Between(0, value, value, inverted)
