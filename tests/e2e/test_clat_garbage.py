"""What others say of the NAT64's prefix and is not so gives none, and takes none away.

client ── v6 (nobody there)       resolvers that lie, on the client itself (dns64_liar.py)
client ───v6──── gateway          wrong router advertisements (router_words.py)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.clat_net import (
    CLAT,
    PLAT,
    add_default,
    default4,
    network,
    own_address,
    say_until,
    states,
)
from tests.e2e.conftest import StartGateway
from tests.e2e.dns64_liar import NO_ANSWER, NO_DNS64, port_of
from tests.e2e.gateway_process import Gateway
from tests.e2e.namespaces import Lab, Namespace, Process
from tests.e2e.router_words import Router, pref64
from tests.e2e.topology import CLIENT6

RESOLVER = "::1"
P, Q, R = (f"2001:db8:{n}::/96" for n in (1, 2, 3))

Liar = tuple[Namespace, Process]


@pytest.fixture(scope="module")
def liar(module_lab: Lab) -> Liar:
    """A host whose uplink has no neighbours, so that a prefix is used as soon as it is known."""
    client = module_lab.namespace("client")
    module_lab.link(client, "v6", module_lab.namespace("nobody"), "v6", 1500)
    client.ip("link", "set", "v6", "arp", "off")
    client.ip("addr", "add", f"{CLIENT6}/64", "dev", "v6", "nodad")
    add_default(client)
    script = str(Path(__file__).with_name("dns64_liar.py"))
    process = client.start(sys.executable, script, RESOLVER, name="liar")
    process.wait_for("listening")
    return client, process


def clat_asking(client: Namespace, *names: str) -> Gateway:
    asked = ", ".join(f'"{RESOLVER}@{port_of(name)}"' for name in names)
    config = f'[clat]\nprefix_from = "dns"\nresolvers = [{asked}]\n'
    return Gateway(client, *CLAT, config=config, name="clat")


@pytest.fixture
def ending() -> Iterator[list[Gateway]]:
    """What is put here has to end cleanly with the test."""
    gateways: list[Gateway] = []
    yield gateways
    for gateway in gateways:
        gateway.stop_cleanly()


@pytest.mark.parametrize("lie", NO_DNS64)
def test_answers_without_a_prefix(lie: str, liar: Liar, ending: list[Gateway]) -> None:
    client, resolver = liar
    clat = clat_asking(client, lie, "truth")
    ending.append(clat.start())
    resolver.wait_for(f"told {lie}{' whole' if lie == 'huge' else ''}$")
    # Whoever believed it would be up at once.
    time.sleep(0.3)
    assert clat.status().values["clat"] == "down"
    assert states(clat.log()) == ["down"]
    assert default4(client) == ""


@pytest.mark.parametrize("lie", NO_ANSWER)
def test_after_what_is_no_answer_the_next_resolver_is_asked(
    lie: str, liar: Liar, ending: list[Gateway]
) -> None:
    client, resolver = liar
    clat = clat_asking(client, lie, "truth")
    ending.append(clat.start())
    clat.wait_for(rf"clat: up: {PLAT} \(from the DNS\)")
    assert f"told {lie}" in resolver.log()
    assert states(clat.log()) == ["down", f"up {PLAT}"]


def wrong(router: Router, *options: bytes) -> list[bytes]:
    """Advertisements that are none (RFC 4861 §6.1.2)."""
    made = router.frame(*options)
    return [
        router.frame(*options, hop_limit=254),
        router.frame(*options, source="fd00:64::1"),
        router.frame(*options, source="::"),
        router.frame(*options, code=1),
        router.frame(*options, cksum=0x1234),
        router.frame(*options, b"\x26\0"),  # an option of length zero
        router.frame(*options, b"\x26\4" + bytes(6)),  # one that runs over the end
        made[: 14 + 40 + 12],  # cut within the header, with the length of the whole
    ]


def test_wrong_advertisements_and_wrong_options(lab: Lab, start_gateway: StartGateway) -> None:
    topology = network(lab)
    clat = start_gateway(topology.client, *CLAT, config='clat.prefix_from = "ra"\n', name="clat")
    clat.wait_for("clat: down: no NAT64 prefix is known on v6")
    router = Router(topology.gateway, "v6")
    say_until(lambda: router.say(pref64(P, 600)), clat, f"clat: up: {P}")
    address = own_address(clat.log())
    # What takes P back wrongly, also another router that never said it. Time to be believed.
    router.send(*wrong(router, pref64(P, 0)), router.frame(pref64(P, 0), source="fe80::bad"))
    time.sleep(0.5)
    assert states(clat.log()) == ["down", f"up {P}"]
    # R is never right: whoever believed it would take it before Q later.
    whole = pref64(R, 600)
    router.send(
        *wrong(router, whole),
        # RFC 8781 §4: options to ignore, in advertisements that are right.
        router.frame(pref64(R, 600, code=6)),
        router.frame(pref64(R, 600, code=7)),
        router.frame(whole[:1] + b"\1" + whole[2:8]),
        router.frame(whole[:1] + b"\3" + whole[2:] + bytes(8)),
        router.frame(pref64("fe80::/96", 600)),
        router.frame(pref64("ff0e::/96", 600)),
        router.frame(pref64("::/96", 600)),
        router.frame(pref64("::ffff:0:0/96", 600)),
        router.frame(pref64("2001:db8:0:0:100::/96", 600)),
    )
    router.say(pref64(Q, 600))
    assert clat.status().values["clat"] == f"up,{P},ra,{address},v6"
    router.say(pref64(P, 0))
    clat.wait_for(f"clat: up: {Q}")
    router.say(pref64(Q, 0))
    clat.wait_for("clat: down: ", after=clat.log().index(f"clat: up: {Q}"))
    assert states(clat.log()) == ["down", f"up {P}", f"up {Q}", "down"]
    assert default4(topology.client) == ""


def test_rfc8781_section_4_a_prefix_ends_with_its_lifetime(
    lab: Lab, start_gateway: StartGateway
) -> None:
    topology = network(lab)
    clat = start_gateway(topology.client, *CLAT, config='clat.prefix_from = "ra"\n', name="clat")
    clat.wait_for("clat: down: no NAT64 prefix is known on v6")
    router = Router(topology.gateway, "v6")
    began = [0.0]

    def say() -> None:
        began[0] = time.monotonic()
        router.say(pref64(P, 8))

    say_until(say, clat, f"clat: up: {P}")
    clat.wait_for("clat: down: ", 12, after=clat.log().index(f"clat: up: {P}"))
    assert time.monotonic() - began[0] >= 8
    assert default4(topology.client) == ""
