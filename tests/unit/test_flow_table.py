"""The seam between slow and fast path: who may carry a flow, when it was seen, where it goes."""

from __future__ import annotations

import random
import struct

import pytest

from tests.oracle import START
from tests.property.test_fast_path_oracle import FORMATS, Side, framed, history
from translate import fast_path, flow_records
from translate.flow_records import SLOW, STEP, stamp_of
from translate.identifications import Identifications
from translate.sessions import BibEntry, Client, ClientLinks, FlowTable, Session
from translate.tcp_states import Timer

ADDR6, SERVER6 = bytes(range(16)), bytes(range(16, 32))
POOL, SERVER = b"\xc0\0\0\x06", b"\xc6\x33\x64\x50"
PORT, POOL_PORT, SERVER_PORT = b"\x9c\x40", b"\x12\x34", b"\0\x35"


def opened(protocol):
    """A table, a session in it and the list of link addresses."""
    links = ClientLinks()
    table = FlowTable(protocol, Identifications(random.Random(1).randrange), links)
    client = Client(ADDR6, b"first.")
    client.enter(links)
    entry = BibEntry(protocol, client, ADDR6 + PORT, POOL + POOL_PORT)
    key6 = ADDR6 + SERVER6 + PORT + (b"" if protocol == 1 else SERVER_PORT)
    session = Session(entry, key6, SERVER, Timer.UDP_DEFAULT, 100.0)
    table.insert(session)
    return table, session, links


@pytest.mark.parametrize("protocol", [1, 6, 17])
def test_keys_and_tails(protocol):
    table, session, _ = opened(protocol)
    ports = b"" if protocol == 1 else SERVER_PORT
    assert session.key6 == ADDR6 + SERVER6 + PORT + ports
    assert session.key4 == SERVER + POOL + ports + POOL_PORT
    assert session.tail4 == POOL + SERVER + POOL_PORT + ports
    assert session.tail6 == SERVER6 + ADDR6 + ports + PORT
    assert table.find6(session.key6) is session is table.find4(session.key4)
    assert list(table.sessions()) == [session]
    table.delete(session)
    assert table.find6(session.key6) is None is table.find4(session.key4)
    assert table.count == 0


@pytest.mark.parametrize("protocol", [1, 6, 17])
def test_what_a_new_session_was_last_seen(protocol):
    table, session, _ = opened(protocol)
    assert table.last_seen(session) == 100.0


@pytest.mark.parametrize("direction", ["by_key4", "by_key6"])
def test_either_direction_keeps_a_session_alive(direction):
    table, session, _ = opened(17)
    table.install(session)
    assert table.by_key6.stamp(session.key6) == stamp_of(100.0)
    assert table.by_key4.stamp(session.key4) == stamp_of(100.0)
    key = session.key4 if direction == "by_key4" else session.key6
    getattr(table, direction).raise_stamp(key, stamp_of(150.1))
    assert 150.1 < table.last_seen(session) <= 150.1 + STEP
    table.remove(session)
    assert 150.1 < session.last <= 150.1 + STEP
    assert table.last_seen(session) == session.last
    assert table.by_key6.stamp(session.key6) == SLOW == table.by_key4.stamp(session.key4)


def test_installing_again_forgets_nothing():
    table, session, _ = opened(17)
    table.install(session)
    table.by_key6.raise_stamp(session.key6, stamp_of(150.0))
    table.install(session)
    assert table.last_seen(session) >= 150.0


def test_the_slow_path_is_believed_too():
    table, session, _ = opened(17)
    table.install(session)
    session.last = 200.0
    assert table.last_seen(session) == 200.0


def test_a_client_that_moves_takes_its_flows_along():
    table, session, links = opened(17)
    shard, place = table.by_key4._place(session.key4)
    number = struct.unpack_from("=I", shard, place + 52)[0]
    assert links.by_number[number] == b"first."
    session.client.link = b"second"
    assert links.by_number[number] == b"second" == session.client.link


def test_numbers_of_clients_are_used_again():
    links = ClientLinks()
    clients = [Client(bytes((number,)), bytes((number,)) * 6) for number in range(5)]
    for client in clients:
        client.enter(links)
    clients[2].leave(links)
    assert clients[2].link == bytes((2,)) * 6
    other = Client(b"other", b"other.")
    other.enter(links)
    assert other.number == 2
    assert len(links.by_number) == 5
    clients[2].link = b"gone.."
    assert [client.link for client in (*clients[:2], other, *clients[3:])] == [
        b"\0" * 6,
        b"\1" * 6,
        b"other.",
        b"\3" * 6,
        b"\4" * 6,
    ]


