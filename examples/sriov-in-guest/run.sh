#!/bin/bash
# One guest with one SR-IOV NIC: a virtio-net PF and its VFs, each a VF of vfnic. The guest makes the VFs by writing to
# sriov_numvfs, puts them into network namespaces and sends through vfnic's switch, while the administrator changes their
# policy from outside. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options]

Boots one Linux guest whose NIC has SR-IOV; makes VFs in it, sends between them, and administers them from outside.
Gets QEMU 10.1 or newer beside the system where there is none (no root needed for that); everything else that is fetched
goes to ~/.cache/vfnic, too. Other missing packages are installed when this is run as root.

  --vfs N          VFs (2 to 15, default 2)
  --vfnic PROGRAM  use this binary; default: build this checkout with cargo
  --qemu PROGRAM   use this QEMU
  --out DIR        keep logs there
  --keep           keep the temporary folder; it is always kept after a failure
  --help           this text

Exit code: 0 everything worked, 1 something did not, 2 something is missing.
USAGE
}

here=$(realpath "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../two-hosts") # whose guests these are
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
guests=qemu tool=iperf3 vfs=2 vfnic=${VFNIC:-} out='' keep=no asked=''

for part in packages image guest newer-qemu nic session; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    --vfs | --vfnic | --qemu | --out) (($# > 1)) || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --vfs=[2-9] | --vfs=1[0-5]) vfs=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --qemu=?*) asked=$2 ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

# Both print what they do, as a person would type it.
outside() { # WORD...: on vfnic, from outside
    printf '$ vfnic %s\n' "$*"
    "$vfnic" "$1" --ctl "$run/vfnic/ctl.sock" "${@:2}" | sed 's/^/    /'
}

# Quietly. Busybox's own ip knows no namespaces.
in_guest() { run_in guest 60 "mkdir -p /run; ip() { /usr/bin/ip \"\$@\"; }; $1"; } # COMMAND

inside() { # COMMAND: in the guest
    printf 'guest# %s\n' "$1"
    in_guest "$1" | sed 's/^/    /'
}

broken() { # WHAT
    note "$1"
    return 1
}

pings() { # NAMESPACE ADDRESS: quietly
    in_guest "ip netns exec $1 ping -c 1 -W 1 $2 >/dev/null"
}

guest_arguments() { # what 'vfnic guest' says to paste, without what the guest's library says by itself
    local said
    said=$("$vfnic" guest "pf+$vfs" --for qemu --sriov --ctl "$run/vfnic/ctl.sock") || return 1
    said=$(sed -e '/^#/d' -e 's/\\$//' <<<"$said" | tr -d '\n')
    read -r -a qemu_arguments <<<"-chardev ${said#*-chardev }"
}

main() {
    local device=/sys/bus/pci/devices/0000:01:00.0 found
    open_session
    find_vfnic
    qemu=${asked:-qemu-system-x86_64}
    if [[ -n $asked ]]; then
        at_least 10.1 || fail "$asked is no QEMU 10.1 or newer"
    else
        at_least 10.1 || unpack_newer_qemu 10.1
    fi
    guest_programs=(ip lspci)
    qemu_memory=512M
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    printf 'socket_dir = "%s"\n[[nic]]\nname = "a"\nvfs = %d\n' "$run/vfnic" $((vfs + 1)) >"$run/two-hosts.toml"
    nic_start || broken "vfnic does not start: $(tail -n 3 "$run/vfnic.log")" || return
    guest_arguments || broken "vfnic does not say how to start QEMU" || return
    note "booting a guest with a PF and $vfs VFs ($accelerator)"
    guest_boot guest
    guest_ready guest 240 || broken "the guest does not boot, see $run/guest.kernel and guest.errors" || return

    inside "lspci -nnvv -s 01:00.0 2>/dev/null | grep -E '^01|SR-IOV|Total VFs'" || return
    inside "echo $vfs > $device/sriov_numvfs" || return
    inside "ls -d $device/virtfn*" || return
    found=$(in_guest "cat $device/sriov_numvfs; ls -d $device/virtfn* | wc -l" | xargs)
    [[ $found == "$vfs $vfs" ]] || broken "the guest made not $vfs VFs but: $found" || return
    inside "for n in 0 1; do vf=\$(ls $device/virtfn\$n/virtio*/net); ip netns add vf\$n; ip link set \$vf netns vf\$n; ip -n vf\$n addr add 10.9.1.\$((n + 1))/24 dev \$vf; ip -n vf\$n link set \$vf up; done" || return
    inside "ip netns exec vf0 ping -c 3 -i 0.3 10.9.1.2" || broken "the VFs do not reach each other" || return
    in_guest "ip netns exec vf1 iperf3 --server --daemon" || return
    inside "ip netns exec vf0 iperf3 --client 10.9.1.2 --time 3 | tail -n 4" || return

    note "the administrator, outside, while the guest runs"
    outside vf 1 set vlan 100 || return
    ! pings vf0 10.9.1.2 || broken "a VF in a port VLAN reaches one outside of it" || return
    outside vf 2 set vlan 100 || return
    pings vf0 10.9.1.2 || broken "two VFs in one port VLAN do not reach each other" || return
    outside vf 1 set vlan 0 || return
    outside vf 2 set vlan 0 || return
    outside vf 1 set rate 100 || return
    inside "ip netns exec vf0 iperf3 --client 10.9.1.2 --time 3 | tail -n 4" || return
    outside vf 1 set rate 0 || return
    outside vf 1 set path mediated || return
    pings vf0 10.9.1.2 || broken "the VFs do not reach each other on the mediated path" || return
    outside show

    note "VFs go and come"
    in_guest "for n in 0 1; do ip netns pids vf\$n | xargs -r kill; ip netns del vf\$n; done"
    inside "echo 0 > $device/sriov_numvfs; echo 1 > $device/sriov_numvfs; cat $device/sriov_numvfs; ls -d $device/virtfn*" || return
    guest_kill_all
    nic_stop || broken "vfnic did not end on SIGTERM" || return
    note "all of it worked"
}

main
finish $?
