# The far end of an ssh backhaul: POSIX sh, run by `sh -s -- KEY=VALUE...`, itself on stdin, with
# peer_undo.sh and peer_look.sh before it.
#
#   pool=P,P       prefixes to route to `local` (and to masquerade)
#   local=A        the gateway's address on the link
#   remote=A/LEN   ours, put on the tap that SSH_TUNNEL names
#   run=R          what tells this run of the gateway from others of its tag
#   mtu=N tag=T heartbeat=SECONDS linger=SECONDS masquerade=yes|no carries=ipv4|ipv6
#   clients6=P,P   with carries=ipv6: prefixes to route to fe80::1 on the link
#   own=yes|no     whether the connection, and with it our sshd, is there for this tunnel only
#
# One line is answered: `READY TAP MAC nft|ipt|- NEXTHOP [NOTE; NOTE...]` or `FAIL WHY`; behind
# `FAIL pool ...` another, `FREE ADDRESS`, may name what could be used instead. From READY on stdin
# brings heartbeats, a line each. The last line of this file starts everything, so nothing happens
# before the whole of it has arrived, and no heartbeat is read as a command.
#
# Two processes. This one sets up and reads stdin. The keeper, deaf to hang-ups and with none of
# the connection's descriptors, looks once a second whether the first lives and hears anything:
#
#   stdin ends, or nothing heard for `heartbeat`, or the first is killed
#       stage 1: address and routes go, our sshd is ended (and the tap with it)
#   `linger` seconds later, or at once on the word `stop`
#       stage 2: masquerade, blackhole route, forwarding, our files
#
# Between the two nothing may answer for the pool, or the host's own stack would reset every
# flow at the server's next segment: the masquerade turns it into a packet to the pool, and a
# blackhole route of high metric swallows that. This route is there from the beginning, so
# there is no moment without one when the tap vanishes under the better route.
#
# What is known of each tag lies in $base/TAG; a process is named by number and start time,
# so that a number used again is nobody. Changes of that folder are made under $base/lock. Where it
# is full, nothing is begun; what is known already is written over in place, and has room for ever.

# turn PATH NEW: writes a sysctl and remembers what it was, unless it is that already.
turn() {
    get "$1" || return 0
    [ "$value" != "$2" ] || return 0
    { echo "$1 $value" >>"$state/sysctl"; } 2>/dev/null || fail "cannot write $state: $full"
    write "$1" "$2" || fail "cannot write $2 to $1: is /proc/sys read-only here (a container)?"
}

# mine: whether the folder still tells of this session. A keeper that the next one never heard of,
# as its first process was killed before it had written it down, must not undo the next one's work.
mine() { get "$state/main" && [ "$value" = "$main" ]; }

keep() {
    trap '' HUP INT PIPE
    trap 'lock; ! mine || { undo_link "$state"; undo_rest "$state"; }; unlock; exit' TERM
    cd /
    whoami_here && me=$id
    quiet=0 seen=
    while :; do
        sleep 1
        alive "$main" || break
        get "$state/beat"
        if [ "$value" != "$seen" ]; then
            quiet=0 seen=$value limit=$heartbeat
            # Nothing is heard during the set-up; an iptables may wait for its lock, not for ever.
            [ "$value" != - ] || limit=60
        else
            # So many looks are at least as many seconds, but for one.
            quiet=$((quiet + 1))
            [ "$quiet" -le "$limit" ] || break
        fi
    done
    end_it "$main"
    mine && undo_link "$state"
    [ "$own" = no ] || end_it "$sshd"
    mine || exit 0
    left=$linger
    while [ "$left" -gt 0 ]; do
        sleep 1
        left=$((left - 1))
    done
    lock
    mine && undo_rest "$state"
    unlock
}

# put FILE WORD...: one line, without giving back the room of the last one. read sees no further.
put() {
    file=$1
    shift
    { echo "$*" 1<>"$state/$file"; } 2>/dev/null
}

# Room for what masquerade() writes; what an adopted one has written is still true.
put_kind() { [ -s "$state/kind" ] || put kind -; }

