#!/bin/bash
# Installs the Debian package in a clean system of this machine's release, as its users have it, and tries there: the man pages, completions in bash,
# zsh and fish of the VFs of a NIC that runs, the unit file, and that nothing is left when the package is removed.
#   check.sh FILE.deb
# Needs root, debootstrap and the network. Exit code: 0 everything works; 1 something does not; 2 something is missing.
set -euo pipefail
fail() { printf 'check.sh: %s\n' "$2" >&2; exit "$1"; }
(($# == 1)) && [[ -f $1 ]] || fail 2 'say which package: check.sh FILE.deb'
((EUID == 0)) || fail 2 'it takes root'
PATH=$PATH:/usr/sbin:/sbin
type -P debootstrap >/dev/null || fail 2 'needs debootstrap'
package=$(realpath "$1")
codename=$(sed -n 's/^VERSION_CODENAME=//p' /etc/os-release)

root=$(mktemp -d)
cleanup() {
    umount --lazy "$root/dev/pts" "$root/proc" || true
    rm -rf --one-file-system "$root"
} 2>/dev/null
trap cleanup EXIT
debootstrap --variant=minbase --include=man-db,bash-completion,zsh,fish,systemd "$codename" "$root" >"$root.log" 2>&1 ||
    fail 2 "debootstrap has failed: $(tail -n 1 "$root.log")"
rm "$root.log"
mount -t proc proc "$root/proc"
mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
ln -sf pts/ptmx "$root/dev/ptmx"
# Small images leave documents out, and man pages with them.
rm -f "$root"/etc/dpkg/dpkg.cfg.d/docker* "$root"/etc/dpkg/dpkg.cfg.d/excludes
cp "$package" "$root/vfnic.deb"
enter=(chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb LANG=C.UTF-8 XDG_RUNTIME_DIR=/run)
inside() { "${enter[@]}" "$@"; }

failed=0
works() { # WHAT: its standard input has the pattern
    if grep -q -- "$2" <<<"$3"; then printf '%-40s works\n' "$1"; else printf '%-40s FAILS: %s\n' "$1" "${3:-nothing}" && failed=1; fi
}
works 'apt install' 'Setting up vfnic' "$(inside apt-get install --yes --no-install-recommends /vfnic.deb 2>&1)"
works 'vfnic --version' '^vfnic ' "$(inside vfnic --version 2>&1)"
works 'man vfnic' 'vfnic-show' "$(inside man -P cat vfnic 2>&1)"
works 'man vfnic-vf' 'spoofchk' "$(inside man -P cat vfnic-vf 2>&1)"
works 'each page is whole' '^0$' "$(inside bash -c 'for page in /usr/share/man/man1/vfnic*; do man --warnings -P cat -l "$page" 2>&1 >/dev/null; done | wc -l')"
works 'systemd-analyze verify' '^$' "$(inside systemd-analyze verify --man=no vfnic@default.service 2>&1 | grep -i vfnic || true)"
# systemd can give no capability that the bounding set lacks.
for set in CapabilityBoundingSet AmbientCapabilities; do
    # shellcheck disable=SC2034 # by its name, below
    printf -v "$set" %s "$(sed -n "s/^# *$set=//p" "$root/usr/lib/systemd/system/vfnic@.service" | paste -sd,)"
done
works 'capabilities that drop-ins give' "^${CapabilityBoundingSet:-none}\$" "${AmbientCapabilities:-}"
works 'the configuration of the unit' '^0$' "$(inside timeout -s TERM --preserve-status 2 vfnic run --quiet --no-state --config /etc/vfnic/default.toml --socket-dir /run/vfnic >/dev/null 2>&1; echo $?)"

"${enter[@]}" vfnic run --quiet --no-state --vfs 3 --socket-dir /run/lab >/dev/null 2>&1 &
nic=$!
for _ in {1..100}; do [[ -e $root/run/lab/ready ]] && break; sleep 0.1; done
for line in 'vfnic sho|show' 'vfnic --ctl /run/lab/ctl.sock vf 2 set spo|spoofchk' 'vfnic --ctl /run/lab/ctl.sock vf |2'; do
    typed=${line%|*} word=${line#*|}
    # shellcheck disable=SC2016
    works "bash: '$typed'" "\\b$word\\b" "$(inside bash --norc -c '
        . /usr/share/bash-completion/bash_completion
        . /usr/share/bash-completion/completions/vfnic
        read -ra COMP_WORDS <<<"$1"; [[ $1 == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_LINE=$1 COMP_POINT=${#1} COMP_TYPE=9
        of=$(complete -p vfnic); of=${of##*-F }; "${of%% *}" vfnic "${COMP_WORDS[COMP_CWORD]}" ""
        printf "%s\n" "${COMPREPLY[@]}"' - "$typed" 2>&1)"
    works "fish: '$typed'" "^$word\\b" "$(inside fish -c 'complete -C "$argv[1]"' "$typed" 2>&1)"
    # shellcheck disable=SC2016
    works "zsh: '$typed'" "\\b$word\\b" "$(inside zsh -f -c '
        zmodload zsh/zpty
        zpty shell "TERM=dumb zsh -f -i"
        zpty -w shell "stty cols 200; unsetopt prompt_sp prompt_cr; PS1=; autoload -Uz compinit; compinit -u; print begun"
        zpty -r shell seen "*begun*begun*"
        zpty -w -n shell "$1"$'\''\t\t'\''
        for _ in {1..30}; do zpty -r -t shell more && print -r -- "$more"; sleep 0.1; done' - "$typed" 2>&1 | sed 's/\x1b\[[0-9;?]*[A-Za-z]//g' | tr -cd '[:print:]\n')"
done
kill "$nic" 2>/dev/null && wait "$nic" || true
inside apt-get purge --yes vfnic >/dev/null 2>&1
works 'apt purge leaves nothing' '^$' "$(inside bash -c 'compgen -G "/usr/share/*/*/*vfnic*"; compgen -G "/usr/lib/systemd/system/vfnic*"; ls -d /etc/vfnic /usr/share/doc/vfnic' 2>/dev/null || true)"
exit "$failed"
