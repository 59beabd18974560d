# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# What the example needs from the distribution: programs are installed (as root), everything that only goes into a guest is
# downloaded and unpacked. Uses a package index of its own, so the system's sources and index stay as they are.
# Reads: cache, guests, tool, qemu, guest_programs. Provides: need_programs, unpack_package, fail, note (and last_note).

fail() { # MESSAGE: what is missing, in one line; nothing can be done about it here
    printf '%s: %s\n' "$(basename "$(dirname "$(realpath "$0")")")" "$1" >&2
    exit 2
}

last_note=
note() { # TEXT: for the user to read meanwhile
    last_note=$*
    printf '%s\n' "$*" >&2
}

apt_options=()

# A private package index: the system's sources, plus backports (newer QEMU) and non-free (netperf) where this is Debian.
open_package_index() {
    ((${#apt_options[@]} == 0)) || return 0
    type -P apt-get >/dev/null || fail "needs Debian's apt-get to fetch $1"
    local apt=$cache/apt origin keys id codename
    mkdir -p "$apt/sources" "$apt/lists/partial" "$apt/archives/partial"
    rm -f "$apt/sources/"*
    find /etc/apt/sources.list /etc/apt/sources.list.d -maxdepth 1 -type f \
        \( -name '*.list' -o -name '*.sources' \) -exec cp {} "$apt/sources/" \; 2>/dev/null || true
    apt_options=(-q -o Dir::Etc::SourceList=/dev/null -o Dir::Etc::SourceParts="$apt/sources" -o Dir::State::Lists="$apt/lists"
        -o Dir::Cache="$apt" -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=300)
    id=$(. /etc/os-release && echo "$ID")
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    if [[ $id == debian && -n $codename ]]; then
        origin=$(apt-get "${apt_options[@]}" --print-uris update 2>/dev/null |
            sed -n "s|^'\(.*\)/dists/$codename/InRelease'.*|\1|p" | head -n 1)
        keys=/usr/share/keyrings/debian-archive-keyring.gpg
        if [[ -n $origin && -f $keys ]]; then
            local wanted=("$keys" "$origin" "$codename" non-free)
            # apt complains of what it is told of twice.
            grep -qsw -- "$codename-backports" "$apt/sources/"* ||
                wanted+=("$keys" "$origin" "$codename-backports" main)
            printf 'deb [signed-by=%s] %s %s %s\n' "${wanted[@]}" >"$apt/sources/two-hosts.list"
        fi
    fi
    if [[ -z $(find "$apt/lists" -name '*Packages*' -mtime -1 -print -quit) ]]; then
        note "package index: updating a private copy in $apt"
        apt-get "${apt_options[@]}" update >"$apt/update.log" 2>&1 ||
            note "package index: some sources failed, see $apt/update.log"
    fi
}

candidate() { # PACKAGE: the version that would be fetched, empty when there is none
    apt-cache "${apt_options[@]}" policy "$1" | awk '$1 == "Candidate:" && $2 != "(none)" { print $2 }'
}

# PACKAGE: downloads and unpacks it under the cache, never installs it; prints the folder.
unpack_package() {
    local package=$1 version folder deb
    open_package_index "$package"
    version=$(candidate "$package")
    if [[ -z $version ]]; then # no index, but perhaps an earlier download
        find "$cache/packages" -maxdepth 1 -name "${package}_*" 2>/dev/null | sort -V | tail -n 1 | grep .
        return
    fi
    folder=$cache/packages/${package}_${version//:/%}
    if [[ ! -d $folder ]]; then
        note "unpacking $package $version"
        mkdir -p "$folder.new"
        (cd "$folder.new" && apt-get "${apt_options[@]}" download "$package=$version" >download.log 2>&1) || {
            note "cannot download $package $version: $(tail -n 1 "$folder.new/download.log")"
            return 1
        }
        deb=$(find "$folder.new" -maxdepth 1 -name '*.deb' -print -quit)
        dpkg -x "$deb" "$folder.new" || return 1
        rm -f "$deb"
        mv "$folder.new" "$folder"
    fi
    echo "$folder"
}

# QEMU is a case of its own: where parts of a newer QEMU came from backports, the plain package would have to remove them.
# --no-remove makes apt refuse that, and backports are next.
install_qemu() {
    local codename attempt
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    for attempt in "" "$codename-backports"; do
        note "installing qemu-system-x86 ${attempt:+from $attempt}"
        DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-install-recommends --no-remove \
            ${attempt:+-t "$attempt"} qemu-system-x86 >>"$cache/apt/install.log" 2>&1 && return 0
    done
    return 1
}

# Makes sure that every program is there: installs what is missing when run as root, else says so and exits 2.
need_programs() {
    local -A package_of=([busybox]=busybox-static [cpio]=cpio [iperf3]=iperf3 [jq]=jq [modprobe]=kmod [xz]=xz-utils
        [qemu-system-x86_64]=qemu-system-x86 [ip]=iproute2 [lspci]=pciutils [ethtool]=ethtool)
    local wanted=(busybox cpio iperf3 jq modprobe xz "${guest_programs[@]}") missing=() program
    [[ $guests == qemu && $qemu != */* ]] && wanted+=("$qemu")
    PATH=$PATH:/usr/sbin:/sbin
    for program in "${wanted[@]}"; do
        type -P "$program" >/dev/null || missing+=("${package_of[$program]}")
    done
    # A busybox that needs libraries is of no use in the guest.
    if type -P busybox >/dev/null && ldd "$(type -P busybox)" >/dev/null 2>&1; then missing+=(busybox-static); fi
    ((${#missing[@]})) || return 0
    ((EUID == 0)) || fail "missing packages: ${missing[*]} (as root: apt-get install ${missing[*]})"
    open_package_index "${missing[*]}"
    for program in "${missing[@]}"; do
        if [[ $program == qemu-system-x86 ]]; then
            install_qemu || fail "cannot install qemu-system-x86, see $cache/apt/install.log"
        else
            note "installing $program"
            DEBIAN_FRONTEND=noninteractive apt-get "${apt_options[@]}" install -y --no-install-recommends --no-remove "$program" \
                >>"$cache/apt/install.log" 2>&1 || fail "cannot install $program, see $cache/apt/install.log"
        fi
    done
}
