"""A link over the tunnel of a master connection that somebody else started and keeps.

What has to be known of connection sharing, all of it silent: a session on a master cannot ask for
a tunnel, so the master needs its own `-w`; a session that finds the socket dead makes a new
connection without tunnel, unless ProxyCommand forbids it (ssh_command.slave_command); a master
that is stopped answers nothing, not even `-O check`, for ever. The local tap is the one that the
master's process has open (tap_holder), and SSH_TUNNEL is set in every session of the connection.

Connection and taps are not ours: the script undoes what it did to the far tap, and ends nobody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import partial

import trio

from gateway.backhaul import peer_script, ssh_session
from gateway.backhaul.link import LinkFailed, LinkWish, Patience, Ready
from gateway.backhaul.ssh_command import check_command, slave_command
from gateway.backhaul.ssh_errors import explain
from gateway.backhaul.ssh_session import Account, Session, SessionLink
from gateway.backhaul.tap_holder import devices_of, is_tap

CHECK_WITHIN = 5.0  # seconds; a live master answers in milliseconds
_START_IT = (
    "start it anew: ssh -M -S PATH -o ControlPersist=no -o Tunnel=ethernet -w any DESTINATION"
)


class MasterLink(SessionLink):
    """One session on a running master connection. The local tap is known when it is ready."""

    owns_device = True

    def __init__(
        self,
        destination: str,
        target: str,
        control_path: str,
        *,
        options: Sequence[str] = (),
        user: str = "",
    ) -> None:
        """See SshLink; `control_path`: the master's socket."""
        self.destination = destination
        self._target = target or destination
        self._control_path = control_path
        self._options = tuple(options)
        self._user = user

    async def run(
        self,
        tap: str,
        wish: LinkWish,
        *,
        task_status: trio.TaskStatus[Ready] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Carries frames until cancelled; see Link. `tap` is empty."""
        account = await trio.to_thread.run_sync(Account.find, self._user)
        version = await ssh_session.ssh_version()
        device = await self._find_tap(account)
        argv = slave_command(
            self._target,
            self._control_path,
            peer_script.command(wish, own_connection=False),
            options=self._options,
            version=version,
        )
        process = await ssh_session.start(argv, account)
        session = Session(process, partial(peer_script.read_answer, device=device))
        await self._converse(
            session, peer_script.script(), wish.heartbeat, task_status, undoes=True
        )

    async def _find_tap(self, account: Account | None) -> str:
        """The tap that the master holds here. Raises LinkFailed."""
        argv = check_command(self._target, self._control_path, self._options)
        status, words = await ssh_session.ask(argv, account, CHECK_WITHIN)
        if status is None:
            raise LinkFailed(
                f"the master connection of {self._control_path} does not answer: it hangs or is"
                " stopped",
                "end it and start it anew",
            )
        found = re.search(r"Master running \(pid=(\d+)\)", "\n".join(words))
        if status != 0 or not found:
            raise explain(words, status)
        devices = devices_of(int(found[1]))
        taps = [name for name in devices if is_tap(name)]
        if len(taps) == 1:
            return taps[0]
        if taps:
            what = f"several tunnels ({', '.join(taps)})"
        elif devices:
            what = f"only a point-to-point tunnel ({', '.join(devices)}), no ethernet one"
        else:
            what = "no tunnel"
        raise LinkFailed(
            f"the master connection (process {found[1]}) has {what}",
            _START_IT,
            patience=Patience.LONG,
        )
