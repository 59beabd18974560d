# shellcheck shell=bash disable=SC2154,SC2034 # variables of the scripts that include this
# What the scripts for drivers of hardware share: guests with such VFs, and the table of what works.
# Reads: vfnic, run, qemu, release. Provides: checked, refused, print_table (with device, looked_at, failures), outside, seen, in_guest,
# until_true, reaches, carrier, start_guest, up, nic_with.

failures=0
device=both                          # whose line it is
declare -A found=()                  # what became of "DEVICE/ITEM"
declare -A looked_at=()              # devices of which all was tried
declare -a items=() columns=()       # in the order in which they came

# CODE ITEM [DETAIL]: one line, and one place in the table at the end. What fails once has failed.
checked() {
    local became=works
    (($1 == 0)) || became=FAILS
    tell "$became" "$2" "${3:-}"
    (($1 == 0)) || failures=$((failures + 1))
}

# CODE ITEM WHY: what this driver or its hardware has not, and refuses. If it does not refuse, that is told as well.
refused() {
    if (($1 == 0)); then tell works "$2" ""; else tell no "$2" "$3"; fi
}

tell() { # BECAME ITEM DETAIL
    printf '  %-6s %-8s %s\n' "$1" "$device" "$2${3:+: $3}"
    [[ " ${items[*]/%/;} " == *" $2; "* ]] || items+=("$2")
    [[ " ${columns[*]} " == *" $device "* ]] || columns+=("$device")
    [[ ${found[$device/$2]:-} == FAILS ]] || found[$device/$2]="$1${3:+ ($3)}"
}

# The same as a table in Markdown, a device a column.
print_table() {
    local item column
    printf '\n| Linux %s |' "$release"
    printf ' %s |' "${columns[@]}"
    printf '\n|---|'
    printf '%s' "${columns[@]/*/---|}"
    printf '\n'
    for item in "${items[@]}"; do
        printf '| %s |' "$item"
        for column in "${columns[@]}"; do printf ' %s |' "${found[$column/$item]:-}"; done
        printf '\n'
    done
}

outside() { "$vfnic" "$1" --ctl "$run/vfnic/ctl.sock" "${@:2}"; } # WORD...: vfnic, from outside

# PATTERN WORD...: whether vfnic shows it, now. Not by a pipe: it would be broken before vfnic has said everything.
seen() { grep -Eqi -- "$1" <<<"$(outside "${@:2}")"; }

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

up() { # GUEST VF
    in_guest "$1" "ip addr flush dev \$nic; ip addr add 10.9.2.$(($2 + 1))/24 dev \$nic; ip link set \$nic up"
}

nic_with() { # DEVICE DEVICE: starts vfnic with two VFs that are this to their guests, on this path
    local vf devices=("$1" "$2")
    {
        printf 'socket_dir = "%s"\n[[nic]]\nname = "a"\nvfs = 2\n' "$run/vfnic"
        for vf in 0 1; do printf '[[nic.vf]]\nindex = %d\ndevice = "%s"\npath = "%s"\n' "$vf" "${devices[vf]}" "$path"; done
    } >"$run/two-hosts.toml"
    nic_start || { note "vfnic does not start: $(tail -n 3 "$run/vfnic.log")"; return 1; }
}

choose_qemu() { # the one that was asked for, or one that knows such devices
    qemu=${asked:-qemu-system-x86_64}
    if [[ -n $asked ]]; then
        at_least 10.1 || fail "$asked is no QEMU 10.1 or newer"
    else
        at_least 10.1 || unpack_newer_qemu 10.1
    fi
}
