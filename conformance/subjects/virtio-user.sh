#!/usr/bin/env bash
# Starts DPDK's testpmd with a virtio-user port as a front end, which sends frames, without huge pages and without root.
#
#   virtio-user.sh SOCKET
set -euo pipefail
# testpmd ends with its standard input.
input=$(mktemp -u)
mkfifo "$input"
exec 9<>"$input"
rm "$input"
exec dpdk-testpmd --lcores 0@0,1@1 --no-huge -m 256 --no-pci --no-telemetry --no-shconf --file-prefix="vu$$" \
    --vdev="net_virtio_user0,path=$1,mac=02:00:00:00:00:01" \
    -- -i --auto-start --nb-cores=1 --forward-mode=flowgen --total-num-mbufs=4096 <&9
