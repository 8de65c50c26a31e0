"""Runs one ssh link under trio, as the supervisor does, and says on stdout what happens.

    python link_driver.py '{"target": ..., ...}'

Prints `tap NAME`, then `READY {...}` or `FAILED {...}`. SIGTERM cancels the link, SIGUSR1 abandons
and cancels it; either ends with `CANCELLED`. The tap is made here, with its address, and removed.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import sys
from dataclasses import asdict
from functools import partial

import trio

from gateway.backhaul.link import LinkFailed
from gateway.backhaul.ssh_link import SshLink
from gateway.backhaul.ssh_master import MasterLink
from gateway.backhaul.taps import attach_tap, make_tap, remove_tap
from tests.e2e.script_session import WISH, wish


def say(word: str, content: object = "") -> None:
    print(word, content if isinstance(content, str) else json.dumps(content, default=str))
    sys.stdout.flush()


def make_link(about: dict) -> SshLink | MasterLink:
    options, user = about.get("options", []), about.get("user", "")
    if path := about.get("control_path"):
        return MasterLink(about["target"], "", path, options=options, user=user)
    return SshLink(
        about["target"],
        options=options,
        user=user,
        peer_setup=about.get("peer_setup", True),
        remote_device=about.get("remote_device"),
    )


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


async def wait_for_signal(link: SshLink | MasterLink, scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGUSR1) as signals:
        async for number in signals:
            if number == signal.SIGUSR1:
                link.abandon()
            scope.cancel()
            return


async def drive(about: dict) -> None:
    link = make_link(about)
    wanted = wish(**about.get("wish", {}))
    tap = ""
    if not link.owns_device:
        owner = pwd.getpwnam(about.get("owner") or about.get("user") or "root").pw_uid
        if about.get("existing"):
            tap = about["tap"]
        else:
            tap = make_tap(owner, wanted.mtu, name=about.get("tap", ""))
        ip("addr", "replace", str(WISH.local4), "dev", tap)
    say("tap", tap)
    holder = attach_tap(tap) if about.get("hold") else -1
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_signal, link, nursery.cancel_scope)
            with trio.fail_after(40):
                ready = await nursery.start(partial(link.run, tap, wanted))
            if link.owns_device:
                ip("addr", "add", str(WISH.local4), "dev", ready.device)
            say("READY", asdict(ready))
        say("CANCELLED")
    except* LinkFailed as group:
        (failure,) = group.exceptions
        assert isinstance(failure, LinkFailed)
        say(
            "FAILED",
            {
                "cause": failure.cause,
                "remedy": failure.remedy,
                "patience": failure.patience.value,
                "kind": type(failure).__name__,
            },
        )
    finally:
        if holder >= 0:
            os.close(holder)
        if tap:
            remove_tap(tap)
        children = f"/proc/{os.getpid()}/task/{os.getpid()}/children"
        with open(children) as file:
            say("children", file.read())


if __name__ == "__main__":
    trio.run(drive, json.loads(sys.argv[1]))
