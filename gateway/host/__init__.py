"""Everything the gateway does to the host it runs on, as a plan that can be undone.

The way through this package: `setup` looks at the host and makes a `plan` of changes out of
`sysctl`, `links`, `routes` and `nft`; `journal` keeps on disk what a killed run would have
forgotten, and `leftovers` undoes it; `ra_guard` keeps router advertisements working while the
gateway runs. `preflight` and `checks` only look.

All functions are synchronous and short; a trio program calls them in `trio.to_thread`.
"""
