"""What stands in the gateway's way, found with real rules, sysctls and routes.

      lan0 (clients, 2001:db8:2::/64)    tap0 (the gateway: pool4, prefix)    wan0 (default routes)

Each device is one end of a veth pair in this test's own namespace. Where a firewall is judged,
a packet is sent through the kernel as well, so that the judgement is compared with what happens.
"""

from __future__ import annotations

import shutil
import socket
import struct
import subprocess
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from gateway.host import checks, firewall, legacy_ruleset, nft_ruleset, ruleset
from gateway.host.checks import obstacles

POOL = IPv4Network("192.0.0.6/32")
PREFIX = IPv6Network("fec0:0:0:ffff::/64")
CLIENT = "2001:db8:2::77"
SERVER = "203.0.113.5"
EVERY_WAY = ("lan0 to tap0", "tap0 to lan0", "tap0 to wan0", "wan0 to tap0")
DROP_POLICY = "table ip t { chain forwarded { type filter hook forward priority 0; policy drop; } }"


@pytest.fixture
def host(run, sysctl):
    """host() builds a host as the gateway sets it up, in the test's namespace."""

    def build() -> None:
        for name in ("wan0", "lan0", "tap0"):
            run(f"ip link add {name} type veth peer name {name}p")
            run(f"ip link set {name} up")
            run(f"ip link set {name}p up")
        run("ip addr add 192.0.2.1/24 dev wan0")
        run("ip -6 addr add 2001:db8:1::1/64 dev wan0 nodad")
        run("ip -6 addr add 2001:db8:2::1/64 dev lan0 nodad")
        run("ip route add default via 192.0.2.9 dev wan0")
        run("ip -6 route add default via 2001:db8:1::9 dev wan0")
        run("ip -6 addr add fe80::1/64 dev tap0 nodad")
        run(f"ip route add {POOL} via 192.0.0.8 dev tap0 onlink")
        run(f"ip -6 route add {PREFIX} via fe80::5 dev tap0")
        for address, device in (
            ("192.0.2.9", "wan0"),
            ("192.0.0.8", "tap0"),
            ("fe80::5", "tap0"),
            (CLIENT, "lan0"),
        ):
            run(f"ip neigh add {address} lladdr 02:00:00:00:00:99 dev {device} nud permanent")
        sysctl("ipv4/ip_forward", "1")
        sysctl("ipv6/conf/all/forwarding", "1")

    return build


def nft(script: str) -> None:
    """Loads rules; nft wants a line's end after a block's, which are left out here."""
    script = script.replace("} }", "}\n}").replace("} chain", "}\nchain")
    done = subprocess.run(
        ["nft", "-f", "-"], input=script, text=True, check=False, capture_output=True
    )
    assert done.returncode == 0, done.stderr + script


def found(masquerade: bool = True, sessions: int = 1000, l3: str = "tap0") -> list[str]:
    return obstacles("tap0", l3, [POOL], masquerade, sessions, [PREFIX])


def crosses(run, version: int, inbound: bool) -> bool:
    """Whether the kernel forwards one packet: from tap0 (inbound) or to it."""
    words = run("ip -o link").split("\n")
    macs = {line.split()[1].split("@")[0]: line.split("link/ether ")[1][:17]
            for line in words if "link/ether" in line}  # fmt: skip
    other = "wan0" if version == 4 else "lan0"
    into, out = ("tap0", other) if inbound else (other, "tap0")
    payload = struct.pack(">HHHH", 4000, 4001, 8, 0)
    if version == 4:
        src, dst = (str(POOL[0]), SERVER) if inbound else (SERVER, str(POOL[0]))
        header = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0,
            IPv4Address(src).packed, IPv4Address(dst).packed,
        )  # fmt: skip
        total = sum(struct.unpack(">10H", header))
        total = (total & 0xFFFF) + (total >> 16)
        header = header[:10] + struct.pack(">H", total ^ 0xFFFF) + header[12:]
        kind = 0x0800
    else:
        server = "fec0:0:0:ffff::cb00:7105"
        src, dst = (server, CLIENT) if inbound else (CLIENT, server)
        header = struct.pack(
            ">IHBB16s16s", 6 << 28, 8, 17, 64, IPv6Address(src).packed, IPv6Address(dst).packed
        )
        kind = 0x86DD
    with (
        socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender,
        socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind)) as receiver,
    ):
        receiver.bind((f"{out}p", kind))
        receiver.settimeout(0.3)
        sender.bind((f"{into}p", 0))
        frame = bytes.fromhex(macs[into].replace(":", "")) + bytes(6) + struct.pack(">H", kind)
        sender.send(frame + header + payload)
        deadline = time.monotonic() + 0.5
        while time.monotonic() < deadline:
            try:
                if receiver.recv(2048).endswith(payload):
                    return True
            except TimeoutError:
                break
    return False


