"""DNS64 (RFC 6147): names of IPv4-only servers resolve to addresses in the gateway's prefix.

The way of a query, module by module: `server.py` reads it, `messages.py` and `names.py` take it
apart, `engine.py` decides what it takes to answer (`special.py`, `reverse.py`, `synthesis.py`),
`cache.py` may know the answer, `resolve.py` asks for it, through `upstreams.py`. `service.py` puts
them together for the running gateway.
"""
