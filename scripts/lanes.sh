# Sourced by scripts/test: two functions at the same time, each with its own output and its own end.
# shellcheck shell=bash

# in_lanes FIRST SECOND: run two functions side by side; succeeds when both did. What FIRST says is seen at once, what
# SECOND says when FIRST has ended. Ctrl-C, SIGTERM and SIGHUP reach both with all that they started, and what does not
# end then within ENDING_S (default: 30) is killed. Each is a process group of its own, and reads nothing.
in_lanes() {
    local status=0
    lanes=()
    teller=
    said=$(mktemp)
    trap '_end_lanes; exit 130' INT TERM HUP
    exec 3>&2 2>/dev/null # the shell tells how each job ended
    set -m                # a process group for each
    _lane "$1" </dev/null 2>&3 3>&- &
    lanes+=($!)
    _lane "$2" </dev/null >"$said" 2>&1 3>&- &
    lanes+=($!)
    set +m
    wait "${lanes[0]}" || status=1
    tail -n +1 -f --sleep-interval=0.2 --pid="${lanes[1]}" "$said" 2>&3 3>&- &
    teller=$!
    wait "${lanes[1]}" || status=1
    wait "$teller" || status=1
    trap - INT TERM HUP
    exec 2>&3 3>&-
    rm -f "$said"
    return $status
}

# A signal gets the command that runs as well, and is heeded here when that has ended: nothing comes after it.
_lane() {
    set +e
    trap 'exit 130' INT TERM HUP
    "$1"
    exit $?
}

_end_lanes() {
    local group groups tries
    trap '' INT TERM HUP
    groups=$(jobs -p) # not `lanes`: the signal may have come between a beginning and its note
    for group in $groups; do
        kill -INT -- "-$group" 2>/dev/null || true
    done
    for group in $groups; do
        for ((tries = 10 * ${ENDING_S:-30}; tries > 0; tries--)); do
            # Those that ended and that nobody waits for (a container without an init) are in the group, too.
            grep -qsE "\\) [^ZX] [0-9]+ $group " /proc/[0-9]*/stat || break
            sleep 0.1
        done
        kill -KILL -- "-$group" 2>/dev/null || true
    done
    if [ -n "$teller" ]; then wait "$teller" || true; else cat "$said"; fi
    rm -f "$said"
}
