"""From a question to what is sent back: the cache, the upstreams, and what DNS64 makes of them.

Theory of operation. `respond` calls `reply` once for each query, at once when the cache has the
answer or none is needed, else when the upstreams have answered. For an AAAA question both the
AAAA and the A records are asked for at the same time (RFC 6147 §5.1.8), so that synthesis costs
no second round trip; as soon as the AAAA answer counts it is given and A is not waited for.
Clients with the same rules share a `View`: which prefixes their answers have, if any. What was
synthesised is cached for the view, as what it was made from is for all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle

from gateway.dns64.cache import Cache, Entry
from gateway.dns64.messages import (
    AD,
    ANY,
    FORMERR,
    NOTIMP,
    OPT,
    RD,
    REFUSED,
    SERVFAIL,
    TC,
    A,
    Answer,
    Query,
    build_error,
    render,
)
from gateway.dns64.names import Malformed, name_from_text
from gateway.dns64.resolve import Resolver, cache_key
from gateway.dns64.reverse import WELL_KNOWN, assemble_reverse, reverse_question
from gateway.dns64.settings import Choice, Dns64Settings, Reverse
from gateway.dns64.special import answer_reverse, answer_special, is_special
from gateway.dns64.synthesis import (
    Rules,
    Verdict,
    assemble,
    has_addresses4,
    is_signed,
    judge,
    wants_synthesis,
    without,
)
from translate.addresses import Prefix6

# What is sent, and until when the same query may be given the same again; 0.0: not at all.
Reply = Callable[[bytes, float], None]

_A_IN = A.to_bytes(2, "big") + b"\0\1"
# TKEY, TSIG, IXFR, AXFR, MAILB, MAILA: no questions to a resolver.
_NO_QUESTIONS = frozenset({249, 250, 251, 252, 253, 254})
_SYNTHESISED, _REVERSE = 4, 8  # variants of a cache key, beside those of cache_key()


class View:
    """Clients whose questions have the same answers. `hot`: see server.py."""

    __slots__ = ("hot", "number", "prefixes")

    def __init__(self, number: int, prefixes: tuple[Prefix6, ...]) -> None:
        self.number = number
        self.prefixes = prefixes
        self.hot: dict[bytes, tuple[float, bytes]] = {}


@dataclass(slots=True)
class EngineCounters:
    """Since start."""

    queries: int = 0
    synthesised: int = 0
    reverse: int = 0
    special: int = 0
    malformed: int = 0
    refused: int = 0
    servfail: int = 0


def rules_of(
    settings: Dns64Settings, refused4: Callable[[bytes, Prefix6], bool] | None = None
) -> Rules:
    """What the configuration lets be synthesised. Raises Malformed for a name that is none."""
    return Rules(
        exclude=settings.exclude,
        exclude4=settings.exclude4,
        mapped=settings.mapped,
        ignore_aaaa=tuple(name_from_text(name) for name in settings.ignore_aaaa),
        refused4=refused4 or (lambda addr4, prefix: False),
    )


class Engine:
    """Answers queries. Belongs to one thread."""

    def __init__(
        self,
        settings: Dns64Settings,
        rules: Rules,
        cache: Cache,
        resolver: Resolver,
        clock: Callable[[], float],
    ) -> None:
        self._settings = settings
        self._rules = rules
        self._cache = cache
        self._resolver = resolver
        self._clock = clock
        # RFC 6147 §5.3.1: the well-known prefix counts whatever is configured.
        self._reverse_prefixes = (*settings.prefixes, WELL_KNOWN)
        self.plain_view = View(0, ())
        self.views = [View(n, p) for n, p in enumerate(_prefix_sets(settings), 1)]
        self._rotation = cycle(self.views)
        self.counters = EngineCounters()

    def view_of(self, address: bytes) -> View | None:
        """The view of a client with this address, 4 or 16 bytes; None: a new one each time."""
        clients = self._settings.clients
        if clients and not any(
            net.max_prefixlen == 8 * len(address)
            and int.from_bytes(address, "big") & int(net.netmask) == int(net.network_address)
            for net in clients
        ):
            return self.plain_view
        if self._settings.choice is Choice.ROUND_ROBIN:
            return None
        if self._settings.choice is Choice.BY_CLIENT:
            # A host has many addresses, but one network.
            return self.views[sum(address[:8]) % len(self.views)]
        return self.views[0]

    def next_view(self) -> View:
        """The next prefix's turn."""
        return next(self._rotation)

    def respond(self, query: Query, view: View, limit: int | None, reply: Reply) -> None:
        """Calls `reply` once. `limit`: bytes of an answer by UDP; None is TCP."""
        self.counters.queries += 1
        if query.error:
            self.counters.malformed += 1
            reply(build_error(query, query.error), 0.0)
            return
        if not query.flags & RD:
            # Nobody's records are ours to tell without recursion (RFC 1034 §4.3.1).
            self.counters.refused += 1
            reply(build_error(query, REFUSED), 0.0)
            return
        if query.qtype == OPT or query.qtype in _NO_QUESTIONS:
            reply(build_error(query, FORMERR if query.qtype == OPT else NOTIMP), 0.0)
            return
        if query.qtype == ANY and limit is not None:
            # The favourite of those who want large answers sent to others: only over TCP.
            empty = build_error(query, 0)
            reply(empty[:2] + bytes((empty[2] | TC >> 8,)) + empty[3:], 0.0)
            return
        if is_special(query.qname, query.qtype):
            self.counters.special += 1
            answer = answer_special(query, self._all_prefixes(view))
            self._give(query, answer, 0, limit, reply)
        elif view.prefixes and wants_synthesis(query):
            self._synthesise(query, view, limit, reply)
        elif view.prefixes and self._settings.reverse is not Reverse.OFF:
            self._maybe_reverse(query, view, limit, reply)
        else:
            self._plain(query, limit, reply)

    def _all_prefixes(self, view: View) -> tuple[Prefix6, ...]:
        """What ipv4only.arpa tells: all that a client's answers may have (RFC 7050 §3)."""
        if not view.prefixes or self._settings.choice is Choice.BY_CLIENT:
            return view.prefixes
        return self._settings.prefixes

    def _plain(self, query: Query, limit: int | None, reply: Reply) -> None:
        do, cd = query.do, query.cd
        now = self._clock()
        entry = self._cache.get(cache_key(query.key, do=do, cd=cd), now)
        if entry is not None:
            self._give_entry(query, entry, now, limit, reply)
            return
        self._resolver.ask(
            query.key, do=do, cd=cd, then=partial(self._answered, query, limit, reply)
        )

    def _answered(
        self, query: Query, limit: int | None, reply: Reply, answer: Answer | None, age: int
    ) -> None:
        if answer is None:
            self._fail(query, reply)
        else:
            self._give(query, answer, age, limit, reply)

    def _synthesise(self, query: Query, view: View, limit: int | None, reply: Reply) -> None:
        now = self._clock()
        kind = _SYNTHESISED | (1 if query.do else 0) | (2 if query.cd else 0)
        key = query.key + bytes((kind,)) + view.number.to_bytes(2, "big")
        entry = self._cache.get(key, now)
        if entry is not None:
            self._give_entry(without_ad(query), entry, now, limit, reply)
            return
        if not self._settings.synthall:
            entry = self._cache.get(cache_key(query.key, do=query.do, cd=query.cd), now)
            if entry is not None and self._judge(query, entry.answer) is Verdict.COUNTS:
                self._give_entry(query, entry, now, limit, reply)
                return
        _Synthesis(self, query, view, key, limit, reply).start()

    def _judge(self, query: Query, answer: Answer | None) -> Verdict:
        return judge(answer, self._rules, query.qname)

    def _maybe_reverse(self, query: Query, view: View, limit: int | None, reply: Reply) -> None:
        question = reverse_question(query, self._reverse_prefixes)
        if question is None or (query.do and query.cd):
            self._plain(query, limit, reply)
            return
        now = self._clock()
        key = query.key + bytes((_REVERSE | query.do | query.cd << 1,))
        entry = self._cache.get(key, now)
        if entry is not None:
            self._give_entry(query, entry, now, limit, reply)
            return
        self.counters.reverse += 1

        def answered(answer: Answer | None, age: int) -> None:
            if answer is None:
                self._fail(query, reply)
                return
            try:
                made = assemble_reverse(query, answer, age, self._settings.reverse)
            except Malformed:
                self._fail(query, reply)
                return
            self._cache.put(key, made, self._clock())
            self._give(query, made, 0, limit, reply)

        known = answer_reverse(question)
        if known is not None:
            answered(known, 0)
        else:
            self._resolver.ask(question, do=query.do, cd=query.cd, then=answered)

    def _give_entry(
        self, query: Query, entry: Entry, now: float, limit: int | None, reply: Reply
    ) -> None:
        age = int(now - entry.stored)
        until = min(entry.stored + age + 1, entry.expires)
        self._give(query, entry.answer, age, limit, reply, until)

    def _give(
        self,
        query: Query,
        answer: Answer,
        age: int,
        limit: int | None,
        reply: Reply,
        until: float = 0.0,
    ) -> None:
        # RFC 6840 §5.8: only who asks for it, by DO or AD, is told what is authentic.
        ad = answer.ad and (query.do or bool(query.flags & AD))
        reply(render(query, answer, age=age, limit=limit, ad=ad), until)

    def _fail(self, query: Query, reply: Reply) -> None:
        self.counters.servfail += 1
        reply(build_error(query, SERVFAIL), 0.0)