def everything_crosses(run) -> bool:
    """Answers go after their questions, so that connection tracking knows them."""
    return all(
        crosses(run, version, inbound)
        for version, inbound in ((4, True), (4, False), (6, False), (6, True))
    )


def test_a_clean_host_has_nothing_in_the_way(host, run) -> None:
    host()
    assert found() == []
    assert everything_crosses(run)


def test_dockers_policy_is_named_with_its_own_remedy(host, run) -> None:
    host()
    # What dockerd writes with iptables-nft.
    for rule in (
        "-P FORWARD DROP",
        "-N DOCKER-USER",
        "-N DOCKER-ISOLATION-STAGE-1",
        "-N DOCKER-ISOLATION-STAGE-2",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -j DOCKER-ISOLATION-STAGE-1",
        "-A FORWARD -o docker0 -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i docker0 ! -o docker0 -j ACCEPT",
        "-A FORWARD -i docker0 -o docker0 -j ACCEPT",
        "-A DOCKER-ISOLATION-STAGE-1 -i docker0 ! -o docker0 -j DOCKER-ISOLATION-STAGE-2",
        "-A DOCKER-ISOLATION-STAGE-1 -j RETURN",
        "-A DOCKER-ISOLATION-STAGE-2 -o docker0 -j DROP",
        "-A DOCKER-ISOLATION-STAGE-2 -j RETURN",
        "-A DOCKER-USER -j RETURN",
    ):
        run(f"iptables-nft {rule}")
    (line,) = found()
    assert line == (
        "firewall: nftables ip filter FORWARD (policy drop) drops IPv4 tap0 to wan0, "
        "IPv4 wan0 to tap0; remedy: iptables -I DOCKER-USER -i tap0 -j ACCEPT; "
        "iptables -I DOCKER-USER -o tap0 -j ACCEPT"
    )
    assert not crosses(run, 4, True)
    for command in line.split("remedy: ")[1].split("; "):
        run(command.replace("iptables", "iptables-nft"))
    assert found() == []
    assert everything_crosses(run)


def test_a_policy_of_drop_with_accepting_rules_for_the_device_is_fine(host, run) -> None:
    host()
    nft(
        """table inet t { chain forwarded { type filter hook forward priority 0; policy drop;
             iifname "tap0" accept
             oifname { "tap0", "tap1" } accept
        } }"""
    )
    assert found() == []
    assert everything_crosses(run)


