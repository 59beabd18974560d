//! `vfnic netns`: network namespaces on VFs. Makes their devices, and hands them to the vfnic that runs, which needs no privilege for that.

use std::fmt::Write;
use std::os::fd::AsFd;
use std::path::Path;

use vf_model::{MacAddr, Mtu};
use vfnic::cli;
use vfnic::control::show::{Show, ShowNic, ShowVf};
use vfnic::control::{AttachTap, Connection, Request, Response};
use vfnic::tap_port::TapDevice;

use crate::failure::{Failure, failed, unanswered, usage};
use crate::output::print;
use crate::running::done;
use crate::show::named;

pub(super) fn netns(ctl: &Path, nic: Option<&str>, command: &cli::Netns) -> Result<(), Failure> {
    let mut connection = Connection::open(ctl).map_err(failed)?;
    match command {
        cli::Netns::Add { words } => add(&mut connection, nic, words),
        cli::Netns::Delete { words } => delete(&mut connection, nic, words),
        cli::Netns::List(show) => list(&mut connection, nic, show.json),
    }
}

/// What follows `add` or `delete`: a namespace, and then words with values.
struct Words<'a> {
    netns: &'a str,
    vf: Option<u16>,
    name: &'a str,
}

impl Words<'_> {
    fn parse<'a>(words: &'a [String], form: &str) -> Result<Words<'a>, Failure> {
        let wrong = |word: &str| {
            let word = word.escape_debug();
            usage(format!("netns: '{word}': it is {form}"))
        };
        let (netns, rest) = words.split_first().ok_or_else(|| wrong(""))?;
        let (mut vf, mut name) = (None, None);
        for pair in rest.chunks(2) {
            let before = match pair {
                [word, value] if word == "vf" => {
                    let number = value.parse().map_err(|_| wrong(value))?;
                    vf.replace(number).is_some()
                }
                [word, value] if word == "name" && form.contains("name") => {
                    name.replace(value.as_str()).is_some()
                }
                [word, ..] => return Err(wrong(word)),
                [] => false,
            };
            if before {
                return Err(usage(format!(
                    "netns: {} is said twice: say it once",
                    pair[0]
                )));
            }
        }
        Ok(Words {
            netns: short(netns),
            vf,
            name: name.unwrap_or("eth0"),
        })
    }
}

/// The name of a namespace that is said by the path that `ip netns` has it at: one namespace is one word.
fn short(netns: &str) -> &str {
    let folders = ["/run/netns/", "/var/run/netns/"];
    let name = folders.iter().find_map(|folder| netns.strip_prefix(folder));
    let is_name = |name: &&str| !name.is_empty() && !name.contains('/') && !name.starts_with('.');
    name.filter(is_name).unwrap_or(netns)
}

fn show(connection: &mut Connection) -> Result<Show, Failure> {
    match connection.ask(&Request::Show).map_err(failed)? {
        Response::Show(show) => Ok(*show),
        _ => Err(unanswered()),
    }
}

/// The NICs that are meant: the one that is named, or all.
fn meant<'a>(show: &'a Show, nic: Option<&'a str>) -> impl Iterator<Item = &'a ShowNic> {
    show.nics
        .iter()
        .filter(move |of| nic.is_none_or(|nic| of.name == nic))
}

