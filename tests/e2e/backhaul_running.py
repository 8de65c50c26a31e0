"""One gateway with its backhaul up, and a connection through it, for the tests of a module.

Each of them breaks something; what one has left is mended before the next.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.e2e.backhaul_chat import Chat
from tests.e2e.backhaul_net import BackhaulGateway, BackhaulNet, backhaul_net
from tests.e2e.namespaces import Lab
from tests.e2e.snapshot import difference, snapshot

Running = tuple[BackhaulNet, BackhaulGateway, Chat]


def one_gateway(module_lab: Lab) -> Iterator[Running]:
    """For a fixture: a gateway with short timers, and a connection that all tests share."""
    net = backhaul_net(module_lab)
    net.peer.start_sshd()
    before_peer, before_gateway = net.peer.before(), snapshot(net.gateway)
    # Longer than any cut here but the one that is to outlast it: without a masquerade the peer's
    # connection tracking begins anew, and takes acknowledgements of what it has not seen for wrong.
    gateway = BackhaulGateway(net, linger=12, config='log_level = "debug"\n').start_up()
    chat = Chat(net)
    yield net, gateway, chat
    chat.goes_on()
    chat.end()
    gateway.stop_cleanly()
    # Nothing of all that has been is left, on either side.
    net.peer.wait_untouched(before_peer, 2)
    assert difference(before_gateway, snapshot(net.gateway)) == ""


def up_again(gateway_for_all: Running) -> Running:
    """The same, up again whatever the test before has left."""
    net, gateway, _ = gateway_for_all
    net.mend()
    if not net.peer.listens():
        net.peer.start_sshd()
    if not gateway.is_up():
        gateway.hurry()
        gateway.wait_up()
    return gateway_for_all


def warned(gateway: BackhaulGateway, position: int, *patterns: str) -> None:
    """Some line about the backhaul behind `position` has all patterns, in whatever order."""
    lines = [line for line in gateway.story(position).splitlines() if "backhaul: " in line]
    assert any(
        all(re.search(pattern, line, re.IGNORECASE) for pattern in patterns) for line in lines
    ), gateway.story(position)


def comes_back(running: Running) -> None:
    """The backhaul is up again without a start, and the connection of before goes on.

    Told to try at once: it waits longer and longer for a link that breaks every few seconds.
    """
    net, gateway, chat = running
    net.mend()
    gateway.hurry()
    gateway.wait_up(20)
    chat.goes_on()
