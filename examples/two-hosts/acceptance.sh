#!/bin/bash
# What a NIC must survive: guests that reboot or die, an emulator that dies, VMMs that listen themselves, several queues.
# Prints one line a case; see README.md.
# shellcheck disable=SC2317 # cases are called by name
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: acceptance.sh [--vfnic PROGRAM] [--out DIR] [--keep] [CASE ...]

Boots a pair of guests for each case, breaks something, and looks whether TCP flows again without help.
Prints PASS, FAIL or SKIP with a reason for each. Cases (default: all):

USAGE
    local name
    for name in "${cases[@]}"; do printf '  %-18s %s\n' "$name" "${about[$name]}"; done
    printf '\nExit code: 0 nothing failed, 1 something did, 2 wrong use.\n'
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
guests='' pairs=1 tool=iperf3 vfnic=${VFNIC:-} out='' keep=no

# shellcheck source=lib/packages.sh
. "$here/lib/packages.sh"
# shellcheck source=lib/image.sh
. "$here/lib/image.sh"
# shellcheck source=lib/guest.sh
. "$here/lib/guest.sh"
# shellcheck source=lib/nic.sh
. "$here/lib/nic.sh"
# shellcheck source=lib/stream.sh
. "$here/lib/stream.sh"
# shellcheck source=lib/session.sh
. "$here/lib/session.sh"

cases=(qemu-reboot qemu-kill emulator-kill qemu-server multiqueue no-offloads uml-reboot uml-kill)
declare -A about=(
    [qemu-reboot]='the guest reboots'
    [qemu-kill]='the VMM is killed and started again'
    [emulator-kill]='vfnic is killed during a stream and started again; QEMU reconnects'
    [qemu-server]='QEMU listens, vfnic connects; vfnic is killed and started again'
    [multiqueue]='two queue pairs, both of them used'
    [no-offloads]='one guest without segmentation and checksum offload, the other with'
    [uml-reboot]='as qemu-reboot, the vhost-user front end being the guest kernel itself'
    [uml-kill]='as qemu-kill, the vhost-user front end being the guest kernel itself'
)

# --- steps; each says with `note` why it failed ------------------------------------------------------------------------

start() { # [CONFIGURATION LINES]
    nic_configure "${1:-}"
    nic_start || { note "vfnic does not start: $(tail -n 1 "$run/vfnic.log")"; return 1; }
    boot_pairs
}

traffic() { # SECONDS: both ways at once
    start_streams "$1" || { note "a guest does not answer"; return 1; }
    finish_streams $(($1 + 60)) && moved
}

moved() {
    local a b
    a=$(received a) b=$(received b)
    figures="A->B $a, B->A $b Mb/s"
    ((a > 0 && b > 0)) || { note "no traffic: $figures"; return 1; }
}

# Guests that lost their NIC for a while must find it again by themselves.
reach() { ping_peer a 0 40 || { note "a0 no longer reaches b0"; return 1; }; }

vfnic_lives() {
    kill -0 "$nic_process" 2>/dev/null || { note "vfnic is gone: $(tail -n 1 "$run/vfnic.log")"; return 1; }
}

# --- cases --------------------------------------------------------------------------------------------------------------

reboot_guest() {
    start && traffic 2 || return 1
    start_in b0 'reboot -f'
    set_up_guest b 0 2 && vfnic_lives && reach && traffic 3
}

kill_guest() {
    start || return 1
    start_streams 20 || return 1
    await_intervals a0 2 60 || { note "no traffic before"; return 1; }
    guest_kill b0
    sleep 1
    vfnic_lives || return 1
    # What a0 was doing may have ended or hang; begin anew.
    run_in a0 20 'killall -9 iperf3; sleep 0.5; iperf3 -s -D' || return 1
    guest_boot b0 "$run/vfnic/b-vf0.sock" "$(nic_mac b 0)"
    set_up_guest b 0 && reach && traffic 3
}

restart_vfnic() {
    nic_kill
    sleep 2
    nic_start || { note "vfnic does not start again: $(tail -n 1 "$run/vfnic.log")"; return 1; }
}

