#!/bin/sh
# Prints the busy cycles and packets that a testpmd with --record-core-cycles has counted so far.
#   testpmd-cycles.sh INPUT LOG
# INPUT: a fifo that is its standard input; LOG: where its output goes, line by line.
input=$1 log=$2
asked=$(wc -l <"$log")
answer() { tail -n "+$((asked + 1))" "$log"; }
echo 'show fwd stats all' >"$input"
tries=0
until answer | grep -q 'Accumulated forward statistics' && answer | grep -q 'TX-total:.*[0-9]$'; do
    tries=$((tries + 1))
    [ $tries -lt 40 ] || { echo "testpmd does not answer" >&2; exit 1; }
    sleep 0.05
done
sleep 0.05
# Until it has seen a packet it says nothing of cycles.
answer | sed -n 's/.*CPU cycles\/packet=.*(total cycles=\([0-9]*\).*packets=\([0-9]*\)).*/\1 \2/p' | grep . || echo 0 0
