"""The CLAT over a host, routers and resolvers that only take notes; time is simulated."""

from contextlib import asynccontextmanager
from functools import partial
from ipaddress import IPv6Address, IPv6Network

import pytest
import trio

from gateway.clat.dns_discovery import Discovered, NoAnswer
from gateway.clat.follow import (
    LISTEN_AGAIN,
    LOOK_EVERY,
    RETRY,
    SETTLE,
    WARN_AGAIN,
    Follower,
    World,
)
from gateway.clat.identity import bits_for
from gateway.clat.plat import PlatSources
from gateway.clat.states import Idle, Situation, Uplink, Wanted, decide
from gateway.host.plan import HostError
from gateway.ra.messages import Pref64, RouterAdvertisement

pytestmark = pytest.mark.trio

P, Q = IPv6Network("2001:db8:64::/96"), IPv6Network("2001:db8:65::/96")
ROUTER = IPv6Address("fe80::1")
ETH0 = Uplink(
    "eth0", 2, b"\2\0\0\0\0\1", 1500, IPv6Network("fd00:1::/64"), IPv6Address("fd00:1::2")
)
ETH1 = Uplink(
    "eth1", 3, b"\2\0\0\0\0\2", 1400, IPv6Network("fd00:2::/64"), IPv6Address("fd00:2::2")
)


def no_one(router, message):
    raise AssertionError("nobody listens")


class Net:
    """Host, network and translator; `notes` has what was done, in order."""

    def __init__(self):
        self.situation = Situation(ETH0)
        self.notes = []
        self.refuses = 0
        self.looks_refused = False
        self.advertised = {}
        self.answers = None
        self.asked = []
        self.listening = []
        self.heard = no_one
        self.owners = []
        self.probed = []
        self.claimed = no_one

    def look(self, network):
        if self.looks_refused:
            raise HostError("the kernel does not answer")
        return self.situation

    # gateway.clat.host_side.HostSide

    def bring_up(self, wanted):
        if self.refuses:
            self.refuses -= 1
            self.notes.append("refused")
            raise HostError("no")
        self.notes.append(f"host up {wanted.plat.prefix} {wanted.uplink.name}")

    def repair(self, wanted):
        self.notes.append("repair")

    def take_down(self):
        self.notes.append("host down")

    def translate(self, wanted):
        self.notes.append("no translation" if wanted is None else f"translate {wanted.plat.prefix}")

    async def listen(self, uplink, heard):
        self.listening.append(uplink.name)
        self.heard = heard
        try:
            await trio.sleep_forever()
        finally:
            self.listening.remove(uplink.name)

    async def hear_claims(self, uplink, claimed):
        self.claimed = claimed
        await trio.sleep_forever()

    async def ask(self):
        self.asked.append(trio.current_time())
        if self.answers is None:
            raise NoAnswer("no resolver")
        return self.answers

    async def probe(self, uplink, addresses):
        self.probed.append(list(addresses))
        await trio.sleep(0.1)
        return {address for address in addresses if self.owners and self.owners.pop()}

    def advertise(self, prefix, lifetime):
        self.heard(ROUTER, RouterAdvertisement(pref64=(Pref64(prefix, lifetime),)))

    def did(self):
        """What was done since the last question, without repairs."""
        notes = [note for note in self.notes if note != "repair"]
        self.notes.clear()
        return notes


async def directly(function, *arguments):
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@asynccontextmanager
async def following(net, given=None, sources="auto", address=None):
    world = World(
        look=net.look,
        host=net,
        listen=net.listen,
        ask=net.ask,
        translate=net.translate,
        probe=net.probe,
        hear_claims=net.hear_claims,
        decide=lambda situation, plat, taken: decide(
            *(situation, plat),
            hosts=(),
            address=address,
            bits=partial(bits_for, b"k"),
            mtu=1500,
            taken=taken,
        ),
        in_thread=directly,
    )
    follower = Follower(world, PlatSources(given, sources))
    async with trio.open_nursery() as nursery:
        await nursery.start(follower.run)
        yield follower
        nursery.cancel_scope.cancel()


async def settle(seconds=0.5):
    await trio.sleep(seconds)


