#!/bin/bash
# Two hosts back to back: real Linux guests on two emulated NICs, TCP both ways on the direct and on the mediated path, and
# a change of path in the middle of a stream. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options]

Boots Linux guests on two emulated NICs joined by a 10 Gb/s wire, and compares the direct with the mediated path.
Installs missing packages when run as root; everything else goes to ~/.cache/vfnic and a temporary folder.

  --guests uml|qemu      User-Mode Linux (several times faster) or QEMU (KVM where it works, else emulated);
                         default: uml, and qemu where that does not boot
  --pairs N              pairs of guests, each with a TCP stream in both directions (1 to 8, default 1)
  --seconds N            length of each measurement (default 5)
  --ring split|packed    format of the rings of QEMU's guests (default split; User-Mode Linux takes packed ones by itself)
  --tool iperf3|netperf  what makes the streams (default iperf3; netperf is non-free in Debian and reports no intervals)
  --vfnic PROGRAM        use this binary; default: build this checkout with cargo
  --out DIR              keep configuration, logs and results there
  --keep                 keep the temporary folder; it is always kept after a failure
  --help                 this text

Exit code: 0 everything worked, 1 something did not, 2 something is missing.
USAGE
}

here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
guests='' pairs=1 seconds=5 tool=iperf3 vfnic=${VFNIC:-} out='' keep=no

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

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    --guests | --pairs | --seconds | --ring | --tool | --vfnic | --out) (($# > 1)) || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --guests=uml | --guests=qemu) guests=$2 ;;
    --pairs=[1-8]) pairs=$2 ;;
    --seconds=[1-9] | --seconds=[1-9][0-9] | --seconds=[1-9][0-9][0-9]) seconds=$2 ;;
    --ring=split) qemu_device_options= ;;
    --ring=packed) qemu_device_options=,packed=on ;;
    --tool=iperf3 | --tool=netperf) tool=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

declare -A result=() # "direct.a" -> Mb/s ...

all_paths() { # PATH: for every VF
    local vf
    for ((vf = 0; vf < pairs; vf++)); do nic_path "$vf" "$1" || return 1; done
}

# PATH: streams in both directions on all pairs. Utilisation is that of the time in which all streams run.
measure() {
    local path=$1
    note "$path path: $pairs stream$( ((pairs == 1)) || echo s) each way, $seconds s"
    all_paths "$path" || { note "vfnic refuses path $path"; return 1; }
    start_streams $((seconds + 1)) || { note "a guest does not answer"; return 1; }
    sleep 1
    nic_snapshot before
    sleep "$seconds"
    nic_snapshot after
    finish_streams $((seconds + 60)) || return 1
    result[$path.a]=$(received a)
    result[$path.b]=$(received b)
    result[$path.total]=$((${result[$path.a]} + ${result[$path.b]}))
    ((${result[$path.a]} > 0 && ${result[$path.b]} > 0)) || { note "no traffic on the $path path"; return 1; }
    nic_took_path before after "$path" && nic_between before after "$path"
}

# N: waits for the end of the Nth second of the stream that a0 sends.
until_second() { # N
    if [[ $tool == iperf3 ]]; then await_intervals a0 "$1" 60; else sleep 3; fi
}

# Streams both ways on the first pair; direct, then mediated, then direct again. Nobody tells the guests.
switch_paths() {
    note "change of path during a stream: direct, after 3 s mediated, after 6 s direct"
    nic_path 0 direct && start_streams 9 0 && until_second 3 || return 1
    nic_path 0 mediated || return 1
    nic_snapshot before
    until_second 6 || return 1
    nic_snapshot after
    nic_path 0 direct && finish_streams 60 || return 1
    nic_took_path before after mediated || return 1
    [[ $tool == iperf3 ]] || return 0
    if cat "$run"/[ab]0.stream | intervals | grep -qx '0\.00'; then
        note "a stream stood still for a whole second"
        return 1
    fi
}

report() {
    local path
    printf '\n%d pair%s of %s, %s, %s s, one TCP stream each way a pair, 10 Gb/s wire\n\n' "$pairs" "$( ((pairs == 1)) || echo s)" \
        "$(guest_kind)" "$tool" "$seconds"
    printf '%-8s  %23s  %15s  %15s  %8s\n' '' 'TCP Mb/s' 'wire busy' 'hypervisor busy' 'CPUs of'
    printf '%-8s  %7s %7s %7s  %7s %7s  %7s %7s  %8s\n' path 'A->B' 'B->A' total 'A->B' 'B->A' A B vfnic
    for path in direct mediated; do
        printf '%-8s  %7s %7s %7s  %5s %% %5s %%  %5s %% %5s %%  %8s\n' "$path" "${result[$path.a]}" "${result[$path.b]}" \
            "${result[$path.total]}" "${result[$path.wire_a]}" "${result[$path.wire_b]}" "${result[$path.hypervisor_a]}" \
            "${result[$path.hypervisor_b]}" "${result[$path.cpus]}"
    done
    awk -v "d=${result[direct.total]}" -v "m=${result[mediated.total]}" 'BEGIN { printf "direct is %.2f times mediated\n", d / m }'
    printf '%s\n' "$accounts"
    if [[ $tool != iperf3 ]]; then
        printf '\nPath changed twice during the streams: both ended with exit code 0\n'
        return
    fi
    printf '\nPath changed during the streams (Mb/s of each second; both ended with exit code 0):\n'
    paste <(intervals <"$run/a0.stream") <(intervals <"$run/b0.stream") | awk '
        { printf "%3d s  %-9s  A->B %7.0f  B->A %7.0f\n", NR, (NR > 3 && NR <= 6 ? "mediated" : "direct"), $1, $2 }'
}

main() {
    open_session
    find_vfnic
    choose_guests
    nic_configure ''
    nic_start || { note "vfnic does not start: $(tail -n 3 "$run/vfnic.log")"; return 1; }
    note "vfnic runs, booting $((2 * pairs)) guests: $(guest_kind)"
    boot_pairs || return 1
    note "guests are up and reach each other"
    measure direct || return 1
    measure mediated || return 1
    switch_paths || return 1
    nic_accounts_for_all_frames || return 1
    report
    guest_kill_all
    nic_stop || { note "vfnic did not end on SIGTERM"; return 1; }
}

main
finish $?
