#!/usr/bin/env bash
# Starts QEMU as a front end, without a disk: its network boot (iPXE) is the guest. It connects again when the back end has gone.
# QEMU names another than the system's.
#
#   qemu.sh SOCKET
set -euo pipefail
exec "${QEMU:-qemu-system-x86_64}" -display none -nodefaults -machine q35 -m 256 \
    -object memory-backend-memfd,id=m,size=256M,share=on -numa node,memdev=m \
    -chardev "socket,id=c,path=$1,reconnect=1" -netdev vhost-user,id=n,chardev=c -device virtio-net-pci,netdev=n,bootindex=0
