#!/usr/bin/env bash
# Starts passt as a vhost-user back end in the foreground (2024_11_27 or later). It ends with its one session, and answers a guest's
# frames itself: the suite sees none of its own arrive.
#
#   passt.sh SOCKET
set -euo pipefail
exec passt --foreground --vhost-user --one-off --socket "$1"
