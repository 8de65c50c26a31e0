"""The DNS64 as a part of the running gateway: `serve` puts the modules together.

It runs in the nursery of gateway/service.py and says by `task_status` that it answers. The
upstreams are those of the configuration; without any, those of resolv.conf, which is looked at
again when it changes, and whose lines that lead back here are left out.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from dataclasses import asdict

import trio

from gateway.dns64.cache import Cache
from gateway.dns64.clients import ClientTable
from gateway.dns64.engine import Engine, rules_of
from gateway.dns64.listeners import Listeners
from gateway.dns64.places import parse_listen
from gateway.dns64.resolve import Resolver
from gateway.dns64.server import Server
from gateway.dns64.settings import Dns64Settings
from gateway.dns64.upstream_config import (
    UpstreamAddress,
    parse_resolv_conf,
    parse_upstream,
    without_loops,
)
from gateway.dns64.upstreams import Upstreams
from gateway.groups import first_of
from gateway.host.plan import HostError
from translate.addresses import Prefix6

_log = logging.getLogger(__name__)

_LOOK_EVERY = 3.0  # seconds between looks at resolv.conf


class Dns64:
    """A running DNS64; `counters` is its state for the status line."""

    def __init__(
        self,
        settings: Dns64Settings,
        admit: Callable[[bytes], bool],
        refused4: Callable[[bytes, Prefix6], bool] | None,
    ) -> None:
        limits = settings.limits
        clock = time.monotonic
        self._settings = settings
        self._cache = Cache(
            limits.cache_entries,
            limits.cache_bytes,
            max_ttl=settings.max_ttl,
            max_negative_ttl=settings.max_negative_ttl,
            stale=settings.serve_stale,
        )
        self._upstreams = Upstreams(
            clock=clock,
            randbytes=os.urandom,
            timeout=settings.timeout,
            try_timeout=settings.try_timeout,
            pause=settings.pause,
            use_0x20=settings.use_0x20,
            trust_ad=settings.trust_ad,
            tls=_tls_context(settings),
        )
        self._resolver = Resolver(
            self._cache,
            self._upstreams.ask,
            clock,
            limit=2 * limits.queries,  # a question for AAAA asks two
            stale=settings.serve_stale > 0,
        )
        engine = Engine(settings, rules_of(settings, refused4), self._cache, self._resolver, clock)
        table = ClientTable(
            admit,
            engine.view_of,
            limit=limits.clients,
            rate=limits.queries_per_second,
            burst=limits.burst,
        )
        self._server = Server(
            engine, table, limits, udp_size=settings.udp_size, idle=settings.tcp_idle
        )
        listen = [parse_listen(text) for text in settings.listen]
        self._listeners = Listeners(self._server, listen, self._use_upstreams)
        self._ready = False
        self._told: list[UpstreamAddress] | None = None

    async def run(self, *, task_status: trio.TaskStatus[Dns64] = trio.TASK_STATUS_IGNORED) -> None:
        """Answers until cancelled. Raises HostError, in a group, when it cannot."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self._upstreams.run)
            await nursery.start(self._listeners.run)
            # Not before: now it is known which of them are ourselves.
            self._ready = True
            self._use_upstreams()
            task_status.started(self)
            if not self._settings.upstreams:
                await self._follow_resolv_conf()

    async def _follow_resolv_conf(self) -> None:
        before = _stamp(self._settings.resolv_conf)
        while True:
            await trio.sleep(_LOOK_EVERY)
            now = _stamp(self._settings.resolv_conf)
            if now != before:
                before = now
                self._use_upstreams()

    def _use_upstreams(self) -> None:
        """Takes the upstreams of this moment, without those that are ourselves."""
        settings = self._settings
        if settings.upstreams:
            found = [parse_upstream(text) for text in settings.upstreams]
        else:
            try:
                with open(settings.resolv_conf, encoding="utf-8", errors="replace") as file:
                    found = parse_resolv_conf(file.read(65_536))
            except OSError:
                found = []
        usable = without_loops(found, self._listeners.places)
        self._upstreams.use(usable)
        if self._ready and usable != self._told:
            self._told = usable
            if usable:
                _log.info("dns64: asks %s", ", ".join(str(address) for address in usable))
            else:
                where = "dns64.upstreams" if settings.upstreams else settings.resolv_conf
                _log.warning("dns64: %s names no server but this one: set dns64.upstreams", where)

    def listen_on(self, places: tuple[str, ...]) -> None:
        """From now on these places, as in `Dns64Settings.listen`."""
        self._listeners.listen = tuple(parse_listen(text) for text in places)

    def describe(self) -> str:
        """The counters as one line, for SIGUSR1."""
        words = " ".join(f"{name}={count}" for name, count in self.counters().items())
        return f"dns64 {words}"

    def counters(self) -> dict[str, int]:
        """Every counter by name, and how full things are."""
        found: dict[str, int] = {}
        parts = {
            "server": asdict(self._server.counters),
            "engine": asdict(self._server.engine.counters),
            "resolver": asdict(self._resolver.counters),
            "upstream": asdict(self._upstreams.counters),
        }
        for name, part in parts.items():
            found.update({f"dns64-{name}-{key}": value for key, value in part.items()})
        found["dns64-cache-entries"] = len(self._cache)
        found["dns64-cache-bytes"] = self._cache.bytes
        found["dns64-waiting"] = self._resolver.waiting
        return found


def _tls_context(settings: Dns64Settings) -> ssl.SSLContext | None:
    if not settings.tls_ca_file:
        return None  # made when it is needed, with the system's certificates
    try:
        return ssl.create_default_context(cafile=settings.tls_ca_file)
    except (OSError, ssl.SSLError) as error:
        raise HostError(f"dns64: tls_ca_file {settings.tls_ca_file}: {error}") from error


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino


async def serve(
    settings: Dns64Settings,
    *,
    admit: Callable[[bytes], bool],
    refused4: Callable[[bytes, Prefix6], bool] | None = None,
    task_status: trio.TaskStatus[Dns64] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Answers DNS queries until cancelled.

    `admit`: whether an IPv6 host, 16 bytes, may be a client; `refused4`: whether the translator
    would refuse an IPv4 address under a prefix. Raises HostError, in an ExceptionGroup.
    """
    failure = None
    try:
        await Dns64(settings, admit, refused4).run(task_status=task_status)
    except* HostError as group:
        failure = first_of(group)
    if failure is not None:
        raise failure
