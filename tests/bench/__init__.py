"""Benchmark of the gateway beside plain IPv6 forwarding and TAYGA: `python -m tests.bench`."""
