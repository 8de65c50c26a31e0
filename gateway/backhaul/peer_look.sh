# The far end of an ssh backhaul, what it looks at: who was here before, whose the addresses are,
# which way leads out, what stands in the way. Nothing is set up here; peer.sh, which follows, tells
# how it all works.

# What there must be before anything is touched.
check_here() {
    tap=$SSH_TUNNEL
    case $tap in
        '') fail "no tunnel: sshd gave this session none (SSH_TUNNEL is empty)" ;;
        *,*) fail "several tunnels in one connection: $tap" ;;
        tun*) fail "the tunnel is point-to-point ($tap), not ethernet: -o Tunnel=ethernet, before -w" ;;
    esac
    user=$(id -u 2>/dev/null)
    [ "$user" = 0 ] || fail "not root here (uid $user): log in as root, or prepare the peer by hand"
    command -v ip >/dev/null 2>&1 || fail "no ip command here: install iproute2"
    [ -d "/sys/class/net/$tap" ] || ip link show dev "$tap" >/dev/null 2>&1 ||
        fail "sshd says $tap, but there is no such device here"
    space=$(readlink /proc/self/ns/net 2>/dev/null)
    space=${space#net:[}
    for folder in /run /var/run; do
        [ -d "$folder" ] && [ -w "$folder" ] && break
        folder=
    done
    full="is $folder full?"
    [ -n "$folder" ] || fail "neither /run nor /var/run can be written here"
}

# about FOLDER: which run of a gateway made it, from where, and for how long it would linger.
about() {
    s_run='' s_linger='' s_from=''
    { read -r s_run s_linger s_from <"$1/about"; } 2>/dev/null
    [ -n "$s_from" ]
}

# Of one tag there is one gateway, and the session of a former run ends with its ssh. One that is
# at work, of another run, is most likely another host's, and would be back in a moment.
meet_rival() {
    get "$state/main" && alive "$value" && about "$state" && [ "$s_run" != "$run" ] || return 0
    note "a living session of $tag, from $s_from, had to end for this one: if another host made" \
        "it, not a former run of this gateway, the two have one host name and one" \
        "/etc/machine-id, and go on ending each other: give one of them another host name"
}

# used PREFIX: whether another tag or the host itself has some of it; said tells who.
used() {
    set +f
    for other in "$base"/*/; do
        set -f
        other=${other%/}
        [ "$other" != "$state" ] && load "$other" && [ "$s_pool" != - ] || continue
        for theirs in $(list "$s_pool"); do
            overlap "$1" "$theirs" || continue
            said="used here by ${other##*/}"
            # Not forgotten, so if its first process is dead, its keeper lives.
            get "$other/main" && alive "$value" && return 0
            get "$other/keeper" && about "$other" &&
                said="kept here for ${other##*/}, whose connection has ended, for at most" &&
                said="$said $s_linger s (kill ${value%%:*} ends that)"
            return 0
        done
    done
    set -f
    said=$(ip -4 -o addr show to "$1" 2>/dev/null | head -n 1)
    [ -z "$said" ] || { said="an address of this host: $said" && return 0; }
    said=$(ip -4 route show root "$1" 2>/dev/null | grep -v '^blackhole' | head -n 1)
    [ -n "$said" ] && said="routed here already: $said"
}

# The link's addresses and the pool must be nobody's; of RFC 7335's, one that is free is named.
check_free() {
    forget_dead
    [ "$pool" = - ] || for prefix in $(list "$pool"); do
        used "$prefix" || continue
        why="pool $prefix is $said"
        for last in 6 5 4 3 2 1 7; do
            used "192.0.0.$last" || { free=192.0.0.$last && break; }
        done
        fail "$why"
    done
    said=$(ip -4 -o addr show to "$remote" 2>/dev/null | head -n 1)
    [ -z "$said" ] || fail "link address ${remote%/*} is taken here: $said"
    said=$(ip -4 route show root "$remote" 2>/dev/null | head -n 1)
    [ -z "$said" ] || fail "link address ${remote%/*} is taken here: route $said"
}

look_at_default_route() {
    hop=- devices='' word_before=''
    # shellcheck disable=SC2046
    for word in $(ip -4 route show default 2>/dev/null); do
        case $word_before in
            via) case $word in *.*.*.*) [ "$hop" != - ] || hop=$word ;; esac ;;
            dev) case " $devices " in *" $word "*) ;; *) devices="$devices $word" ;; esac ;;
        esac
        word_before=$word
    done
    [ -n "$devices" ] || [ "$carries" = ipv6 ] || note "no IPv4 default route here"
}

# An accept of ours cannot overrule another's drop, so it is only said.
look_at_forward_policy() {
    family=ip
    [ "$carries" = ipv4 ] || family=ip6
    closed=
    if command -v nft >/dev/null 2>&1; then
        closed=$(nft list chains 2>/dev/null | while read -r one two three rest; do
            case $one in
                table) table="$two $three" ;;
                chain) chain=$two ;;
                type) case "$table $rest" in
                    "$family "*"forward "*"policy drop"* | "inet "*"forward "*"policy drop"*)
                        echo "nft $table $chain" ;;
                esac ;;
            esac
        done | head -n 1)
    fi
    filter=iptables
    [ "$carries" = ipv4 ] || filter=ip6tables
    if [ -z "$closed" ] && command -v "$filter" >/dev/null 2>&1; then
        case $("$filter" -w -S FORWARD 2>/dev/null | head -n 1) in
            *"-P FORWARD DROP"*) closed="$filter FORWARD" ;;
        esac
    fi
    what=$pool
    [ "$carries" = ipv4 ] || what=$clients6
    [ -z "$closed" ] || note "forwarding has policy drop here ($closed): unless a rule lets" \
        "$what through both ways nothing passes (docker: iptables -I DOCKER-USER -s $what -j" \
        "ACCEPT and the same with -d, ufw: ufw route allow from $what, and to $what)"
}
