"""Which class carries which kind of destination."""

from __future__ import annotations

from gateway.backhaul.destination import Endpoint, SshEndpoint
from gateway.backhaul.link import Link
from gateway.backhaul.ssh_link import SshLink
from gateway.backhaul.ssh_master import MasterLink
from gateway.backhaul.stream_link import StreamLink
from gateway.config_model import Config


def make_link(endpoint: Endpoint, config: Config) -> Link:
    """A link to the endpoint that has not begun yet."""
    if not isinstance(endpoint, SshEndpoint):
        return StreamLink(endpoint)
    table = config.backhaul
    if table.control_path:
        return MasterLink(
            endpoint.text,
            endpoint.target,
            table.control_path,
            options=table.ssh_options,
            user=table.user,
        )
    return SshLink(
        endpoint.text,
        endpoint.target,
        options=table.ssh_options,
        user=table.user,
        peer_setup=table.peer_setup,
        remote_device=table.remote_device if table.remote_device >= 0 else None,
    )