fn add(connection: &mut Connection, nic: Option<&str>, words: &[String]) -> Result<(), Failure> {
    let words = Words::parse(words, "NS vf N [name DEVICE]")?;
    let vf = words
        .vf
        .ok_or_else(|| usage("netns add: which VF? It is NS vf N [name DEVICE]"))?;
    let show = show(connection)?;
    let names: Vec<_> = show.nics.iter().map(|nic| nic.name.as_str()).collect();
    let mut nics = meant(&show, nic);
    let (Some(found), None) = (nics.next(), nics.next()) else {
        return Err(usage(format!(
            "which NIC? say --nic with one of: {}",
            names.join(", ")
        )));
    };
    let said = found.vfs.iter().find(|there| there.vf == vf);
    let said = said.ok_or_else(|| {
        usage(match found.vfs.len() {
            0 => format!(
                "vf {vf}: {} has no VFs now: 'link set numvfs N' makes them",
                found.name
            ),
            n => format!("vf {vf}: {} has {n} VFs, from 0 on", found.name),
        })
    })?;
    let device = TapDevice {
        name: words.name.to_owned(),
        netns: Some(words.netns.to_owned()),
    };
    device.check().map_err(usage)?;
    // Before it is opened and has this VF's address.
    if let Some((of, there, _)) = taps(&show, None).find(|(of, there, tap)| {
        *tap == device.name
            && there.netns == device.netns
            && (*of, there.vf) != (found.name.as_str(), vf)
    }) {
        return Err(usage(format!(
            "{device} is on {of} vf {} already: say name DEVICE for another one",
            there.vf
        )));
    }
    if said.connected {
        let who = match (&said.tap, &said.netns) {
            (Some(tap), Some(netns)) => format!("tap {tap} in netns {netns}"),
            (Some(tap), None) => format!("tap {tap}"),
            (None, _) => "a front end".to_owned(),
        };
        return Err(usage(format!(
            "vf {vf}: {who} is on it, and is to be taken away first"
        )));
    }
    let mtu = Mtu::new(said.told_mtu.into()).map_err(failed)?;
    let queues = device.open(mac(said)?, mtu, said.queue_pairs);
    let queues = queues.map_err(failed)?;
    let queues: Vec<_> = queues.iter().map(AsFd::as_fd).collect();
    let request = Request::AttachTap(AttachTap {
        nic: Some(found.name.clone()),
        vf,
        tap: device.name,
        netns: device.netns,
    });
    done(connection.ask_with(&request, &queues).map_err(failed)?)
}

fn mac(vf: &ShowVf) -> Result<MacAddr, Failure> {
    vf.state.mac.parse().map_err(failed)
}

/// The VFs with a device of the host on them, and the NICs that they are of.
fn taps<'a>(
    show: &'a Show,
    nic: Option<&'a str>,
) -> impl Iterator<Item = (&'a str, &'a ShowVf, &'a str)> {
    meant(show, nic).flat_map(|nic| {
        let vfs = nic.vfs.iter();
        vfs.filter_map(|vf| Some((nic.name.as_str(), vf, vf.tap.as_deref()?)))
    })
}

fn delete(connection: &mut Connection, nic: Option<&str>, words: &[String]) -> Result<(), Failure> {
    let words = Words::parse(words, "NS [vf N]")?;
    let show = show(connection)?;
    let there = taps(&show, nic).filter(|(_, vf, _)| {
        vf.netns.as_deref() == Some(words.netns) && words.vf.is_none_or(|wanted| wanted == vf.vf)
    });
    let there: Vec<_> = there.collect();
    if there.is_empty() {
        return Err(usage(format!(
            "netns '{}' is on no such VF ('vfnic netns list' shows those that are)",
            words.netns
        )));
    }
    for (nic, vf, _) in there {
        let (nic, vf) = (Some(nic.to_owned()), vf.vf);
        done(
            connection
                .ask(&Request::DetachTap { nic, vf })
                .map_err(failed)?,
        )?;
    }
    Ok(())
}

fn list(connection: &mut Connection, nic: Option<&str>, json: bool) -> Result<(), Failure> {
    let show = show(connection)?;
    if let Some(nic) = nic {
        named(&show, nic)?;
    }
    if json {
        let all = taps(&show, nic).map(|(nic, vf, tap)| {
            serde_json::json!({
                "netns": vf.netns, "nic": nic, "vf": vf.vf, "device": tap, "connected": vf.connected,
            })
        });
        let all: Vec<_> = all.collect();
        let json = serde_json::to_string_pretty(&all).map_err(failed)?;
        return print(&format!("{json}\n"));
    }
    let mut text = String::new();
    for (nic, vf, tap) in taps(&show, nic) {
        let netns = vf.netns.as_deref().unwrap_or("-");
        let state = if vf.connected { "" } else { "  gone" };
        writeln!(text, "{netns}  {nic} vf {}  {tap}{state}", vf.vf).map_err(failed)?;
    }
    print(&text)
}