async def test_up_at_once_with_a_given_prefix_translator_before_routes(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        assert net.did() == [f"translate {P}", f"host up {P} eth0"]
        assert follower.word().startswith(f"up,{P},config,fd00:1:")
        assert net.listening == []
        assert net.asked == []
    assert net.did() == ["host down", "no translation"], "a stop takes everything back"


async def test_down_and_up_with_the_uplink_routes_go_before_the_translator(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        net.did()
        net.situation = Situation(None)
        follower.wake()
        await settle()
        assert net.did() == ["host down", "no translation"]
        assert follower.word() == "down"
        net.situation = Situation(ETH1)
        follower.wake()
        await settle()
        assert net.did() == [f"translate {P}", f"host up {P} eth1"]


async def test_native_ipv4_makes_it_step_aside(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        net.did()
        net.situation = Situation(ETH0, "eth9")
        follower.wake()
        await settle()
        assert net.did() == ["host down", "no translation"]
        assert follower.word() == "standby"
        net.situation = Situation(ETH0)
        follower.wake()
        await settle()
        assert net.did()[-1] == f"host up {P} eth0"


async def test_another_mtu_changes_the_host_in_place(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        net.did()
        narrow = Uplink("eth0", 2, ETH0.mac, 1400, ETH0.network, ETH0.address6)
        net.situation = Situation(narrow)
        follower.wake()
        await settle()
        assert net.did() == [f"translate {P}", f"host up {P} eth0"], "never down in between"
        assert isinstance(follower.state, Wanted)
        assert follower.state.mtu4 == 1380


async def test_another_mtu_or_host_address_leaves_what_was_learnt(autojump_clock):
    net = Net()
    async with following(net) as follower:
        await settle()
        net.advertise(P, 600)
        await settle()
        net.situation = Situation(Uplink("eth0", 2, ETH0.mac, 1400, ETH0.network, ROUTER))
        follower.wake()
        await settle()
        assert ",ra," in follower.word()


async def test_without_an_event_it_looks_all_the_same_and_repairs(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        net.notes.clear()
        await trio.sleep(LOOK_EVERY + 1)
        assert net.notes == ["repair"]
        assert isinstance(follower.state, Wanted)


async def test_a_burst_of_events_is_a_few_looks_and_silence_is_none(autojump_clock):
    class Counting(Net):
        looks = 0

        def look(self, network):
            self.looks += 1
            return super().look(network)

    net = Counting()
    async with following(net, P) as follower:
        before = net.looks
        for _ in range(100):
            follower.wake()
            await trio.sleep(SETTLE / 10)
        assert 5 <= net.looks - before <= 15
        await settle()
        before = net.looks
        await trio.sleep(2 * LOOK_EVERY)
        assert net.looks - before <= 2


async def test_a_host_that_refuses_is_asked_again_after_a_while_and_not_by_its_own_events(
    autojump_clock,
):
    net = Net()
    net.refuses = 2
    async with following(net, P) as follower:
        assert net.did() == [f"translate {P}", "refused", "host down", "no translation"]
        assert follower.word() == "failed"
        for _ in range(3):
            follower.wake()
            await settle(0.2)
        assert net.did() == []
        assert len(net.probed) == 1, "neighbours are not asked for nothing"
        await trio.sleep(RETRY)
        assert net.did().count("refused") == 1
        await trio.sleep(RETRY + 1)
        assert net.did()[-1] == f"host up {P} eth0"
        assert follower.word().startswith("up,")


async def test_a_look_that_fails_changes_nothing(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        net.did()
        net.looks_refused = True
        follower.wake()
        await settle()
        assert net.did() == []
        assert isinstance(follower.state, Wanted)


async def test_a_prefix_that_a_router_advertises_and_lets_end(autojump_clock):
    net = Net()
    async with following(net) as follower:
        assert follower.state == Idle("down", "no NAT64 prefix is known on eth0")
        await settle()
        assert net.listening == ["eth0"]
        net.advertise(P, 600)
        await settle()
        assert net.did() == [f"translate {P}", f"host up {P} eth0"]
        assert follower.word().startswith(f"up,{P},ra,")
        await trio.sleep(598)
        assert follower.word().startswith("up,")
        await trio.sleep(2)
        assert follower.word() == "down"
        assert net.did() == ["host down", "no translation"]


async def test_a_prefix_that_is_replaced_is_followed_in_place(autojump_clock):
    net = Net()
    async with following(net) as follower:
        await settle()
        net.advertise(P, 600)
        await settle()
        first = follower.state
        net.did()
        net.advertise(Q, 600)
        await settle()
        assert net.did() == [], "the one in use stays"
        net.advertise(P, 0)
        await settle()
        assert net.did() == [f"translate {Q}", f"host up {Q} eth0"]
        assert isinstance(first, Wanted)
        assert isinstance(follower.state, Wanted)
        assert first.address6 != follower.state.address6


async def test_the_dns_is_asked_until_it_answers_and_again_before_the_ttl_ends(autojump_clock):
    net = Net()
    async with following(net) as follower:
        await trio.sleep(8)
        assert len(net.asked) == 4, "after 0, 1, 3 and 7 seconds"
        net.answers = Discovered((P,), 300)
        await trio.sleep(8)
        assert follower.word().startswith(f"up,{P},dns,")
        answered = net.asked[-1]
        net.answers = Discovered((Q,), 300)
        await trio.sleep(300)
        assert net.asked[-1] - answered == pytest.approx(290)
        assert follower.word().startswith(f"up,{Q},dns,")


async def test_a_resolver_that_fails_takes_nothing_away_and_one_that_denies_does(autojump_clock):
    net = Net()
    net.answers = Discovered((P,), 60)
    async with following(net) as follower:
        await settle()
        net.answers = None
        await trio.sleep(600)
        assert follower.word().startswith("up,")
        net.answers = Discovered(())
        await trio.sleep(100)
        assert follower.word() == "down"


async def test_a_router_is_preferred_and_the_dns_is_then_left_alone(autojump_clock):
    net = Net()
    net.answers = Discovered((P,), 60)
    async with following(net) as follower:
        await settle()
        assert ",dns," in follower.word()
        net.advertise(P, 1800)
        await settle()
        assert ",ra," in follower.word()
        assert net.did() == [f"translate {P}", f"host up {P} eth0"], "the same prefix: once"
        asked = len(net.asked)
        await trio.sleep(1000)
        assert len(net.asked) == asked
        await trio.sleep(1000)
        assert len(net.asked) > asked, "the router has fallen silent"
        assert ",dns," in follower.word()


async def test_a_socket_that_fails_is_made_again_after_a_while(autojump_clock):
    class Refusing(Net):
        async def listen(self, uplink, heard):
            self.listening.append(trio.current_time())
            raise OSError(19, "No such device")

    net = Refusing()
    async with following(net):
        await trio.sleep(10 * LISTEN_AGAIN)
    assert 9 <= len(net.listening) <= 11


async def test_another_uplink_begins_anew(autojump_clock):
    net = Net()
    net.answers = Discovered((P,), 3600)
    async with following(net) as follower:
        await settle()
        asked = len(net.asked)
        net.answers = None
        net.situation = Situation(ETH1)
        follower.wake()
        await settle()
        assert follower.word() == "down", "what eth0's DNS said is not true on eth1"
        assert net.listening == ["eth1"]
        assert len(net.asked) > asked


async def test_a_device_made_anew_is_another_uplink_though_its_name_is_the_same(autojump_clock):
    net = Net()
    async with following(net) as follower:
        await settle()
        net.advertise(P, 600)
        await settle()
        assert follower.word().startswith("up,")
        anew = Uplink("eth0", 7, ETH0.mac, 1500, ETH0.network, ETH0.address6)
        net.situation = Situation(anew)
        follower.wake()
        await settle()
        assert follower.word() == "down", "nobody on it has said anything"
        assert net.listening == ["eth0"]
        net.advertise(P, 600)
        await settle()
        assert follower.state.uplink == anew


@pytest.mark.parametrize(
    ("sources", "listens", "asks"), [("ra", True, False), ("dns", False, True)]
)
async def test_only_what_is_configured_is_asked(sources, listens, asks, autojump_clock):
    net = Net()
    async with following(net, sources=sources):
        await settle()
        assert bool(net.listening) == listens
        assert bool(net.asked) == asks


async def test_rfc4862_section_5_4_an_address_that_somebody_has_is_not_taken(autojump_clock):
    net = Net()
    net.owners = [True]
    async with following(net, P) as follower:
        (first,), (second,) = net.probed
        assert first != second
        assert follower.state.address6 == second
        assert net.did() == [f"translate {P}", f"host up {P} eth0"]
        await trio.sleep(1000)
        assert len(net.probed) == 2, "what we have is ours"
        assert follower.state.address6 == second


async def test_an_address_that_was_given_up_is_asked_for_again(autojump_clock):
    net = Net()
    async with following(net, P) as follower:
        for away in (Situation(ETH0, "eth9"), Situation(None)):
            asked = len(net.probed)
            net.situation = away
            follower.wake()
            await settle()
            net.situation = Situation(ETH0)
            follower.wake()
            await settle()
            assert len(net.probed) == asked + 1
            assert isinstance(follower.state, Wanted)


async def test_another_uplinks_neighbours_say_nothing_about_this_ones(autojump_clock):
    net = Net()
    net.owners = [True]
    async with following(net, P) as follower:
        (first,), (second,) = net.probed
        assert follower.state.address6 == second
        for there in (ETH1, ETH0, ETH1, ETH0):
            net.situation = Situation(there)
            follower.wake()
            await settle()
        there, here, *again = net.probed[2:]
        assert here == [first], "asked for again, and now nobody's"
        assert again == [there, here]
        assert follower.state.address6 == first


async def test_what_happens_during_a_change_is_seen_after_it(autojump_clock):
    class Busy(Net):
        def bring_up(self, wanted):
            super().bring_up(wanted)
            self.situation = Situation(None)
            follower.wake()

    net = Busy()
    net.situation = Situation(None)
    async with following(net, P) as follower:
        net.situation = Situation(ETH0)
        follower.wake()
        await settle()
        up = [f"translate {P}", f"host up {P} eth0"]
        assert net.did() == [*up, "host down", "no translation"]


async def test_when_all_are_taken_it_is_down_and_asks_again(autojump_clock):
    net = Net()
    net.owners = [True] * 4
    async with following(net, P) as follower:
        assert follower.state == Idle(
            "down", "others on eth0 have every address made for 192.0.0.1"
        )
        await trio.sleep(50)
        assert len(net.probed) == 4
        await trio.sleep(60)
        assert isinstance(follower.state, Wanted)
        assert follower.state.address6 == net.probed[0][0]


async def test_a_given_address_that_somebody_has_is_not_replaced_by_another(autojump_clock):
    net, given = Net(), IPv6Address("fd00:1::64")
    net.owners = [True]
    async with following(net, P, address=given) as follower:
        assert isinstance(follower.state, Idle)
        assert str(given) in follower.state.why
        assert net.did() == []


async def test_who_says_to_have_our_address_later_is_named_once_a_minute(autojump_clock, caplog):
    def named():
        return [record.getMessage() for record in caplog.records if "says to have" in record.msg]

    net = Net()
    async with following(net, P) as follower:
        await settle()
        own = follower.state.address6
        net.claimed(ROUTER, ETH0.address6)
        assert named() == [], "anybody's"
        for _ in range(3):
            net.claimed(ROUTER, own)
        (line,) = named()
        assert f"fe80::1 on eth0 says to have {own}" in line
        await trio.sleep(WARN_AGAIN)
        net.claimed(ROUTER, own)
        assert len(named()) == 2
        net.situation = Situation(ETH0, "eth9")
        follower.wake()
        await trio.sleep(WARN_AGAIN)
        net.claimed(ROUTER, own)
        assert len(named()) == 2, "it is ours no more"


async def test_without_a_link_layer_nobody_claims_anything(autojump_clock):
    net = Net()
    net.situation = Situation(Uplink("ppp0", 2, b"", 1500, ETH0.network, ETH0.address6))
    async with following(net, P):
        await settle()
        assert net.claimed is no_one
