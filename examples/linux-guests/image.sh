#!/bin/bash
# The guests' initramfs: busybox, guest/init, and the programs that the distribution has of those below. The same programs
# give the same bytes.
#   image.sh OUT.gz [FOLDER]
# FOLDER holds the distribution's packages, unpacked; else programs are taken from this machine.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
out=$(realpath -m "$1")
packages=${2:+$(realpath "$2")}
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT

PATH=$packages/bin:$packages/sbin:$packages/usr/bin:$packages/usr/sbin:$PATH
for triplet in "$packages"/usr/lib/*-linux-gnu; do
    export LD_LIBRARY_PATH=$packages/lib/${triplet##*/}:$triplet
done

add_program() { # FILE: the program and the libraries that it is linked with
    local library
    install -D "$(realpath "$1")" "$root/usr/bin/$(basename "$1")"
    # A static program has none.
    { ldd "$1" 2>/dev/null || true; } | { grep -o '/[^ ]*' || true; } | while read -r library; do
        library=${library#"$packages"}
        if [[ -e $packages$library ]]; then
            install -D "$(realpath "$packages$library")" "$root$library"
        else
            install -D "$(realpath "$library")" "$root$library"
        fi
    done
}

for program in busybox iperf3 cpio; do
    type -P "$program" >/dev/null || { echo "image.sh: needs $program" >&2; exit 2; }
done
mkdir -p "$root"/{bin,dev,etc,proc,sys,tmp,usr/bin}
install -m 755 "$(type -P busybox)" "$root/bin/busybox"
install -m 755 "$here/guest/init" "$root/init"
for program in iperf3 ethtool ip tc ss tcpdump netperf netserver; do
    ! type -P "$program" >/dev/null || add_program "$(type -P "$program")"
done
cpio=$(type -P cpio)
unset LD_LIBRARY_PATH
echo '127.0.0.1 localhost' >"$root/etc/hosts"
echo 'hosts: files' >"$root/etc/nsswitch.conf"
echo 'root:x:0:0::/:/bin/sh' >"$root/etc/passwd"
find "$root" -exec touch -h -d @0 {} +
(cd "$root" && find . -print0 | LC_ALL=C sort -z | "$cpio" --null --create --format newc --quiet --reproducible --owner=0:0) |
    gzip -1n >"$out.new"
mv "$out.new" "$out"
