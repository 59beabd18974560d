#!/usr/bin/env bash
# Starts a User-Mode Linux kernel as a front end, one of those that examples/linux-guests/build.sh makes; its guest has an address, and
# so sends frames. UML names the folder with kernel and initramfs.
#
#   uml.sh SOCKET
set -euo pipefail
folder=${UML:-${XDG_CACHE_HOME:-$HOME/.cache}/vfnic/linux-guests-built}
# Its memory is a file, and no disk is to hold it.
export TMPDIR=/dev/shm
exec "$folder/linux" mem=128M "initrd=$folder/initramfs.gz" "uml_dir=$(dirname "$1")/uml" "umid=f$$" quiet panic=-1 random.trust_cpu=on \
    con=null con0=null,fd:1 ssl=null "virtio_uml.device=$1:1" guest.ip=10.0.0.2/24
