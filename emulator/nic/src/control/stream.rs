//! Captures and monitors that clients ask for: what becomes of the connection on which they ask. Writes nothing itself.

use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crate::capture::form::Watched;
use crate::capture::words::{self, Named};
use crate::capture::writer::{Writer, Written};
use crate::capture::{Wanted, all_ports};
use crate::watch::Port;
use vf_model::VfIndex;

use super::dispatch::Nics;
use super::protocol::{CaptureRequest, Response};

/// Captures and monitors of a NIC at a time that administrators have. Each may hold back as much as its reader does not read.
const MOST: usize = 16;

/// What takes a client's connection when its request has been answered: no more requests are read from it.
pub type Takeover = Box<dyn FnOnce(Arc<UnixStream>) -> std::io::Result<()>>;

/// Begins a capture.
///
/// # Errors
/// Why it is refused, on one line.
pub(super) fn capture(
    nics: &impl Nics,
    request: &CaptureRequest,
    nic: Option<usize>,
) -> Result<(Response, Takeover), String> {
    let named: Vec<_> = nics
        .nics()
        .map(|nic| Named {
            name: nic.settings.name.clone(),
            vfs: nic.settings.vfs.into(),
        })
        .collect();
    let asked = words::parse(&request.words, nic, &named)?;
    let wanted = asked.ports.into_iter().map(|of| {
        let wanted = Wanted {
            ports: of.ports,
            drops_only: request.drops,
            events: true,
            snaplen: request.snaplen,
            only: asked.only,
            ..Wanted::default()
        };
        (of.nic, wanted)
    });
    begin(nics, wanted.collect(), Written::Pcapng)
}

/// Begins to tell of events, and of drops if they are wanted, of one NIC or of all. Observers may have as many as
/// [their socket](super::clients::Bounds) allows.
///
/// # Errors
/// Why it is refused, on one line.
pub(super) fn monitor(
    nics: &impl Nics,
    nic: Option<usize>,
    drops: bool,
    observer: bool,
) -> Result<(Response, Takeover), String> {
    let all = nics.nics().enumerate();
    let all = all.filter(|(n, _)| nic.is_none_or(|nic| nic == *n));
    let wanted = all.map(|(n, host)| {
        let ports = match drops {
            true => all_ports(host.settings.vfs.into()),
            false => Vec::new(),
        };
        let wanted = Wanted {
            ports,
            drops_only: true,
            events: true,
            snaplen: 1, // what a judge looks at is kept anyway
            observer,
            ..Wanted::default()
        };
        (n, wanted)
    });
    begin(nics, wanted.collect(), Written::Lines)
}

/// Begins to have frames judged again on both paths, of one NIC or of all: so many a second of each port at most.
///
/// # Errors
/// Why it is refused, on one line.
pub(super) fn check_paths(
    nics: &impl Nics,
    nic: Option<usize>,
    rate: u32,
) -> Result<(Response, Takeover), String> {
    let all = nics.nics().enumerate();
    let all = all.filter(|(n, _)| nic.is_none_or(|nic| nic == *n));
    let wanted = all.map(|(n, host)| {
        let vfs = (0..usize::from(host.settings.vfs)).map(VfIndex::from);
        let wanted = Wanted {
            ports: vfs.map(Port::Vf).chain([Port::Wire]).collect(),
            snaplen: 1, // what a judge looks at is kept anyway
            judged: Some(rate),
            ..Wanted::default()
        };
        (n, wanted)
    });
    begin(nics, wanted.collect(), Written::Paths)
}

fn begin(
    nics: &impl Nics,
    wanted: Vec<(usize, Wanted)>,
    how: Written,
) -> Result<(Response, Takeover), String> {
    let hosts: Vec<_> = nics.nics().collect();
    let all = wanted.into_iter();
    let all = all.filter_map(|(n, wanted)| Some((hosts.get(n)?, wanted)));
    let all: Vec<_> = all.collect();
    let mut own = all.iter().filter(|(_, wanted)| !wanted.observer);
    if let Some((full, _)) = own.find(|(host, _)| host.captures() >= MOST) {
        let name = &full.settings.name;
        return Err(format!(
            "{MOST} captures of {name} run already: end one of them"
        ));
    }
    let writer = Writer::new().map_err(|e| format!("cannot capture: {e}"))?;
    let watched = all
        .into_iter()
        .enumerate()
        .map(|(number, (host, wanted))| Watched {
            number,
            nic: host.settings.name.clone(),
            capture: host.capture(wanted, writer.bell()),
            began: host.began(),
        });
    let watched: Vec<_> = watched.collect();
    let takeover = move |stream| writer.spawn(watched, stream, how);
    Ok((Response::Stream, Box::new(takeover)))
}
