"""Stateless translation, address by address (RFC 7915, RFC 7757): see translator.py."""
