"""From the configuration to a supervisor: names, addresses, what is asked of links."""

from __future__ import annotations

import os
import platform
import secrets
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

from gateway.backhaul import naming
from gateway.backhaul.destination import parse_endpoint
from gateway.backhaul.link import Link, LinkWish
from gateway.backhaul.supervisor import Supervisor
from gateway.backhaul.way import HostWay, Notes
from gateway.config_model import Config
from gateway.host.journal import Journal


class Backhaul:
    """The backhaul of one gateway, and the configuration that the next link is made by."""

    def __init__(
        self,
        config: Config,
        device: str,
        index: int,
        changed: Callable[[bool], None],
        notes: Notes | None = None,
    ) -> None:
        """`device`, `index`: the gateway's own. `changed(up)`: whether there is a way now.

        `notes`: what takes the place of the device's journal.
        """
        table = config.backhaul
        self._config = config
        self.tag = naming.tag_of(platform.node(), _identity(), device)
        self._run = secrets.token_hex(4)
        self.way = HostWay(
            notes or Journal(config.run_dir, device),
            device,
            index,
            self.tag,
            table.mtu,
            user=table.user,
            carries=table.carries,
            prefixes=config.prefix,
            addresses=table.addresses,
        )
        self.supervisor = Supervisor(
            table, self.way, link_to=self.link_to, wish=self.wish, changed=changed
        )

    def configure(self, config: Config) -> None:
        """Takes over what can change while the gateway runs."""
        self._config = config
        self.supervisor.configure(config.backhaul)

    def wish(self, local4: IPv4Interface, remote4: IPv4Interface) -> LinkWish:
        """What the far end is asked for, with these addresses of the link."""
        config, table = self._config, self._config.backhaul
        six = table.carries == "ipv6"
        return LinkWish(
            pool4=() if six else tuple(config.pool_networks),
            local4=local4,
            remote4=remote4,
            mtu=table.mtu,
            masquerade=config.peer_masquerades,
            tag=self.tag,
            heartbeat=table.heartbeat,
            linger=table.linger,
            carries=table.carries,
            clients6=table.clients6,
            run=self._run,
        )

    def link_to(self, destination: str) -> Link:
        """The link to a destination, by the configuration of this moment."""
        # Imported here: the kinds of links bring a good deal with them.
        from gateway.backhaul.factory import make_link

        return make_link(parse_endpoint(destination), self._config)


def _identity() -> str:
    """What tells this host and network namespace from others of the same name."""
    read = partial(Path.read_text, errors="replace")
    try:
        machine = read(Path("/etc/machine-id")).strip()
    except OSError:
        machine = ""
    return f"{machine} {os.stat('/proc/self/ns/net').st_ino}"
