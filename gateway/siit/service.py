"""The running gateway in stateless mode (`gateway --mode siit`).

As gateway/service.py, with another translator, a map file that SIGHUP reads again, and a pool of
addresses whose assignments are on disk: written every minute and at the stop, read at the start.
A map that cannot be used changes nothing: the table in force stays.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import trio

from gateway import pool_state
from gateway.config import ConfigError
from gateway.config_model import Config
from gateway.host.journal import Journal
from gateway.host.plan import HostError, Plan
from gateway.options import Options
from gateway.route_query import RouteQuery
from gateway.service import Service
from gateway.siit.mappings import make_pool, make_settings, read_mappings, routed, routed_networks
from gateway.siit.routes import LiveRoutes
from gateway.status import Status
from translate.address_pool import AddressPool
from translate.eam import EamTable
from translate.siit.addresses import SiitSettings
from translate.siit.translator import Siit

_log = logging.getLogger("gateway")

_SAVE_EVERY = 60.0  # seconds


class SiitService(Service):
    """One stateless gateway, for one life of the process."""

    _translator: Siit

    def __init__(self, config: Config, options: Options) -> None:
        """Raises ConfigError when the mappings cannot be used."""
        super().__init__(config, options)
        self._table: EamTable = read_mappings(config)
        self._routed: Config = routed(config, self._table)
        self._pool: AddressPool | None = None

    @property
    def wished(self) -> Config:
        """The configuration with what is routed here as pool4."""
        return self._routed

    # -- translator and pool -----------------------------------------------------------------

    def _make_translator(self) -> Siit:
        self._pool = self._load_pool()
        return Siit(
            self._settings(),
            randbelow=secrets.SystemRandom().randrange,
            path_mtu=self._path_mtu,
            admit=self._admit,
        )

    def _settings(self) -> SiitSettings:
        return make_settings(self._routed, self._table, self._pool, icmp6_source=self._icmp6_source)

    def _load_pool(self) -> AddressPool | None:
        config = self._config
        pool = make_pool(config, self._table)
        if pool is None:
            return None
        path = Path(config.siit.pool_state)
        now, wall = time.monotonic(), time.time()
        for line in pool_state.load(path, pool, now=now, wall=wall):
            _log.warning("%s", line)
        try:
            # What cannot be written is better known now than at the stop.
            pool_state.save(path, pool, now=now, wall=wall)
        except OSError as error:
            raise HostError(
                f"siit.pool_state: cannot write {path}: {error.strerror}; another place, or"
                " a directory that exists and can be written, is right"
            ) from error
        return pool

    async def _save_pool(self) -> None:
        if self._pool is None:
            return
        # The data plane goes on with the pool while the file is written; a newer time of use in
        # it does no harm.
        items = list(self._pool)
        save = partial(
            pool_state.save,
            Path(self._config.siit.pool_state),
            items,
            now=time.monotonic(),
            wall=time.time(),
        )
        try:
            await trio.to_thread.run_sync(save)
        except OSError as error:
            _log.error("siit.pool_state: cannot write: %s", error)

    async def _save_pool_often(self) -> None:
        while True:
            await trio.sleep(_SAVE_EVERY)
            await self._save_pool()

    async def _keep_house(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(super()._keep_house)
            nursery.start_soon(self._save_pool_often)

    async def _run(
        self, plan: Plan, signals: AsyncIterator[int], l3_device: str, query: RouteQuery
    ) -> int:
        try:
            return await super()._run(plan, signals, l3_device, query)
        finally:
            with trio.CancelScope(shield=True):
                self._translator.note_use()
                await self._save_pool()

    # -- SIGHUP ------------------------------------------------------------------------------

    async def _on_signal(self, number: int, query: RouteQuery, l3_device: str) -> None:
        if number != signal.SIGHUP:
            await super()._on_signal(number, query, l3_device)
        elif self._reload(query, l3_device):
            await self._read_mappings_again(l3_device)

    def _reconfigure(self) -> None:
        self._routed = self._config.model_copy(update={"pool4": self._routed.pool4})
        self._translator.configure(self._settings())

    async def _read_mappings_again(self, l3_device: str) -> None:
        read = partial(read_mappings, self._config)
        try:
            table = await trio.to_thread.run_sync(read)
            after = routed(self._config, table)
        except ConfigError as error:
            for line in error.lines:
                _log.error("%s", line)
            _log.error("the mappings were not re-read: those in force stay")
            return
        before, self._routed, self._table = self._routed, after, table
        self._translator.note_use()
        self._pool = make_pool(self._config, table, self._pool)
        routes = LiveRoutes(
            Journal(self._config.run_dir, self._name),
            l3_device,
            socket.if_nametoindex(l3_device),
            self._device.kind == "tap",
        )
        await trio.to_thread.run_sync(
            routes.change, routed_networks(before), routed_networks(after)
        )
        self._translator.configure(self._settings())
        self._plane.configure()
        self._plane.answer_for(after.pool_networks)
        _log.info("re-read: %d mappings", len(table))

    # -- what is told ------------------------------------------------------------------------

    @property
    def _serves(self) -> bool:
        return self._pool is not None

    def _pool_words(self) -> str:
        return f"{len(self._pool)}/{self._pool.size}" if self._pool is not None else ""

    def _summary(self) -> str:
        config, device = self._routed, self._device
        prefixes = ", ".join(f"{p.network} ({p.layout.value})" for p in config.prefixes6)
        count = len(config.pool_networks)
        networks = ", ".join(str(network) for network in config.pool_networks[:8])
        more = f" and {count - 8} more" if count > 8 else ""
        offloads = ",".join(sorted(device.offloads)) or "none"
        pool = f", pool {self._pool_words()} in use" if self._pool is not None else ""
        return (
            f"{prefixes} on {device.name}, {len(self._table)} mappings, hairpin"
            f" {config.siit.hairpin}{pool}, routed {networks}{more}, offloads {offloads}"
        )

    def status(self) -> Status:
        """The state as SIGUSR1 shows it."""
        return replace(super().status(), mappings=len(self._table), pool=self._pool_words())