start_keeper() {
    put beat -
    (keep) </dev/null >/dev/null 2>&1 &
    identify "$!"
    keeper=$id
    put keeper "$keeper"
}

# masquerade: puts the rules in, whether or not they are there; fails with the reason in why.
# What is about to be done is written down first, for whoever undoes it.
masquerade() {
    kind=
    why=
    if command -v nft >/dev/null 2>&1; then
        put kind nft
        # Declared, deleted, declared: one transaction, whether it was there or not. The empty
        # chain lets kernels before 4.18 find the way back.
        said=$({
            echo "table ip $tag { }"
            echo "delete table ip $tag"
            echo "table ip $tag {"
            echo "  chain back { type nat hook prerouting priority -100; }"
            echo "  chain out { type nat hook postrouting priority 100;"
            for prefix in $(list "$pool"); do echo "ip saddr $prefix masquerade"; done
            echo "  }"
            echo "}"
        } | nft -f - 2>&1) && kind=nft || why="nft: $said"
    fi
    if [ -z "$kind" ] && command -v iptables >/dev/null 2>&1; then
        kind=ipt
        put kind ipt
        for prefix in $(list "$pool"); do
            masquerade_rule -C "$tag" "$prefix" >/dev/null && continue
            said=$(masquerade_rule -A "$tag" "$prefix") || kind= why="$why iptables: $said"
        done
    fi
    [ -n "$kind" ]
}

# A firewall that is loaded anew flushes all rules, ours too. New flows need them, and old ones for
# which nothing came meanwhile; what did come for the others was answered with a reset.
mend() {
    case $kind in
        nft) nft list chain ip "$tag" out >/dev/null 2>&1 && return ;;
        ipt) ;;
        *) return ;;
    esac
    was=$kind
    masquerade || kind=$was
}

note() { notes="$notes${notes:+; }$*"; }

# IPv4 is forwarded by the interface that a packet comes in by: no other is touched.
forward4() {
    path=/proc/sys/net/ipv4/conf/$tap/forwarding
    if get "$path" && [ "$value" = 0 ]; then
        put tapforward "$path" || fail "cannot write $state: $full"
        write "$path" 1 || fail "cannot write 1 to $path: is /proc/sys read-only (a container)?"
    fi
    for device in $devices; do turn "/proc/sys/net/ipv4/conf/$device/forwarding" 1; done
}

# IPv6 is only forwarded when all interfaces do it, and then the kernel stops to listen to
# router advertisements, unless accept_ra is 2. Whoever lives on them must have that first.
forward6() {
    all=/proc/sys/net/ipv6/conf/all/forwarding
    get "$all" && [ "$value" = 0 ] || return 0
    set +f
    for path in /proc/sys/net/ipv6/conf/*/forwarding; do
        set -f
        device=${path%/forwarding}
        case ${device##*/} in all | default | lo | "$tap") continue ;; esac
        if get "$device/accept_ra" && [ "$value" = 1 ]; then
            turn "$device/accept_ra" 2
        fi
        get "$path" && [ "$value" != 0 ] && echo "$path $value" >>"$state/sysctl"
    done
    set -f
    turn "$all" 1
    note "IPv6 forwarding was off and is on for the time of the tunnel, accept_ra 2 where it was 1"
}

arguments() {
    pool=- clients6=- linger=0 heartbeat=10 masquerade=no carries=ipv4 own=yes mtu=1500 run=-
    tag='' local='' remote=''
    for word in "$@"; do
        case ${word%%=*} in
            pool) pool=${word#*=} ;;
            local) local=${word#*=} ;;
            remote) remote=${word#*=} ;;
            mtu) mtu=${word#*=} ;;
            tag) tag=${word#*=} ;;
            run) run=${word#*=} ;;
            heartbeat) heartbeat=${word#*=} ;;
            linger) linger=${word#*=} ;;
            masquerade) masquerade=${word#*=} ;;
            carries) carries=${word#*=} ;;
            clients6) clients6=${word#*=} ;;
            own) own=${word#*=} ;;
            *) fail "unknown argument $word" ;;
        esac
    done
    case $tag in '' | [!A-Za-z]* | *[!A-Za-z0-9-]*) fail "bad tag '$tag'" ;; esac
    [ -n "$pool" ] && [ "$carries" = ipv4 ] || pool=-
    [ -n "$clients6" ] || clients6=-
    if [ -z "$local" ] || [ -z "$remote" ]; then fail "no link addresses given"; fi
}

