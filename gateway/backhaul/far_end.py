"""Sets up the host behind a `gateway link`: address, route back to pool4, forwarding, masquerade.

The same script does it that sets up the far end of an ssh tunnel (peer.sh): run here by a shell of
ours, told the tap by the variable that sshd would set. It undoes all when it is told `stop`, and
also when this process is killed and its standard input ends.
"""

from __future__ import annotations

import logging
import os
import shlex
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

from gateway.backhaul import peer_script
from gateway.backhaul.link import LinkFailed, LinkWish, Ready

_log = logging.getLogger("gateway")

_BEAT_EVERY = 1.0  # seconds
_UNTIL_READY = 30.0  # seconds
_UNTIL_UNDONE = 10.0  # seconds


@asynccontextmanager
async def set_up_far_end(tap: str, wish: LinkWish, nursery: trio.Nursery) -> AsyncIterator[Ready]:
    """Holds the set-up as long as the context. Raises LinkFailed; nothing is left behind then."""
    arguments = shlex.split(peer_script.command(wish, own_connection=False))[1:]
    process = await trio.lowlevel.open_process(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "SSH_TUNNEL": tap},
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        try:
            await process.stdin.send_all(peer_script.script())
            ready = await _answer(process.stdout, tap)
        except trio.BrokenResourceError:
            raise LinkFailed("the set-up script ended early") from None
        for note in ready.notes:
            _log.warning("%s", note)
        nursery.start_soon(_beat, process.stdin, tap)
        yield ready
    finally:
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_UNTIL_UNDONE) as undoing:
                # The heartbeat's task was cancelled with us, or is at rest.
                with suppress(trio.BrokenResourceError, trio.BusyResourceError):
                    await process.stdin.send_all(peer_script.STOP)
                await process.stdin.aclose()
                await process.wait()
            if undoing.cancelled_caught:
                process.kill()
                await process.wait()
                _log.error("the set-up of %s may not be undone: its script hung", tap)
            await process.stdout.aclose()


async def _answer(stdout: trio.abc.ReceiveStream, tap: str) -> Ready:
    text = b""
    with trio.move_on_after(_UNTIL_READY):
        while data := await stdout.receive_some():
            text += data
            for line in text.split(b"\n")[:-1]:
                if (
                    ready := peer_script.read_answer(line.decode(errors="replace"), tap)
                ) is not None:
                    return ready
        raise LinkFailed("the set-up script ended without a word")
    raise LinkFailed(f"the set-up took longer than {_UNTIL_READY:g} s")


async def _beat(stdin: trio.abc.SendStream, tap: str) -> None:
    """Tells the script that we live."""
    while True:
        try:
            await stdin.send_all(peer_script.HEARTBEAT)
        except trio.ClosedResourceError:
            return
        except trio.BrokenResourceError:
            _log.error("the script that holds the set-up of %s was ended: start again", tap)
            return
        await trio.sleep(_BEAT_EVERY)
