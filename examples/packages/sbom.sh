#!/bin/bash
# Prints what is in the program vfnic, as CycloneDX 1.5: every crate that is linked, with version, licence and the checksum in Cargo.lock.
#   sbom.sh >vfnic.cdx.json
# Needs cargo and jq.
set -euo pipefail
cd "$(dirname "$(realpath "${BASH_SOURCE[0]}")")/../.."
type -P jq >/dev/null || { echo "sbom.sh: needs jq" >&2; exit 2; }
linked=$(cargo tree --locked --package vfnic --edges normal --prefix none --format '{p}' | awk '{ sub(/^v/, "", $2); print $1, $2 }' | sort -u)
checksums=$(awk -F'"' '/^name/ { n = $2 } /^version/ { v = $2 } /^checksum/ { print n, v, $2 }' Cargo.lock)
cargo metadata --locked --format-version 1 | jq --arg linked "$linked" --arg checksums "$checksums" '
    ($linked | split("\n") | map({key: ., value: true}) | from_entries) as $in |
    ($checksums | split("\n") | map(split(" ") | {key: "\(.[0]) \(.[1])", value: .[2]}) | from_entries) as $sum |
    def component: "\(.name) \(.version)" as $id | {
        type: "library", name, version, "bom-ref": "pkg:cargo/\(.name)@\(.version)", purl: "pkg:cargo/\(.name)@\(.version)",
        licenses: [{expression: ((.license // "NOASSERTION") | gsub("/"; " OR "))}],
        hashes: [$sum[$id] | select(. != null) | {alg: "SHA-256", content: .}]
    };
    [.packages[] | select($in["\(.name) \(.version)"])] as $all |
    {bomFormat: "CycloneDX", specVersion: "1.5", version: 1,
     metadata: {component: ($all[] | select(.name == "vfnic") | component | .type = "application")},
     components: [$all[] | select(.name != "vfnic") | component] | sort_by(.name, .version)}'