@pytest.mark.parametrize(
    ("rules", "dropped"),
    [
        ('ct state established,related accept; iifname "tap0" accept', ["lan0 to tap0"]),
        ('oifname "tap*" accept', ["tap0 to lan0", "tap0 to wan0"]),
        ("ct state established,related accept", ["lan0 to tap0", "tap0 to wan0"]),
        ('ct state vmap { established : accept, new : jump more }', ["lan0 to tap0"]),
        ('iifname vmap { "tap0" : accept, "lan0" : drop }', ["lan0 to tap0", "wan0 to tap0"]),
        ('iifname . oifname { "tap0" . "wan0", "wan0" . "tap0" } accept',
         ["lan0 to tap0", "tap0 to lan0"]),
        ("tcp dport 22 accept", list(EVERY_WAY)),
        ("ip6 saddr 2001:db8:2::/64 accept; ct state established accept; ip saddr 192.0.0.0/29 "
         "accept", []),
        ("ip6 saddr 2001:db8:2::/65 accept; ct state established accept; ip saddr 192.0.0.0/29 "
         "accept", ["lan0 to tap0"]),
        ("ip6 daddr @own accept; ct state established accept; ip saddr @pool accept", []),
        ("limit rate 100/second accept", []),
        ("limit rate over 100/second accept", list(EVERY_WAY)),
        ('iifname != "lan0" meta nfproto ipv6 tcp dport 22 accept', list(EVERY_WAY)),
        ("goto more; accept", ["lan0 to tap0", "tap0 to lan0", "wan0 to tap0"]),
        ('iifname "tap0" return; accept', ["tap0 to lan0", "tap0 to wan0"]),
        ('oifname "tap0" ip6 saddr 2001:db8:2::5-2001:db8:2::ff accept; '
         "ct state established accept", ["tap0 to wan0"]),
        ("ip saddr >= 192.0.0.6 ip saddr < 192.0.0.7 accept; meta nfproto ipv6 accept",
         ["wan0 to tap0"]),
        ("ip saddr > 192.0.0.5 ip saddr <= 192.0.0.6 accept; meta nfproto ipv6 accept",
         ["wan0 to tap0"]),
        ("meta nfproto ipv6 accept; jump more; ct state established accept", []),
        ('meta mark 5 iifname "tap0" accept; oifname "tap0" ip protocol tcp accept; '
         'oifname "tap0" accept', []),
        ("ip saddr 192.0.0.0-192.0.0.5 accept; meta l4proto { tcp, udp, icmp, ipv6-icmp } counter "
         'log prefix "x" goto more',
         list(EVERY_WAY)),
    ],
)  # fmt: skip
def test_rules_are_followed(host, rules: str, dropped: list[str]) -> None:
    host()
    nft(
        """table inet t {
             set own { type ipv6_addr; flags interval; elements = { fec0:0:0:ffff::/64 }; }
             set pool { type ipv4_addr; flags interval; elements = { 192.0.0.4-192.0.0.9 }; }
             chain more { iifname "tap0" oifname "wan0" accept; }
             chain forwarded { type filter hook forward priority 0; policy drop;
        """
        + rules.replace("; ", "\n")
        + "\n} }"
    )
    assert [name for name in EVERY_WAY if name in " ".join(found())] == dropped


@pytest.mark.parametrize(
    ("rule", "complaint"),
    [
        ('iifname "tap0" drop', True),
        ("iif tap0 reject", True),
        ('iifname "tap0" reject with icmpx admin-prohibited', True),
        ('iifname != "lan0" drop', True),
        ("ip daddr 192.0.0.6 drop", True),
        ("ip saddr 192.0.0.0/24 drop", True),
        ('iifname "tap1" drop', False),
        ("ip daddr 10.0.0.0/8 drop", False),
        ("tcp dport 25 drop", False),
        ("iifname tap0 tcp dport 25 drop", False),
        ("ct state invalid drop", False),
        ("limit rate over 10/second drop", False),
        ("fib saddr . iif oif missing drop", False),
        ('iifname "docker0" oifname != "docker0" drop', False),
        ("ether type arp drop", False),
        ("meta mark 7 drop", False),
        ("ip6 saddr 2001:db8:2::/63 drop", True),
        ('iifname "tap0" return', False),
    ],
)
def test_a_rule_is_named_when_it_certainly_drops(host, run, rule: str, complaint: bool) -> None:
    host()
    nft(f"table inet t {{ chain forwarded {{ type filter hook forward priority 5; {rule}; }} }}")
    lines = found()
    assert len(lines) == complaint
    assert everything_crosses(run) is not complaint
    if complaint:
        assert lines[0].startswith("firewall: nftables inet t forwarded (rule handle ")
        assert "nft insert rule inet t forwarded" in lines[0]


@pytest.mark.parametrize("rule", ["limit rate 10/second drop", "ip6 saddr 2001:db8:2::/80 drop"])
def test_a_drop_of_some_of_the_traffic_is_somebodys_choice(host, rule: str) -> None:
    host()
    nft(f"table inet t {{ chain forwarded {{ type filter hook forward priority 5; {rule}; }} }}")
    assert found() == []


def test_a_jump_of_some_traffic_into_a_drop_is_somebodys_choice(host) -> None:
    host()
    script = """table inet t { chain deny { drop; }
        chain forwarded { type filter hook forward priority 5; meta mark 7 jump deny; } }"""
    nft(script)
    assert found() == []
    nft("flush ruleset")
    nft(script.replace("meta mark 7", 'iifname "tap0"'))
    (line,) = found()
    assert "nftables inet t deny (rule handle" in line
    assert 'nft insert rule inet t forwarded iifname "tap0" accept' in line


