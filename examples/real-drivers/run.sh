#!/bin/bash
# Two guests whose NICs are VFs of real hardware to them: each loads the maker's own driver, gets a link of 10 Gb/s from vfnic, and
# sets filters, its link, its address and its queues as on hardware. See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: run.sh [options]

Boots two Linux guests of the distribution's kernel whose NICs are VFs of a Solarflare SFC9120 or an Intel 82599, with the drivers
that come with the kernel, and shows what works: ping, iperf3, filters of the guest, link changes, resets, unbind and bind.
Gets QEMU 10.1 or newer beside the system where there is none (no root needed for that); everything else that is fetched goes to
~/.cache/vfnic, too. Other missing packages are installed when this is run as root.

  --devices A,B    what the guests find: sfc, ixgbevf or virtio each; several pairs with blanks between them
                   (default 'sfc,sfc ixgbevf,ixgbevf sfc,virtio')
  --path PATH      direct or mediated (default direct)
  --times N        how often links go down and up and drivers are unbound and bound (default 3)
  --kernel KERNEL  of the guests: a Debian package, from backports if it is not in this release, or a folder into which such packages
                   were unpacked with dpkg -x (default linux-image-amd64)
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
guests=qemu tool=iperf3 vfnic=${VFNIC:-} out='' keep=no asked='' path=direct times=3
pairs=('sfc,sfc' 'ixgbevf,ixgbevf' 'sfc,virtio')
asked_kernel=linux-image-amd64

for part in packages image guest newer-qemu nic session; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done

while (($#)); do
    case $1 in
    --help) usage; exit 0 ;;
    --keep) keep=yes; shift; continue ;;
    --devices | --path | --times | --kernel | --vfnic | --qemu | --out) (($# > 1)) || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --devices=?*)
        read -r -a pairs <<<"$2"
        for pair in "${pairs[@]}"; do
            [[ $pair =~ ^(sfc|ixgbevf|virtio),(sfc|ixgbevf|virtio)$ ]] || fail "--devices $pair: two of sfc, ixgbevf and virtio, with a comma"
        done
        ;;
    --path=direct | --path=mediated) path=$2 ;;
    --times=[1-9] | --times=[1-9][0-9] | --times=100) times=$2 ;;
    --kernel=*/*) asked_kernel=$(realpath -m "$2") ;;
    --kernel=?*) asked_kernel=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --qemu=?*) asked=$2 ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

failures=0
checked() { # RESULT WHAT: one line of the table
    printf '  %-6s %s\n' "$([[ $1 == 0 ]] && echo works || echo FAILS)" "$2"
    (($1 == 0)) || failures=$((failures + 1))
}

outside() { "$vfnic" "$1" --ctl "$run/vfnic/ctl.sock" "${@:2}"; } # WORD...: vfnic, from outside

# GUEST COMMAND: in the guest, where $nic is its network device. Busybox's own lspci and ip know less.
in_guest() {
    run_in "$1" 60 "lspci() { /usr/bin/lspci \"\$@\" 2>/dev/null; }; ip() { /usr/bin/ip \"\$@\"; }; nic=\$(ls /sys/bus/pci/devices/0000:01:00.0/net 2>/dev/null || ls /sys/bus/pci/devices/0000:01:00.0/virtio*/net); $2"
}

until_true() { # SECONDS COMMAND...
    local end=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        ((SECONDS < end)) || return 1
        sleep 0.3
    done
}

reaches() { in_guest "$1" "ping -c 1 -W 1 $2 >/dev/null"; } # GUEST ADDRESS
carrier() { in_guest "$1" "[ \$(cat /sys/class/net/\$nic/carrier) = $2 ]"; } # GUEST 0|1

