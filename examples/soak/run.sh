#!/bin/bash
# vfnic under everything at once, for as long as is said, and vfnic killed again and again under traffic; the books must close each time.
#   run.sh [SECONDS [SEED]]   a storm on 64 VFs: guests, traffic, commands, lies (default 600 s; an hour is 3600)
#   run.sh kills [N]          N kills (default 1000): split and packed rings, with EVENT_IDX and without, interrupts held back
#   run.sh upgrades [N]       N upgrades of each kind (default 50): all paths, split and packed rings, one and two workers
#   run.sh attacks [N]        N mutated descriptors and a quarter as many mutated messages (default 200000) beside neighbours' traffic
# The same tests run for some seconds in 'cargo test'; what they check stands in emulator/tests/process/soak.rs, kills.rs, upgrade.rs and attack.rs.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
test=(cargo test --release --locked -p vfnic --test process)
case ${1:-600} in
kills) VFNIC_KILLS=$(((${2:-1000} + 7) / 8)) exec "${test[@]}" kills:: -- --nocapture --test-threads 1 ;;
upgrades) VFNIC_UPGRADES=${2:-50} exec "${test[@]}" upgrade:: -- --nocapture --test-threads 1 ;;
attacks) VFNIC_ATTACKS=${2:-200000} exec "${test[@]}" attack:: -- --nocapture ;;
*[!0-9]*) echo "run.sh: $1: not possible; see its head" >&2; exit 2 ;;
*) VFNIC_SOAK_SECONDS=${1:-600} VFNIC_SOAK_SEED=${2:-2009} exec "${test[@]}" soak:: -- --nocapture ;;
esac
