# The far end of an ssh backhaul, what undoing needs; peer.sh, the last part, tells how it works.
# Processes are named PID:STARTTIME, folders of notes are $base/TAG. Nothing is begun here.

METRIC=30000

nap() { sleep 0.1 2>/dev/null || sleep 1; }

# identify PID: sets id to PID:STARTTIME; fails when it is gone or only waits to be reaped.
identify() {
    id=
    { read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    number=$1
    # shellcheck disable=SC2086
    set -- ${stat##*) }
    case $1 in Z | X) return 1 ;; esac
    shift 19
    id=$number:$1
}

alive() {
    case $1 in *:*) identify "${1%%:*}" && [ "$id" = "$1" ] ;; *) return 1 ;; esac
}

# end_it ID: ends that process, hung or not, and waits until it is gone with all it had open.
end_it() {
    alive "$1" || return 0
    kill -KILL "${1%%:*}" 2>/dev/null
    tries=0
    while alive "$1"; do
        tries=$((tries + 1))
        [ "$tries" -le 50 ] || return 1
        nap
    done
}

whoami_here() {
    { read -r number stat </proc/self/stat; } 2>/dev/null || return 1
    identify "$number"
}

get() {
    value=
    { read -r value <"$1"; } 2>/dev/null
    [ -n "$value" ]
}

# lock: the right to change $base; one whose holder is dead, or of our own tag, is nobody's.
lock() {
    tries=0
    while :; do
        mkdir -p "$base" 2>/dev/null
        if ln -s "$me" "$base/lock" 2>/dev/null; then
            [ "$(readlink "$base/lock")" = "$me" ] && return 0
        fi
        holder=$(readlink "$base/lock" 2>/dev/null)
        get "$state/main" && [ "$value" = "$holder" ] && end_it "$holder"
        if [ -n "$holder" ] && ! alive "$holder"; then rm -f "$base/lock"; fi
        tries=$((tries + 1))
        [ "$tries" -le 100 ] || return 1
        nap
    done
}

unlock() {
    [ "$(readlink "$base/lock" 2>/dev/null)" = "$me" ] && rm -f "$base/lock"
    rmdir "$base" 2>/dev/null
}

# fail WHY: one line; what was there before us lingers on, what we made goes.
fail() {
    # shellcheck disable=SC2048,SC2086
    set -- $*
    why=$*
    if [ "$begun" ]; then
        undo_link "$state"
        if [ -z "$adopted" ]; then
            end_it "$keeper"
            undo_rest "$state"
        fi
    elif [ "$adopted" ]; then
        put main "$main"
        start_keeper
    fi
    [ -z "$base" ] || unlock
    printf 'FAIL %s\n%s' "$why" "${free:+FREE $free
}"
    exit 1
}

try() {
    said=$("$@" 2>&1) || fail "$*: $said"
}

