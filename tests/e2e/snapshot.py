"""What a host's network looks like, to compare before and after.

Everything that a gateway could leave behind: links, addresses, routes of all tables, rules,
permanent neighbours, nftables, sysctls of both families. Lifetimes and learnt neighbours are
left out, they change by themselves.
"""

from __future__ import annotations

import difflib
import json
import re

from tests.e2e.namespaces import Namespace, wait_until

LINK_KEYS = ("ifname", "flags", "mtu", "address", "master", "link_type", "inet6_addr_gen_mode")
ADDRESS_KEYS = ("family", "local", "prefixlen", "scope")


def snapshot(namespace: Namespace) -> list[str]:
    """The host's state as sorted lines, each with what it is about in front.

    Waits until no address is tentative any more: what follows from one comes by itself.
    """
    wait_until(
        lambda: not namespace.ip("-6", "addr", "show", "tentative"), 5, "addresses are usable"
    )
    lines: list[str] = []
    for link in json.loads(namespace.ip("-d", "-j", "addr", "show")):
        shown = {key: link[key] for key in LINK_KEYS if key in link}
        lines.append(f"link {json.dumps(shown)}")
        for address in link["addr_info"]:
            shown = {key: address[key] for key in ADDRESS_KEYS if key in address}
            lines.append(f"address {link['ifname']} {json.dumps(shown)}")
    for label, arguments in (
        ("route", ("-4", "route", "show", "table", "all")),
        ("route", ("-6", "route", "show", "table", "all")),
        ("rule", ("-4", "rule")),
        ("rule", ("-6", "rule")),
        ("neighbour", ("neigh", "show", "nud", "permanent")),
        ("neighbour", ("neigh", "show", "proxy")),
    ):
        lines += [f"{label} {line}" for line in namespace.ip(*arguments).splitlines()]
    lines += [
        f"sysctl {line}"
        for line in namespace.run(
            "sysctl", "-a", "-r", r"^net\.ipv[46]\.", check=False
        ).out.splitlines()
    ]
    # The ruleset keeps its order: a rule in another place is another rule.
    ruleset = namespace.run("nft", "list", "ruleset").out.splitlines()
    lines = [re.sub(r" expires \S+", "", line).rstrip() for line in lines]
    return sorted(lines) + [f"nft {line}" for line in ruleset]


def difference(before: list[str], after: list[str]) -> str:
    """What changed, one line each; empty when nothing did."""
    return "\n".join(
        line
        for line in difflib.unified_diff(before, after, "before", "after", lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    )
