# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# The emulator: two NICs, "a" and "b", back to back over one 10 Gb/s wire.
# Reads: here, run, vfnic, pairs. Provides: find_vfnic, nic_configure, nic_start, nic_kill, nic_stop, nic_path, nic_show, nic_mac,
# nic_snapshot, nic_between, nic_took_path, nic_accounts_for_all_frames.

nic_process=

# Sets vfnic to a binary: the one named by the user, else built from this checkout.
find_vfnic() {
    local root
    root=$(realpath "$here/../..")
    if [[ -n $vfnic ]]; then
        [[ -x $vfnic ]] || fail "no such program: $vfnic"
        return
    fi
    vfnic=${CARGO_TARGET_DIR:-$root/target}/release/vfnic
    if type -P cargo >/dev/null; then
        cargo build --release --quiet --manifest-path "$root/Cargo.toml" -p vfnic || fail "vfnic does not build"
    fi
    [[ -x $vfnic ]] || fail "needs cargo (https://rustup.rs) to build vfnic, or --vfnic PROGRAM"
}

nic_mac() { printf '02:00:00:00:0%s:%02x\n' "$1" "$2"; } # NIC VF

nic_configure() { # EXTRA: lines for both NICs, or nothing
    local nic
    {
        echo "socket_dir = \"$run/vfnic\""
        for nic in a b; do
            printf '\n[[nic]]\nname = "%s"\nvfs = %d\nmac_base = "%s"\n' "$nic" "$pairs" "$(nic_mac "$nic" 0)"
            [[ -z $1 ]] || echo "$1"
        done
        printf '\n[[wire]]\nbetween = ["a", "b"]\nrate = "10G"\n'
    } >"$run/two-hosts.toml"
}

nic_start() { # returns when the control socket answers
    local until=$((SECONDS + 10))
    mkdir -p "$run/vfnic"
    setsid "$vfnic" run --config "$run/two-hosts.toml" </dev/null >>"$run/vfnic.log" 2>&1 &
    nic_process=$!
    disown
    until nic_show >/dev/null 2>&1; do
        kill -0 "$nic_process" 2>/dev/null && ((SECONDS < until)) || return 1
        sleep 0.05
    done
}

nic_kill() { # as a crash would
    [[ -n $nic_process ]] || return 0
    kill -KILL -- "-$nic_process" 2>/dev/null
    while kill -0 "$nic_process" 2>/dev/null; do sleep 0.05; done
    nic_process=
}

nic_stop() {
    local until=$((SECONDS + 5))
    [[ -n $nic_process ]] || return 0
    kill -TERM "$nic_process" 2>/dev/null
    while kill -0 "$nic_process" 2>/dev/null; do
        ((SECONDS < until)) || { nic_kill; return 1; }
        sleep 0.05
    done
    nic_process=
}

nic_control() { "$vfnic" --ctl "$run/vfnic/ctl.sock" "$@"; }

nic_path() { # VF PATH: on both NICs
    nic_control --nic a vf "$1" set path "$2" >/dev/null && nic_control --nic b vf "$1" set path "$2" >/dev/null
}

nic_show() { nic_control show --json; }

nic_cpu() { # CPU time of the whole process so far, in clock ticks
    local stat
    stat=$(<"/proc/$nic_process/stat") 2>/dev/null || return
    stat=${stat##*) }
    # shellcheck disable=SC2086 # fields
    set -- $stat
    echo $((${12} + ${13}))
}

nic_snapshot() { # NAME: counters and CPU time now
    { nic_show && printf '{"cpu": %d}\n' "$(nic_cpu)"; } >"$run/show-$1.json"
}

# BEFORE AFTER PATH: what was busy between two snapshots, in per cent, into result[PATH.*].
nic_between() {
    local figures
    figures=$(jq -rs --argjson hz "$(getconf CLK_TCK)" '
        def busy(f): ([.[2], .[0]] | map(f) | .[0] - .[1]) / (.[2].uptime_s - .[0].uptime_s) / 1e7 | round;
        busy(.nics[0].link.tx_busy_ns), busy(.nics[1].link.tx_busy_ns),
        busy(.nics[0].hypervisor.busy_ns), busy(.nics[1].hypervisor.busy_ns),
        ((.[3].cpu - .[1].cpu) / $hz / (.[2].uptime_s - .[0].uptime_s) * 100 | round / 100)' \
        "$run/show-$1.json" "$run/show-$2.json" | tr '\n' ' ') || return 1
    read -r "result[$3.wire_a]" "result[$3.wire_b]" "result[$3.hypervisor_a]" "result[$3.hypervisor_b]" "result[$3.cpus]" \
        <<<"$figures"
}

# BEFORE AFTER PATH: fails unless (nearly) all frames that the guests sent between two snapshots took this path.
nic_took_path() {
    local share
    share=$(jq -rs --arg path "$3" '
        def sent(path): [.[2], .[0]] | map([.nics[].vfs[][path].tx_packets] | add) | .[0] - .[1];
        sent($path) / ([sent("direct") + sent("mediated"), 1] | max) * 100 | floor' "$run/show-$1.json" "$run/show-$2.json")
    ((${share:-0} >= 90)) || { note "only ${share:-0} % of the frames took the $3 path"; return 1; }
}

# With all streams ended: every frame that a guest sent has arrived or was dropped for a counted reason, whatever path it took and
# whenever the path changed. Sets accounts to the sum in words.
nic_accounts_for_all_frames() {
    local try
    for try in 1 2 3 4 5; do
        sleep 0.5 # the last frames of a guest that is never quite silent
        nic_show >"$run/show-end.json" || return 1
        accounts=$(jq -r --argjson pairs "$pairs" --argjson copies "${copies:-1e300}" '
            def drops: map([.rx_drops, .tx_drops][] | to_entries[]) | group_by(.key)
                | map({key: .[0].key, value: (map(.value) | add)}) | from_entries;
            [.nics[].vfs[].total] as $vfs | ([.nics[] | .pf, .link.counters] + $vfs | drops) as $drops
            | ([$vfs[].tx_packets] | add) as $sent | ([$vfs[].rx_packets] | add) as $received
            | ($sent - $received - ([$drops[]] | add // 0)) as $lost
            # A broadcast reaches every other guest, so with several pairs more arrives than was sent: how much more, some can say.
            | (if $lost == 0 or ($pairs > 1 and $lost < 0 and -$lost <= $copies) then "ok" else "wrong" end)
              + " guests sent \($sent) frames, received \($received), dropped " +
              ($drops | to_entries | map("\(.value) (\(.key))") | join(", ") | if . == "" then "none" else . end)' "$run/show-end.json")
        [[ $accounts == ok* ]] && break
    done
    [[ $accounts == ok* ]] || { note "frames lost or duplicated:${accounts#wrong}"; return 1; }
    accounts=${accounts#ok }
}
