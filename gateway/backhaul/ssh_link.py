"""A link by ssh's ethernet tunnel: one process, one session, no connection sharing.

ssh attaches to the local tap that it is told by number, so no race for names is possible here;
the far end's name is what SSH_TUNNEL says in that very session, and comes with READY. ssh asks
for the tunnel first and for the session second, on one connection: a line from the session
proves that both taps exist.

A peer prepared by hand (`peer_setup` off) gets no script: the session then only has to say READY,
by itself or through a forced command in authorized_keys, and to read heartbeats.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import trio

from gateway.backhaul import peer_script, ssh_session
from gateway.backhaul.link import LinkFailed, LinkWish, Patience, Ready
from gateway.backhaul.ssh_command import link_command
from gateway.backhaul.ssh_session import Account, Session, SessionLink
from gateway.backhaul.tap_holder import end_former_ssh

# For every login shell alike. A forced command takes its place.
BY_HAND = "echo READY $SSH_TUNNEL - - -; exec cat >/dev/null"


class SshLink(SessionLink):
    """One way to one peer with a connection of its own."""

    owns_device = False

    def __init__(
        self,
        destination: str,
        target: str = "",
        *,
        options: Sequence[str] = (),
        user: str = "",
        peer_setup: bool = True,
        remote_device: int | None = None,
    ) -> None:
        """`destination`: for logs; `target`: what ssh takes, where that is not the same.

        `user`: whom ssh runs as, "" for the gateway's own. Without `peer_setup` the peer was
        prepared by hand, with the tap number `remote_device`.
        """
        self.destination = destination
        self._target = target or destination
        self._options = tuple(options)
        self._user = user
        self._peer_setup = peer_setup
        self._remote_device = remote_device

    async def run(
        self,
        tap: str,
        wish: LinkWish,
        *,
        task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries frames until cancelled; see Link."""
        number = re.fullmatch(r"tap(\d+)", tap)
        if not number:
            raise LinkFailed(
                f"ssh attaches to devices named tapN only, not {tap}", patience=Patience.LONG
            )
        account = await trio.to_thread.run_sync(Account.find, self._user)
        argv = link_command(
            self._target,
            int(number[1]),
            peer_script.command(wish) if self._peer_setup else BY_HAND,
            remote_device=self._remote_device,
            options=self._options,
            heartbeat=wish.heartbeat,
            version=await ssh_session.ssh_version(),
            theirs=await ssh_session.user_settings(self._target, self._options, account),
        )
        await trio.to_thread.run_sync(end_former_ssh, tap)
        process = await ssh_session.start(argv, account)
        session = Session(process, partial(peer_script.read_answer, device=tap))
        await self._converse(
            session,
            peer_script.script() if self._peer_setup else b"",
            wish.heartbeat,
            task_status,
            undoes=self._peer_setup,
        )
