# The bars that vfnic is measured by, what was reached, and whether that is enough. Reads what run.sh has measured: lines of
# vf-conformance compare --tsv with the part in front, and lines of the parts idle and tso. A ratio is the median of those of each
# round; where the CPUs were not as far apart for both, of those with another round for which they were.
BEGIN { FS = "\t" }

$1 == "idle" { idle_ports = $3; idle_cpu = $4; idle_mib = $5; next }
$1 == "tso" { tso[$2 "-" $3, $4] = $5; if ($4 > tso_rounds) tso_rounds = $4; next }
$2 == "mode" { next }
{
    key = $1 FS $2 FS $4 FS $3 FS $5 FS $6 FS $7 FS $8 # part mode active ports flows ring bytes label
    round = $9
    if (round >= rounds[key]) rounds[key] = round + 1
    value[key, round, "mpps"] = $10
    value[key, round, "p50"] = $11
    value[key, round, "loss"] = $12
    value[key, round, "fair"] = $13
    value[key, round, "cycles"] = $14
    value[key, round, "bound"] = $15
    value[key, round, "near"] = $16 + 0 == 0 ? "-" : $16 + 0
    value[key, round, "far"] = $17 + 0
}

function key_of(part, mode, active, ports, flows, ring, bytes, label) {
    return part FS mode FS active FS ports FS flows FS ring FS bytes FS label
}

function median(list, n,    i, j, x) {
    for (i = 2; i <= n; i++) {
        x = list[i]
        for (j = i - 1; j > 0 && list[j] > x; j--) list[j + 1] = list[j]
        list[j + 1] = x
    }
    return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
}

# Median of a figure over the rounds; "" when there is none.
function middle(key, figure,    k, n, list) {
    for (k = 0; k < rounds[key]; k++)
        if (value[key, k, figure] != "-" && value[key, k, figure] != "") list[++n] = value[key, k, figure]
    return n ? median(list, n) : ""
}

# Whether the generator was at its limit, or near it, in most rounds.
function generator_bound(key,    k, n) {
    for (k = 0; k < rounds[key]; k++) n += value[key, k, "bound"] != "back-end"
    return 2 * n > rounds[key]
}

# Whether round i of a and round j of b may be set against each other.
function near(a, i, b, j,    low, high) {
    if (value[a, i, "near"] == "-" || value[b, j, "near"] == "-") return 1
    low = value[a, i, "near"] < value[b, j, "near"] ? value[a, i, "near"] : value[b, j, "near"]
    high = value[a, i, "far"] > value[b, j, "far"] ? value[a, i, "far"] : value[b, j, "far"]
    return high <= 1.4 * low
}

# Fills partner[i] with the round of b that round i of a is set against, or -1: as vf-conformance compare does.
function match_rounds(a, b, partner,    i, j, taken) {
    for (i = 0; i < rounds[a]; i++) {
        partner[i] = -1
        if (i < rounds[b] && near(a, i, b, i)) { partner[i] = i; taken[i] = 1 }
    }
    for (i = 0; i < rounds[a]; i++)
        for (j = 0; partner[i] < 0 && j < rounds[b]; j++)
            if (!(j in taken) && near(a, i, b, j)) { partner[i] = j; taken[j] = 1 }
}

# Median of the ratio of a figure of a to that of b; sets low and high; "" when there is none.
function ratio(a, b, figure,    i, j, n, list, x, partner) {
    low = high = ""
    match_rounds(a, b, partner)
    for (i = 0; i < rounds[a]; i++) {
        j = partner[i]
        if (j < 0 || value[a, i, figure] + 0 == 0 || value[b, j, figure] + 0 == 0) continue
        x = value[a, i, figure] / value[b, j, figure]
        list[++n] = x
        if (low == "" || x < low) low = x
        if (high == "" || x > high) high = x
    }
    return n ? median(list, n) : ""
}