begin() {
    mkdir -p "$state" 2>/dev/null &&
        put facts "$tap $remote $local $pool $clients6 $own $masquerade" &&
        put about "$run $linger ${from:--}" &&
        put main "$main" && put sshd "$sshd" && put keeper - && put beat - && put_kind || {
        [ "$adopted" ] || rm -rf "$state"
        fail "cannot write $state: $full"
    }
    rm -f "$state/tapforward"
    begun=yes
    start_keeper
}

set_up() {
    # The tap speaks when it is spoken to: no address of its own making, nothing from routers.
    write "/proc/sys/net/ipv6/conf/$tap/addr_gen_mode" 1
    write "/proc/sys/net/ipv6/conf/$tap/accept_ra" 0
    try ip link set dev "$tap" mtu "$mtu"
    try ip link set dev "$tap" up
    try ip -4 addr add "$remote" dev "$tap"
    look_at_default_route
    kind=-
    if [ "$carries" = ipv6 ]; then
        write "/proc/sys/net/ipv6/conf/$tap/accept_dad" 0
        try ip -6 addr replace fe80::2/64 dev "$tap"
        [ "$clients6" = - ] || for prefix in $(list "$clients6"); do
            try ip -6 route replace blackhole "$prefix" metric "$METRIC"
            try ip -6 route replace "$prefix" via fe80::1 dev "$tap"
        done
        forward6
    else
        [ "$masquerade" = no ] || [ "$pool" = - ] || masquerade ||
            fail "cannot masquerade, ${why:-neither nft nor iptables is installed here}"
        [ "$pool" = - ] || for prefix in $(list "$pool"); do
            # Via the gateway's address: on-link, its end would have to answer ARP for the pool.
            try ip -4 route replace blackhole "$prefix" metric "$METRIC"
            try ip -4 route replace "$prefix" via "$local" dev "$tap"
        done
        forward4
    fi
    look_at_forward_policy
    mac=-
    get "/sys/class/net/$tap/address" && mac=$value
}

finish() {
    end_it "$keeper"
    lock
    undo_link "$state"
    undo_rest "$state"
    unlock
}

hold() {
    count=0
    while IFS= read -r word; do
        if [ "$word" = stop ]; then
            finish
            echo GONE
            # The client ends the connection now. A tap must not stay when it cannot.
            tries=0
            while [ "$own" = yes ] && alive "$sshd" && [ "$tries" -lt 30 ]; do
                tries=$((tries + 1))
                nap
            done
            [ "$own" = no ] || end_it "$sshd"
            exit 0
        fi
        alive "$keeper" || start_keeper
        count=$((count + 1))
        [ $((count % 3)) -ne 0 ] || mend
        put beat "$count"
    done
    # Without a single heartbeat, nothing has ever flowed: there is nothing to keep.
    if [ "$count$adopted" = 0 ]; then finish; else undo_link "$state"; fi
    exit 0
}

main() {
    set -f
    umask 077
    PATH=${PATH:-/usr/bin:/bin}:/usr/local/sbin:/usr/sbin:/sbin
    LC_ALL=C
    export PATH LC_ALL
    base='' begun='' adopted='' keeper='' notes='' free=''
    cd /
    arguments "$@"
    check_here
    whoami_here || fail "no /proc here"
    me=$id main=$id
    sshd=-
    get "/proc/$PPID/comm"
    case $value in sshd*) identify "$PPID" && sshd=$id ;; esac
    base=$folder/tap64-peer.${space%]}
    state=$base/$tag
    from=${SSH_CONNECTION%% *}
    lock || { base='' && fail "another set-up is busy here ($holder)"; }
    meet_rival
    take_over
    check_free
    begin
    set_up
    unlock
    # From here on silence counts.
    put beat 0
    printf 'READY %s %s %s %s%s\n' "$tap" "$mac" "$kind" "$hop" "${notes:+ $notes}"
    hold
}

main "$@"