def test_every_base_chain_has_its_say_and_the_remedy_works(host, run) -> None:
    host()
    nft('table ip a { chain f { type filter hook forward priority -5; iifname "tap0" accept; } }')
    nft(DROP_POLICY)
    (line,) = found()
    assert "nftables ip t forwarded (policy drop)" in line
    for command in line.split("remedy: ")[1].split("; "):
        run(command.replace('"', ""))
    assert found() == []
    assert everything_crosses(run)


def test_a_drop_at_another_hook_is_seen_where_the_device_is_known(host, run) -> None:
    host()
    nft('table ip t { chain p { type filter hook prerouting priority 0; iifname "tap0" drop; } }')
    nft('table ip6 t { chain p { type filter hook postrouting priority 0; oifname "tap0" drop; } }')
    nft("table ip t { chain i { type filter hook input priority 0; policy drop; } }")
    lines = found()
    assert ["ip t p" in lines[0], "ip6 t p" in lines[1]] == [True, True]
    assert len(lines) == 2
    assert not crosses(run, 4, True)
    assert not crosses(run, 6, False)


def test_clients_beside_the_default_route_count_only_without_others(host, run) -> None:
    host()
    nft(
        """table ip6 t { chain forwarded { type filter hook forward priority 0; policy drop;
             iifname "lan0" accept; oifname "lan0" accept; } }"""
    )
    assert found() == []
    run("ip -6 addr del 2001:db8:2::1/64 dev lan0")
    (line,) = found()
    assert "IPv6 tap0 to wan0" in line
    run("ip -6 addr del 2001:db8:1::1/64 dev wan0")
    (line,) = found()
    assert "IPv6 any device to tap0" in line


def test_known_firewalls_get_their_own_commands(host) -> None:
    host()
    nft(
        """table inet firewalld { chain filter_FORWARD {
             type filter hook forward priority 10; reject with icmpx admin-prohibited; } }"""
    )
    (line,) = found()
    assert "firewall-cmd --permanent --zone=trusted --add-interface=tap0" in line
    nft("flush ruleset")
    nft(
        """table ip filter { chain ufw-user-forward { }
             chain FORWARD { type filter hook forward priority 0; policy drop;
               jump ufw-user-forward; } }"""
    )
    (line,) = found()
    assert line.endswith("remedy: ufw route allow in on tap0; ufw route allow out on tap0")


