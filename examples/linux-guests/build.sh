#!/bin/bash
# Builds the guests: a User-Mode Linux kernel whose clock comes from outside, from the distribution's linux-source package, another one
# that has a PCI bus and the drivers of real NICs besides, and their initramfs. Prints the folder of all three. What has been built for the same files before is taken from the cache.
#   build.sh
# Needs apt and its lists, and installed or as root: flex bison bc patch xz-utils gcc make. 2.5 GB while it builds.
# Without apt the guests' programs are this machine's: busybox (static), iperf3, cpio; ethtool, ip, tc, ss, tcpdump, netperf.
# Exit code: 0 done, 1 it does not build, 2 something is missing.
set -euo pipefail
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
cache=${XDG_CACHE_HOME:-${HOME:-/tmp}/.cache}/vfnic
package=linux-source-6.12

fail() { # CODE MESSAGE
    printf 'linux-guests: %s\n' "$2" >&2
    exit "$1"
}

need() { # PROGRAM PACKAGE ...
    local missing=()
    while (($#)); do
        type -P "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    ((${#missing[@]})) || return 0
    if [[ $(id -u) != 0 ]] || ! type -P apt-get >/dev/null; then fail 2 "needs ${missing[*]}"; fi
    apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null || fail 2 "cannot install ${missing[*]}"
}

download() { # PACKAGE...: into the folder that is current
    apt-get -o APT::Sandbox::User=root download "$@" >download.log 2>&1 ||
        { apt-get update && apt-get -o APT::Sandbox::User=root download "$@"; } >download.log 2>&1 ||
        fail 2 "cannot download $1: $(tail -n 1 download.log)"
}

unpack_programs() { # INTO PACKAGE...: with all that they depend on
    local into=$1 kinds=() kind all deb wanted=("${@:2}")
    for kind in recommends suggests conflicts breaks replaces enhances; do kinds+=("--no-$kind"); done
    mkdir -p "$into.new"
    (
        cd "$into.new"
        mapfile -t all < <(apt-cache depends --recurse "${kinds[@]}" "${wanted[@]}" 2>/dev/null | grep '^[a-z0-9]' | sort -u)
        ((${#all[@]})) || all=("${wanted[@]}")
        download "${all[@]}"
        for deb in *.deb; do dpkg -x "$deb" .; done
        rm -- *.deb
    )
    mv "$into.new" "$into"
}

# Those of the two that are not there yet; what both have in common is compiled once.
build_kernels() { # KERNEL PCI_KERNEL
    local work
    need flex flex bison bison bc bc patch patch xz xz-utils gcc gcc make make
    work=$(mktemp -d "$cache/kernel.XXXXXX")
    # shellcheck disable=SC2064 # the folder is known now
    trap "rm -rf '$work'" EXIT
    (
        cd "$work"
        download "$package"
        dpkg -x "$package"_*.deb package
        rm "$package"_*.deb
        tar xf "package/usr/src/$package.tar.xz"
        rm -rf package
        for change in "$here"/kernel/*.patch; do patch --quiet -d "$package" -p1 <"$change"; done
        # The kernel puts its version, build time included, into its pool of random numbers.
        export KBUILD_BUILD_TIMESTAMP='2026-01-01' KBUILD_BUILD_USER=vfnic KBUILD_BUILD_HOST=vfnic KBUILD_BUILD_VERSION=1
        cp "$here/kernel/config" config
        cat config "$here/kernel/config-pci" | grep -v '^CONFIG_ETHERNET=n' >config-pci
        [[ -x $1 ]] || make_kernel config "$1"
        [[ -x $2 ]] || make_kernel config-pci "$2"
    )
    rm -rf "$work"
    trap - EXIT
}

make_kernel() { # CONFIG INTO
    {
        make -s -C "$package" ARCH=um O="$work/build" allnoconfig KCONFIG_ALLCONFIG="$work/$1" &&
            make -s -C "$package" ARCH=um O="$work/build" -j"$(nproc)" linux
    } >>build.log 2>&1 || fail 1 "the kernel does not build: $(tail -n 1 build.log)"
    strip -o "$2.new" build/linux
    mv "$2.new" "$2"
}

mkdir -p "$cache"
key() { cat "$@" | sha256sum | cut -c 1-16; }
kernel=$cache/linux-kernel-$(key "$here"/kernel/config "$here"/kernel/*.patch <(echo "$package"))
pci_kernel=$cache/linux-kernel-$(key "$here"/kernel/config "$here"/kernel/config-pci "$here"/kernel/*.patch <(echo "$package"))
if [[ ! -x $kernel || ! -x $pci_kernel ]]; then
    echo "building kernels, which takes a few minutes" >&2
    build_kernels "$kernel" "$pci_kernel"
fi
programs=
if type -P apt-get dpkg >/dev/null; then
    wanted=(busybox-static cpio iperf3 ethtool iproute2 tcpdump)
    # It is in Debian's non-free, which not every apt knows of.
    apt-cache show netperf >/dev/null 2>&1 && wanted+=(netperf)
    programs=$cache/linux-programs-$(key <(echo "${wanted[@]}"))
    [[ -d $programs ]] || unpack_programs "$programs" "${wanted[@]}"
fi
"$here/image.sh" "$cache/initramfs.$$" ${programs:+"$programs"}
folder=$cache/linux-guests-$(key "$kernel" "$pci_kernel" "$cache/initramfs.$$")
mkdir -p "$folder"
mv "$cache/initramfs.$$" "$folder/initramfs.gz"
ln -f "$kernel" "$folder/linux"
ln -f "$pci_kernel" "$folder/linux-pci"
ln -sfn "$folder" "$cache/linux-guests-built" # where vfnic looks
echo "$folder"
