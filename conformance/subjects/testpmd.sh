#!/usr/bin/env bash
# Starts DPDK's testpmd with two vhost-user ports that it forwards between, without huge pages and without root.
#
#   testpmd.sh SOCKET PEER
set -euo pipefail
# testpmd ends with its standard input.
input=$(mktemp -u)
mkfifo "$input"
exec 9<>"$input"
rm "$input"
exec dpdk-testpmd --lcores 0@0,1@1 --no-huge -m 1024 --no-pci --no-telemetry --no-shconf --file-prefix="vf$$" \
    --vdev="net_vhost0,iface=$1,queues=2" --vdev="net_vhost1,iface=$2,queues=2" \
    -- -i --auto-start --total-num-mbufs=16384 --rxq=2 --txq=2 --nb-cores=1 --forward-mode=io --disable-link-check <&9