def _carried(times):
    """For each time: which probes of the oracle's history the fast path carries, when seen."""
    out = []
    side = Side(FORMATS["tap"])
    for now in times:
        frames = [framed(side.form, data) for data in history()[2]]
        out.append([side.through_fast(frame, now) is not None for frame in frames])
    flows = side.nat.state.flows
    seen = sorted(flows[s.protocol].last_seen(s) for s in side.nat.state.sessions())
    return out, seen


def test_the_fast_path_finds_records_that_are_away_from_their_places(monkeypatch):
    plain = _carried([START + 5])
    assert any(plain[0][0])
    for module in (flow_records, fast_path):
        monkeypatch.setattr(module, "hash", lambda _: -1, raising=False)
    assert _carried([START + 5]) == plain


def test_the_fast_path_follows_the_clock():
    _, once = _carried([START + 5])
    _, twice = _carried([START + 5, START + 5.3, START + 50])
    assert START + 5 < once[-1] <= START + 5 + STEP
    assert START + 50 < twice[-1] <= START + 50 + STEP


def test_the_fast_path_leaves_what_was_removed():
    side = Side(FORMATS["tap"])
    frames = [framed(side.form, data) for data in history()[2]]
    for session in side.nat.state.sessions():
        side.nat.state.flows[session.protocol].remove(session)
    assert not any(side.through_fast(frame, START + 5) for frame in frames)


def _repeated(side, frame, now):
    """Whether the fast path carries a frame, once it remembers the flow of the one before."""
    return [side.through_fast(frame, now) is not None for _ in range(4)][-1]


def _remembered(side):
    """Keys of the flows that the fast path remembers."""
    tables = side.nat.state.flows.values()
    found = [records.last[0][0] for table in tables for records in (table.by_key6, table.by_key4)]
    return {key for key in found if key}


@pytest.mark.parametrize("end", ["remove", "delete"])
def test_a_remembered_flow_that_was_taken_away_is_not_carried(end):
    side = Side(FORMATS["tap"])
    flows = side.nat.state.flows
    frames = [framed(side.form, data) for data in history()[2]]
    frames = [frame for frame in frames if _repeated(side, frame, START + 5)]
    directions = set()
    for frame in frames:
        if not _repeated(side, frame, START + 5):
            continue  # another frame of the flow came before
        for protocol, table in flows.items():
            for session in list(table.sessions()):
                for key, records in ((session.key6, table.by_key6), (session.key4, table.by_key4)):
                    if records.last[0][0] == key:
                        directions.add((protocol, len(key)))
        for table in flows.values():
            for session in list(table.sessions()):
                if {session.key6, session.key4} & _remembered(side):
                    getattr(table, end)(session)
        assert not _repeated(side, frame, START + 5)
    assert directions == {(6, 36), (6, 12), (17, 36), (17, 12), (1, 34), (1, 10)}


def test_a_remembered_flow_stays_alive():
    side = Side(FORMATS["tap"])
    flows = side.nat.state.flows
    frame = next(f for f in (framed(side.form, d) for d in history()[2]) if _repeated(side, f, 1e4))
    for now in (1e4 + 0.1, 1e4 + STEP, 1e4 + 5):
        assert _repeated(side, frame, now)
        (key,) = _remembered(side)
        sessions = [s for s in side.nat.state.sessions() if key in (s.key6, s.key4)]
        assert now <= flows[sessions[0].protocol].last_seen(sessions[0]) <= now + STEP


def test_a_remembered_flow_whose_record_moves(monkeypatch):
    for module in (flow_records, fast_path):
        monkeypatch.setattr(module, "hash", lambda _: 0, raising=False)
    side = Side(FORMATS["tap"])
    flows, now = side.nat.state.flows, START + 5
    frames = [framed(side.form, data) for data in history()[2]]
    frame = [frame for frame in frames if _repeated(side, frame, now)][-1]
    now += 1
    assert _repeated(side, frame, now)
    (key,) = _remembered(side)
    stays = next(s for s in side.nat.state.sessions() if key in (s.key6, s.key4))
    table = flows[stays.protocol]
    for session in list(table.sessions()):
        if session is not stays:
            table.delete(session)
            assert _repeated(side, frame, now)
    assert _repeated(side, frame, now + 20)
    assert now + 20 <= table.last_seen(stays) <= now + 20 + STEP
    assert list(table.sessions()) == [stays]
