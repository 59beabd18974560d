//! `vfnic show --watch`: what has passed each port, a line each, again and again. The counters are those that planes publish: whoever
//! watches stops no plane.

use std::path::Path;
use std::time::Duration;

use vfnic::control::show::Show;
use vfnic::control::{Connection, CtlError, Request, Response};

use super::{Detail, Wanted};
use crate::failure::{Failure, failed, unanswered, usage};
use crate::rates::{Between, NicBetween, Rates};
use crate::units::{bit_rate, event_rate, packet_rate, percent};

/// Lines between two headings.
const PAGE: usize = 20;

const HEADING: &str =
    "NIC     PORT    PATH            rx        rx        tx        tx  dropped  busy\n";

/// Watches until standard output is closed or the user says stop. A vfnic that goes is waited for.
pub(crate) fn watch(
    ctl: &Path,
    wanted: &Wanted<'_>,
    seconds: Duration,
    json: bool,
) -> Result<(), Failure> {
    // There must be one, and of the version that this program speaks.
    let mut connection = Some(Connection::open(ctl).map_err(failed)?);
    let mut before: Option<Show> = None;
    let mut lines = 0;
    loop {
        let answer = match &mut connection {
            Some(connection) => connection.ask(&Request::Show),
            None => Connection::open(ctl)
                .and_then(|opened| connection.insert(opened).ask(&Request::Show)),
        };
        let shown = match answer {
            Ok(Response::Show(show)) => Some(wanted.of_all(*show)?),
            Ok(Response::Refused(why)) => return Err(usage(why)),
            Ok(_) => return Err(unanswered()),
            Err(error @ (CtlError::Version { .. } | CtlError::Protocol { .. })) => {
                return Err(failed(error));
            }
            Err(_) => None,
        };
        let text = match (&shown, &before) {
            (Some(show), _) if json => serde_json::to_string(show).map_err(failed)? + "\n",
            (Some(show), Some(before)) => {
                Between::new(before, show).map_or_else(String::new, |between| {
                    let text = block(between, &wanted.detail);
                    let heading = lines == 0 || lines >= PAGE;
                    lines = text.lines().count() + if heading { 0 } else { lines };
                    if heading {
                        HEADING.to_owned() + &text
                    } else {
                        text
                    }
                })
            }
            (None, Some(_)) => format!("waiting for vfnic at {}\n", ctl.display()),
            _ => String::new(),
        };
        if shown.is_none() {
            connection = None;
        }
        before = shown;
        // Whoever has read enough ends it.
        if !crate::output::print_on(&text)? {
            return Ok(());
        }
        std::thread::sleep(seconds);
    }
}

/// A line for the wire of each NIC and for each VF that has a guest.
fn block(between: Between<'_>, detail: &Detail) -> String {
    let mut out = String::new();
    for nic in between.nics() {
        let name = &nic.after.name;
        if !matches!(detail, Detail::Vfs(_)) {
            out += &line(name, "wire", "", &nic.wire(), Some(nic.tx_utilisation()));
            if let Some(busy) = nic.cpu(|nic| &nic.hypervisor, 1) {
                let pf = nic.pf();
                if pf != Rates::default() {
                    out += &line(name, "pf", "", &pf, Some(busy));
                }
            }
        }
        out += &vfs(nic, detail);
    }
    if between.nics().count() > 1 || out.lines().count() > 1 {
        out.push('\n');
    }
    out
}

fn vfs(nic: NicBetween<'_>, detail: &Detail) -> String {
    let vfs = nic.vfs();
    let vfs = vfs.filter(|(vf, _)| *detail != Detail::Overview || !super::never_had_a_guest(vf));
    let lines = vfs.map(|(vf, rates)| {
        let port = format!("vf {}", vf.vf);
        line(&nic.after.name, &port, &vf.path, &rates, None)
    });
    lines.collect()
}

/// How busy is the wire's for the wire and the hypervisor's for the PF. A line below says why frames were dropped.
fn line(nic: &str, port: &str, path: &str, rates: &Rates, busy: Option<f64>) -> String {
    let dropped = match rates.dropped() {
        0.0 => "-".to_owned(),
        dropped => event_rate(dropped),
    };
    let line = format!(
        "{nic:<7} {port:<7} {path:<8} {:>9} {:>9} {:>9} {:>9} {dropped:>8} {:>5}",
        bit_rate(rates.rx_bits),
        packet_rate(rates.rx_packets),
        bit_rate(rates.tx_bits),
        packet_rate(rates.tx_packets),
        busy.map_or_else(String::new, |busy| percent(busy).replace(' ', "")),
    );
    let mut out = format!("{}\n", line.trim_end());
    let why = rates.drops.iter();
    let why = why.map(|((way, reason), n)| format!("{way} {reason} {}", event_rate(*n)));
    // Writing to a String does not fail.
    let _ = super::text::wrapped(&mut out, 8, "dropped", why);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::show::sample::{counters, show};

    #[test]
    fn a_block_has_the_wire_and_the_vfs_that_have_a_guest() {
        let before = show(3);
        let mut after = before.clone();
        after.uptime_s += 1.0;
        let nic = &mut after.nics[0];
        nic.vfs[1].sessions = 1;
        nic.vfs[1].total = counters(100_000, 151_400_000, 50_000, 3_300_000);
        let drops = &mut nic.vfs[1].total.rx_drops;
        drops.insert("no_rx_buffer".to_owned(), 1500);
        let between = Between::new(&before, &after).unwrap();
        let said = HEADING.to_owned() + &block(between, &Detail::Overview);
        assert_eq!(
            said,
            "\
NIC     PORT    PATH            rx        rx        tx        tx  dropped  busy
a       wire                 0 b/s     0 pps     0 b/s     0 pps        -  0.0%
a       vf 1    direct   1.21 Gb/s  100 kpps 26.4 Mb/s 50.0 kpps 1.50 k/s
        dropped   rx no_rx_buffer 1.50 k/s

"
        );
        assert!(said.lines().all(|line| line.len() < 80));
        assert_eq!(block(between, &Detail::All).matches("vf ").count(), 3);
    }
}
