"""The running gateway: device, host changes, translator and data plane, from start to stop.

Order of events. The device is opened; the plan is applied; the data plane runs; on SIGTERM or
SIGINT, or when anything fails, the plan is undone in reverse and the device is closed. Signals
are received from before the first change on, so that none of them ends the program half-way.
SIGHUP re-reads the configuration, SIGUSR1 logs the state.
"""

from __future__ import annotations

import logging
import secrets
import signal
import time
from collections.abc import AsyncIterator
from functools import partial
from ipaddress import IPv4Address, IPv6Address

import trio

from gateway import config as configuration
from gateway import log, memory
from gateway.clients import Clients
from gateway.config_checks import find_faults
from gateway.config_model import Config
from gateway.config_values import PROTOCOLS
from gateway.data_plane import DataPlane, DeviceGone
from gateway.frames import FrameFormat
from gateway.host.addresses import global_address6
from gateway.host.checks import conntrack_drops
from gateway.host.journal import Journal
from gateway.host.plan import HostError, Plan
from gateway.host.ra_guard import RaGuard
from gateway.host.setup import device_mac, layer3_device, masquerade_of, plan_host
from gateway.host_wish import find_obstacles, host_spec
from gateway.neighbours import Neighbours
from gateway.options import Options
from gateway.route_query import RouteQuery
from gateway.status import Status, format_counters, format_status
from gateway.tap import accept_only, close_device, open_device
from translate.client_ports import BlockEvent
from translate.datagram_trains import can_form
from translate.nat64 import Nat64
from translate.reasons import Reason

_log = logging.getLogger("gateway")

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
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
            partial(plan_host, host_spec(config, device.name, own_mac), log=_log.info)
        )
        query = RouteQuery()
        try:
            self._clients = self._make_clients(query, l3_device)
            self._make_data_plane(host_mac, own_mac)
            await trio.to_thread.run_sync(plan.apply)
            try:
                return await self._run(plan, signals, l3_device, query)
            finally:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(plan.undo)
        finally:
            query.close()

    async def _own_address6(self) -> bytes:
        address = await trio.to_thread.run_sync(global_address6)
        if address is None:
            raise HostError(
                "64:ff9b::/96 must not carry the gateway's own address 192.0.0.8 and this host has"
                " no global IPv6 address: set icmp6_source, or use another prefix such as"
                " 64:ff9b:1::/96"
            )
        return address

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
        return self._clients.path_mtu(addr)

    def _make_data_plane(self, host_mac: bytes, own_mac: bytes) -> None:
        config = self._config
        self._translator = Nat64(
            configuration.to_settings(config, icmp6_source=self._icmp6_source),
            randbelow=secrets.SystemRandom().randrange,
            admit=self._admit,
            path_mtu=self._path_mtu,
            on_block=_log_block,
        )
        neighbours = None
        if own_mac:
            neighbours = Neighbours(own_mac, config.prefix, tuple(config.pool_networks))
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
                nursery.start_soon(self._keep_house)
                nursery.start_soon(memory.collect_while_few, self._entries)
                self._running = True
                memory.settle()
                _log.info("ready: %s", self._summary())
                async for number in signals:
                    if number in (signal.SIGTERM, signal.SIGINT):
                        _log.info("stopping on %s", signal.Signals(number).name)
                        break
                    await self._on_signal(number, query, l3_device)
                self._running = False
                nursery.cancel_scope.cancel()
        except* DeviceGone:
            _log.error("%s was deleted while the gateway was using it: stopping", self._name)
            status = 1
        except* HostError as group:
            for error in group.exceptions:
                _log.error("%s", error)
            status = 1
        return status

    @property
    def _name(self) -> str:
        return self._device.name

    async def _on_signal(self, number: int, query: RouteQuery, l3_device: str) -> None:
        if number == signal.SIGHUP:
            self._reload(query, l3_device)
        else:
            log.always(format_status(self.status()))
            log.always(format_counters(self._own_counters(), self._translator.counters))

    def _reload(self, query: RouteQuery, l3_device: str) -> None:
        """Takes over what can change; says what cannot, and what is wrong."""
        try:
            read = configuration.load(self._options.config_path, self._options.overrides)
        except configuration.ConfigError as error:
            for line in error.lines:
                _log.error("%s", line)
            _log.error("the configuration was not re-read: nothing has changed")
            return
        changed = configuration.changed_keys(self._config, read)
        fixed = [key for key in changed if key not in configuration.RELOADABLE]
        taken = [key for key in changed if key in configuration.RELOADABLE]
        top = {key.partition(".")[0] for key in taken}
        mixed = self._config.model_copy(update={key: getattr(read, key) for key in top})
        faults = list(find_faults(mixed))
        if faults:
            for fault in faults:
                _log.error("%s", fault)
            _log.error(
                "these keys do not go with those that cannot change while the gateway runs:"
                " nothing has changed"
            )
            return
        self._config = mixed
        log.set_up(self._config.log_level)
        self._clients = self._make_clients(query, l3_device)
        displaced = self._translator.state.displaced
        self._translator.configure(
            configuration.to_settings(self._config, icmp6_source=self._icmp6_source)
        )
        displaced = self._translator.state.displaced - displaced
        if displaced:
            _log.warning("static: mappings of clients that were ended to make way: %d", displaced)
        if "static" in taken:
            self._forward_ports()
        self._plane.configure()
        for key in fixed:
            _log.warning("%s cannot change while the gateway runs: restart it for that", key)
        _log.info("re-read: %s", ", ".join(taken) if taken else "nothing has changed")

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
            lines = self._clients.served()
        except OSError as error:
            lines = [f"warning: cannot list who is served: {error}"]
        for line in lines:
            text = line.removeprefix("warning: ")
            _log.log(logging.INFO if text == line else logging.WARNING, "%s", text)
        found = await trio.to_thread.run_sync(find_obstacles, self._config, self._name, l3_device)
        for line in found:
            _log.warning("%s", line)

    def _summary(self) -> str:
        config, device = self._config, self._device
        prefixes = ", ".join(f"{p.network} ({p.layout.value})" for p in config.prefixes6)
        pool = ", ".join(str(network) for network in config.pool_networks)
        how = "masqueraded" if config.masquerades else "routed"
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
