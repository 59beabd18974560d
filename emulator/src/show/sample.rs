//! What `show` says of one NIC called `a`, for tests. Nothing of it is measured.

use serde_json::{Value, json};
use vfnic::control::show::{Show, ShowCounters};

/// With so many VFs, of which nobody has used one.
pub(crate) fn show(vfs: u16) -> Show {
    let none = counters_json();
    let cpu = |clock: &str, utilisation: f64| json!({"clock": clock, "utilisation": utilisation, "busy_ns": 0});
    let vfs: Vec<_> = (0..vfs).map(vf).collect();
    let show = json!({
        "version": 1, "uptime_s": 83.4, "interval_s": 83.4,
        "nics": [{
            "name": "a", "uplink": "none", "profile": "generic", "hwmode": "veb",
            "link": {
                "up": true, "carrier": true, "rate_mbps": 10_000, "mtu": 9216, "tx_utilisation": 0.0, "tx_busy_ns": 0,
                "counters": none, "xstats": {},
            },
            "worker": cpu("measured", 0.125), "hypervisor": cpu("model", 0.0),
            "workers": [{
                "name": "worker-a", "busy_ns": 0, "rounds": 0, "idle_rounds": 0, "wakeups": 0, "frames": 0, "bursts": 0, "copies": 0,
                "notified": 0, "suppressed": 0,
            }],
            "bridge": {"entries": 0, "learned": 0, "moved": 0, "floods": 0},
            "numvfs": vfs.len(), "totalvfs": vfs.len(), "filters": 0, "filter_tables": [], "pf": none, "vfs": vfs,
        }],
    });
    serde_json::from_value(show).unwrap()
}

/// With these counters and no drops.
pub(crate) fn counters(
    rx_packets: u64,
    rx_bytes: u64,
    tx_packets: u64,
    tx_bytes: u64,
) -> ShowCounters {
    ShowCounters {
        rx_packets,
        rx_bytes,
        tx_packets,
        tx_bytes,
        ..ShowCounters::default()
    }
}

fn vf(n: u16) -> Value {
    let none = counters_json();
    let mac = format!("02:00:00:00:00:{:02x}", n % 256);
    json!({
        "vf": n, "settings": {"path": "direct", "mac": mac}, "path": "direct", "mtu": 1500, "link": "up", "mac": mac,
        "permanent_mac": mac, "socket": format!("/run/vfnic/vf{n}.sock"), "connected": false, "sessions": 0, "refusals": 0,
        "rings": 0, "rss": {"hkey": "", "spread": "default"}, "queues": [], "asked": {}, "in_force": {}, "refused": 0,
        "total": none, "direct": none, "mediated": none,
    })
}

fn counters_json() -> Value {
    serde_json::to_value(ShowCounters::default()).unwrap()
}
