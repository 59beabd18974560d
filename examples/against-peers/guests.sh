# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# Two User-Mode Linux guests in real time, and a TCP stream from one to the other through the back end that runs.
# Reads: here, run, logs, sockets. Provides: find_guests, tcp_stream (sets mbits), end_guests.

guest_image='' hidden='' guest_groups=()

# Bits that User-Mode Linux must not see of DPDK: the control queue and what hangs on it (17 to 23), packed rings (34), which
# it takes up at a position that only vfnic recognises.
dpdk_hides=400fe0000

find_guests() { # SECONDS: of a stream; takes the kernel and the initramfs of examples/linux-guests, which builds them the first time
    guest_image=$("$here/../linux-guests/build.sh") || return 1
    hidden=$run/uml-features.so
    cc -O2 -shared -fPIC -o "$hidden" "$here/uml-features.c" || return 1
    echo 'exec iperf3 -s' >"$run/a.script"
    cat >"$run/b.script" <<SCRIPT
ethtool -k eth0 | grep tcp-segmentation-offload
n=0
until ping -c 1 -W 1 10.9.0.1 >/dev/null 2>&1; do n=\$((n + 1)); [ \$n -lt 30 ] || exit 9; done
# Its server may not listen yet.
until iperf3 -c 10.9.0.1 -t $1 -O 1 -f m >/tmp/stream 2>&1 || ! grep -q 'unable to connect' /tmp/stream; do
    n=\$((n + 1)); [ \$n -lt 30 ] || exit 9; sleep 1
done
cat /tmp/stream
SCRIPT
}

boot_guest() { # NAME ADDRESS SOCKET ENVIRONMENT...
    local name=$1 address=$2 socket=$3 memory=/dev/shm
    shift 3
    # A NIC takes no guest memory on a disk.
    if ! (($(df --output=avail -k /dev/shm 2>/dev/null | tail -n 1) > 700000)) 2>/dev/null; then
        memory=$run
        [[ $(stat --file-system --format %T "$run") == tmpfs ]] ||
            fail 'no tmpfs has room for the guests: make /dev/shm larger (mount -o remount,size=1G /dev/shm), or set TMPDIR to a folder on another'
    fi
    mkdir -p "$run/$name" && cp "$run/$name.script" "$run/$name/script"
    # An archive of its own behind the initramfs, at a multiple of four bytes.
    cp "$guest_image/initramfs.gz" "$run/$name.initramfs"
    truncate -s %4 "$run/$name.initramfs"
    (cd "$run/$name" && echo script | cpio --create --format newc --quiet) >>"$run/$name.initramfs"
    env TMPDIR="$memory" "$@" setsid "$guest_image/linux" mem=256M "initrd=$run/$name.initramfs" "uml_dir=$run/uml" "umid=$name" \
        con=null con0=null,fd:2 ssl=null ssl1=null,fd:1 quiet panic=-1 random.trust_cpu=on \
        "virtio_uml.device=$socket:1" "guest.ip=$address/24" </dev/null >"$logs/guest-$name.txt" 2>"$logs/guest-$name.console" &
    guest_groups+=($!)
    disown # by group: a guest has helpers, which keep its sockets open
}

end_guests() {
    local group
    for group in "${guest_groups[@]}"; do kill -KILL -- "-$group" 2>/dev/null; done
    guest_groups=()
}

# SECONDS ENVIRONMENT...: boots two guests on the first two sockets; sets mbits to what the receiver got in so many seconds.
tcp_stream() {
    local until=$((SECONDS + 30 + $1))
    shift
    mbits=
    rm -rf "$run/uml"
    boot_guest a 10.9.0.1 "${sockets[0]}" "$@"
    boot_guest b 10.9.0.2 "${sockets[1]}" "$@"
    until grep -qa '^exit' "$logs/guest-b.txt" || ((SECONDS >= until)); do sleep 0.2; done
    mbits=$(awk '/receiver/ { for (i = 1; i <= NF; i++) if ($i ~ /^Mbits/) print $(i - 1) }' "$logs/guest-b.txt")
    end_guests
    [[ -n $mbits ]]
}
