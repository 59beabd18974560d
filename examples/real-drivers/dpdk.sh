#!/bin/bash
# DPDK's own drivers of the same hardware: one guest has testpmd on its VF, which answers what the kernel's driver in the other asks.
# See README.md.
set -u -o pipefail

usage() {
    cat <<'USAGE'
usage: dpdk.sh [options]

Boots two Linux guests whose NICs are VFs of a Solarflare SFC9120 or an Intel 82599. In the first, DPDK's testpmd drives the VF with
net_sfc or net_ixgbe_vf and answers ARP and ping; the second pings it through the kernel's driver. Fetches what run.sh fetches, and
installs Debian's dpdk-dev and the two drivers when run as root.

  --devices A B    what is tried: sfc, ixgbevf (default: both)
  --path PATH      direct or mediated (default direct)
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
guests=qemu tool=iperf3 vfnic=${VFNIC:-} out='' keep=no asked='' path=direct
devices=(sfc ixgbevf)

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
    --devices | --path | --vfnic | --qemu | --out) (($# > 1)) || fail "$1 needs a value" ;;
    *) fail "unknown option $1 (see --help)" ;;
    esac
    case $1=$2 in
    --devices=?*)
        read -r -a devices <<<"$2"
        for device in "${devices[@]}"; do [[ $device =~ ^(sfc|ixgbevf)$ ]] || fail "--devices $device: sfc or ixgbevf"; done
        ;;
    --path=direct | --path=mediated) path=$2 ;;
    --vfnic=?*) vfnic=$(realpath -m "$2") ;;
    --qemu=?*) asked=$2 ;;
    --out=?*) out=$2 ;;
    *) fail "$1 $2: not possible (see --help)" ;;
    esac
    shift 2
done

# Installs testpmd and the drivers, and says which files the guest needs of them.
find_dpdk() {
    local folder name
    if ! type -P dpdk-testpmd >/dev/null || ! compgen -G '/usr/lib/*/dpdk/pmds-*/librte_net_sfc.so' >/dev/null; then
        ((EUID == 0)) || fail 'needs DPDK: apt-get install dpdk-dev librte-net-sfc23 librte-net-ixgbe23 librte-mempool-ring23'
        note 'installing dpdk-dev and two drivers'
        { apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends dpdk-dev \
            librte-net-sfc23 librte-net-ixgbe23 librte-mempool-ring23; } >"$run/apt.log" 2>&1 || fail "cannot install DPDK: $(tail -n 1 "$run/apt.log")"
    fi
    folder=$(compgen -G '/usr/lib/*/dpdk/pmds-*' | head -n 1)
    for name in bus_pci bus_vdev common_sfc_efx mempool_ring net_ixgbe net_sfc; do guest_files+=("$folder/librte_$name.so"); done
}

# GUEST DEVICE: gives testpmd the VF. Without a vIOMMU it is uio_pci_generic; the VF has no other interrupts than MSI-X, and testpmd polls.
start_testpmd() {
    local id more=''
    case $2 in
    # net_sfc wants an interrupt for changes of the link, unless it is told not to. With two queues it spreads flows itself (RSS).
    sfc) id='1924 1903' more='--no-lsc-interrupt --rxq=2 --txq=2' ;;
    ixgbevf) id='8086 10ed' ;;
    esac
    run_in "$1" 30 "echo 0000:01:00.0 >/sys/bus/pci/drivers/$2/unbind; echo $id >/sys/bus/pci/drivers/uio_pci_generic/new_id; ls -d /sys/bus/pci/drivers/uio_pci_generic/0000:01:00.0" || return 1
    run_in "$1" 30 "mkdir -p /dev/hugepages /var/run && mount -t hugetlbfs none /dev/hugepages && echo 64 >/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages" || return 1
    start_in "$1" "mkfifo /tmp/pmd; (sleep 1000 >/tmp/pmd &); dpdk-testpmd --lcores 0@0,1@0 -m 64 --iova-mode=pa --no-telemetry -a 0000:01:00.0 -- -i $more --total-num-mbufs=2048 --rxd=256 --txd=256 </tmp/pmd >/tmp/pmd.log 2>&1"
}

says() { run_in "$1" 10 "echo '$2' >/tmp/pmd"; } # GUEST COMMAND: to testpmd
said() { run_in "$1" 10 "grep -Eq '$2' /tmp/pmd.log"; } # GUEST PATTERN

try_device() { # DEVICE
    local vf words pmd
    device=$1
    note "--- DPDK's driver of $device, path $path"
    nic_with "$device" "$device" || return 1
    for vf in 0 1; do start_guest "$vf" || return 1; done
    for vf in 0 1; do guest_ready "g$vf" 600 || { note "guest $vf does not boot, see $run/g$vf.kernel and g$vf.errors"; return 1; }; done
    up g1 1 || { note "guest 1 has no network device"; return 1; }
    start_testpmd g0 "$device"
    until_true 120 said g0 'testpmd>'
    checked $? "testpmd starts on the VF"
    case $device in sfc) pmd=net_sfc_efx ;; ixgbevf) pmd=net_ixgbe_vf ;; esac
    said g0 "Probe PCI driver: $pmd "
    checked $? "its driver is net_sfc or net_ixgbe_vf"
    says g0 'set fwd icmpecho'
    says g0 'start'
    until_true 60 reaches g1 10.9.2.77
    checked $? "it answers ARP and ping of the kernel's driver"
    in_guest g1 "ping -c 20 -i 0.2 -s 1400 10.9.2.77 >/tmp/p; grep -q ' 0% packet loss' /tmp/p"
    checked $? "20 of 20 pings of 1400 bytes"
    for words in stop 'port stop 0' 'port start 0' start; do says g0 "$words"; done
    until_true 60 reaches g1 10.9.2.77
    checked $? "its port stopped and started, then ping"
    # What it prints comes when it ends, for it is no terminal.
    for words in stop 'show port info 0' 'show port stats 0' quit; do says g0 "$words"; done
    until_true 60 said g0 '^Bye'
    said g0 'Link status: up' && said g0 'Link speed: 10 Gbps'
    checked $? "its link is up at 10 Gb/s"
    said g0 'RX-packets: [1-9]'
    checked $? "it counts what it received"
    run_in g0 20 "cat /tmp/pmd.log" >"$run/testpmd-$device.log"
    guest_kill_all
    nic_stop || { note "vfnic did not end on SIGTERM"; return 1; }
}

main() {
    open_session
    find_vfnic
    choose_qemu
    find_dpdk
    guest_kernel=linux-image-amd64
    guest_modules=(virtio_pci virtio_net sfc ixgbevf uio_pci_generic)
    guest_programs=(ip lspci ethtool dpdk-testpmd)
    qemu_memory=512M
    need_programs
    build_image || fail "cannot build the guest"
    choose_accelerator
    for device in "${devices[@]}"; do try_device "$device" || return 1; done
    print_table
    ((failures == 0)) || { note "$failures things do not work"; return 1; }
    note "all of it works"
}

main
finish $?
