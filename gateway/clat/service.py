"""The running CLAT (`gateway --mode clat`): device, translator, data plane, from start to stop.

As gateway/service.py for nat64 mode, with another translator, and with most of what is changed on
the host coming and going with the uplink (follow.py, host_side.py). "ready" means that it follows
the uplink; "clat: up" that packets flow.
"""

from __future__ import annotations

import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from functools import partial
from ipaddress import IPv6Network

import trio

from gateway import config as configuration
from gateway import log, memory
from gateway.clat import identity
from gateway.clat.claim import find_taken, hear_claims
from gateway.clat.dns_discovery import ask_resolvers
from gateway.clat.follow import Follower, Hear, World
from gateway.clat.host_side import LinuxHost, problems_of_host
from gateway.clat.plat import PlatSources
from gateway.clat.ra_listener import RaListener
from gateway.clat.states import Uplink, Wanted, decide
from gateway.clat.translation import clat_settings
from gateway.clat.uplink import look
from gateway.clients import Clients
from gateway.config_model import Config
from gateway.data_plane import DataPlane, DeviceGone
from gateway.ending import undo_all
from gateway.frames import FrameFormat
from gateway.groups import errors_of
from gateway.host.journal import Journal
from gateway.host.plan import HostError
from gateway.host.ra_guard import RaGuard
from gateway.host.setup import device_mac, layer3_device, plan_host
from gateway.host.spec import HostSpec
from gateway.host_wish import host_spec
from gateway.neighbours import Neighbours
from gateway.options import Options
from gateway.reload import read_again
from gateway.route_query import RouteQuery
from gateway.service import gateway_mac
from gateway.status import Status, format_counters, format_status
from gateway.tap import accept_only, close_device, open_device
from translate.addresses import Layout
from translate.datagram_trains import can_form
from translate.reasons import Reason
from translate.settings import Settings
from translate.siit.translator import Siit

_log = logging.getLogger("gateway")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_FLUSH_EVERY = 1.0  # seconds


def wish_of(config: Config, tap: str, gateway_mac: bytes = bytes(6)) -> HostSpec:
    """What is asked of the host as long as the program runs."""
    spec = host_spec(config, tap, gateway_mac)
    return replace(spec, prefixes=[], pool4=[], masquerade=False, forwards=[], forwarding=False)


def given_prefix(config: Config) -> IPv6Network | None:
    """The prefix that the configuration gives; its default is another mode's."""
    prefix: IPv6Network = config.prefix[0]
    if config.clat.prefix_from == "config" or prefix != Config().prefix[0]:
        return prefix
    return None


