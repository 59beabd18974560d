//! How many VFs a NIC has, as `sriov_numvfs` in sysfs has it (Linux, `drivers/pci/iov.c`): none, or as many as it can have, and from one
//! number to another by way of none. Never says what becomes of front ends.
//!
//! With the VFs goes all that has been said of them, as their PF drivers free it with them (ixgbe, i40e), and so do filters of the
//! NIC that name them: their destination is gone, or their sender. Linux's ixgbe keeps such a filter in its list and out of the NIC; here it is
//! named to the administrator when it goes.

use std::sync::Arc;

use super::Policy;
use crate::command::{Command, LinkSetting};
use crate::entry::Entry;
use crate::filter_spec::FilterSpec;
use crate::refusal::Refusal;
use crate::rss::Rss;
use crate::vf::VfIndex;

/// Most filters that are named one by one when they go with their VFs.
const NAMED: usize = 16;

impl Policy {
    /// How many VFs the NIC has now (`sriov_numvfs`): the first ones of those that it can have.
    #[must_use]
    pub fn num_vfs(&self) -> usize {
        self.num_vfs
    }

    /// How often VFs have been made: two policies that differ in this have different VFs under the same numbers.
    #[must_use]
    pub fn times_enabled(&self) -> u64 {
        self.enabled
    }

    /// What is said about the VFs that there are.
    pub(super) fn present(&self) -> &[Arc<Entry>] {
        self.entries.get(..self.num_vfs).unwrap_or_default()
    }

    pub(super) fn set_num_vfs(&mut self, wanted: u16) -> Result<(), Refusal> {
        let (n, now, total) = (usize::from(wanted), self.num_vfs, self.vf_count());
        match (n, now) {
            _ if n > total => return Err(Refusal::TooManyVfs { wanted, total }),
            _ if n == now => return Ok(()),
            (0, _) => {
                for vf in (0..now).map(VfIndex::from) {
                    self.drop_driver_filters(vf, |_| true)?;
                }
                let gone: Vec<_> = self.filters_of_vfs().collect();
                for spec in gone {
                    self.filter_table.remove(&spec.matches, spec.priority)?;
                    self.change_whole_table(|table| table.remove(&spec.matches, spec.priority));
                }
                let rss = Rss::new(self.silicon.rss_queues);
                let fresh = |entry: &Arc<Entry>| {
                    Arc::new(Entry::new(entry.policy.permanent_mac, rss.clone()))
                };
                self.entries = self.entries.iter().map(fresh).collect();
            }
            (_, 0) => self.enabled += 1,
            _ => return Err(Refusal::VfsInUse { wanted, now }),
        }
        self.num_vfs = n;
        Ok(())
    }

    /// What a command takes with it that the administrator has not named: a line each.
    #[must_use]
    pub fn loses(&self, command: &Command) -> Vec<String> {
        let goes = match command {
            Command::SetLink(settings) => settings.contains(&LinkSetting::NumVfs(0)),
            _ => false,
        };
        if !goes {
            return Vec::new();
        }
        let filters: Vec<_> = self.filters_of_vfs().collect();
        let named = filters.iter().take(NAMED);
        let mut lines: Vec<_> = named
            .map(|spec| format!("filter {spec}: gone with the VF that it names"))
            .collect();
        if filters.len() > NAMED {
            lines.push(format!("and {} more filters", filters.len() - NAMED));
        }
        lines
    }

    /// Filters of the administrator's that name a VF.
    fn filters_of_vfs(&self) -> impl Iterator<Item = FilterSpec> + '_ {
        let filters = self.filter_table.numbered();
        let specs = filters.map(|filter| filter.spec);
        specs.filter(|spec| spec.vfs().next().is_some() && !self.is_drivers(spec))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::NicConfig;
    use crate::profile::Profile;
    use vf_packet::MacAddr;

    fn with(policy: &Policy, words: &str) -> Result<Policy, Refusal> {
        let words: Vec<_> = words.split(' ').collect();
        policy.with(&Command::parse(&words)?)
    }

    fn four() -> Policy {
        Policy::new(NicConfig {
            vfs: 4,
            mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
            profile: Profile::Generic,
        })
    }

