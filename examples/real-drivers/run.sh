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
                   (default 'sfc,ixgbevf sfc,sfc ixgbevf,ixgbevf sfc,virtio ixgbevf,virtio',
                   hardware that an earlier pair had is only pinged and streamed to)
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

own=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
here=$(realpath "$own/../two-hosts") # whose guests these are
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
guests=qemu tool=iperf3 vfnic=${VFNIC:-} out='' keep=no asked='' path=direct times=3
pairs=('sfc,ixgbevf' 'sfc,sfc' 'ixgbevf,ixgbevf' 'sfc,virtio' 'ixgbevf,virtio')
asked_kernel=linux-image-amd64

for part in packages image guest newer-qemu nic session; do
    # shellcheck source=/dev/null
    . "$here/lib/$part.sh"
done
# shellcheck source=/dev/null
. "$own/common.sh"

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

shows_driver() { # GUEST DEVICE
    local wanted
    case $2 in sfc) wanted=1924:1903 ;; ixgbevf) wanted=8086:10ed ;; virtio) wanted=1af4:1041 ;; esac
    in_guest "$1" "lspci -nnk -s 01:00.0; ethtool \$nic | grep -E 'Speed|Link detected'" | sed "s/^/    $1: /"
    in_guest "$1" "lspci -n -s 01:00.0" | grep -q "$wanted"
}

# What hardware and its driver do that virtio does not.
hardware() { # GUEST VF DEVICE PEER
    local guest=$1 vf=$2 peer=$4 other=g$((1 - $2)) n code
    device=$3
    carrier "$guest" 1
    outside vf "$vf" set state disable >/dev/null
    until_true 10 carrier "$guest" 0
    checked $? "\`vfnic vf N set state disable\` takes the carrier"
    outside vf "$vf" set state auto >/dev/null
    until_true 10 carrier "$guest" 1 && until_true 20 reaches "$guest" "$peer"
    checked $? "\`vfnic vf N set state auto\` gives it back, and ping"
    filters "$guest"
    queues "$guest" "$vf"
    settings "$guest" "$vf" "$peer"
    addresses "$guest" "$vf" "$peer"
    code=0
    for ((n = 0; n < times; n++)); do
        in_guest "$guest" "ip link set \$nic down; ip link set \$nic up" || code=1
    done
    until_true 20 reaches "$guest" "$peer" || code=1
    checked $code "link down and up $times times, then ping"
    code=0
    for ((n = 0; n < times; n++)); do
        in_guest "$guest" "cd /sys/bus/pci/drivers/$device && echo 0000:01:00.0 >unbind && echo 0000:01:00.0 >bind && sleep 0.2" || code=1
    done
    up "$guest" "$vf" || code=1
    until_true 20 reaches "$guest" "$peer" || code=1
    checked $code "driver unbound and bound $times times, then ping"
    # Linux's sfc is not told of a reset under its feet, and disables itself.
    [[ $device == sfc ]] && in_guest "$guest" "echo 0000:01:00.0 >/sys/bus/pci/drivers/sfc/unbind"
    run_in "$guest" 10 "echo 1 >/sys/bus/pci/devices/0000:01:00.0/reset"
    [[ $device == sfc ]] && { run_in "$guest" 10 "echo 0000:01:00.0 >/sys/bus/pci/drivers/sfc/bind; sleep 0.2" && up "$guest" "$vf"; }
    until_true 20 reaches "$guest" "$peer"
    checked $? "function-level reset by sysfs, then ping" "$([[ $device != sfc ]] || echo unbound meanwhile)"
    device=both
}

filters() { # GUEST: those that a guest puts into its NIC
    local code match='flow-type udp4 dst-ip 10.9.2.1 dst-port 4321'
    in_guest "$1" "ethtool -N \$nic $match action -1 >/tmp/ntuple 2>&1"
    code=$?
    if [[ $device == ixgbevf ]]; then
        refused $code "\`ethtool -N\`" "the 82599 gives VFs no filters"
        return
    fi
    ((code == 0)) && seen 'dst-port 4321' filter show
    checked $? "\`ethtool -N\`" "and \`vfnic filter show\` has it"
    in_guest "$1" "ethtool -n \$nic | grep -q 'Dest port: 4321'"
    checked $? "\`ethtool -n\` lists it"
    in_guest "$1" "ethtool -N \$nic delete \$(ethtool -n \$nic | sed -n 's/^Filter: //p' | head -n 1)" &&
        ! seen 'dst-port 4321' filter show
    checked $? "\`ethtool -N ... delete\`"
}