class _Synthesis:
    """One AAAA question on its way: waits for AAAA, and for A if need be."""

    __slots__ = ("_a", "_aaaa", "_done", "_engine", "_key", "_limit", "_query", "_reply", "_view")

    def __init__(
        self,
        engine: Engine,
        query: Query,
        view: View,
        key: bytes,
        limit: int | None,
        reply: Reply,
    ) -> None:
        self._engine = engine
        self._query = query
        self._view = view
        self._key = key
        self._limit = limit
        self._reply = reply
        self._aaaa: tuple[Answer | None, int] | None = None
        self._a: tuple[Answer | None, int] | None = None
        self._done = False

    def start(self) -> None:
        query, ask = self._query, self._engine._resolver.ask
        ask(query.key, do=query.do, cd=query.cd, then=self._got_aaaa)
        if not self._done:
            ask(query.qname + _A_IN, do=query.do, cd=query.cd, then=self._got_a)

    def _got_aaaa(self, answer: Answer | None, age: int) -> None:
        self._aaaa = (answer, age)
        self._decide()

    def _got_a(self, answer: Answer | None, age: int) -> None:
        self._a = (answer, age)
        self._decide()

    def _decide(self) -> None:
        """Answers as soon as it is known what the answer is."""
        if self._done or self._aaaa is None:
            return
        engine, query = self._engine, self._query
        aaaa, age = self._aaaa
        verdict = engine._judge(query, aaaa)
        synthall = engine._settings.synthall
        if synthall and verdict is not Verdict.EMPTY and not _is_final(aaaa):
            if self._a is None:
                return
            if has_addresses4(self._a[0]):
                verdict = Verdict.EMPTY
        if verdict is Verdict.EMPTY and self._a is None:
            return
        self._done = True
        if verdict is Verdict.EMPTY and self._must_not_break(aaaa):
            verdict = Verdict.COUNTS
        if verdict is Verdict.COUNTS:
            assert aaaa is not None
            engine._give(query, aaaa, age, self._limit, self._reply)
            return
        try:
            answer = self._made(verdict)
        except Malformed:
            answer = None
        if answer is None:
            engine._fail(query, self._reply)
            return
        engine._cache.put(self._key, answer, engine._clock())
        engine._give(without_ad(query), answer, 0, self._limit, self._reply)

    def _must_not_break(self, aaaa: Answer | None) -> bool:
        """Whether the client may validate by itself, and could (`break_dnssec`)."""
        if self._engine._settings.break_dnssec or not self._query.do or aaaa is None:
            return False
        a = self._a[0] if self._a is not None else None
        return is_signed(aaaa) or (a is not None and is_signed(a))

    def _made(self, verdict: Verdict) -> Answer | None:
        assert self._aaaa is not None
        engine = self._engine
        aaaa, age = self._aaaa
        if verdict is Verdict.PARTLY:
            assert aaaa is not None
            return without(aaaa, engine._rules.excludes6, age)
        assert self._a is not None
        a, a_age = self._a
        answer = assemble(
            aaaa,
            a,
            self._query.key,
            self._view.prefixes,
            engine._rules,
            aaaa_age=age,
            a_age=a_age,
        )
        if has_addresses4(a):
            engine.counters.synthesised += 1
        return answer


def without_ad(query: Query) -> Query:
    """For what was synthesised: AD only for who has set DO (RFC 6147 §5.5)."""
    return query._replace(flags=query.flags & ~AD)


def _is_final(answer: Answer | None) -> bool:
    """NXDOMAIN or bogus: counts, and there is no A record to ask for."""
    return answer is not None and answer.rcode != 0


def _prefix_sets(settings: Dns64Settings) -> Sequence[tuple[Prefix6, ...]]:
    if settings.choice is Choice.FIRST:
        return [settings.prefixes[:1]]
    if settings.choice is Choice.ALL:
        return [settings.prefixes]
    return [(prefix,) for prefix in settings.prefixes]
