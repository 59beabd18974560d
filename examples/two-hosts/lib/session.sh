# shellcheck shell=bash disable=SC2154,SC2034 # variables of the script that includes this
# The run folder, and that nothing outlives the script.
# Reads: out, keep. Provides: open_session (sets run), finish.

run=

open_session() {
    trap end_everything EXIT
    trap 'exit 1' INT TERM HUP
    if [[ -n $out ]]; then
        mkdir -p "$out" || fail "cannot make $out"
        out=$(realpath "$out")
        keep=yes
    fi
    # Sockets live here, and the path of a socket is at most 107 bytes long: never below a folder of the user's.
    run=$(mktemp -d "${TMPDIR:-/tmp}/two-hosts.XXXXXX")
    mkdir -p "$cache" || fail "cannot make $cache"
}

end_everything() {
    guest_kill_all
    nic_kill
    if [[ -n $out && -d $run ]]; then find "$run" -mindepth 1 -maxdepth 1 \( -type f -o -name 'failed-*' \) -exec cp -r {} "$out/" \;; fi
    [[ -z $run || ($keep == yes && -z $out) ]] || rm -rf "$run"
}

finish() { # CODE
    local code=$1
    ((code == 0)) || [[ -n $out ]] || keep=yes
    [[ $keep == no ]] || note "files: ${out:-$run}"
    exit "$code"
}