    #[test]
    fn from_one_number_to_another_by_way_of_none() {
        let policy = four();
        assert_eq!((policy.num_vfs(), policy.vf_count()), (4, 4));
        let said = |policy: &Policy, words| with(policy, words).unwrap_err().to_string();
        assert!(said(&policy, "link set numvfs 2").contains("EBUSY, there are 4 VFs"));
        assert!(said(&policy, "link set numvfs 5").contains("ERANGE, this NIC can have 0 to 4"));
        // What holds already is no change, as in sysfs.
        let same = with(&policy, "link set numvfs 4").unwrap();
        assert_eq!(same.times_enabled(), 0);
        let none = with(&policy, "link set numvfs 0").unwrap();
        assert!(said(&none, "vf 0 trust on").contains("has no VFs now"));
        let two = with(&none, "link set numvfs 2").unwrap();
        assert_eq!((two.num_vfs(), two.times_enabled()), (2, 1));
        assert!(said(&two, "vf 2 trust on").contains("0 to 1"));
        assert!(!two.link_up_for(VfIndex(2)) && two.link_up_for(VfIndex(1)));
    }

    /// One that drops names no VF.
    #[test]
    fn with_the_vfs_go_the_filters_of_their_drivers() {
        let mut policy = four();
        for words in [
            "vf 1 privilege +INSECURE_FILTERS",
            "vf 1 request filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 action drop",
            "vf 1 request filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 81",
            "filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 81 action drop",
        ] {
            policy = with(&policy, words).unwrap();
        }
        assert_eq!(
            policy.loses(&Command::SetLink(vec![LinkSetting::NumVfs(0)])),
            [""; 0]
        );
        let none = with(&policy, "link set numvfs 0").unwrap();
        let left: Vec<_> = none
            .filter_table()
            .iter()
            .map(|spec| spec.to_string())
            .collect();
        assert_eq!(left.len(), 1, "the administrator's: {left:?}");
        assert_eq!(none.saved().filters.len(), 1);
    }

    #[test]
    fn with_the_vfs_goes_all_that_was_said_of_them() {
        let mut policy = four();
        for words in [
            "vf 0 set mac 02:00:00:00:00:77 trust on path mediated",
            "vf 1 mac add 02:00:00:00:00:78",
            "vf 1 mirror 2",
            "vf 2 rss equal 2",
            "vf 3 request promisc on",
            "filter add flow-type ether proto 0x88b5 vf 3",
            "filter add flow-type ether proto 0x88b5 vf 1 priority required",
            "filter add flow-type ether proto 0x88b9 mirror 2",
            "filter add flow-type ether proto 0x88b6 action drop",
            "filter add egress vf 2 flow-type ether proto 0x88b7 action drop",
            "filter add egress flow-type ether proto 0x88b7 action drop",
            // The first waits for the second, and goes by itself.
            "filter add flow-type ether proto 0x88b8 vf 1 priority auto",
            "filter add flow-type ether proto 0x88b8 action drop",
        ] {
            policy = with(&policy, words).unwrap();
        }
        let goes = Command::SetLink(vec![LinkSetting::NumVfs(0)]);
        let lines = policy.loses(&goes);
        assert_eq!(lines.len(), 4, "{lines:?}");
        let named = |words: &str| lines.iter().any(|line| line.starts_with(words));
        assert!(
            named("filter flow-type ether proto 0x88b5 vf 1"),
            "{lines:?}"
        );
        assert!(
            named("filter egress vf 2 flow-type ether proto 0x88b7"),
            "{lines:?}"
        );
        let none = policy.with(&goes).unwrap();
        let left: Vec<_> = none.filter_table().numbered().collect();
        assert_eq!(left.len(), 3, "those that name no VF: {left:?}");
        // Addresses of VFs that there are not are nobody's.
        let again = with(&none, "link set numvfs 1").unwrap();
        let taken = with(&again, "vf 0 request mac 02:00:00:00:00:02");
        assert_eq!(taken.unwrap().mac(VfIndex(0)), MacAddr([2, 0, 0, 0, 0, 2]));
        let again = with(&none, "link set numvfs 4").unwrap();
        let fresh = four();
        for vf in (0..4).map(VfIndex::from) {
            assert_eq!(again.vf(vf), fresh.vf(vf), "{vf}");
            assert_eq!(again.filters(vf).macs(), []);
            assert_eq!(again.asked(vf), fresh.asked(vf));
            assert_eq!(again.rss(vf).spread(), fresh.rss(vf).spread());
        }
    }
}
