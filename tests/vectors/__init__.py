"""Golden vectors: what RFC 7915, 6146 and 6052 make of given packets, as files any program reads.

Each .toml file here holds [[vector]] tables: `name`, `clause`, `settings` (keys of
conf/gateway.toml over those of `tests.vectors.build.SETTINGS`) and [[vector.step]] tables in
order: `at` (seconds), `comment`, `in` (hex; missing: only time passes), `out` (a list of hex,
exactly what comes out), `reason` (why nothing was translated, if so) and `any` (fields of `out`
that an implementation may choose: `identification`, `ttl`, `tos`, `inner-identification`, which
is that and DF of the IPv4 packet inside an error).

Expected packets are built by hand from the RFCs with scapy; `python -m tests.vectors.make`
writes the files. Nothing of the code under test takes part in that.

tests/unit/test_vectors.py sends each through the slow path, through the fast path where that
takes a packet, and through `gateway translate` as a capture.

    client 2001:db8:1::10 ─ [ 2001:db8:64::/96 │ 203.0.113.8, one port: 20000 ] ─ 198.51.100.80
"""