restart_vfnic_during_stream() {
    local name
    start_streams 20 || return 1
    await_intervals a0 3 60 || { note "no traffic before"; return 1; }
    restart_vfnic && finish_streams 90 && moved || return 1
    for name in a0 b0; do
        [[ $(intervals <"$run/$name.stream" | tail -n 1) != 0.00 ]] || { note "the stream from $name did not resume"; return 1; }
    done
    reach
}

case_qemu-reboot() {
    local qemu_reboots=yes
    reboot_guest
}

case_qemu-kill() { kill_guest; }

case_emulator-kill() { start && restart_vfnic_during_stream; }

case_qemu-server() {
    local qemu_listens=yes
    start 'socket_role = "client"' && traffic 3 && restart_vfnic_during_stream
}

case_multiqueue() {
    local qemu_queues=2 parallel=8 name rings used
    start 'queue_pairs = 2' && traffic 4 || return 1
    rings=$(nic_show | jq '[.nics[].vfs[].rings] | min')
    ((rings == 4)) || { note "$rings rings run, not 4"; return 1; }
    for name in a0 b0; do
        # A line for each ring where each has an interrupt of its own (QEMU 7 gives them one for all, see boot_qemu).
        used=$(run_in "$name" 20 "awk '/virtio[0-9]-(in|out)put/ { n = 0; for (i = 2; i <= 3; i++) n += \$i; l++; if (n > 0) q++ } END { print l ? q + 0 : 4 }' /proc/interrupts")
        ((used >= 4)) || { note "$name used $used of its 4 rings"; return 1; }
    done
}

case_no-offloads() {
    local qemu_device_options=,csum=off,guest_csum=off,host_tso4=off,host_tso6=off,guest_tso4=off,guest_tso6=off,mrg_rxbuf=off
    nic_configure ''
    nic_start || { note "vfnic does not start: $(tail -n 1 "$run/vfnic.log")"; return 1; }
    guest_boot a0 "$run/vfnic/a-vf0.sock" "$(nic_mac a 0)"
    qemu_device_options=
    guest_boot b0 "$run/vfnic/b-vf0.sock" "$(nic_mac b 0)"
    set_up_guest a 0 && set_up_guest b 0 && reach && traffic 4
}

case_uml-reboot() { reboot_guest; }
case_uml-kill() { kill_guest; }

# --- which cases, and in which kind of guest ------------------------------------------------------------------------------

run_case() { # NAME
    local name=$1 kind=${1%%-*} start=$SECONDS reason figures=
    [[ $kind == uml ]] || kind=qemu
    guests=$kind
    if [[ -z ${ready[$kind]:-} ]]; then
        # First in a subshell: what is missing ends the script, and here it only skips a case.
        if (choose_guests); then
            ready[$kind]=yes
        else
            ready[$kind]=no
        fi
    fi
    if [[ ${ready[$kind]} == no ]]; then
        echo "SKIP $name: no $kind guests here"
        return
    fi
    choose_guests 2>/dev/null
    if "case_$name"; then
        vfnic_lives && echo "PASS $name: ${about[$name]} ($figures, $((SECONDS - start)) s)"
    else
        reason=$last_note
        echo "FAIL $name: $reason"
        false
    fi || {
        failed=1
        mkdir -p "$run/failed-$name"
        find "$run" -maxdepth 1 -type f -exec cp {} "$run/failed-$name" \;
    }
    guest_kill_all
    nic_stop || note "vfnic did not end on SIGTERM"
    rm -f "$run/vfnic.log"
}

declare -A ready=()
wanted=()
while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --keep) keep=yes ;;
    --vfnic | --out)
        (($# > 1)) || fail "$1 needs a value"
        if [[ $1 == --out ]]; then out=$2; else vfnic=$(realpath -m "$2"); fi
        shift
        ;;
    *)
        [[ -n ${about[$1]:-} ]] || fail "no such case or option: $1 (see --help)"
        wanted+=("$1")
        ;;
    esac
    shift
done
((${#wanted[@]})) || wanted=("${cases[@]}")

failed=0
open_session
find_vfnic
for name in "${wanted[@]}"; do run_case "$name"; done
finish $failed
