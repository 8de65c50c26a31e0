"""What a link is: Ethernet frames both ways between a local tap and a far end.

The one definition that every kind of link (ssh, exec, tcp, listen, unix, pty, std) keeps to and
that the supervisor relies on. A link knows nothing of routes, probes, back-off or of the
translator: it attaches to the tap that it is given, says when the far end is there, carries
frames, and ends.

    supervisor ── makes the tap, addresses, routes, probes, tries again
        │ run(tap, wish)
      link ────── Ready, then frames ... until LinkFailed, or until it is cancelled
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Network
from typing import Literal, Protocol

import trio

Carries = Literal["ipv4", "ipv6"]


class Patience(Enum):
    """How soon it makes sense to try again."""

    SHORT = "short"  # the network, a restart: back-off from half a second
    LONG = "long"  # only a person can mend it: keys, host keys, permissions, configuration


class LinkFailed(Exception):
    """The link could not be made, or has ended.

    `cause`: one line that says what happened, without the destination's name; `remedy`: one line
    that says what to do, empty where nothing has to be done. str() is both.
    """

    def __init__(
        self, cause: str, remedy: str = "", *, patience: Patience = Patience.SHORT
    ) -> None:
        super().__init__(cause, remedy)
        self.cause = cause
        self.remedy = remedy
        self.patience = patience

    def __str__(self) -> str:
        return f"{self.cause}: {self.remedy}" if self.remedy else self.cause


class LinkAddressTaken(LinkFailed):
    """The far end has something else on the link's addresses: others have to be tried."""


class PoolTaken(LinkFailed):
    """The far end has a prefix of pool4 in other hands: another gateway's, or its own.

    With Patience.SHORT it will be free without anybody's doing.
    """


@dataclass(frozen=True, slots=True)
class LinkWish:
    """What the supervisor wants of the link and of the far end.

    `local4`, `remote4`: the two ends' addresses on the link, with its prefix length. `pool4` is
    to be routed to `local4` and, with `masquerade`, to leave the far end with its own address.
    `tag` names this gateway and its host: letters, digits and `-`, at most 40. `run`, letters and
    digits, tells this run of it from others. `heartbeat`, `linger`: seconds. With `carries` "ipv6"
    nothing is masqueraded: the far end translates, and routes `clients6` to fe80::1 on the link;
    `pool4` is empty then.
    """

    pool4: tuple[IPv4Network, ...]
    local4: IPv4Interface
    remote4: IPv4Interface
    mtu: int
    masquerade: bool
    tag: str
    heartbeat: float
    linger: float
    carries: Carries = "ipv4"
    clients6: tuple[IPv6Network, ...] = ()
    run: str = "-"


@dataclass(frozen=True, slots=True)
class Ready:
    """The far end is there. No proof that frames pass: that is the supervisor's to find out.

    `device`: the local tap. `remote`: the far end's name for its tap, empty when it does not
    tell. `next_hop4`: a host behind the far end that can be asked for an echo, to find out
    whether the far end forwards. `notes`: what the far end wants a person to know, a line each.
    """

    device: str
    remote: str = ""
    next_hop4: IPv4Address | None = None
    notes: tuple[str, ...] = ()


class Link(Protocol):
    """One way to one far end."""

    @property
    def destination(self) -> str:
        """What the user typed, for logs: `root@peer.example`, `tcp://[2001:db8::1]:6464`."""

    @property
    def owns_device(self) -> bool:
        """Whether the local tap is somebody else's and only known when the link is ready."""

    async def run(
        self,
        tap: str,
        wish: LinkWish,
        *,
        task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries frames until cancelled; `task_status.started(Ready)` when the far end is there.

        `tap`: a persistent tap without a reader, up or about to be, empty if `owns_device`.
        Raises LinkFailed when the link cannot be made and when it ends in whatever way; it
        never returns. When cancelled it tells the far end to undo at once, waits for that for a
        short time of its own (shielded), and leaves no process and no descriptor behind.
        """

    def abandon(self) -> None:
        """Makes the cancellation that follows one without a word: what runs is taken up again.

        The far end is not told to undo, nor waited for, and keeps for `linger` what lets flows
        survive. It is for good: another `run` takes another link. Without effect on a link that
        never tells.
        """
