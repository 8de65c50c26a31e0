"""A gateway that does not translate: clients' IPv6 goes to a peer that does (`carries = "ipv6"`).

There is no device of the gateway's own and no translator here. The prefixes are routed to fe80::2
on the backhaul's tap while it is up, and are unreachable while it is down: the kernel then tells
the clients, as the translator would. Everything else is as in gateway/service.py.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial

import trio

from gateway import log
from gateway.backhaul.assembly import Backhaul
from gateway.config_model import Config
from gateway.ending import undo_all
from gateway.groups import errors_of
from gateway.host.journal import Journal
from gateway.host.plan import HostError
from gateway.host.ra_guard import RaGuard
from gateway.host.setup import plan_host
from gateway.host.spec import HostSpec
from gateway.host_wish import host_spec
from gateway.options import Options
from gateway.reload import read_again

_log = logging.getLogger("gateway")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def wish_of(config: Config) -> HostSpec:
    """What is asked of the host. The journal has the name of the device that is not there."""
    name = config.tap or "backhaul"
    return replace(host_spec(config, name), pool4=[], masquerade=False, uplink=True, device=False)


class Untranslated:
    """One gateway without a translator, for one life of the process."""

    def __init__(self, config: Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._spec = wish_of(config)
        self._backhaul = Backhaul(config, self._spec.tap, 0, lambda _: None)

    async def serve(self) -> int:
        """Runs until stopped; the exit status. Raises HostError."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            plan = await trio.to_thread.run_sync(partial(plan_host, self._spec, log=_log.info))
            await trio.to_thread.run_sync(plan.apply)
            try:
                return await self._run(signals)
            finally:
                await undo_all(plan.undo, signals)

    async def _run(self, signals: AsyncIterator[int]) -> int:
        journal = Journal(self._config.run_dir, self._spec.tap)
        guard = RaGuard(journal, own=set(), changed=lambda: None)
        status = 0
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(guard.run)
                nursery.start_soon(self._backhaul.supervisor.run)
                prefixes = ", ".join(str(prefix) for prefix in self._config.prefix)
                to = ", ".join(self._config.backhaul.to)
                _log.info("ready: %s untranslated through %s", prefixes, to)
                async for number in signals:
                    if number in (signal.SIGTERM, signal.SIGINT):
                        _log.info("stopping on %s", signal.Signals(number).name)
                        break
                    self._on_signal(number)
                nursery.cancel_scope.cancel()
        except* HostError as group:
            for error in errors_of(group):
                _log.error("%s", error)
            status = 1
        return status

    def _on_signal(self, number: int) -> None:
        supervisor = self._backhaul.supervisor
        if number == signal.SIGUSR2:
            supervisor.return_to_first()
        elif number == signal.SIGUSR1:
            log.always(f"backhaul={supervisor.status.word()}")
            log.always(supervisor.describe())
        else:
            self._reload()

    def _reload(self) -> None:
        reloaded = read_again(self._config, self._options)
        if reloaded is None:
            return
        self._config = reloaded.config
        log.set_up(self._config.log_level)
        self._backhaul.configure(self._config)
        for key in reloaded.fixed:
            _log.warning("%s cannot change while the gateway runs: restart it for that", key)
        _log.info("re-read: %s", ", ".join(reloaded.taken) or "nothing has changed")
