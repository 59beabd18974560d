#!/usr/bin/env bash
# Starts Open vSwitch with DPDK and two vhost-user ports on one bridge that floods between them, without huge pages.
#
#   ovs.sh SOCKET PEER      (in one folder, which is Open vSwitch's own meanwhile)
set -euo pipefail
OVS_RUNDIR=$(dirname "$1")
export OVS_RUNDIR OVS_LOGDIR=$OVS_RUNDIR OVS_DBDIR=$OVS_RUNDIR
switch=/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk
schema=/usr/share/openvswitch/vswitch.ovsschema
# One that was killed may not be gone yet: nothing of it is used again.
own=$OVS_RUNDIR/$$
vsctl() { ovs-vsctl --db="unix:$own.sock" "$@"; }

ovsdb-tool create "$own.db" "$schema"
ovsdb-server "$own.db" --remote="punix:$own.sock" --unixctl="$own.db.ctl" &
until [ -S "$own.sock" ]; do sleep 0.05; done
vsctl --no-wait init
vsctl --no-wait set Open_vSwitch . other_config:dpdk-init=true other_config:pmd-cpu-mask=2 \
    other_config:dpdk-extra="--no-huge --legacy-mem -m 2048 --no-pci --no-telemetry --file-prefix=ovs$$"
"$switch" "unix:$own.sock" --unixctl="$own.ctl" --pidfile="$own.pid" &
vsctl add-br "br$$" -- set bridge "br$$" datapath_type=netdev fail_mode=secure
for port in "$1" "$2"; do
    vsctl add-port "br$$" "$(basename "$port")" -- set interface "$(basename "$port")" type=dpdkvhostuser
done
# Learns nothing, and takes no frame back to where it came from: what is sent on one port arrives on the other.
until ovs-ofctl add-flow "$OVS_RUNDIR/br$$.mgmt" actions=flood 2>/dev/null; do sleep 0.1; done
# Neither of the two is any use without the other.
wait -n
