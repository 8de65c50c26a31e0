"""What a gateway is called at its peer, and the addresses of the link between them. Pure.

The tag names this gateway among all that a peer may have, and stays the same over restarts, so
that a new run takes over what a killed one has left there: host name, device, and a short hash of
what tells apart hosts of one name and network namespaces of one host.

Link addresses come from 169.254.0.0/16 (RFC 3927): they are never routed, need no agreement with
anybody, and may exist on several links of one host as long as no two networks overlap. A /30 that
follows from the tag is the same after a restart, so that the peer's neighbours stay valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import Final

LONGEST_TAG: Final = 40

# RFC 3927 §2.1 reserves the first and the last 256 addresses.
_FIRST: Final = int(IPv4Address("169.254.1.0"))
_NETWORKS: Final = 254 * 64


def tag_of(host: str, identity: str, device: str) -> str:
    """`tap64-HOST-HASH-DEVICE` of letters, digits and `-`, at most LONGEST_TAG characters.

    `identity`: anything that tells this host and namespace from others of the same name.
    """
    digest = sha256(f"{host}\0{identity}\0{device}".encode()).hexdigest()[:6]
    device = _plain(device)[:12]
    room = LONGEST_TAG - len(f"tap64---{digest}{device}")
    host = _plain(host.partition(".")[0])[:room]
    return "-".join(part for part in ("tap64", host, digest, device) if part)


def _plain(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9]+", "-", text).strip("-")


def link_addresses(
    tag: str, taken: Iterable[IPv4Network], attempt: int = 0
) -> tuple[IPv4Interface, IPv4Interface]:
    """Our end and the peer's: the first free /30 from where the tag points to.

    `taken`: networks in use here. `attempt`: how many free ones to pass over, because the peer
    has them in use. The first usable address is the peer's, the second ours.
    """
    used = list(taken)
    start = int.from_bytes(sha256(tag.encode()).digest()[:4], "big")
    for step in range(_NETWORKS):
        network = IPv4Network((_FIRST + (start + step) % _NETWORKS * 4, 30))
        if any(network.overlaps(other) for other in used):
            continue
        if attempt:
            attempt -= 1
            continue
        return IPv4Interface((network[2], 30)), IPv4Interface((network[1], 30))
    raise ValueError("every network of 169.254.0.0/16 is in use: set backhaul.addresses")