# number_of A.B.C.D[/LEN]: sets number, length.
number_of() {
    length=32
    case $1 in */*) length=${1#*/} ;; esac
    old_ifs=$IFS
    IFS=.
    # shellcheck disable=SC2086
    set -- ${1%/*}
    IFS=$old_ifs
    number=$((($1 << 24) + ($2 << 16) + ($3 << 8) + $4))
}

overlap() {
    number_of "$1"
    one=$number shorter=$length
    number_of "$2"
    [ "$length" -ge "$shorter" ] || shorter=$length
    [ $((one >> (32 - shorter))) -eq $((number >> (32 - shorter))) ]
}

# list A,B,C: the words, for `for`.
list() { echo "$1" | tr ',' ' '; }

# load FOLDER: what undoing needs to know, as written by begin().
load() {
    s_tap='' s_remote='' s_local='' s_pool='' s_clients='' s_own=''
    { read -r s_tap s_remote s_local s_pool s_clients s_own s_rest <"$1/facts"; } 2>/dev/null
    [ -n "$s_own" ]
}

# Stage 1. A tap of ours is about to vanish by itself; one of a shared connection is not.
undo_link() {
    load "$1" || return 0
    [ "$s_pool" = - ] || for prefix in $(list "$s_pool"); do
        ip -4 route del "$prefix" via "$s_local" dev "$s_tap"
    done
    [ "$s_clients" = - ] || for prefix in $(list "$s_clients"); do
        ip -6 route del "$prefix" via fe80::1 dev "$s_tap"
    done
    if ip -4 addr del "$s_remote" dev "$s_tap" && [ "$s_own" = no ]; then
        # It was our address, so the device of this name is still the one that we changed.
        ip -6 addr del fe80::2/64 dev "$s_tap"
        get "$1/tapforward" && write "$value" 0
    fi
} 2>/dev/null

# Stage 2. Forwarding that another tag's tunnel still needs becomes its to restore.
undo_rest() {
    table=${1##*/}
    get "$1/kind"
    case $value in
        nft) nft delete table ip "$table" ;;
        ipt) if load "$1"; then
            for prefix in $(list "$s_pool"); do
                while masquerade_rule -D "$table" "$prefix" >/dev/null; do :; done
            done
        fi ;;
    esac
    if load "$1"; then
        [ "$s_pool" = - ] || for prefix in $(list "$s_pool"); do
            ip -4 route del blackhole "$prefix" metric "$METRIC"
        done
        [ "$s_clients" = - ] || for prefix in $(list "$s_clients"); do
            ip -6 route del blackhole "$prefix" metric "$METRIC"
        done
    fi
    heir=
    set +f
    for other in "$base"/*/; do
        [ "$other" = "$1/" ] || [ ! -f "${other}facts" ] || heir=$other
    done
    set -f
    changed=
    if [ -f "$1/sysctl" ]; then
        while read -r path old; do changed="$path $old $changed"; done <"$1/sysctl"
    fi
    # shellcheck disable=SC2086
    set -- "$1" $changed
    folder=$1
    shift
    if [ -n "$heir" ]; then
        [ ! -f "$folder/sysctl" ] || while read -r path old; do
            echo "$path $old"
        done <"$folder/sysctl" >>"${heir}sysctl"
    else
        while [ $# -ge 2 ]; do
            write "$1" "$2"
            shift 2
        done
    fi
    rm -rf "$folder"
} 2>/dev/null

masquerade_rule() {
    iptables -w -t nat "$1" POSTROUTING -s "$3" -m comment --comment "$2" -j MASQUERADE 2>&1
}

write() { { echo "$2" >"$1"; } 2>/dev/null; }

# A predecessor of our tag, dead, hung, lingering or alive, ends here; what it left is adopted
# when it is what we want too, otherwise undone. Its sshd goes with it, unless it is ours.
take_over() {
    [ -d "$state" ] || return 0
    get "$state/keeper" && { end_it "$value" || fail "cannot end process $value of $tag"; }
    get "$state/main" && { end_it "$value" || fail "cannot end process $value of $tag"; }
    if load "$state" && [ "$s_own" = yes ] && get "$state/sshd" && [ "$value" != "$sshd" ]; then
        end_it "$value" || fail "cannot end sshd $value of the former tunnel of $tag"
    fi
    undo_link "$state"
    if load "$state" && [ "$s_pool $s_clients $s_rest" = "$pool $clients6 $masquerade" ]; then
        adopted=yes
    else
        undo_rest "$state"
    fi
}

# Tags whose processes are gone hold nothing.
forget_dead() {
    set +f
    for other in "$base"/*/; do
        set -f
        other=${other%/}
        [ "$other" != "$state" ] && [ -d "$other" ] || continue
        get "$other/keeper"
        life=$value
        get "$other/main"
        alive "$life" || alive "$value" || {
            undo_link "$other"
            undo_rest "$other"
        }
    done
    set -f
}
