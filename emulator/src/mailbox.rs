//! What the commands of a guest's driver mean to its NIC. Never obeys one.

use vf_model::{MacAddr, Refusal, RxFilter, VfRequest, Vid};
use vf_vhost::control::{Command, RxMode};

/// What the command of a driver means to its NIC, given what the driver has asked for before. `Ok(None)`: nothing.
pub(crate) fn request(command: &Command, asked: &RxFilter) -> Result<Option<VfRequest>, Refusal> {
    let macs = |macs: &[[u8; 6]]| macs.iter().map(|mac| MacAddr(*mac)).collect();
    Ok(Some(match command {
        Command::RxMode { mode, on } => {
            let mut modes = asked.mode;
            let which = match mode {
                RxMode::Promisc => &mut modes.promisc,
                RxMode::AllMulti => &mut modes.allmulti,
                RxMode::AllUni => &mut modes.alluni,
                RxMode::NoMulti => &mut modes.nomulti,
                RxMode::NoUni => &mut modes.nouni,
                RxMode::NoBcast => &mut modes.nobcast,
            };
            *which = *on;
            VfRequest::RxMode(modes)
        }
        Command::MacTable { unicast, multicast } => VfRequest::MacTable {
            unicast: macs(unicast),
            multicast: macs(multicast),
        },
        Command::MacAddr(mac) => VfRequest::Mac(MacAddr(*mac)),
        // Frames that carry a priority only are not in a VLAN; Linux lists them nevertheless.
        Command::Vlan { vid: 0, .. } => return Ok(None),
        Command::Vlan { vid, on: true } => VfRequest::VlanAdd(Vid::new(*vid)?),
        Command::Vlan { vid, on: false } => VfRequest::VlanDel(Vid::new(*vid)?),
    }))
}
