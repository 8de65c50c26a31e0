"""The CLAT: IPv4 programs on an IPv6-only host, through somebody's NAT64 (RFC 6877)."""
