//! `vfnic extcap`: Wireshark's external capture protocol (extcap(4)), so that ports of running NICs stand in its list of interfaces.
//! Wireshark runs a program of its extcap folder with these options; a link there to vfnic is enough. Understands no frame.

use std::path::Path;

use vfnic::cli;
use vfnic::control::{CaptureRequest, Request, Response, ask};

use crate::capture::{Out, begin, copy};
use crate::failure::{Failure, usage};
use crate::output::print;

/// What an interface's name begins with, before NIC and port.
const PREFIX: &str = "vfnic-";
/// LINKTYPE_ETHERNET.
const ETHERNET: u8 = 1;

/// Answers whatever Wireshark has asked.
pub(crate) fn extcap(ctl: &Path, args: &cli::Extcap) -> Result<(), Failure> {
    if args.extcap_interfaces {
        return interfaces(ctl);
    }
    let Some(interface) = &args.extcap_interface else {
        return Err(usage(
            "say --extcap-interfaces, or --extcap-interface NAME with --extcap-dlts, --extcap-config or --capture --fifo FILE",
        ));
    };
    if args.extcap_dlts {
        return print(&format!(
            "dlt {{number={ETHERNET}}}{{name=EN10MB}}{{display=Ethernet}}\n"
        ));
    }
    if args.extcap_config {
        return print(CONFIG);
    }
    match &args.fifo {
        Some(fifo) if args.capture => capture(ctl, interface, fifo, args),
        _ => Err(usage(
            "say what of it: --extcap-dlts, --extcap-config or --capture --fifo FILE",
        )),
    }
}

const CONFIG: &str = "\
arg {number=0}{call=--drops}{display=Dropped frames only}{type=boolflag}{tooltip=Each with its reason and the rule that made it}
arg {number=1}{call=--snaplen}{display=Bytes of each frame}{type=unsigned}{default=0}{tooltip=0 is all of them}
";

/// The ports of all NICs that run; none if no vfnic does, which is no failure to Wireshark.
fn interfaces(ctl: &Path) -> Result<(), Failure> {
    let version = env!("CARGO_PKG_VERSION");
    let mut text = format!("extcap {{version={version}}}{{display=vfnic}}\n");
    if let Ok(Response::Show(show)) = ask(ctl, &Request::Show) {
        for nic in &show.nics {
            let name = &nic.name;
            let vfs = nic.vfs.iter().map(|vf| {
                let on = if vf.connected { "" } else { ", no guest" };
                (format!("vf{}", vf.vf), format!("VF {}{on}", vf.vf))
            });
            let ports = ["wire", "pf"].map(|port| (port.to_owned(), port.to_owned()));
            for (port, says) in vfs.chain(ports) {
                text += &format!(
                    "interface {{value={PREFIX}{name}-{port}}}{{display=vfnic: NIC {name}, {says}}}\n"
                );
            }
        }
    }
    print(&text)
}

/// The words of `vfnic capture` for an interface of the list.
fn words(interface: &str) -> Option<Vec<String>> {
    let (nic, port) = interface.strip_prefix(PREFIX)?.rsplit_once('-')?;
    let port = match port.strip_prefix("vf") {
        Some(vf) => vec!["vf", vf],
        None => vec![port],
    };
    let words = std::iter::once(nic).chain(port);
    Some(words.map(str::to_owned).collect())
}

fn capture(ctl: &Path, interface: &str, fifo: &Path, args: &cli::Extcap) -> Result<(), Failure> {
    let words = words(interface).ok_or_else(|| {
        usage(format!(
            "interface '{interface}': one of --extcap-interfaces"
        ))
    })?;
    let request = CaptureRequest {
        nic: None,
        words,
        drops: args.drops,
        snaplen: args.snaplen,
    };
    // Asked first: what is refused shows in Wireshark as soon as it is.
    let begun = begin(ctl, &Request::Capture(request))?;
    let mut out = Out::open(Some(fifo))?;
    copy(begun.stream, &mut out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::words;

    #[test]
    fn an_interface_says_nic_and_port() {
        for (interface, says) in [
            ("vfnic-a-vf0", "a vf 0"),
            ("vfnic-nic-2-wire", "nic-2 wire"),
            ("vfnic-a-pf", "a pf"),
        ] {
            assert_eq!(words(interface).unwrap().join(" "), says);
        }
        assert_eq!(words("eth0"), None);
        assert_eq!(words("vfnic-a"), None);
    }
}
