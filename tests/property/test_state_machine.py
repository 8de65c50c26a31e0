"""Mappings, sessions and timers beside a naive model (RFC 6146 §3.5), in any order of events.

The model keeps plain dictionaries and reads RFC 6146 anew for every packet. A session whose
lifetime has not passed must be there; one that has been looked at a granule after its end must
be gone; in between either is right, and the model follows what it sees.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.oracle import (
    CLIENT,
    OTHER_CLIENT,
    OTHER_SERVER,
    POOL,
    SERVER,
    Bench,
    IPv6,
    echo4,
    echo6,
    read,
    tcp4,
    tcp6,
    trailing,
    udp4,
    udp6,
)
from translate.expiry import GRANULARITY
from translate.packets import Packet
from translate.settings import Filtering, Limits

LIMIT = 12
LIFETIME = {"udp": 300.0, "icmp": 60.0, "est": 7440.0, "trans": 240.0}
PROTOCOL = {6: "tcp", 17: "udp", 1: "icmp"}

clients = st.sampled_from([CLIENT, OTHER_CLIENT])
servers = st.sampled_from([SERVER, OTHER_SERVER])
ports = st.sampled_from([40000, 40001, 80])
server_ports = st.sampled_from([53, 80])
flags = st.sampled_from(["S", "S", "SA", "A", "A", "PA", "FA", "F", "R", "RA"])
about_seconds = st.sampled_from([0.0, 0.25, 1.0, 6.0, 59.5, 61.0, 239.0, 250.0, 301.0, 7000.0])


@dataclass
class ModelSession:
    """What RFC 6146 says of one session. `state` is for TCP; `end` is when it is over."""

    state: str
    end: float


def tcp_step(session, side, seen, now):
    """One packet in a session (RFC 6146 §3.5.2.2), written out as the text is."""
    flag = next((f for f in "RSF" if f in seen), "")
    other_side = {"V6": "V4", "V4": "V6"}[side]
    state = session.state
    if state == "V4 INIT":
        if (side, flag) == ("V6", "S"):
            session.state, session.end = "ESTABLISHED", now + LIFETIME["est"]
    elif state == "V6 INIT":
        if (side, flag) == ("V4", "S"):
            session.state, session.end = "ESTABLISHED", now + LIFETIME["est"]
        elif (side, flag) == ("V6", "S"):
            session.end = now + LIFETIME["trans"]
    elif state == "ESTABLISHED":
        if flag == "F":
            # The text sets no lifetime here; restarting the same one is no different to a peer.
            session.state, session.end = side + " FIN", now + LIFETIME["est"]
        elif flag == "R":
            session.state, session.end = "TRANS", now + LIFETIME["trans"]
        else:
            session.end = now + LIFETIME["est"]
    elif state in ("V4 FIN", "V6 FIN"):
        if flag == "F" and state == other_side + " FIN":
            session.state, session.end = "BOTH FIN", now + LIFETIME["trans"]
        else:
            session.end = now + LIFETIME["est"]
    elif state == "TRANS" and flag != "R":
        session.state, session.end = "ESTABLISHED", now + LIFETIME["est"]


class Translator(RuleBasedStateMachine):
    @initialize(filtering=st.sampled_from(Filtering))
    def begin(self, filtering):
        self.filtering = filtering
        self.bench = Bench(filtering=filtering, limits=Limits(sessions=LIMIT))
        # (protocol, client, port) to pool port; and (the same..., server, server port).
        self.bib: dict[tuple, int] = {}
        self.sessions: dict[tuple, ModelSession] = {}
        self.looked = 0.0
        # (server, server port, pool port) to when its SYN was stored.
        self.syns: dict[tuple, float] = {}

    # -- packets --------------------------------------------------------------------------

    @rule(protocol=st.sampled_from(["udp", "icmp"]), c=clients, p=ports, s=servers, d=server_ports)
    def client_sends(self, protocol, c, p, s, d):
        if protocol == "udp":
            packet = udp6(src=c, sport=p, dst=trailing(s), dport=d)
        else:
            packet, d = echo6(src=c, ident=p, dst=trailing(s)), 0
        self.from_client((protocol, c, p), (s, d), packet, "")

    @rule(c=clients, p=ports, s=servers, d=server_ports, f=flags)
    def client_sends_tcp(self, c, p, s, d, f):
        packet = tcp6(f, src=c, sport=p, dst=trailing(s), dport=d)
        self.from_client(("tcp", c, p), (s, d), packet, f)

    def from_client(self, mapping, server, packet, seen):
        known = mapping + server in self.sessions
        may_begin = mapping[0] != "tcp" or ("S" in seen and "R" not in seen)
        out = self.bench.nat.translate(Packet(bytes(packet)), self.bench.now)
        if not known and not may_begin:
            if mapping not in self.bib:
                assert out == [], "no mapping, no session"
                return
        elif not known and len(self.sessions) >= LIMIT:
            self.assert_answered(out)
            return
        got = self.only(out, 4)
        port = self.pool_port(got)
        assert (got.src, got.dst) == (POOL, server[0])
        self.agree_on_mapping(mapping, port)
        if known or may_begin:
            self.touch(mapping, server, "V6", seen, begun="V6 INIT")
        if mapping[0] == "tcp" and not known and self.syns.pop((*server, port), None) is not None:
            met = self.sessions[mapping + server]
            met.state, met.end = "ESTABLISHED", self.bench.now + LIFETIME["est"]

    @precondition(lambda self: self.bib)
    @rule(data=st.data(), s=servers, d=server_ports, f=flags)
    def server_sends(self, data, s, d, f):
        mapping = data.draw(st.sampled_from(sorted(self.bib)))
        protocol, c, p = mapping
        port = self.bib[mapping]
        if protocol == "udp":
            packet = udp4(port, src=s, sport=d)
        elif protocol == "tcp":
            packet = tcp4(f, port, src=s, sport=d)
        else:
            packet, d = echo4(port, src=s), 0
        seen = f if protocol == "tcp" else ""
        known = (*mapping, s, d) in self.sessions
        heard = any(k[:3] == mapping and k[3] == s for k in self.sessions)
        may_begin = protocol != "tcp" or ("S" in seen and "R" not in seen)
        out = self.bench.nat.translate(Packet(bytes(packet)), self.bench.now)
        if not known and self.filtering is Filtering.ADDRESS_DEPENDENT and not heard:
            assert not any(one.data[0] >> 4 == 6 for one in out), "filtered"
            if protocol == "tcp" and f == "S":
                self.syns.setdefault((s, d, port), self.bench.now)
            return
        if not known and may_begin and len(self.sessions) >= LIMIT:
            assert not any(one.data[0] >> 4 == 6 for one in out), "at the limit"
            return
        got = self.only(out, 6)
        assert (got.src, got.dst) == (str(IPv6(src=trailing(s)).src), c)
        if protocol == "icmp":
            assert got.payload.id == p
        else:
            assert (got.payload.sport, got.payload.dport) == (d, p)
        if known or may_begin:
            self.touch(mapping, (s, d), "V4", seen, begun="V4 INIT")

    @rule(kind=st.sampled_from(["udp", "tcp", "icmp"]), port=st.integers(1, 0xFFFF), s=servers)
    def stranger_sends(self, kind, port, s):
        if any(m[0] == kind and known == port for m, known in self.bib.items()):
            return
        packet = {
            "udp": udp4(port, src=s),
            "tcp": tcp4("S", port, src=s),
            "icmp": echo4(port, src=s),
        }[kind]
        out = self.bench.nat.translate(Packet(bytes(packet)), self.bench.now)
        assert not any(one.data[0] >> 4 == 6 for one in out)
        if kind == "tcp":
            assert out == [], "answered later"
            self.syns.setdefault((s, 80, port), self.bench.now)

    # -- time -----------------------------------------------------------------------------

    @rule()
    def to_the_next_deadline(self):
        at = self.bench.nat.next_deadline()
        assert (at is None) == (not self.sessions and not self.syns)
        if at is None:
            return
        assert at > self.looked or at > self.bench.now, "it has been looked at since"
        self.bench.now = max(self.bench.now, at)
        self.expire()
        after = self.bench.nat.next_deadline()
        assert after is None or after > self.bench.now, "no progress"

    @rule(seconds=about_seconds)
    def time_goes_by(self, seconds):
        self.bench.now += seconds

    @rule(seconds=about_seconds)
    def time_goes_by_and_is_looked_at(self, seconds):
        self.bench.now += seconds
        self.expire()

    def expire(self):
        """All that is over goes, up to a granule; what is not, stays."""
        now = self.looked = self.bench.now
        out = [read(one.data) for one in self.bench.nat.expire(now, 1_000_000)]
        self.judge_answers([packet for packet in out if packet.version == 4])
        alive = self.observed()
        probed = sorted((p.dst, p.payload.dport, p.payload.sport) for p in out if p.version == 6)
        for key, session in list(self.sessions.items()):
            if now < session.end:
                assert key in alive, f"gone {session.end - now} s too early"
            elif session.state == "ESTABLISHED":
                assert key in alive, "gone without a probe"
                if (key[1], key[2], key[4]) in probed:
                    session.state, session.end = "TRANS", now + LIFETIME["trans"]
                    probed.remove((key[1], key[2], key[4]))
                else:
                    assert now < session.end + GRANULARITY, "no probe"
            elif now >= session.end + GRANULARITY:
                assert key not in alive, f"there {now - session.end} s too long"
            if key not in alive:
                del self.sessions[key]
        assert probed == [], "a probe of a session that is not silent"
        for mapping in list(self.bib):
            if not any(key[:3] == mapping for key in self.sessions):
                del self.bib[mapping]

    def judge_answers(self, answers):
        """Each SYN that nobody met within 6 seconds is answered, and no other."""
        due = sorted(key for key, since in self.syns.items() if since + 6 <= self.bench.now)
        for key in due:
            del self.syns[key]
        assert all((p.payload.type, p.payload.code) == (3, 3) for p in answers)
        inner = [p.payload.payload for p in answers]
        seen = sorted((p.src, p.payload.sport, p.payload.dport) for p in inner)
        # Errors are limited in rate, so some may be missing.
        assert set(seen) <= set(due)
        assert len(seen) == len(due) or len(due) > 40

    # -- model ----------------------------------------------------------------------------

    def touch(self, mapping, server, side, seen, begun):
        key, now = mapping + server, self.bench.now
        session = self.sessions.get(key)
        if mapping[0] != "tcp":
            self.sessions[key] = ModelSession("", now + LIFETIME[mapping[0]])
        elif session is None:
            self.sessions[key] = ModelSession(begun, now + LIFETIME["trans"])
        else:
            tcp_step(session, side, seen, now)

    def agree_on_mapping(self, mapping, port):
        if mapping in self.bib:
            assert self.bib[mapping] == port, "endpoint-independent"
        else:
            taken = {p for m, p in self.bib.items() if m[0] == mapping[0]}
            assert port not in taken
            if mapping[0] != "icmp":
                assert port % 2 == mapping[2] % 2, "parity"
                assert (port < 1024) == (mapping[2] < 1024), "range"
            self.bib[mapping] = port

    def only(self, out, version):
        (one,) = out
        assert one.data[0] >> 4 == version
        return read(one.data)

    def pool_port(self, packet):
        return packet.payload.id if packet.proto == 1 else packet.payload.sport

    def assert_answered(self, out):
        for one in out:
            got = read(one.data)
            assert (got.payload.type, got.payload.code) == (1, 3)

    def observed(self):
        """The translator's sessions under the model's keys."""
        found = set()
        for session in self.bench.nat.state.sessions():
            client = str(IPv6(b"\x60" + bytes(7) + session.key6[:32]).src)
            server = ".".join(map(str, session.server4))
            port = int.from_bytes(session.key6[32:34], "big")
            dport = int.from_bytes(session.key6[34:36], "big")
            found.add((PROTOCOL[session.protocol], client, port, server, dport))
        return found

    @invariant()
    def the_same_sessions(self):
        assert self.observed() == set(self.sessions)
        state = self.bench.nat.state
        assert state.session_count == len(self.sessions)
        assert state.bib_count == len(self.bib)
        assert set(self.bib) == {key[:3] for key in self.sessions}
        assert len(state.clients) == len({m[1] for m in self.bib})


TestTranslator = Translator.TestCase
TestTranslator.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
