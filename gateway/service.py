"""The running gateway: device, host changes, translator and data plane, from start to stop.

Order of events. The device is opened; the plan is applied; the data plane runs; on SIGTERM or
SIGINT, or when anything fails, the plan is undone in reverse and the device is closed. Signals
are received from before the first change on, so that none of them ends the program half-way.
SIGHUP re-reads the configuration, SIGUSR1 logs the state, SIGUSR2 returns to the backhaul's first
destination. With a backhaul nothing waits for it: clients are told that there is no way until it
is up, and while it is being ended.
"""

from __future__ import annotations

import logging
import secrets
import signal
import socket
import time
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import trio

from gateway import config as configuration
from gateway import log, memory
from gateway.clients import Clients
from gateway.config_model import Config
from gateway.config_values import PROTOCOLS
from gateway.data_plane import DataPlane, DeviceGone
from gateway.ending import undo_all
from gateway.frames import FrameFormat
from gateway.groups import errors_of
from gateway.host.addresses import global_address6
from gateway.host.checks import conntrack_drops
from gateway.host.journal import Journal
from gateway.host.plan import HostError, Plan
from gateway.host.ra_guard import RaGuard
from gateway.host.setup import device_mac, layer3_device, masquerade_of, plan_host
from gateway.host_wish import find_obstacles, host_spec
from gateway.neighbours import Neighbours
from gateway.options import Options
from gateway.ra.assembly import make_advertiser, wish_of
from gateway.reload import read_again
from gateway.route_query import RouteQuery
from gateway.status import Status, format_counters, format_status
from gateway.tap import accept_only, close_device, open_device
from translate.addresses import Prefix6
from translate.client_ports import BlockEvent
from translate.datagram_trains import can_form
from translate.nat64 import Nat64
from translate.policy import DestinationPolicy
from translate.reasons import Reason
from translate.settings import Settings
from translate.siit.translator import Siit

if TYPE_CHECKING:
    from gateway.backhaul.assembly import Backhaul
    from gateway.dns64.service import Dns64

_log = logging.getLogger("gateway")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
_PROTOCOL_NAMES = {number: name for name, number in PROTOCOLS.items()}
_HOUSEKEEPING_EVERY = 1.0  # seconds
_COMPLAIN_EVERY = 60.0  # seconds