queues() { # GUEST VF: how flows are spread
    local code
    in_guest "$1" "ethtool -l \$nic | grep -q Combined"
    code=$?
    refused $code "\`ethtool -l\`" "the driver has it not"
    outside vf "$2" set query_rss on >/dev/null
    in_guest "$1" "ethtool -x \$nic" >"$run/x"
    code=$?
    if [[ $device == ixgbevf ]]; then
        checked $code "\`ethtool -x\`" "after \`vfnic vf N set query_rss on\`"
    else
        refused $code "\`ethtool -x\`" "one channel, nothing to spread"
    fi
    in_guest "$1" "ethtool -X \$nic equal 1" >/dev/null
    refused $? "\`ethtool -X\`" "$([[ $device == sfc ]] && echo one channel || echo the PF does it)"
    in_guest "$1" "ethtool -k \$nic | grep -q '^receive-hashing: on'"
    refused $? "\`ethtool -k\`: receive-hashing" "the driver has it not"
}

settings() { # GUEST VF PEER
    local guest=$1 peer=$3 what
    in_guest "$guest" "ethtool -t \$nic >/tmp/test 2>&1; grep -q 'result is PASS' /tmp/test || cat /tmp/test" | sed 's/^/    /'
    in_guest "$guest" "grep -q 'result is PASS' /tmp/test"
    checked $? "\`ethtool -t\`"
    until_true 20 reaches "$guest" "$peer"
    checked $? "ping after the test"
    in_guest "$guest" "ethtool -S \$nic | grep -Eq '(rx_packets|port_rx_packets|rx_good): *[1-9]'"
    checked $? "\`ethtool -S\` counts what it received"
    in_guest "$guest" "ethtool -C \$nic rx-usecs 40 && ethtool -c \$nic | grep -q 'rx-usecs: *40'"
    checked $? "\`ethtool -C rx-usecs 40\`"
    in_guest "$guest" "ethtool -G \$nic rx 512 tx 512" && until_true 20 reaches "$guest" "$peer"
    checked $? "\`ethtool -G rx 512 tx 512\`, then ping"
    for what in rx tx gro; do
        in_guest "$guest" "ethtool -K \$nic $what off >/dev/null" && until_true 30 reaches "$guest" "$peer" &&
            in_guest "$guest" "ethtool -K \$nic $what on >/dev/null" && until_true 30 reaches "$guest" "$peer"
        checked $? "\`ethtool -K $what off\` and on, ping with both"
    done
    in_guest "$guest" "ethtool -d \$nic >/tmp/dump; [ -s /tmp/dump ]"
    checked $? "\`ethtool -d\`"
    in_guest "$guest" "ethtool -i \$nic | grep -q 'bus-info: 0000:01:00.0' && ethtool -P \$nic | grep -q ..:..:..:..:..:.."
    checked $? "\`ethtool -i\` and \`-P\`"
}

