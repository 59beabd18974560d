//! What a port does whatever path its frames take: other groups' cases once more, with a hypervisor between the ports and the switch, and with one
//! at one end alone. No case here sends or expects anything of its own.

use crate::bench::Bench;
use crate::case::{Case, Level, Need};
use crate::cases::control::{CONFIG, MQ, RX, VLAN};
use crate::cases::vf::ADMIN;
use crate::verdict::{Failure, Seen};
use vf_guest::message::protocol::NET_MTU;
use vf_guest::net::feature;

/// The paths of the first and second port.
type Paths = &'static [[&'static str; 2]];

const MEDIATED: Paths = &[["mediated", "mediated"]];
const MIXED: Paths = &[
    ["mediated", "mediated"],
    ["mediated", "direct"],
    ["direct", "mediated"],
    ["auto", "auto"],
];

const CSUM: Need = Need::Feature(feature::CSUM | feature::GUEST_CSUM, "CSUM");
const TSO: Need = Need::Feature(feature::HOST_TSO4 | feature::CSUM, "HOST_TSO4");
const MTU: Need = Need::Feature(feature::MTU, "MTU");
const MRG: Need = Need::Feature(feature::MRG_RXBUF, "MRG_RXBUF");
const SEVERAL: Need = Need::Feature(feature::MQ, "MQ");
const PAIRS: Need = Need::Pairs(2);

macro_rules! again {
    ($($id:literal: $of:literal on $paths:ident, needs $($need:expr),*;)*) => {
        &[$(Case {
            id: $id,
            level: Level::Model,
            needs: &[ADMIN, Need::Peer $(, $need)*],
            source: "the data path of a switch is no part of what it promises",
            sent: concat!("What ", $of, " sends, by ports whose frames take other paths."),
            expected: concat!("What ", $of, " expects."),
            run: |bench| on(bench, $of, $paths),
        }),*]
    };
}

pub(super) const CASES: &[Case] = again! {
    "path/calls": "ring/no-interrupt-flag" on MEDIATED, needs;
    "path/call-of-every-pair": "ring/call-of-every-pair" on MEDIATED, needs SEVERAL, PAIRS;
    "path/framing-free": "ring/framing-free" on MIXED, needs;
    "path/every-pair-served": "net/every-pair-served" on MEDIATED, needs SEVERAL, PAIRS;
    "path/partial-csum-kinds": "net/partial-csum-kinds" on MIXED, needs CSUM;
    "path/tso-every-size": "net/tso-every-size" on MIXED, needs TSO;
    "path/tso-to-tso-peer": "net/tso-to-tso-peer" on MIXED, needs TSO;
    "path/mrg-spread": "net/mrg-spread" on MEDIATED, needs MRG;
    "path/mtu-not-exceeded": "net/mtu-not-exceeded" on MIXED, needs MTU, CONFIG;
    "path/tag-beside-mtu": "net/tag-beside-mtu" on MIXED, needs MTU;
    "path/load-both-ways": "net/load-both-ways" on MIXED, needs;
    "path/port-vlan-insert-strip": "vf/port-vlan-insert-strip" on MIXED, needs;
    "path/port-vlan-partial-csum": "vf/port-vlan-partial-csum" on MIXED, needs CSUM;
    "path/port-vlan-offloads": "vf/port-vlan-offloads" on MIXED, needs CSUM, TSO;
    "path/port-vlan-over-buffers": "vf/port-vlan-over-buffers" on MIXED, needs MRG;
    "path/spoofchk-mac": "vf/spoofchk-mac" on MIXED, needs;
    "path/rate-cap": "vf/rate-cap" on MEDIATED, needs;
    "path/counters-conserve": "vf/counters-conserve" on MIXED, needs;
    "path/mac-table": "control/mac-table" on MIXED, needs Need::Control, RX;
    "path/vlan": "control/vlan-keeps-out" on MIXED, needs Need::Control, VLAN;
    "path/flows-spread": "control/flows-spread" on MEDIATED, needs Need::Control, MQ, CONFIG, PAIRS;
    "path/broadcast-once-each": "switch/broadcast-once-each" on MIXED, needs Need::Onlooker;
    "path/burst-of-many": "switch/burst-of-many" on MEDIATED, needs Need::Onlooker;
    "path/disabled-receives-nothing": "link/disabled-receives-nothing" on MEDIATED, needs;
    "path/filter-each-field": "filter/match-each-field" on MEDIATED, needs;
    "path/filter-egress-while-running": "filter/egress-while-running" on MEDIATED, needs;
    "path/enabled-whatever-the-link": "link/vf-enable" on MEDIATED, needs;
    "path/counters-of-too-long": "vf/counters-of-too-long" on MIXED, needs MTU, Need::Protocol(NET_MTU, "NET_MTU");
};

/// Runs that case once for each of `paths`, a third port on the first one's. A subject without a path is not asked for it.
fn on(bench: &Bench, of: &str, paths: Paths) -> Result<Seen, Failure> {
    let missing = || Failure::Unsupported(of.to_owned());
    let case = super::all()
        .find(|case| case.id == of)
        .ok_or_else(missing)?;
    let mut seen = Err(Failure::Unsupported("vf N path".to_owned()));
    for [first, second] in paths {
        bench.administer("reset")?;
        let mut ports = vec![*first, *second];
        if bench.has_onlooker() {
            ports.push(first);
        }
        let orders = ports.iter().enumerate();
        let ordered = orders.map(|(vf, path)| bench.administer(&format!("vf {vf} path {path}")));
        match ordered.collect::<Result<Vec<_>, _>>() {
            Err(Failure::Unsupported(_)) => continue,
            ordered => drop(ordered?),
        }
        seen = Ok((case.run)(bench).map_err(|failure| match failure {
            Failure::Wrong(what) | Failure::Lesser { what, .. } => {
                Failure::Wrong(format!("{what} (on paths {first} and {second})"))
            }
            other => other,
        })?);
    }
    seen
}
