"""What the stateless translator is told to be a CLAT (RFC 6877 §6.1). Pure.

The host's IPv4 address, and those of LAN hosts that are mapped one by one, have explicit mappings
(RFC 7757) to addresses out of the uplink's /64; everything else is embedded in the PLAT's prefix.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Network, IPv6Network

from gateway.clat.states import Wanted
from gateway.config_values import GATEWAY_IPV4
from translate.addresses import Layout, Prefix6
from translate.eam import Eam, EamTable
from translate.settings import Settings
from translate.siit.addresses import Hairpin, SiitSettings


def clat_settings(common: Settings, wanted: Wanted | None, layout: Layout) -> SiitSettings:
    """Settings for `wanted`, or for no way at all. `common`: what the configuration says.

    The CLAT's own ICMPv4 errors, and those of IPv6 routers on the way, come from 192.0.0.8
    (RFC 7600 §4.8); its own ICMPv6 errors from the host's address on the uplink.
    """
    prefixes: tuple[Prefix6, ...] = ()
    mappings = EamTable()
    icmp6_source = common.icmp6_source
    if wanted is not None:
        prefix = Prefix6(wanted.plat.prefix, layout)
        prefixes = (prefix,)
        mappings = EamTable(
            Eam.of(IPv4Network(local4), IPv6Network(address6)) for local4, address6 in wanted.hosts
        )
        address6 = wanted.uplink.address6
        icmp6_source = prefix.embed(GATEWAY_IPV4.packed) if address6 is None else address6.packed
    own = replace(
        common,
        prefixes=prefixes,
        pool4=(),
        static=(),
        icmp6_source=icmp6_source,
        icmp4_source=GATEWAY_IPV4.packed,
    )
    # Hosts here reach each other through the kernel, never through the translator.
    return SiitSettings(own, mappings, hairpin=Hairpin.NONE)
