//! Numbers as people read them: three or four digits and a unit. Says nothing of what they count.

/// Bits a second, such as `9.41 Gb/s`: nine columns at most.
pub(crate) fn bit_rate(bits_s: f64) -> String {
    scaled(bits_s, 1000.0, &["b/s", "kb/s", "Mb/s", "Gb/s", "Tb/s"])
}

/// Packets a second, such as `14.9 Mpps`: nine columns at most.
pub(crate) fn packet_rate(packets_s: f64) -> String {
    scaled(packets_s, 1000.0, &["pps", "kpps", "Mpps", "Gpps"])
}

/// Events a second, such as `1.50 k/s`: eight columns at most.
pub(crate) fn event_rate(events_s: f64) -> String {
    scaled(events_s, 1000.0, &["/s", "k/s", "M/s", "G/s"])
}

/// Bytes, such as `1.59 GiB`: nine columns at most.
pub(crate) fn bytes(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    scaled(bytes as f64, 1024.0, &units)
}

/// A count: exact up to a million, then such as `12.35 M`: seven columns at most.
pub(crate) fn count(n: u64) -> String {
    let (unit, name) = match n {
        0..1_000_000 => return n.to_string(),
        1_000_000..1_000_000_000 => (1e6, "M"),
        1_000_000_000..1_000_000_000_000 => (1e9, "G"),
        _ => (1e12, "T"),
    };
    let scaled = n as f64 / unit;
    let digits = if scaled < 99.995 { 2 } else { 1 };
    format!("{scaled:.digits$} {name}")
}

/// A share as per cent; what is measured may be a little more than all of it.
pub(crate) fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

/// A time that something has run: `83 s`, `12:03:07`, `3 d 01:02:03`.
pub(crate) fn uptime(seconds: f64) -> String {
    let s = seconds.max(0.0) as u64;
    let (days, h, m) = (s / 86400, s / 3600 % 24, s / 60 % 60);
    match (days, s) {
        (0, 0..100) => format!("{s} s"),
        (0, _) => format!("{h:02}:{m:02}:{:02}", s % 60),
        (days, _) => format!("{days} d {h:02}:{m:02}:{:02}", s % 60),
    }
}

/// Three digits of a number, in the largest unit of which there is one at least.
fn scaled(mut n: f64, step: f64, units: &[&str]) -> String {
    let mut unit = 0;
    // What would be printed as 1000 is 1.00 of the next.
    while n >= 999.5 && unit + 1 < units.len() {
        n /= step;
        unit += 1;
    }
    let name = units.get(unit).copied().unwrap_or_default();
    let space = if name.starts_with('/') { "" } else { " " };
    match n {
        _ if unit == 0 => format!("{n:.0}{space}{name}"),
        n if n < 9.995 => format!("{n:.2} {name}"),
        n if n < 99.95 => format!("{n:.1} {name}"),
        n => format!("{n:.0} {name}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_the_unit_that_suits_them() {
        for (n, said) in [
            (0.0, "0 b/s"),
            (0.4, "0 b/s"),
            (999.4, "999 b/s"),
            (999.5, "1.00 kb/s"),
            (9_994.0, "9.99 kb/s"),
            (9_996.0, "10.0 kb/s"),
            (99_960.0, "100 kb/s"),
            (999_600.0, "1.00 Mb/s"),
            (9_412_345_678.0, "9.41 Gb/s"),
            (1e16, "10000 Tb/s"),
        ] {
            assert_eq!(bit_rate(n), said, "{n}");
        }
        assert_eq!(packet_rate(14_880_952.0), "14.9 Mpps");
        assert_eq!(event_rate(3.0), "3/s");
        assert_eq!(event_rate(1500.0), "1.50 k/s");
        assert_eq!(bytes(1023), "1.00 KiB");
        assert_eq!(bytes(1_709_866_938), "1.59 GiB");
        assert_eq!(bytes(u64::MAX), "16.0 EiB");
        for (n, said) in [
            (999_999, "999999"),
            (1_000_000, "1.00 M"),
            (12_345_678, "12.35 M"),
            (123_456_789, "123.5 M"),
            (u64::MAX, "18446744.1 T"),
        ] {
            assert_eq!(count(n), said);
        }
        assert_eq!(uptime(83.4), "83 s");
        assert_eq!(uptime(43_387.0), "12:03:07");
        assert_eq!(uptime(262_923.0), "3 d 01:02:03");
    }

    #[test]
    fn what_is_printed_has_its_columns() {
        for power in 0..130 {
            let n = 1.37_f64.powi(power);
            if n < 1e14 {
                assert!(bit_rate(n).len() <= 9, "{}", bit_rate(n));
            }
            if n < 9e11 {
                assert!(packet_rate(n).len() <= 9, "{}", packet_rate(n));
                assert!(event_rate(n).len() <= 8, "{}", event_rate(n));
            }
            if n < 9e13 {
                assert!(count(n as u64).len() <= 7, "{}", count(n as u64));
            }
            assert!(bytes(n as u64).len() <= 9, "{}", bytes(n as u64));
        }
    }
}
