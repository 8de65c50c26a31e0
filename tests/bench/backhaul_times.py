"""How long a backhaul is away, and how long its traces stay at the peer; times in seconds.

A client pings the server fifty times a second meanwhile, so that "the first packet" is known to
20 ms. Timers are those of the defaults: probes each second of which three may be missed, ssh's
keep-alives, a heartbeat of ten seconds. Each figure begins with what its name says:

    ssh killed, session killed    the moment of the SIGKILL
    cut                           the moment when a network mends that was cut for five seconds
    stopped, gateway killed, cut for good    the same; ends when no address and no route is left
                                  at the peer, and after a clean stop nothing else either
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable

from tests.bench.measure import Figures
from tests.bench.topology import BenchError
from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet
from tests.e2e.namespaces import Process, wait_until
from tests.e2e.topology import SERVER

RECONNECT = {
    "ssh_killed_s": "ssh killed",
    "session_killed_s": "sshd's session killed",
    "cut_s": "network mended after 5 s",
}
UNDONE = {
    "stopped_s": "clean stop",
    "gateway_killed_s": "gateway killed (SIGKILL)",
    "cut_for_good_s": "network cut",
}
CUT_FOR = 5.0
LONGEST = 60.0
GAP = 0.1  # without an answer for so long it is away
POLL = 0.01


def all_times(net: BackhaulNet, gateway: BackhaulGateway) -> Figures:
    """Measures everything once; `gateway` is up, and stopped at the end."""
    figures = {}
    ping = net.client.start("ping", "-n", "-D", "-i", "0.02", SERVER, name="bench-ping")
    try:
        for name, event in (
            ("ssh_killed_s", lambda: os.kill(gateway.ssh_pid(), signal.SIGKILL)),
            ("session_killed_s", net.peer.kill_sessions),
            ("cut_s", lambda: _cut_and_mend(net)),
        ):
            figures[name] = _time_away(ping, event)
            gateway.wait_up(LONGEST)
    finally:
        ping.end()
    started = time.monotonic()
    gateway.kill()  # returns when it is gone, which takes longer than the peer's noticing
    _time_until(lambda: not _routes(net))
    figures["gateway_killed_s"] = time.monotonic() - started
    gateway.start_up()
    net.cut()
    figures["cut_for_good_s"] = _time_until(lambda: not _routes(net))
    net.mend()
    gateway.wait_up(LONGEST)
    started = time.monotonic()
    gateway.process.send(signal.SIGTERM)
    _time_until(lambda: not _traces(net))
    figures["stopped_s"] = time.monotonic() - started
    gateway.process.wait(15)
    return figures


def _cut_and_mend(net: BackhaulNet) -> None:
    net.cut()
    time.sleep(CUT_FOR)
    net.mend()


def _time_away(ping: Process, event: Callable[[], object]) -> float:
    """From the end of `event` to the first answer after a gap."""
    wait_until(lambda: _answers(ping), 10, "the server answers")
    began = time.time()
    event()
    ended = time.time()

    def back() -> float | None:
        before = began
        for at in _answers(ping):
            if at > ended and at - before > GAP:
                return at
            before = max(before, at)
        return None

    wait_until(back, LONGEST, "the server answers again", interval=POLL)
    at = back()
    assert at is not None
    return at - ended


def _answers(ping: Process) -> list[float]:
    return [float(at) for at in re.findall(r"^\[([\d.]+)\] \d+ bytes from", ping.log(), re.M)]


def _time_until(gone: Callable[[], bool]) -> float:
    started = time.monotonic()
    try:
        wait_until(gone, LONGEST, "the peer has undone it", interval=POLL)
    except AssertionError as error:
        raise BenchError(str(error)) from None
    return time.monotonic() - started


def _routes(net: BackhaulNet) -> str:
    """Ways to the pool through the tunnel, which are the first to go."""
    return net.peer.namespace.ip("route", "show", "to", "root", "169.254.0.0/16")


def _traces(net: BackhaulNet) -> bool:
    return bool(
        _routes(net) or "blackhole" in net.peer.namespace.ip("route") or net.peer.run_files()
    )
