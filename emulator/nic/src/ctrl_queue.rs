//! What the commands of a guest's driver mean to its NIC, and how many of them are too many. Never obeys one.

use vf_model::{MacAddr, Nanos, Refusal, RxFilter, VfRequest, Vid};
use vf_vhost::control::{CtrlCommand, RxMode};

/// Commands that a driver may give in a row: one for each VLAN.
const IN_A_ROW: u64 = 4096;
/// Time between two commands in the long run. Each has what frames are looked up in made anew, for all planes.
const INTERVAL: Nanos = Nanos(500_000);

/// How many commands a driver has given of late.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CommandLimiter {
    /// When the last of them would have been due at an even pace.
    due: Nanos,
}

impl CommandLimiter {
    /// Whether one more is not too many.
    pub(crate) fn allows(&mut self, now: Nanos) -> bool {
        let due = self.due.max(now);
        let allowed = due.0 - now.0 < IN_A_ROW * INTERVAL.0;
        if allowed {
            self.due = due + INTERVAL;
        }
        allowed
    }
}

/// What the command of a driver means to its NIC, given what the driver has asked for before. `Ok(None)`: nothing.
pub(crate) fn request(
    command: &CtrlCommand,
    asked: &RxFilter,
) -> Result<Option<VfRequest>, Refusal> {
    let macs = |macs: &[[u8; 6]]| macs.iter().map(|mac| MacAddr(*mac)).collect();
    Ok(Some(match command {
        CtrlCommand::RxMode { mode, on } => {
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
        CtrlCommand::MacTable { unicast, multicast } => VfRequest::MacTable {
            unicast: macs(unicast),
            multicast: macs(multicast),
        },
        CtrlCommand::MacAddr(mac) => VfRequest::Mac(MacAddr(*mac)),
        // Frames that carry a priority only are not in a VLAN; Linux lists them nevertheless.
        CtrlCommand::Vlan { vid: 0, .. } => return Ok(None),
        CtrlCommand::Vlan { vid, on: true } => VfRequest::VlanAdd(Vid::new(*vid)?),
        CtrlCommand::Vlan { vid, on: false } => VfRequest::VlanDel(Vid::new(*vid)?),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_driver_that_only_gives_commands_is_slowed_down() {
        let mut pace = CommandLimiter::default();
        let mut obeyed = |now| (0..10_000).filter(|_| pace.allows(Nanos(now))).count();
        assert_eq!(obeyed(1_000), 4096);
        assert_eq!(obeyed(1_000 + 10 * INTERVAL.0), 10);
        assert_eq!(obeyed(1_000_000_000_000), 4096);
    }
}