start_guest() { # VF
    local said
    # It looks at the QEMU that it finds.
    said=$(PATH=$([[ $qemu != */* ]] || dirname "$qemu"):$PATH outside guest "$1" --for qemu) || return 1
    said=$(sed -e '/^#/d' -e 's/\\$//' <<<"$said" | tr -d '\n')
    # What the guest's library says by itself is left out: the board, the memory and what has to do with it.
    case $said in
    *vfio-user-pci*) said="-device pcie-root-port,${said#*-device pcie-root-port,}" ;;
    *) said="-chardev ${said#*-chardev }"; said="-device pcie-root-port,id=vf,chassis=1 ${said/virtio-net-pci,/virtio-net-pci,bus=vf,romfile=,}" ;;
    esac
    eval "qemu_arguments=($said)" # it is made to be pasted into a shell
    guest_boot "g$1"
}

shows_driver() { # GUEST DEVICE
    local wanted
    case $2 in sfc) wanted=1924:1903 ;; ixgbevf) wanted=8086:10ed ;; virtio) wanted=1af4:1041 ;; esac
    in_guest "$1" "lspci -nnk -s 01:00.0; ethtool \$nic | grep -E 'Speed|Link detected'" | sed "s/^/    $1: /"
    in_guest "$1" "lspci -n -s 01:00.0" | grep -q "$wanted"
}

# What hardware and its driver do that virtio does not.
hardware() { # GUEST VF DEVICE PEER
    local guest=$1 vf=$2 device=$3 peer=$4 before n
    carrier "$guest" 1
    outside vf "$vf" set state disable >/dev/null
    until_true 10 carrier "$guest" 0
    checked $? "$device: 'vf $vf set state disable' takes the guest's carrier"
    outside vf "$vf" set state auto >/dev/null
    until_true 10 carrier "$guest" 1
    checked $? "$device: and gives it back"
    until_true 20 reaches "$guest" "$peer"
    checked $? "$device: ping after that"
    if [[ $device == sfc ]]; then
        in_guest "$guest" "ethtool -N \$nic flow-type udp4 dst-ip 10.9.2.1 dst-port 4321 action -1 >/dev/null" &&
            outside filter show | grep -q 'dst-port 4321'
        checked $? "sfc: 'ethtool -N ... action -1' in the guest is seen in 'vfnic filter show'"
        in_guest "$guest" "ethtool -N \$nic delete \$(ethtool -n \$nic | sed -n 's/^Filter: //p' | head -n 1)" &&
            ! outside filter show | grep -q 'dst-port 4321'
        checked $? "sfc: and is gone when it is deleted"
    fi
    in_guest "$guest" "ethtool -t \$nic >/tmp/test 2>&1 || [ $device != sfc ]; grep -q 'result is PASS' /tmp/test || cat /tmp/test" | sed 's/^/    /'
    in_guest "$guest" "grep -q 'result is PASS' /tmp/test"
    checked $? "$device: ethtool -t"
    until_true 20 reaches "$guest" "$peer"
    in_guest "$guest" "ethtool -S \$nic | grep -Eq '(rx_packets|port_rx_packets|rx_good): *[1-9]'"
    checked $? "$device: ethtool -S counts what it received"
    in_guest "$guest" "ethtool -C \$nic rx-usecs 40 && ethtool -c \$nic | grep -q 'rx-usecs: *40'"
    checked $? "$device: ethtool -C rx-usecs 40"
    in_guest "$guest" "ethtool -l \$nic | grep -q Combined && ethtool -x \$nic >/tmp/x 2>&1; cat /tmp/x" >"$run/x"
    checked $? "$device: ethtool -l; ethtool -x: $(head -n 1 "$run/x")"
    in_guest "$guest" "ip link set \$nic promisc on && ip link set \$nic promisc off"
    checked $? "$device: promisc on and off"
    for n in 0 1; do
        in_guest "g$n" "ip link add link \$nic name v7 type vlan id 7 && ip addr add 10.9.7.$((n + 1))/24 dev v7 && ip link set v7 up"
    done
    until_true 20 reaches "$guest" "10.9.7.$((2 - vf))"
    checked $? "$device: ping in a VLAN"
    for n in 0 1; do in_guest "g$n" "ip link del v7"; done
    in_guest "$guest" "ip link set \$nic down; ip link set \$nic address 02:00:00:00:77:0$vf && ip link set \$nic up" &&
        outside show vf "$vf" --json | grep -qi "02:00:00:00:77:0$vf"
    checked $? "$device: another address, which 'vfnic show' has"
    until_true 20 reaches "$guest" "$peer"
    checked $? "$device: ping with it"
    in_guest "$guest" "ip link set \$nic mtu 4000 && ip link set \$nic mtu 1500"
    checked $? "$device: MTU 4000 and back"
    before=0
    for ((n = 0; n < times; n++)); do
        in_guest "$guest" "ip link set \$nic down; ip link set \$nic up" || before=1
    done
    until_true 20 reaches "$guest" "$peer" || before=1
    checked $before "$device: $times times down and up, then ping"
    before=0
    for ((n = 0; n < times; n++)); do
        in_guest "$guest" "cd /sys/bus/pci/drivers/$device && echo 0000:01:00.0 >unbind && echo 0000:01:00.0 >bind && sleep 0.2" || before=1
    done
    up "$guest" "$vf" || before=1
    until_true 20 reaches "$guest" "$peer" || before=1
    checked $before "$device: $times times unbound and bound, then ping"
    # Linux's sfc is not told of a reset under its feet, and disables itself.
    [[ $device == sfc ]] && in_guest "$guest" "echo 0000:01:00.0 >/sys/bus/pci/drivers/sfc/unbind"
    run_in "$guest" 10 "echo 1 >/sys/bus/pci/devices/0000:01:00.0/reset"
    [[ $device == sfc ]] && { run_in "$guest" 10 "echo 0000:01:00.0 >/sys/bus/pci/drivers/sfc/bind; sleep 0.2" && up "$guest" "$vf"; }
    until_true 20 reaches "$guest" "$peer"
    checked $? "$device: function-level reset, then ping"
}

up() { # GUEST VF
    in_guest "$1" "ip addr flush dev \$nic; ip addr add 10.9.2.$(($2 + 1))/24 dev \$nic; ip link set \$nic up"
}

pair() { # DEVICE DEVICE
    local devices=("$1" "$2") vf code
    note "--- $1 and $2, path $path"
    {
        printf 'socket_dir = "%s"\n[[nic]]\nname = "a"\nvfs = 2\n' "$run/vfnic"
        for vf in 0 1; do printf '[[nic.vf]]\nindex = %d\ndevice = "%s"\npath = "%s"\n' "$vf" "${devices[vf]}" "$path"; done
    } >"$run/two-hosts.toml"
    nic_start || { note "vfnic does not start: $(tail -n 3 "$run/vfnic.log")"; return 1; }
    for vf in 0 1; do start_guest "$vf" || return 1; done
    for vf in 0 1; do
        guest_ready "g$vf" 240 || { note "guest $vf does not boot, see $run/g$vf.kernel and g$vf.errors"; return 1; }
        up "g$vf" "$vf" || { note "guest $vf has no network device"; return 1; }
    done
    for vf in 0 1; do
        shows_driver "g$vf" "${devices[vf]}"
        checked $? "guest $vf has a ${devices[vf]} device and its driver"
    done
    until_true 30 reaches g0 10.9.2.2
    checked $? "ping from guest 0 to guest 1"
    run_in g1 10 "iperf3 --server --daemon"
    in_guest g0 "iperf3 --client 10.9.2.2 --time 3 | grep receiver; iperf3 --client 10.9.2.2 --time 3 --reverse | grep receiver" | tee "$run/streams" | sed 's/^/    /'
    [[ $(grep -c 'receiver' "$run/streams") == 2 ]]
    checked $? "iperf3 both ways"
    for vf in 0 1; do
        [[ ${devices[vf]} == virtio ]] || hardware "g$vf" "$vf" "${devices[vf]}" "10.9.2.$((2 - vf))"
    done
    outside vf 0 set path "$([[ $path == direct ]] && echo mediated || echo direct)" >/dev/null
    until_true 10 reaches g0 10.9.2.2
    checked $? "ping on the other path"
    code=0
    for vf in 0 1; do in_guest "g$vf" "! dmesg | grep -E 'BUG:|WARNING:|Tx Unit Hang|NETDEV WATCHDOG'" || code=1; done
    checked $code "no complaint in the guests' logs"
    guest_kill_all
    nic_stop || { note "vfnic did not end on SIGTERM"; return 1; }
}

main() {
    local devices
    open_session
    find_vfnic
    qemu=${asked:-qemu-system-x86_64}
    if [[ -n $asked ]]; then
        at_least 10.1 || fail "$asked is no QEMU 10.1 or newer"
    else
        at_least 10.1 || unpack_newer_qemu 10.1
    fi
    guest_kernel=$asked_kernel
    guest_modules=(virtio_pci virtio_net sfc ixgbevf)
    guest_programs=(ip lspci ethtool)
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    for devices in "${pairs[@]}"; do
        pair "${devices%,*}" "${devices#*,}" || return 1
    done
    ((failures == 0)) || { note "$failures things do not work"; return 1; }
    note "all of it works"
}

main
finish $?
