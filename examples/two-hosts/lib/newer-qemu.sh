# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# A QEMU newer than the distribution's, unpacked beside the system with the libraries that it needs: nothing is installed, and
# no root is needed. From Debian's newest stable release and its backports, wherever this runs.
# Reads: cache. Provides: unpack_newer_qemu; sets qemu (a program that starts it).

# MAJOR.MINOR: the least version that will do.
unpack_newer_qemu() {
    local least=$1 folder=$cache/newer-qemu mirror found
    qemu=$folder/qemu-system-x86_64
    if ! at_least "$least"; then
        type -P apt-get >/dev/null || fail "needs QEMU $least or newer, and apt-get to fetch it"
        [[ -r /usr/share/keyrings/debian-archive-keyring.gpg ]] || fail "needs QEMU $least or newer (or the package debian-archive-keyring, to fetch it)"
        note "unpacking QEMU $least or newer below $folder (some 40 MB to fetch, 170 MB unpacked)"
        rm -rf "$folder"
        mkdir -p "$folder"/{apt/lists/partial,apt/archives/partial,apt/sources,deb,root}
        : >"$folder/apt/status"
        mirror=$(sed -n 's/^URIs: *\([^ ]*\/debian\)\/*$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
        printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' \
            "${mirror:=http://deb.debian.org/debian}" trixie "$mirror" trixie-backports >"$folder/apt/sources/qemu.list"
        cat >"$folder/apt/apt.conf" <<CONF
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$folder/apt/sources";
Dir::State::Lists "$folder/apt/lists";
Dir::State::Status "$folder/apt/status";
Dir::Cache "$folder/apt";
APT::Architecture "amd64";
Acquire::Languages "none";
APT::Sandbox::User "$(id -un)";
CONF
        (
            export APT_CONFIG=$folder/apt/apt.conf
            apt-get -q update && cd "$folder/deb" &&
                found=$(apt-get -t trixie-backports --simulate install --no-install-recommends qemu-system-x86 |
                    awk '$1 == "Inst" { gsub(/[()]/, "", $3); print $2 "=" $3 }') &&
                # shellcheck disable=SC2086 # one word a package
                apt-get -q download $found
        ) >"$folder/apt/log" 2>&1 || fail "cannot fetch QEMU, see $folder/apt/log"
        for found in "$folder"/deb/*.deb; do dpkg-deb -x "$found" "$folder/root" || fail "cannot unpack $found"; done
        rm -rf "$folder/deb"
        cat >"$qemu" <<'START'
#!/bin/sh
# The program is started by the loader that it came with: the system's C library may be older.
root=$(dirname "$(realpath "$0")")/root
exec "$root/usr/lib64/ld-linux-x86-64.so.2" --library-path "$root/usr/lib/x86_64-linux-gnu" \
    "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" "$@"
START
        chmod +x "$qemu"
        at_least "$least" || fail "what was fetched is no QEMU $least or newer: $("$qemu" --version 2>&1 | head -n 1)"
    fi
    note "QEMU: $("$qemu" --version | sed -n 's/.*version //p')"
}

at_least() { # MAJOR.MINOR: whether `qemu` is that new
    local found
    found=$("$qemu" --version 2>/dev/null | sed -n 's/.*version \([0-9]*\.[0-9]*\).*/\1/p')
    [[ -n $found ]] && [[ $(printf '%s\n' "$1" "$found" | sort -V | head -n 1) == "$1" ]]
}