def test_a_bridge_through_the_firewall_is_a_way_of_its_own(
    host, run, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    host()
    switch = tmp_path / "bridge-nf-call-ip6tables"
    monkeypatch.setattr(checks, "_BRIDGED_THROUGH_FIREWALL", switch)
    run("ip link add br0 type bridge")
    run("ip link set br0 up")
    nft(
        """table inet t { chain forwarded { type filter hook forward priority 0; policy drop;
             iifname "br0" oifname != "br0" accept; oifname "br0" iifname != "br0" accept; } }"""
    )
    assert found(l3="br0") == []
    switch.write_text("0\n")
    assert found(l3="br0") == []
    switch.write_text("1\n")
    (line,) = found(l3="br0")
    assert "IPv6 br0 to br0" in line


def test_old_iptables_are_read_too(host, run) -> None:
    host()
    try:
        run("iptables-legacy -P FORWARD DROP")
    except OSError as error:
        pytest.skip(str(error))
    run("ip6tables-legacy -A FORWARD ! -p tcp -i lan0 -o tap0 -j REJECT")
    run("iptables-legacy -A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
    run("iptables-legacy -A FORWARD -s 192.0.0.0/30 -j ACCEPT")
    (line,) = found()
    assert line == (
        "firewall: iptables (legacy) ip filter FORWARD (policy drop) drops IPv4 tap0 to wan0; "
        "remedy: iptables-legacy -I FORWARD -i tap0 -j ACCEPT"
    )
    assert not crosses(run, 4, True)
    run(line.split("remedy: ")[1])
    assert found() == []
    assert everything_crosses(run) is False  # REJECT of UDP, which is a choice, not complained of


def test_old_iptables_without_its_program_are_named(host, run, monkeypatch) -> None:
    host()
    try:
        run("iptables-legacy -P FORWARD DROP")
    except OSError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(shutil, "which", lambda name, path=None: None)
    (line,) = found()
    assert "iptables-legacy-save is not installed" in line


LEGACY = """
*filter
:INPUT ACCEPT [0:0]
:FORWARD DROP [5:300]
:CHECK - [0:0]
-A FORWARD -i eth+ ! -o tap0 -j ACCEPT
-A FORWARD ! -d 10.0.0.0/8 -i br0 -m comment --comment "let -j ACCEPT through" -g CHECK
-A FORWARD ! -p tcp -i tap0 -j DROP
-A FORWARD -p tcp -m tcp ! --dport 22 -i tap0 -j LOG --log-prefix "-j DROP"
-A CHECK -m state --state NEW -j RETURN
-A CHECK -m conntrack ! --ctstate NEW -j REJECT --reject-with icmp-port-unreachable
COMMIT
"""


def test_the_words_of_iptables_save() -> None:
    table = legacy_ruleset.parse_legacy("ip", LEGACY)
    assert table.chains["FORWARD"].drops
    assert table.chains["FORWARD"].hook == ruleset.HOOK_FORWARD
    assert table.chains["CHECK"].hook is None
    one, two, three, four = (rule.steps for rule in table.chains["FORWARD"].rules)
    assert one == (
        ruleset.Load(0, "iifname", 16),
        ruleset.Between(0, b"eth", b"eth"),
        ruleset.Load(0, "oifname", 16),
        ruleset.Between(0, b"tap0".ljust(16, b"\0"), b"tap0".ljust(16, b"\0"), True),
        ruleset.Decide("accept"),
    )
    assert two[2] == ruleset.Between(0, b"\x0a\0\0\0", b"\x0a\0\0\0", True)
    assert two[-1] == ruleset.Decide("goto", "CHECK")
    assert three[0] == ruleset.Unknown()
    assert inverted(three[2]) is False
    assert four.count(ruleset.Unknown()) == 2
    assert ruleset.Decide("drop") not in four
    new, other = (rule.steps for rule in table.chains["CHECK"].rules)
    assert new[-1] == ruleset.Decide("return")
    assert (inverted(new[2]), inverted(other[2])) == (True, False)
    assert other[-1] == ruleset.Decide("drop")


def inverted(step: ruleset.Step) -> bool:
    assert isinstance(step, ruleset.Between)
    return step.inverted


def test_intervals_of_a_set() -> None:
    join = nft_ruleset.join_interval_points
    assert join([(b"\x05", False, None)]) == [ruleset.Element(b"\x05", b"\x05")]
    points = [(b"\x09", True, None), (b"\x05", False, None), (b"\x00", True, None)]
    assert join(points) == [ruleset.Element(b"\x05", b"\x08")]
    touching = [(b"\x05", False, None), (b"\x07", True, None), (b"\x07", False, None)]
    assert join(touching) == [
        ruleset.Element(b"\x05", b"\x06"),
        ruleset.Element(b"\x07", b"\xff"),
    ]


def test_a_loop_of_jumps_ends() -> None:
    table = ruleset.Table("ip", "t")
    table.chains["f"] = ruleset.Chain(
        "f", ruleset.HOOK_FORWARD, True, [ruleset.Rule("r", (ruleset.Decide("jump", "f"),))]
    )
    path = firewall.Path(4, "tap0", True, "wan0", False)
    assert list(firewall.drops([table], [path])) == [
        firewall.Drop("t", "ip", False, "f", "f", "", ruleset.HOOK_FORWARD)
    ]


def test_what_cannot_be_read_is_said(host, monkeypatch: pytest.MonkeyPatch) -> None:
    host()

    def denied(**_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(nft_ruleset, "NFTables", denied)
    (line,) = found()
    assert line.startswith("firewall: the nftables rules cannot be read")


def test_forwarding_switched_off_on_one_interface(host, run, sysctl) -> None:
    host()
    sysctl("ipv4/conf/wan0/forwarding", "0")
    (line,) = found()
    assert line.startswith("forwarding: net.ipv4.conf.wan0.forwarding is 0")
    assert not crosses(run, 4, False)
    run(line.split("remedy: ")[1])
    assert found() == []
    sysctl("ipv4/conf/tap0/forwarding", "0")
    (line,) = found()
    assert "net.ipv4.conf.tap0.forwarding is 0" in line
    sysctl("ipv4/conf/lan0/forwarding", "0")  # no IPv4 passes there
    assert len(found()) == 1


def test_forwarding_that_the_gateway_will_switch_on_is_no_obstacle(host, sysctl) -> None:
    host()
    sysctl("ipv4/ip_forward", "0")
    assert found() == []


@pytest.mark.parametrize("mode", ["1", "2"])
def test_strict_rp_filter_matters_only_with_another_route_back(host, run, sysctl, mode) -> None:
    host()
    sysctl("ipv4/conf/all/rp_filter", mode)
    assert found() == []
    assert everything_crosses(run)
    run(f"ip route add {POOL} dev wan0 metric 1 table 99")
    run(f"ip rule add to {POOL} table 99")
    (line,) = found()
    assert line.startswith(f"rp_filter: IPv4 packets from {POOL} that arrive on tap0 are dropped")
    assert "leads through wan0" in line
    assert not crosses(run, 4, True)
    run("sysctl " + line.split("or sysctl ")[1])
    assert found() == []
    assert crosses(run, 4, True)


def test_strict_rp_filter_on_a_second_uplink_matters_for_routed_pools(host, run, sysctl) -> None:
    host()
    run("ip addr add 198.51.100.1/24 dev lan0")
    run("ip route add default via 198.51.100.9 dev lan0 metric 500")
    sysctl("ipv4/conf/lan0/rp_filter", "1")
    assert found(masquerade=True) == []
    (line,) = found(masquerade=False)
    assert line.startswith(f"rp_filter: IPv4 packets for {POOL} that arrive on lan0 are dropped")
    run(line.split("remedy: ")[1])
    assert found(masquerade=False) == []


def test_before_the_set_up_nothing_is_said_about_routes(host, run, sysctl) -> None:
    host()
    sysctl("ipv4/conf/all/rp_filter", "1")
    run(f"ip route del {POOL} via 192.0.0.8 dev tap0 onlink")
    run(f"ip route add {POOL} dev wan0")
    assert found() == []
    run("ip link del tap0")
    assert found() == []
    assert found(masquerade=False) == []


def test_connection_tracking_must_hold_the_sessions(host) -> None:
    host()
    nft("table ip t { chain c { type nat hook postrouting priority 100; masquerade; } }")
    maximum = int(checks._read(checks._CONNTRACK / "nf_conntrack_max"))
    assert found(sessions=maximum) == []
    (line,) = found(sessions=maximum + 1)
    assert line.startswith(f"conntrack: net.netfilter.nf_conntrack_max is {maximum}, less than")
    assert f"sysctl -w net.netfilter.nf_conntrack_max={maximum + 1} " in line
    assert found(masquerade=False, sessions=maximum + 1) == []


@pytest.mark.parametrize(
    ("maximum", "count", "lines"),
    [("1000", "899", 0), ("1000", "900", 1), ("0", "5000", 0), ("999", "0", 1), ("", "", 0)],
)
def test_a_connection_table_near_its_end(
    host, tmp_path, monkeypatch: pytest.MonkeyPatch, maximum: str, count: str, lines: int
) -> None:
    host()
    (tmp_path / "nf_conntrack_max").write_text(maximum)
    (tmp_path / "nf_conntrack_count").write_text(count)
    monkeypatch.setattr(checks, "_CONNTRACK", tmp_path)
    assert len(found(sessions=1000)) == lines


def test_drops_of_connection_tracking_are_summed(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checks.conntrack_drops() == 0
    statistics = tmp_path / "nf_conntrack"
    statistics.write_text(
        "entries  clashres found drop early_drop\n00000001  00000000 00000000 0000000a 00000000\n"
        "00000001  00000000 00000000 00000010 00000000\n"
    )
    monkeypatch.setattr(checks, "_CONNTRACK_STATISTICS", statistics)
    assert checks.conntrack_drops() == 26
    statistics.write_text("")
    assert checks.conntrack_drops() == 0