addresses() { # GUEST VF PEER: whom it receives as
    local guest=$1 vf=$2 peer=$3 other=g$((1 - $2)) n code local_address
    outside vf "$vf" set trust on >/dev/null
    in_guest "$guest" "ip link set \$nic promisc on" && until_true 20 in_force "$vf" "promisc|alluni"
    code=$?
    checked $code "promiscuous, trusted" "and \`vfnic show\` has it"
    in_guest "$guest" "ip link set \$nic promisc off && ip link set \$nic allmulticast on" && until_true 20 in_force "$vf" allmulti
    checked $? "\`allmulticast on\`, trusted" "and \`vfnic show\` has it"
    in_guest "$guest" "ip link set \$nic allmulticast off"
    outside vf "$vf" set trust off >/dev/null
    local_address=$(in_guest "$other" "ip -6 -o addr show dev \$nic scope link | sed -n 's/.*inet6 \([^/]*\).*/\1/p'" | head -n 1)
    until_true 20 in_guest "$guest" "ping -6 -c 1 -W 1 $local_address%\$nic >/dev/null"
    checked $? "IPv6, whose neighbours are asked by groups"
    for n in 0 1; do
        in_guest "g$n" "ip link add link \$nic name v7 type vlan id 7 && ip addr add 10.9.7.$((n + 1))/24 dev v7 && ip link set v7 up"
    done
    until_true 20 reaches "$guest" "10.9.7.$((2 - vf))"
    checked $? "ping in a VLAN"
    for n in 0 1; do in_guest "g$n" "ip link del v7"; done
    in_guest "$guest" "ip link set \$nic down; ip link set \$nic address 02:00:00:00:77:0$vf && ip link set \$nic up" &&
        seen "02:00:00:00:77:0$vf" show vf "$vf" --json && until_true 20 reaches "$guest" "$peer"
    checked $? "another MAC address, then ping" "and \`vfnic show\` has it"
    in_guest "$guest" "ip link set \$nic mtu 4000 && ip link set \$nic mtu 1500" && until_true 20 reaches "$guest" "$peer"
    checked $? "MTU 4000 and back, then ping"
    if in_guest "$guest" "ip link set \$nic mtu 9000" && in_guest "$other" "ip link set \$nic mtu 9000 2>/dev/null"; then
        until_true 20 in_guest "$guest" "ping -c 1 -W 1 -s 8900 $peer >/dev/null"
        checked $? "ping of 8900 bytes with MTU 9000"
    fi
    for n in 0 1; do in_guest "g$n" "ip link set \$nic mtu 1500"; done
}

in_force() { # VF MODE: whether the NIC receives so for it
    outside show vf "$1" --json | jq -e ".. | objects | select(has(\"in_force\")) | .in_force.rx_mode | tostring | test(\"$2\")"
}

pair() { # DEVICE DEVICE
    local devices=("$1" "$2") vf code
    note "--- $1 and $2, path $path"
    nic_with "$1" "$2" || return 1
    for vf in 0 1; do start_guest "$vf" || return 1; done
    for vf in 0 1; do
        guest_ready "g$vf" 240 || { note "guest $vf does not boot, see $run/g$vf.kernel and g$vf.errors"; return 1; }
        up "g$vf" "$vf" || { note "guest $vf has no network device"; return 1; }
    done
    for vf in 0 1; do
        shows_driver "g$vf" "${devices[vf]}"
        code=$?
        device=${devices[vf]}
        checked $code "the guest finds the device and loads the driver"
        device=both
    done
    until_true 30 reaches g0 10.9.2.2
    checked $? "ping ($1, $2)"
    run_in g1 10 "iperf3 --server --daemon"
    in_guest g0 "iperf3 --client 10.9.2.2 --time 3 | grep receiver; iperf3 --client 10.9.2.2 --time 3 --reverse | grep receiver" | tee "$run/streams" | sed 's/^/    /'
    [[ $(grep -c 'receiver' "$run/streams") == 2 ]]
    checked $? "iperf3 both ways ($1, $2)"
    for vf in 0 1; do
        [[ ${devices[vf]} == virtio || -n ${looked_at[${devices[vf]}]:-} ]] && continue
        looked_at[${devices[vf]}]=yes
        hardware "g$vf" "$vf" "${devices[vf]}" "10.9.2.$((2 - vf))"
    done
    outside vf 0 set path "$([[ $path == direct ]] && echo mediated || echo direct)" >/dev/null
    until_true 10 reaches g0 10.9.2.2
    checked $? "ping on the other path ($1, $2)"
    code=0
    for vf in 0 1; do in_guest "g$vf" "! dmesg | grep -E 'BUG:|WARNING:|Tx Unit Hang|NETDEV WATCHDOG'" || code=1; done
    checked $code "no complaint in the guests' logs ($1, $2)"
    guest_kill_all
    nic_stop || { note "vfnic did not end on SIGTERM"; return 1; }
}

main() {
    local devices
    open_session
    find_vfnic
    choose_qemu
    guest_kernel=$asked_kernel
    guest_modules=(virtio_pci virtio_net sfc ixgbevf 8021q)
    guest_programs=(ip lspci ethtool)
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    for devices in "${pairs[@]}"; do
        pair "${devices%,*}" "${devices#*,}" || return 1
    done
    print_table
    ((failures == 0)) || { note "$failures things do not work"; return 1; }
    note "all of it works"
}

main
finish $?