# met: 1, 0, or "" when nothing that was measured can be compared.
function verdict(met) {
    if (met == "") { unknown++; return "not comparable" }
    if (met) return "met"
    missed++
    return "NOT MET"
}

# Whether x reaches a bar; "" when there is no x.
function reaches(x, bar) { return x == "" ? "" : x >= bar }

function line(what, bar, reached, met) {
    if (!bars++) printf "\nother bars\n\n| what | bar | reached | |\n|---|---|---|---|\n"
    printf "| %s | %s | %s | %s |\n", what, bar, reached, verdict(met)
}

# A line for a rate of vfnic that must be at least a share of another.
function share(what, bar, a, b,    x) {
    x = ratio(a, b, "mpps")
    if (!rounds[a] || !rounds[b]) return
    line(what, sprintf(">= %.2f", bar), x == "" ? "-" : sprintf("%.3f: %.2f..%.2f", x, low, high), reaches(x, bar))
}

function rate_row(ring, bytes, bar,    a, b, x, c, by, text, cycles_a, cycles_b, mark) {
    a = key_of("rings", "oneway", 2, 2, 1, ring, bytes, "vfnic")
    b = key_of("rings", "oneway", 2, 2, 1, ring, bytes, "testpmd-io")
    if (!rounds[a] || !rounds[b]) return
    x = ratio(a, b, "mpps")
    text = x == "" ? "-" : sprintf("%.2f: %.2f..%.2f", x, low, high)
    cycles_a = middle(a, "cycles"); cycles_b = middle(b, "cycles")
    c = ratio(b, a, "cycles")
    mark = generator_bound(a) ? (generator_bound(b) ? "both" : "vfnic") : (generator_bound(b) ? "testpmd" : "-")
    # Where the generator is the limit, cycles are the proof.
    by = "rate"
    if (x != "" && x < bar && generator_bound(a)) { by = "cycles"; x = c }
    if (!rows++) {
        printf "\nmust reach: rate one way as a ratio to testpmd io, or, where the generator was the limit, busy cycles a packet by each one's own counter\n\n"
        printf "| ring | bytes | bar | rate | cycles: testpmd | vfnic | ratio | generator the limit of | |\n|---|---|---|---|---|---|---|---|---|\n"
    }
    printf "| %s | %d | >= %.2f | %s | %s | %s | %s | %s | %s |\n", ring, bytes, bar, text, whole(cycles_b), whole(cycles_a),
        c == "" ? "-" : sprintf("%.2f", c), mark, verdict(reaches(x, bar)) (by == "cycles" ? " by cycles" : "")
}

function whole(x) { return x == "" ? "-" : sprintf("%.0f", x) }

function must_reach(    n, i, row, list) {
    n = split("split-vec 64 1.00 128 1.00 512 1.30 1518 1.50/split-mrg 64 .95 128 .95 512 1.20 1518 1.40/packed-mrg 64 .95 128 1.00 512 1.20 1518 1.30", row, "/")
    for (i = 1; i <= n; i++) {
        split(row[i], list, " ")
        for (k = 2; k <= 8; k += 2) rate_row(list[1], list[k], list[k + 1])
    }
}

# The largest loss, and the worst direction, of vfnic over what was measured.
function worst(    key, w, x) {
    for (key in rounds) {
        split(key, w, FS)
        if (w[8] != "vfnic") continue
        if (w[1] == "rings" && (x = middle(key, "loss")) != "" && (loss == "" || x > loss)) { loss = x; lossy = w[6] ", " w[7] " B" }
        if (w[1] == "bidir" && (x = middle(key, "fair")) != "" && (fair == "" || x < fair)) { fair = x; unfair = w[7] " B" }
    }
    if (loss != "") line("loss with a draining receiver, worst ring and size", "<= 0.03 %", sprintf("%.3f %% (%s)", loss, lossy), loss <= 0.03)
    if (fair != "") line("both ways: the weaker direction, as a share of the other, worst size", ">= 0.95", sprintf("%.3f (%s)", fair, unfair), fair >= 0.95)
}

