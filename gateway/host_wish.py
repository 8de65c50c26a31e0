"""From the configuration to what is wanted of the host."""

from __future__ import annotations

from gateway.config_model import Config
from gateway.config_ports import show_static
from gateway.host.checks import obstacles
from gateway.host.spec import HostSpec


def host_spec(config: Config, tap: str, gateway_mac: bytes = bytes(6)) -> HostSpec:
    """What the configuration asks of the host, for the device of this name."""
    return HostSpec(
        tap=tap,
        kind=config.device,
        mtu=config.mtu,
        gateway_mac=gateway_mac,
        prefixes=list(config.prefix),
        pool4=config.pool_networks,
        masquerade=config.masquerades,
        forwards=_forwards(config) if config.masquerades else [],
        run_dir=config.run_dir,
        uplink=bool(config.backhaul.to),
    )


def _forwards(config: Config) -> list[str]:
    """The pool's side of static mappings; the host answers pings itself, so no ICMP."""
    shown = (show_static(entry).partition(" -> ")[0] for entry in config.static)
    return [text for text in shown if not text.startswith("icmp")]


def find_obstacles(config: Config, tap: str, l3_device: str) -> list[str]:
    """What of the host would drop traffic, one line each with the remedy."""
    try:
        return obstacles(
            tap,
            l3_device,
            config.pool_networks,
            config.masquerades,
            # The default is no promise of ours that the host has to be made ready for.
            config.limits.sessions if "sessions" in config.limits.model_fields_set else 0,
            prefixes=config.prefix,
            backhaul=bool(config.backhaul.to),
        )
    except OSError as error:
        return [f"could not look for what stands in the way: {error}"]