class Service:
    """One gateway, for one life of the process."""

    def __init__(self, config: Config, options: Options) -> None:
        self._config = config
        self._options = options
        self._started = time.monotonic()
        self._running = False
        self._routes_changed = False
        self._told_wkp = False
        self._backhaul: Backhaul | None = None
        self._dns64: Dns64 | None = None
        self._policy: tuple[Settings, DestinationPolicy] | None = None
        self._advertiser = make_advertiser(config)

    async def serve(self) -> int:
        """Runs until stopped; the exit status. Raises HostError and DeviceError."""
        with trio.open_signal_receiver(*_SIGNALS) as signals:
            self._device = open_device(
                self._config.device, self._config.tap, offload=self._config.offload
            )
            what = "created" if self._device.created else "using the existing"
            _log.info("%s %s", what, self._name)
            try:
                return await self._with_device(signals)
            finally:
                close_device(self._device)

    async def _with_device(self, signals: AsyncIterator[int]) -> int:
        device, config = self._device, self._config
        l3_device, _, host_mac = await trio.to_thread.run_sync(layer3_device, device.name)
        tap_mac = await trio.to_thread.run_sync(device_mac, device.name)
        own_mac = b""
        if device.kind == "tap":
            own_mac = gateway_mac(tap_mac)
            accept_only(device, own_mac)
        self._icmp6_source = config.own_icmp6_source or await self._own_address6()
        plan = await trio.to_thread.run_sync(
            partial(plan_host, host_spec(self.wished, device.name, own_mac), log=_log.info)
        )
        query = RouteQuery()
        try:
            self._clients = self._make_clients(query, l3_device)
            self._make_data_plane(host_mac, own_mac)
            await self._make_backhaul()
            await trio.to_thread.run_sync(plan.apply)
            try:
                return await self._run(plan, signals, l3_device, query)
            finally:
                await undo_all(plan.undo, signals)
        finally:
            query.close()

    @property
    def wished(self) -> Config:
        """The configuration as the host is to be set up for it."""
        return self._config

    async def _own_address6(self) -> bytes:
        address = await trio.to_thread.run_sync(global_address6)
        if address is None:
            raise HostError(
                "64:ff9b::/96 must not carry the gateway's own address 192.0.0.8 and this host has"
                " no global IPv6 address: set icmp6_source, or use another prefix such as"
                " 64:ff9b:1::/96"
            )
        return address

    async def _make_backhaul(self) -> None:
        if not self._config.backhaul.to:
            return
        # Imported here: hosts with an IPv4 of their own do without it.
        from gateway.backhaul.assembly import Backhaul

        index = await trio.to_thread.run_sync(socket.if_nametoindex, self._name)
        self._backhaul = Backhaul(self._config, self._name, index, self._set_uplink)
        self._set_uplink(False)

    async def _start_dns64(self, nursery: trio.Nursery) -> None:
        config = self._config
        if not config.dns64.enabled:
            return
        # Imported here: dnspython is for those who want it.
        from gateway.config_dns64 import to_dns64_settings
        from gateway.dns64.service import serve

        self._dns64 = await nursery.start(
            partial(
                serve,
                to_dns64_settings(config.dns64, config.prefixes6, config.advertise.interfaces),
                admit=self._admit,
                refused4=self._refuses4,
            )
        )

    def _advertise_anew(self) -> None:
        config = self._config
        self._advertiser.configure(config.advertise.interfaces, wish_of(config))
        if self._dns64 is not None:
            from gateway.config_dns64 import places_of

            self._dns64.listen_on(places_of(config.dns64, config.advertise.interfaces))

    def _refuses4(self, addr4: bytes, prefix: Prefix6) -> bool:
        """Whether the translator would refuse the destination, by the settings of this moment."""
        settings = self._translator.settings
        if self._policy is None or self._policy[0] is not settings:
            self._policy = (settings, DestinationPolicy(settings))
        return self._policy[1].refusal(addr4, prefix) is not None

    def _set_uplink(self, up: bool) -> None:
        assert isinstance(self._translator, Nat64)
        self._translator.uplink(up)
        self._plane.configure()

    def _make_clients(self, query: RouteQuery, l3_device: str) -> Clients:
        config = self._config
        return Clients(
            query,
            prefixes=config.prefix,
            allow=config.allow,
            tap=self._device.name,
            l3_device=l3_device,
            cache_limit=config.limits.clients,
            clock=time.monotonic,
        )

    # The translator asks through these, because a reload replaces `_clients`.

    def _admit(self, addr6: bytes) -> bool:
        return self._clients.admit(addr6)

    def _path_mtu(self, addr: bytes) -> int:
        if len(addr) == 4 and self._config.backhaul.to:
            # The host's own routes know nothing of the way that pool4 takes.
            return self._config.backhaul.mtu
        return self._clients.path_mtu(addr)

    def _make_translator(self) -> Nat64 | Siit:
        return Nat64(
            configuration.to_settings(self._config, icmp6_source=self._icmp6_source),
            randbelow=secrets.SystemRandom().randrange,
            admit=self._admit,
            path_mtu=self._path_mtu,
            on_block=_log_block,
        )

    def _make_data_plane(self, host_mac: bytes, own_mac: bytes) -> None:
        self._translator: Nat64 | Siit = self._make_translator()
        neighbours = None
        if own_mac:
            pool4 = tuple(self.wished.pool_networks)
            neighbours = Neighbours(own_mac, self._config.prefix, pool4)
        frames = FrameFormat(self._device.vnet, host_mac if own_mac else b"", own_mac)
        self._plane = DataPlane(
            self._device.fd,
            frames,
            self._translator,
            neighbours,
            trains=can_form(self._device.offloads),
        )

    async def _run(
        self, plan: Plan, signals: AsyncIterator[int], l3_device: str, query: RouteQuery
    ) -> int:
        await self._say_who_and_what(l3_device)
        guard = RaGuard(
            Journal(self._config.run_dir, self._device.name),
            own={self._device.name, l3_device},
            changed=self._note_route_change,
        )
        status = 0
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(guard.run)
                nursery.start_soon(self._plane.run)
                await self._start_dns64(nursery)
                nursery.start_soon(self._advertiser.run)
                nursery.start_soon(self._keep_house)
                nursery.start_soon(memory.collect_while_few, self._entries)
                self._running = True
                memory.settle()
                # Inside, so that clients are answered until the far end has been told.
                async with trio.open_nursery() as link:
                    if self._backhaul is not None:
                        link.start_soon(self._backhaul.supervisor.run)
                    _log.info("ready: %s", self._summary())
                    await self._obey(signals, query, l3_device)
                    link.cancel_scope.cancel()
                self._running = False
                nursery.cancel_scope.cancel()
        except* DeviceGone:
            _log.error("%s was deleted while the gateway was using it: stopping", self._name)
            status = 1
        except* HostError as group:
            for error in errors_of(group):
                _log.error("%s", error)
            status = 1
        return status

    @property
    def _name(self) -> str:
        return self._device.name

    async def _obey(self, signals: AsyncIterator[int], query: RouteQuery, l3_device: str) -> None:
        """Does what signals ask for, until one asks to stop."""
        async for number in signals:
            if number in (signal.SIGTERM, signal.SIGINT):
                _log.info("stopping on %s", signal.Signals(number).name)
                return
            await self._on_signal(number, query, l3_device)

    async def _on_signal(self, number: int, query: RouteQuery, l3_device: str) -> None:
        if number == signal.SIGHUP:
            self._reload(query, l3_device)
        elif number == signal.SIGUSR2:
            if self._backhaul is None:
                _log.warning("SIGUSR2: there is no backhaul to return to the first destination")
            else:
                self._backhaul.supervisor.return_to_first()
        else:
            log.always(format_status(self.status()))
            log.always(format_counters(self._own_counters(), self._translator.counters))
            if self._backhaul is not None:
                log.always(self._backhaul.supervisor.describe())
            if self._dns64 is not None:
                log.always(self._dns64.describe())

    def _reload(self, query: RouteQuery, l3_device: str) -> bool:
        """Takes over what can change; says what cannot, and what is wrong. False: nothing has."""
        reloaded = read_again(self._config, self._options)
        if reloaded is None:
            return False
        self._config, taken = reloaded.config, reloaded.taken
        log.set_up(self._config.log_level)
        self._clients = self._make_clients(query, l3_device)
        self._reconfigure()
        if "static" in taken:
            self._forward_ports()
        self._plane.configure()
        if self._backhaul is not None:
            self._backhaul.configure(self._config)
        if any(key.startswith("advertise.") for key in taken):
            self._advertise_anew()
        for key in reloaded.fixed:
            _log.warning("%s cannot change while the gateway runs: restart it for that", key)
        _log.info("re-read: %s", ", ".join(taken) if taken else "nothing has changed")
        return True

    def _reconfigure(self) -> None:
        """Gives the translator the configuration that is in force now."""
        translator = self._translator
        assert isinstance(translator, Nat64)
        displaced = translator.state.displaced
        translator.configure(
            configuration.to_settings(self._config, icmp6_source=self._icmp6_source)
        )
        displaced = translator.state.displaced - displaced
        if displaced:
            _log.warning("static: mappings of clients that were ended to make way: %d", displaced)

    def _forward_ports(self) -> None:
        """Behind the masquerade: replaces our nftables table, in one transaction."""
        spec = host_spec(self._config, self._name)
        if spec.masquerade:
            try:
                masquerade_of(spec).apply()
            except HostError as error:
                _log.error("static: this host's ports are forwarded as before: %s", error)

    def _note_route_change(self) -> None:
        self._routes_changed = True
        self._advertiser.refresh()

    async def _keep_house(self) -> None:
        """Once a second: drops answers that route changes made stale, says what people miss."""
        watch = self._config.masquerades
        dropped = conntrack_drops() if watch else 0
        complain_at = 0.0
        while True:
            await trio.sleep(_HOUSEKEEPING_EVERY)
            if watch and trio.current_time() >= complain_at:
                before, dropped = dropped, conntrack_drops()
                if dropped > before:
                    complain_at = trio.current_time() + _COMPLAIN_EVERY
                    _log.warning(
                        "the kernel's connection tracking table is full: it has dropped %d packets;"
                        " raise net.netfilter.nf_conntrack_max, or lower limits.sessions",
                        dropped - before,
                    )
            if self._routes_changed:
                self._routes_changed = False
                self._clients.flush()
            if not self._told_wkp and self._translator.counters[Reason.PRIVATE_UNDER_WKP]:
                self._told_wkp = True
                _log.warning(
                    "refused a destination that is not globally routed under 64:ff9b::/96"
                    " (RFC 6052 section 3.1): use another prefix, such as one out of"
                    " 64:ff9b:1::/48 (RFC 8215), or set wkp_strict = false"
                )

    async def _say_who_and_what(self, l3_device: str) -> None:
        try:
            lines = self._clients.served() if self._serves else []
        except OSError as error:
            lines = [f"warning: cannot list who is served: {error}"]
        for line in lines:
            text = line.removeprefix("warning: ")
            _log.log(logging.INFO if text == line else logging.WARNING, "%s", text)
        found = await trio.to_thread.run_sync(find_obstacles, self.wished, self._name, l3_device)
        for line in found:
            _log.warning("%s", line)

    @property
    def _serves(self) -> bool:
        """Whether anybody is admitted by the host's routes."""
        return True

    def _summary(self) -> str:
        config, device = self._config, self._device
        prefixes = ", ".join(f"{p.network} ({p.layout.value})" for p in config.prefixes6)
        pool = ", ".join(str(network) for network in config.pool_networks)
        how = "masqueraded" if config.masquerades else "routed"
        if config.backhaul.to:
            how = f"through {', '.join(config.backhaul.to)} (backhaul, down until it says up)"
        offloads = ",".join(sorted(device.offloads)) or "none"
        return f"{prefixes} on {device.name}, pool4 {pool} {how}, offloads {offloads}"

    def status(self) -> Status:
        """The state as SIGUSR1 shows it."""
        plane, state = self._plane.counters, self._translator.state
        return Status(
            device=self._name,
            kind=self._device.kind,
            mtu=self._config.mtu,
            open=True,
            running=self._running,
            offload=bool(self._device.offloads),
            masquerade=self._config.masquerades,
            frames_written=plane.out_packets,
            write_errors=plane.out_errors,
            frames_read=plane.in_packets,
            frames_discarded=self._discarded() + plane.in_errors,
            sessions=state.session_count,
            bib=state.bib_count,
            clients=len(state.clients),
            uptime=time.monotonic() - self._started,
            backhaul=self._backhaul.supervisor.status.word() if self._backhaul else "",
        )

    def _entries(self) -> int:
        state = self._translator.state
        return state.session_count + state.bib_count

    def _discarded(self) -> int:
        counters = self._translator.counters
        kept = counters[Reason.HANDLED] + counters[Reason.FRAGMENT_HELD]
        return sum(counters.values()) - kept

    def _own_counters(self) -> dict[str, int]:
        plane = self._plane.counters
        return {
            "fast": plane.fast_packets,
            "neighbour": plane.neighbour_packets,
            "ignored": plane.ignored_packets,
            "errors-suppressed": self._translator.errors.suppressed,
            "bugs": plane.bugs,
        }


def _log_block(event: BlockEvent) -> None:
    _log.info(
        "block: %s -> %s %s %d-%d %s",
        IPv6Address(event.client6),
        IPv4Address(event.addr4),
        _PROTOCOL_NAMES[event.protocol],
        event.first,
        event.last,
        "assigned" if event.assigned else "released",
    )


def gateway_mac(tap_mac: bytes) -> bytes:
    """The gateway's own Ethernet address: unlike the tap's, and the same for the same tap.

    Locally administered, so that no manufacturer's address can be hit.
    """
    return bytes(((tap_mac[0] | 0x02) & 0xFE, tap_mac[1] ^ 0x64)) + tap_mac[2:]
