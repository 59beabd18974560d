//! The words of `vfnic capture`: ports, of whichever NICs, and then what frames are to be like. Captures nothing.

use vf_model::{FrameMatch, VfIndex, nearest};

use crate::watch::Port;

/// Ports of one NIC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports {
    /// The NIC, by its place among all.
    pub nic: usize,
    /// Each once.
    pub ports: Vec<Port>,
}

/// What words say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Where, a NIC each.
    pub ports: Vec<Ports>,
    /// Only frames like this.
    pub only: Option<FrameMatch>,
}

/// A NIC as far as words are about it.
pub struct Named {
    /// Its name.
    pub name: String,
    /// How many VFs it has.
    pub vfs: usize,
}

const PORTS: &str = "vf N, wire or pf";

/// Reads `[NIC] PORT ... [[NIC] PORT ...] [flow-type ...]`, where a port is `vf N`, `wire` or `pf`, and N may be a range. `nic`, if it is
/// said, is the only one that is meant.
///
/// # Errors
/// What is wrong with the words, on one line.
pub fn parse(words: &[String], nic: Option<usize>, nics: &[Named]) -> Result<Asked, String> {
    let mut asked = Asked {
        ports: Vec::new(),
        only: None,
    };
    let mut at = nic;
    let mut rest = words.iter();
    while let Some(word) = rest.next() {
        let port = match word.as_str() {
            "flow-type" => {
                let from = words.len() - rest.len() - 1;
                let only = FrameMatch::parse(words.get(from..).unwrap_or_default());
                asked.only = Some(only.map_err(|refusal| refusal.to_string())?);
                break;
            }
            "vf" | "wire" | "pf" => word.as_str(),
            name => {
                let named = nics.iter().position(|nic| nic.name == name);
                let named = named.ok_or_else(|| unknown(name, nics))?;
                if let Some(meant) = nic.and_then(|meant| nics.get(meant))
                    && meant.name != name
                {
                    return Err(format!(
                        "--nic {} and {name}: leave out --nic to capture at several NICs",
                        meant.name
                    ));
                }
                at = Some(named);
                continue;
            }
        };
        let n = at.ok_or_else(|| {
            let names: Vec<_> = nics.iter().map(|nic| nic.name.as_str()).collect();
            format!("which NIC? say {} before {port}", names.join(" or "))
        })?;
        let vfs = nics.get(n).map_or(0, |nic| nic.vfs);
        let ports = match port {
            "wire" => vec![Port::Wire],
            "pf" => vec![Port::Pf],
            _ => vf_range(rest.next(), vfs)?,
        };
        add(&mut asked.ports, n, ports);
    }
    match asked.ports.is_empty() {
        true => Err(format!("capture where? say {PORTS}")),
        false => Ok(asked),
    }
}

fn unknown(word: &str, nics: &[Named]) -> String {
    let shown: String = word.escape_debug().take(64).collect();
    let names = nics.iter().map(|nic| nic.name.as_str());
    let known = ["vf", "wire", "pf", "flow-type"]
        .into_iter()
        .chain(names.clone());
    let meant =
        nearest(word, known).map_or_else(String::new, |meant| format!("did you mean '{meant}'? "));
    let names: Vec<_> = names.collect();
    format!(
        "word '{shown}': {meant}{PORTS}, a NIC ({}), or what frames are to be like, as flow-type ...",
        names.join(", ")
    )
}

/// The VFs of `N` or `N-M`.
fn vf_range(word: Option<&String>, vfs: usize) -> Result<Vec<Port>, String> {
    let word = word.map_or("", String::as_str);
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    let range = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
    match range.filter(|(first, last)| first <= last && *last < vfs) {
        Some((first, last)) => Ok((first..=last)
            .map(|vf| Port::Vf(VfIndex::from(vf)))
            .collect()),
        None => {
            let shown: String = word.escape_debug().take(64).collect();
            let last = vfs.saturating_sub(1);
            Err(format!(
                "vf '{shown}': the number of a VF, 0 to {last}, or a range such as 0-{last}"
            ))
        }
    }
}

fn add(all: &mut Vec<Ports>, nic: usize, new: Vec<Port>) {
    let at = all.iter().position(|ports| ports.nic == nic);
    let at = at.unwrap_or_else(|| {
        all.push(Ports {
            nic,
            ports: Vec::new(),
        });
        all.len() - 1
    });
    if let Some(Ports { ports, .. }) = all.get_mut(at) {
        let others = new
            .into_iter()
            .filter(|port| !ports.contains(port))
            .collect::<Vec<_>>();
        ports.extend(others);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(text: &str, nic: Option<usize>) -> Result<Asked, String> {
        let words: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        let nics = ["a", "b"].map(|name| Named {
            name: name.to_owned(),
            vfs: 4,
        });
        parse(&words, nic, &nics)
    }

    fn vf(vf: u8) -> Port {
        Port::Vf(VfIndex(vf))
    }

    #[test]
    fn ports_of_several_nics_and_a_match() {
        let asked = ask(
            "a vf 0 wire b vf 1-2 vf 2 pf a vf 3 flow-type ether vlan 5",
            None,
        )
        .unwrap();
        let [a, b] = asked.ports.as_slice() else {
            panic!("{asked:?}");
        };
        assert_eq!((a.nic, &a.ports), (0, &vec![vf(0), Port::Wire, vf(3)]));
        assert_eq!((b.nic, &b.ports), (1, &vec![vf(1), vf(2), Port::Pf]));
        assert!(asked.only.is_some());
        for said in ["wire", "b wire"] {
            assert_eq!(ask(said, Some(1)).unwrap().ports[0].nic, 1, "{said}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_and_what_would_be_right() {
        for (text, nic, says) in [
            ("", Some(0), "capture where? say vf N, wire or pf"),
            ("vf 0", None, "which NIC? say a or b before vf"),
            ("vf", Some(0), "vf '': the number of a VF, 0 to 3"),
            ("vf 4", Some(0), "vf '4'"),
            ("b vf 0", Some(0), "--nic a and b: leave out --nic"),
            ("vf 2-1", Some(0), "vf '2-1'"),
            ("wier", Some(0), "did you mean 'wire'?"),
            ("vf 0 dst-ip 1.2.3.4", Some(0), "flow-type"),
            ("vf 0 flow-type ether dts 1", Some(0), "did you mean 'dst'?"),
        ] {
            let why = ask(text, nic).unwrap_err();
            assert!(why.contains(says) && !why.contains('\n'), "{text}: {why}");
        }
    }
}