class ClatService:
    """One CLAT, for one life of the process."""

    def __init__(self, config: Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._started = time.monotonic()
        self._routes_changed = False
        self._wanted: Wanted | None = None

    async def serve(self) -> int:
        """Runs until stopped; the exit status. Raises HostError and DeviceError."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            config = self._config
            self._device = open_device(config.device, config.tap, offload=config.offload)
            what = "created" if self._device.created else "using the existing"
            _log.info("%s %s", what, self._device.name)
            try:
                return await self._with_device(signals)
            finally:
                close_device(self._device)

    async def _with_device(self, signals: AsyncIterator[int]) -> int:
        device, config = self._device, self._config
        problems = await trio.to_thread.run_sync(problems_of_host, device.name)
        if problems:
            raise HostError(problems[0])
        in_thread = trio.to_thread.run_sync
        l3_device, index, host_mac = await in_thread(layer3_device, device.name)
        own_mac = b""
        if device.kind == "tap":
            own_mac = gateway_mac(await in_thread(device_mac, device.name))
            accept_only(device, own_mac)
        spec = wish_of(config, device.name, own_mac)
        plan = await in_thread(partial(plan_host, spec, log=_log.info))
        query = RouteQuery()
        try:
            self._clients = Clients(
                query,
                prefixes=(),
                allow=(),
                tap=device.name,
                l3_device=l3_device,
                cache_limit=config.limits.clients,
                clock=time.monotonic,
            )
            self._make_data_plane(host_mac, own_mac)
            journal = Journal(config.run_dir, device.name)
            self._follower = self._make_follower(journal, l3_device, index, own_mac.hex(":"))
            await in_thread(plan.apply)
            try:
                return await self._run(signals, journal, {device.name, l3_device})
            finally:
                await undo_all(plan.undo, signals)
        finally:
            query.close()

    def _make_data_plane(self, host_mac: bytes, own_mac: bytes) -> None:
        self._translator = Siit(
            clat_settings(self._settings(), None, self._layout),
            randbelow=secrets.SystemRandom().randrange,
            path_mtu=self._clients.path_mtu,
        )
        self._plane = DataPlane(
            self._device.fd,
            FrameFormat(self._device.vnet, host_mac if own_mac else b"", own_mac),
            self._translator,
            Neighbours(own_mac, (), ()) if own_mac else None,
            trains=can_form(self._device.offloads),
        )

    def _settings(self) -> Settings:
        return configuration.to_settings(self._config, icmp6_source=bytes(15) + b"\1")

    @property
    def _layout(self) -> Layout:
        """Of somebody else's prefix: RFC 6052's, unless we were told otherwise."""
        return Layout.TRAILING if self._config.layout == "trailing" else Layout.RFC6052

    def _translate(self, wanted: Wanted | None) -> None:
        """The translator's part of a change of state."""
        self._wanted = wanted
        self._translator.configure(clat_settings(self._settings(), wanted, self._layout))
        self._clients.flush()
        self._plane.configure()

    def _make_follower(self, journal: Journal, device: str, index: int, mac: str) -> Follower:
        clat = self._config.clat
        world = World(
            look=lambda network: look(clat.uplink, device, network),
            host=LinuxHost(journal, device, index, mac, clat.metric, clat.lan),
            listen=_listen,
            ask=partial(ask_resolvers, clat.resolvers),
            probe=find_taken,
            hear_claims=hear_claims,
            translate=self._translate,
            decide=lambda situation, plat, taken: decide(
                situation,
                plat,
                taken=taken,
                hosts=clat.hosts,
                address=clat.address,
                bits=partial(identity.bits_for, identity.host_key()),
                mtu=self._config.mtu,
            ),
        )
        return Follower(world, PlatSources(given_prefix(self._config), clat.prefix_from))

    async def _run(self, signals: AsyncIterator[int], journal: Journal, own: set[str]) -> int:
        guard = RaGuard(journal, own=own, changed=self._note_change)
        status = 0
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(guard.run)
                nursery.start_soon(self._plane.run)
                nursery.start_soon(self._forget_path_mtus)
                nursery.start_soon(memory.collect_while_few, self._flows)
                memory.settle()
                await nursery.start(self._follower.run)
                offloads = ",".join(sorted(self._device.offloads)) or "none"
                _log.info("ready: CLAT on %s, offloads %s", self._device.name, offloads)
                async for number in signals:
                    if number in (signal.SIGTERM, signal.SIGINT):
                        _log.info("stopping on %s", signal.Signals(number).name)
                        break
                    self._on_signal(number)
                nursery.cancel_scope.cancel()
        except* DeviceGone:
            name = self._device.name
            _log.error("%s was deleted while the gateway was using it: stopping", name)
            status = 1
        except* HostError as group:
            for error in errors_of(group):
                _log.error("%s", error)
            status = 1
        return status

    def _note_change(self) -> None:
        self._routes_changed = True
        self._follower.wake()

    async def _forget_path_mtus(self) -> None:
        while True:
            await trio.sleep(_FLUSH_EVERY)
            if self._routes_changed:
                self._routes_changed = False
                self._clients.flush()

    def _on_signal(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._reload()
        elif number == signal.SIGUSR2:
            _log.warning("SIGUSR2: there is no backhaul to return to the first destination")
        else:
            log.always(format_status(self.status()))
            log.always(format_counters(self._own_counters(), self._translator.counters))

    def _reload(self) -> None:
        """Takes over what the translator can; says what cannot change, and what is wrong."""
        reloaded = read_again(self._config, self._options)
        if reloaded is None:
            return
        self._config = reloaded.config
        log.set_up(self._config.log_level)
        self._translate(self._wanted)
        for key in reloaded.fixed:
            _log.warning("%s cannot change while the gateway runs: restart it for that", key)
        _log.info("re-read: %s", ", ".join(reloaded.taken) or "nothing has changed")

    def status(self) -> Status:
        """The state as SIGUSR1 shows it."""
        plane, counters = self._plane.counters, self._translator.counters
        discarded = sum(counters.values()) - counters[Reason.HANDLED]
        return Status(
            device=self._device.name,
            kind=self._device.kind,
            mtu=self._config.mtu,
            open=True,
            running=True,
            offload=bool(self._device.offloads),
            masquerade=bool(self._config.clat.lan),
            frames_written=plane.out_packets,
            write_errors=plane.out_errors,
            frames_read=plane.in_packets,
            frames_discarded=discarded + plane.in_errors,
            sessions=self._flows(),
            bib=0,
            clients=len(self._translator.state.clients),
            uptime=time.monotonic() - self._started,
            clat=self._follower.word(),
        )

    def _flows(self) -> int:
        return self._translator.state.session_count

    def _own_counters(self) -> dict[str, int]:
        plane = self._plane.counters
        return {
            "fast": plane.fast_packets,
            "neighbour": plane.neighbour_packets,
            "ignored": plane.ignored_packets,
            "errors-suppressed": self._translator.errors.suppressed,
            "bugs": plane.bugs,
        }


async def _listen(uplink: Uplink, heard: Hear) -> None:
    await RaListener(uplink.index, uplink.name, heard).run()
