#!/usr/bin/env bash
# Starts QEMU as a front end, without a disk: its network boot (iPXE) is the guest. It connects again when the back end has gone.
# QEMU names another than the system's.
#
#   qemu.sh SOCKET
set -euo pipefail
qemu=${QEMU:-qemu-system-x86_64}
# From QEMU 9.2 on it is said in milliseconds.
again=reconnect-ms=1000
"$qemu" --version | grep -Eq 'version ([0-8]\.|9\.[01])' && again=reconnect=1
exec "$qemu" -display none -nodefaults -machine q35 -m 256 \
    -object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m \
    -chardev "socket,id=c,path=$1,$again" -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n,bootindex=0