function round_trips(    i, j, ring, bytes, a, b, x) {
    for (i = 1; i <= 2; i++) for (j = 1; j <= 2; j++) {
        ring = i == 1 ? "split-vec" : "split-mrg"; bytes = j == 1 ? 64 : 1518
        a = key_of("latency", "pingpong", 2, 2, 1, ring, bytes, "vfnic")
        b = key_of("latency", "pingpong", 2, 2, 1, ring, bytes, "testpmd-io")
        if (!rounds[a] || !rounds[b]) continue
        x = ratio(a, b, "p50")
        line("round trip p50, " ring ", " bytes " B, to testpmd's", "<= 1.00",
            x == "" ? "-" : sprintf("%.2f: %.2f..%.2f (medians %.0f and %.0f ns)", x, low, high, middle(a, "p50"), middle(b, "p50")), x == "" ? "" : x <= 1)
    }
}

function streams(    k, n, path, i, list, direct, base, x) {
    for (i = 1; i <= 2; i++) {
        path = i == 1 ? "direct" : "mediated"; n = 0
        for (k = 1; k <= tso_rounds; k++) if (tso["testpmd-tso-direct", k] && tso["vfnic-tso-" path, k]) {
            direct[++n] = tso["vfnic-tso-" path, k]; base[n] = tso["testpmd-tso-direct", k]; list[n] = direct[n] / base[n]
        }
        if (!n) continue
        x = median(list, n)
        reached = sprintf("%.2f (%.0f to %.0f Mb/s)", x, median(direct, n), median(base, n))
        if (path == "direct") line("two User-Mode Linux guests, TCP with TSO, direct, to what testpmd gives them", ">= 1.00", reached, x >= 1)
        else printf "| the same, mediated | - | %s | |\n", reached
    }
}

END {
    must_reach()
    worst()
    n = split("64 128 512 1518", size, " ")
    for (i = 1; i <= n; i++)
        share("both ways to one way: sum of the rates, split-vec, " size[i] " B", 0.95, key_of("bidir", "bidir", 2, 2, 1, "split-vec", size[i], "vfnic"),
            key_of("rings", "oneway", 2, 2, 1, "split-vec", size[i], "vfnic"))
    share("2 to 8 ports, sum of the rates, 64 B", 0.90, key_of("ports", "bidir", 8, 8, 1, "split-vec", 64, "vfnic"), key_of("ports", "bidir", 2, 2, 1, "split-vec", 64, "vfnic"))
    share("1 to 20,000 flows, 64 B", 0.90, key_of("flows", "oneway", 2, 2, 20000, "split-vec", 64, "vfnic"), key_of("flows", "oneway", 2, 2, 1, "split-vec", 64, "vfnic"))
    share("no filters to 8192, 64 B", 0.90, key_of("filters", "oneway", 2, 2, 1, "split-vec", 64, "vfnic"), key_of("filters", "oneway", 2, 2, 1, "split-vec", 64, "vfnic-empty"))
    share("2 to 64 VFs attached, 2 of them active, 64 B", 0.95, key_of("attached", "oneway", 2, 64, 1, "split-vec", 64, "vfnic"), key_of("attached", "oneway", 2, 2, 1, "split-vec", 64, "vfnic"))
    round_trips()
    if (idle_ports) {
        line(idle_ports " idle VFs, share of a CPU", "< 1 %", idle_cpu " %", idle_cpu < 1)
        line(idle_ports " idle VFs, resident memory", "< " 64 + idle_ports " MiB", idle_mib " MiB", idle_mib < 64 + idle_ports)
    }
    streams()
    if (rows + bars) printf "\nof %d bars %d met, %d not, %d not comparable: rounds in which the CPUs were as far apart for both are missing\n",
        rows + bars, rows + bars - missed - unknown, missed, unknown
}
