"""The configuration as a value: every key of gateway.toml, its type, range and default.

conf/gateway.toml explains the keys to people and is compared with this by a test. A `Config`
holds what was written; what follows from it without asking the host (the layout of each
prefix, the pool when none was given) are its properties. gateway/config.py makes one.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, collapse_addresses
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator

from gateway import config_ports as ports
from gateway import config_values as values
from gateway.config_advertise import AdvertiseTable, advertise_table_of
from gateway.config_backhaul import BackhaulTable, table_of
from gateway.config_clat import ClatTable
from gateway.config_dns64 import Dns64Table
from gateway.config_siit import SiitTable
from translate.addresses import Layout, Prefix6
from translate.deterministic import Subscribers
from translate.policy import WELL_KNOWN_PREFIX
from translate.pool4 import PoolRange
from translate.static_bib import StaticEntry

# RFC 7335: an address of IANA's IPv4 service continuity prefix, never seen behind the host.
DEFAULT_POOL4 = PoolRange(IPv4Network("192.0.0.6/32"))
_UNROUTED4 = IPv4Network("192.0.0.0/29")

# Largest MTU that the tun driver takes for an Ethernet device: 65535 less its header.
MAX_MTU = 65_521
_YEAR = 31_536_000.0

_Seconds = Annotated[float, Field(gt=0, le=_YEAR, allow_inf_nan=False)]
_Count = Annotated[int, Field(ge=1, le=100_000_000)]


class _Table(BaseModel):
    # Strict: a quoted number or 1 for true is a mistake that is better named than guessed.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class TimeoutsTable(_Table):
    """[timeouts]: lifetimes of sessions in seconds, named as in RFC 6146 §4."""

    udp_default: _Seconds = 300.0
    tcp_est: _Seconds = 7440.0
    tcp_trans: _Seconds = 240.0
    tcp_incoming_syn: _Seconds = 6.0
    icmp_default: _Seconds = 60.0
    fragment_min: _Seconds = 2.0


class LimitsTable(_Table):
    """[limits]: upper bounds on what peers can make grow."""

    sessions: _Count = 1_000_000
    sessions_per_client: _Count = 8_192
    bib: _Count = 500_000
    bib_per_client: Annotated[int, Field(ge=0, le=100_000_000)] = 0
    clients: _Count = 65_536
    icmp_errors_per_second: Annotated[float, Field(gt=0, le=1e6, allow_inf_nan=False)] = 100.0
    icmp_errors_burst: Annotated[int, Field(ge=1, le=1_000_000)] = 50
    stored_syns: Annotated[int, Field(ge=0, le=100_000_000)] = 4_096
    fragments: _Count = 4_096
    fragments_per_client: _Count = 256
    fragment_bytes: Annotated[int, Field(ge=65_536, le=1 << 40)] = 4_194_304


class Config(_Table):
    """Everything that can be configured. Immutable; equal configurations compare equal."""

    mode: Literal["nat64", "siit", "clat"] = "nat64"
    prefix: Annotated[tuple[IPv6Network, ...], PlainValidator(values.parse_prefixes)] = (
        IPv6Network("fec0:0:0:ffff::/64"),
    )
    layout: Literal["auto", "trailing", "rfc6052"] = "auto"
    pool4: Annotated[tuple[PoolRange, ...], PlainValidator(values.parse_pool4)] = ()
    static: Annotated[tuple[StaticEntry, ...], PlainValidator(ports.parse_static)] = ()
    port_block_size: Annotated[int, Field(ge=0, le=64_512)] = 0
    port_blocks_per_client: Annotated[int, Field(ge=1, le=64_512)] = 4
    deterministic: Annotated[Subscribers | None, PlainValidator(ports.parse_deterministic)] = None
    masquerade: Annotated[Literal["auto"] | bool, PlainValidator(values.parse_masquerade)] = "auto"
    device: Literal["tap", "tun"] = "tap"
    tap: Annotated[str, PlainValidator(values.parse_device_name)] = ""
    mtu: Annotated[int, Field(ge=1280, le=MAX_MTU)] = 1500
    offload: bool = True
    allow: Annotated[tuple[IPv6Network, ...], PlainValidator(values.parse_allow)] = ()
    deny4: Annotated[tuple[IPv4Network, ...], PlainValidator(values.parse_deny4)] = ()
    wkp_strict: bool = True
    mss_clamp: Annotated[Literal["auto", "off"] | int, PlainValidator(values.parse_mss_clamp)] = (
        "auto"
    )
    udp_zero_checksum: Literal["calculate", "drop", "reject", "forward"] = "calculate"
    tos: Annotated[Literal["copy"] | int, PlainValidator(values.parse_tos)] = "copy"
    traffic_class: Annotated[Literal["copy"] | int, PlainValidator(values.parse_tos)] = "copy"
    icmp6_source: Annotated[
        Literal["auto"] | IPv6Address, PlainValidator(values.parse_icmp6_source)
    ] = "auto"
    icmp4_source: Annotated[
        Literal["auto"] | IPv4Address, PlainValidator(values.parse_icmp4_source)
    ] = "auto"
    icmp4_error_pool: Annotated[
        tuple[IPv4Network, ...], PlainValidator(values.parse_icmp4_error_pool)
    ] = ()
    filtering: Literal["endpoint-independent", "address-dependent"] = "endpoint-independent"
    lowest_ipv6_mtu: Annotated[int, Field(ge=1280, le=MAX_MTU)] = 1280
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    run_dir: Annotated[str, PlainValidator(values.parse_run_dir)] = "/run/tap64"
    timeouts: TimeoutsTable = TimeoutsTable()
    limits: LimitsTable = LimitsTable()
    backhaul: Annotated[BackhaulTable, BeforeValidator(table_of)] = BackhaulTable()
    dns64: Dns64Table = Dns64Table()
    advertise: Annotated[AdvertiseTable, BeforeValidator(advertise_table_of)] = AdvertiseTable()
    siit: SiitTable = SiitTable()
    clat: ClatTable = ClatTable()

    @property
    def prefixes6(self) -> tuple[Prefix6, ...]:
        """The prefixes, each with the layout that the translator makes addresses in."""
        return tuple(Prefix6(network, self._layout_of(network)) for network in self.prefix)

    def _layout_of(self, network: IPv6Network) -> Layout:
        if self.layout == "auto":
            return Layout.TRAILING if network.prefixlen == 64 else Layout.RFC6052
        return Layout(self.layout)

    @property
    def pool_ranges(self) -> tuple[PoolRange, ...]:
        """pool4, or the one private address that stands in for it."""
        return self.pool4 or (DEFAULT_POOL4,)

    @property
    def pool_networks(self) -> list[IPv4Network]:
        """The addresses of the pool as the fewest prefixes: what the host routes."""
        return list(collapse_addresses(pool.network for pool in self.pool_ranges))

    @property
    def masquerades(self) -> bool:
        """Whether the host's own IPv4 address is to replace the pool's.

        With a backhaul the peer's does, if any (`peer_masquerades`).
        """
        if self.backhaul.to or self.mode == "siit":
            return False
        return not self._pool_is_routed if self.masquerade == "auto" else self.masquerade

    @property
    def peer_masquerades(self) -> bool:
        """Whether the address of the backhaul's peer is to replace the pool's."""
        if self.backhaul.carries == "ipv6":
            return False
        how = self.backhaul.masquerade
        return not self._pool_is_routed if how == "auto" else how

    @property
    def _pool_is_routed(self) -> bool:
        """Whether packets to the pool could come back without a masquerade."""
        return any(not item.network.subnet_of(_UNROUTED4) for item in self.pool4)

    @property
    def own_icmp6_source(self) -> bytes | None:
        """Source of the translator's own ICMPv6 errors, or None where the host must be asked.

        Configured, or 192.0.0.8 in the first prefix. The well-known prefix must not carry
        that address (RFC 6052 §3.1): there it is one of the host's own global addresses.
        """
        if self.icmp6_source != "auto":
            return self.icmp6_source.packed
        if self.prefix[0] == WELL_KNOWN_PREFIX:
            return None
        return self.prefixes6[0].embed(values.GATEWAY_IPV4.packed)

    @property
    def own_icmp4_source(self) -> bytes:
        """Source of the translator's own ICMPv4 errors: configured, or the pool's first address.

        In mode siit pool4 is other hosts': there it is icmp4_error_pool's first, or 192.0.0.8.
        """
        if self.icmp4_source != "auto":
            return self.icmp4_source.packed
        if self.mode == "siit":
            pool = self.icmp4_error_pool
            return pool[0].network_address.packed if pool else values.GATEWAY_IPV4.packed
        return self.pool_ranges[0].network.network_address.packed
