#!/usr/bin/env bash
# Starts vhost-user-bridge, the example of QEMU's libvhost-user: what a guest sends goes out as UDP to 127.0.0.1, and comes from there.
# The suite sees no frame arrive.
#
#   bridge.sh SOCKET
set -euo pipefail
exec vhost-user-bridge -u "$1" -l 127.0.0.1:4444 -r 127.0.0.1:5555
