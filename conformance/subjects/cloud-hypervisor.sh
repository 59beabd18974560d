#!/usr/bin/env bash
# Starts cloud-hypervisor's vhost_user_net with a tap device of its own (needs CAP_NET_ADMIN). The suite sees no frame arrive.
#
#   cloud-hypervisor.sh SOCKET
set -euo pipefail
exec vhost_user_net --net-backend "ip=192.0.2.1,mask=255.255.255.0,socket=$1,num_queues=2,queue_size=256"
