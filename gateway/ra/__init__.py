"""Router advertisements on the LAN: prefix for NAT64, DNS servers, routes (docs/dns64.md)."""
