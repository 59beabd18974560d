//! What each command and each request makes of a policy that nobody has yet: who gives it to others is [`Policy::with`] and what
//! is beside it. What is refused may have changed it in part, so that it is thrown away.

use std::collections::BTreeSet;
use std::sync::Arc;

use vf_packet::{AddrError, MacAddr, Vid};

use super::{Changed, Policy};
use crate::command::{Command, LinkSetting};
use crate::entry::Entry;
use crate::filter_fields::MatchFlags;
use crate::filter_spec::{FilterAction, FilterMatch, FilterPriority, FilterSpec};
use crate::filter_table::Insert;
use crate::lack::{Answer, PortState};
use crate::mailbox::{MailboxRequest, VfRequest};
use crate::mtu::Mtu;
use crate::profile::Rows;
use crate::refusal::Refusal;
use crate::rss::Rss;
use crate::rss_context::{RssContextError, RssContextId, RssContextOp};
use crate::vf::{Path, SettingError, VfIndex, VfSetting};
use crate::vf_filter::VfFilterRange;

/// A port VLAN that not all drivers take.
const RESERVED: VfSetting = VfSetting::Vlan(Vid::RESERVED.get());

impl Policy {
    pub(super) fn apply(&mut self, command: &Command) -> Result<Changed, Refusal> {
        match command {
            Command::FilterInsert(spec) => return self.insert(spec, Insert::default()),
            Command::FilterReplace(spec) => {
                let how = Insert {
                    replace: true,
                    ..Insert::default()
                };
                return self.insert(spec, how);
            }
            Command::FilterInsertAt { loc, spec } => {
                let how = Insert {
                    loc: Some(*loc),
                    ..Insert::default()
                };
                return self.insert(spec, how);
            }
            Command::FilterDelete { id, priority } => {
                let matches = self.all_filters().named(*id, *priority)?;
                let priority = *priority;
                return self.apply(&Command::FilterRemove { matches, priority });
            }
            Command::FilterRemove { matches, priority } => {
                let changed = self.remove_filter(matches, *priority)?;
                if *priority == FilterPriority::Auto {
                    self.forget_driver_filters(|of| of == matches);
                }
                return Ok(changed);
            }
            Command::SetRss { vfs, key, spread } => {
                for vf in vfs.iter() {
                    self.entry_mut(vf)?.rss.set(*key, spread.as_ref())?;
                }
                return Ok(Changed::Flows);
            }
            Command::RssContext { vfs, op } => {
                for vf in vfs.iter() {
                    self.rss_context(vf, op)?;
                }
                return Ok(Changed::Flows);
            }
            Command::FlushFilters => {
                self.steered += u64::from(self.filter_table.hands_up());
                self.forget_driver_filters(|_| true);
                self.filter_table = self.filter_table.emptied();
                self.forget_all();
                return Ok(Changed::Verdicts);
            }
            Command::SetLink(settings) => {
                for setting in settings {
                    self.set_link(*setting)?;
                }
            }
            Command::SetLinkNetem { way, spec } => {
                self.netem.set(*way, spec.as_ref());
                return Ok(Changed::Flows);
            }
            Command::SetVfNetem { vfs, way, spec } => {
                for vf in vfs.iter() {
                    self.entry_mut(vf)?.netem.set(*way, spec.as_ref());
                }
                return Ok(Changed::Flows);
            }
            Command::SetLinkFlap(flap) => {
                // It begins with the cable in the port, and ends so.
                self.unplugged &= self.flap.is_none() && flap.is_none();
                self.flap = *flap;
            }
            Command::SetSwitchMode(mode) => {
                if !self.silicon.modes.contains(mode) {
                    let (mode, profile) = (*mode, self.profile());
                    return Err(Refusal::SwitchMode { mode, profile });
                }
                self.switch_mode = *mode;
            }
            Command::FdbAdd(entry) => {
                Arc::make_mut(&mut self.fdb).add(*entry)?;
                self.settle_addresses()?;
            }
            Command::FdbDel(entry) => {
                Arc::make_mut(&mut self.fdb).del(*entry)?;
                self.settle_addresses()?;
            }
            Command::SetVf { vfs, settings } => {
                for vf in vfs.iter() {
                    self.set_vf(vf, settings)?;
                    self.settle_driver_filters(vf)?;
                }
                if settings.iter().any(|s| matches!(s, VfSetting::Mac(_))) {
                    self.settle_addresses()?;
                }
                self.check_guarantees()?;
                self.check_mirrors()?;
            }
            Command::Request { vfs, request } => {
                for vf in vfs.iter() {
                    self.mailbox(vf, request)?;
                }
            }
            Command::Reset { vfs } => {
                for vf in vfs.iter() {
                    self.reset(vf)?;
                }
            }
            Command::VfFilterAdd { vfs, filters } => {
                for vf in vfs.iter() {
                    self.add_filters(vf, filters)?;
                }
                self.settle_addresses()?;
            }
            Command::VfFilterDel { vfs, filters } => {
                for vf in vfs.iter() {
                    let entry = self.entry_mut(vf)?;
                    for filter in filters.iter() {
                        entry.filters.del(filter)?;
                    }
                }
                self.settle_addresses()?;
            }
        }
        Ok(Changed::Vfs)
    }

    fn set_link(&mut self, setting: LinkSetting) -> Result<(), Refusal> {
        match setting {
            LinkSetting::Up(up) => self.port_up = up,
            LinkSetting::Carrier(on) => {
                self.unplugged = !on;
                self.flap = None;
            }
            LinkSetting::Flapped(on) => self.unplugged = !on,
            LinkSetting::Mtu(mtu) => self.mtu = Some(Mtu::new(mtu)?),
            LinkSetting::StormControl(rate) => self.storm_control = rate,
            LinkSetting::NumVfs(n) => self.set_num_vfs(n)?,
        }
        Ok(())
    }

    fn reset(&mut self, vf: VfIndex) -> Result<(), Refusal> {
        // Until it lists groups and VLANs it has them all, as a driver without a control queue.
        let anew = VfRequest::Reset {
            lists_groups: false,
            lists_vlans: false,
        };
        self.request(vf, &anew)?;
        self.entry_mut(vf)?.resets += 1;
        Ok(())
    }

    fn add_filters(&mut self, vf: VfIndex, filters: &VfFilterRange) -> Result<(), Refusal> {
        let most = self.silicon.vf_macs;
        let entry = self.entry_mut(vf)?;
        for filter in filters.iter() {
            entry.filters.add(filter, most)?;
        }
        if entry.policy.port_vlan.is_some() && entry.filters.names_vlan() {
            return Err(Refusal::PortVlanAndFilters);
        }
        Ok(())
    }

    pub(super) fn insert(&mut self, spec: &FilterSpec, how: Insert) -> Result<Changed, Refusal> {
        for vf in spec.vfs() {
            self.existing(vf)?;
        }
        let queues = self.silicon.rss_queues;
        if let FilterAction::Queue(_, queue) = spec.action
            && u16::from(queue) >= queues
        {
            let (profile, last) = (self.profile(), queues.saturating_sub(1));
            return Err(Refusal::Queue {
                queue,
                profile,
                last,
            });
        }
        if let FilterAction::Context(vf, id) = spec.action
            && self.existing(vf)?.rss_contexts.get(id).is_none()
        {
            return Err(RssContextError::NotFound(id).into());
        }
        let handed_up = self.filter_table.hands_up();
        self.filter_table.insert(spec, how)?;
        self.forget_match(&spec.matches);
        self.change_whole_table(|table| table.insert(spec, how));
        let steers = |vf| self.vf(vf).path == Path::Auto;
        self.steered += u64::from(handed_up || spec.action.vf().is_some_and(steers));
        Ok(changed_by(&spec.matches))
    }

    fn rss_context(&mut self, vf: VfIndex, op: &RssContextOp) -> Result<(), Refusal> {
        if !self.silicon.rss_contexts {
            return Err(Refusal::NoRssContexts(self.profile()));
        }
        let entry = self.existing(vf)?;
        if let RssContextOp::Delete(id) = *op
            && entry.rss_contexts.get(id).is_some()
            && let Some(filter) = self.filter_with_context(vf, id)
        {
            let filter = filter.to_string().into();
            return Err(RssContextError::InUse { id, filter }.into());
        }
        let queues = self.silicon.rss_queues;
        Ok(self.entry_mut(vf)?.rss_contexts.apply(op, queues)?)
    }

    /// A filter that names this context, in force or waiting.
    fn filter_with_context(&self, vf: VfIndex, id: RssContextId) -> Option<FilterSpec> {
        let mut filters = self.filter_table.iter();
        filters.find(|spec| spec.action == FilterAction::Context(vf, id))
    }

    /// Takes a filter out of the table, a learned one perhaps.
    pub(super) fn remove_filter(
        &mut self,
        matches: &FilterMatch,
        priority: FilterPriority,
    ) -> Result<Changed, Refusal> {
        let handed_up = self.filter_table.hands_up();
        if let Err(refused) = self.filter_table.remove(matches, priority) {
            return self.remove_learned(matches, priority).ok_or(refused.into());
        }
        self.change_whole_table(|table| table.remove(matches, priority));
        self.steered += u64::from(handed_up);
        Ok(changed_by(matches))
    }

    fn port_state(&self) -> PortState {
        PortState {
            link_up: self.link_up(),
            mbps: self.port_rate.map(|bps| bps / 1_000_000),
        }
    }

    /// What is limited to a rate has a driver that can do that on a port of this one.
    pub(super) fn check_rates(&self) -> Result<(), Refusal> {
        let rates = self.present().iter().filter_map(|e| e.policy.max_tx_rate);
        // A link that is down at the start comes up later.
        let port = PortState {
            link_up: true,
            ..self.port_state()
        };
        for setting in rates.map(VfSetting::MaxTxRate) {
            if let Some(answer) = self.silicon.lack(&setting, port) {
                let profile = self.profile();
                return Err(Refusal::Lacking {
                    setting,
                    profile,
                    answer,
                });
            }
        }
        Ok(())
    }

    /// What is guaranteed to VFs has to be there.
    pub(super) fn check_guarantees(&self) -> Result<(), Refusal> {
        let guarantees = self.present().iter().filter_map(|e| e.policy.min_tx_rate);
        let sum = guarantees.map(|min| u64::from(min.0)).sum();
        let rate = self.port_state().mbps;
        match rate.filter(|rate| sum > *rate) {
            Some(rate) => Err(Refusal::Guarantees { sum, rate }),
            None => Ok(()),
        }
    }

    fn set_vf(&mut self, vf: VfIndex, settings: &[VfSetting]) -> Result<(), Refusal> {
        let (silicon, profile, port) = (self.silicon, self.profile(), self.port_state());
        let entry = self.entry_mut(vf)?;
        let mut policy = entry.policy;
        for setting in settings {
            match silicon.lack(setting, port) {
                None if *setting == RESERVED && !silicon.vlan_4095 => {
                    return Err(SettingError::from(AddrError::Vlan(Vid::RESERVED.get())).into());
                }
                None => policy = policy.with(*setting)?,
                Some(Answer::Ignored) => {}
                Some(answer) => {
                    let setting = *setting;
                    return Err(Refusal::Lacking {
                        setting,
                        profile,
                        answer,
                    });
                }
            }
            if silicon.vlan_sets_spoofchk && matches!(setting, VfSetting::Vlan(1..)) {
                policy.spoofchk = true;
            }
        }
        if let (Some(min), Some(max)) = (policy.min_tx_rate, policy.max_tx_rate)
            && min > max
        {
            return Err(Refusal::RateOrder { min, max });
        }
        if policy.port_vlan.is_some() && entry.filters.names_vlan() {
            return Err(Refusal::PortVlanAndFilters);
        }
        if settings.iter().any(|s| matches!(s, VfSetting::Mac(_))) {
            entry.asked.filter.mac = None;
        }
        entry.policy = policy;
        entry.rx = entry.asked.granted(&policy, &silicon);
        Ok(())
    }

    /// A mirrored frame has the tags that the switch saw, so its receiver cannot be one that does not see them; and the switch
    /// knows no stations on the hypervisor's bridge.
    fn check_mirrors(&self) -> Result<(), Refusal> {
        for (vf, entry) in self.present().iter().enumerate() {
            let Some(to) = entry.policy.mirror else {
                continue;
            };
            let receiver = self.existing(to)?.policy;
            let bridge = entry.policy.bridge || receiver.bridge;
            if to.index() == vf || bridge || receiver.port_vlan.is_some() {
                return Err(Refusal::Mirror(to));
            }
        }
        Ok(())
    }

    /// Takes a message of a driver; what it has changed, and why that is not all.
    pub(super) fn mailbox(
        &mut self,
        vf: VfIndex,
        message: &MailboxRequest,
    ) -> Result<(Option<Changed>, Option<Refusal>), Refusal> {
        let entry = self.existing(vf)?;
        let mtu = entry.tx_mtu(self.mtu());
        match message {
            message if !self.silicon.mailbox.has(message) => {
                Err(Refusal::NoMessage(self.profile()))
            }
            MailboxRequest::Link => Ok((None, None)),
            MailboxRequest::Filter(op) => Ok((self.filter_op(vf, op)?, None)),
            MailboxRequest::Rss if entry.policy.query_rss => Ok((None, None)),
            MailboxRequest::Rss => Err(Refusal::QueryRss),
            MailboxRequest::SetRss(_) if !self.silicon.rss_contexts => {
                Err(Refusal::NoMessage(self.profile()))
            }
            MailboxRequest::SetRss(asked) => {
                let queues = self.silicon.rss_queues;
                let rss = asked.as_deref().map(|asked| Rss::of_driver(asked, queues));
                self.entry_mut(vf)?.driver_rss = rss.transpose()?;
                Ok((Some(Changed::Flows), None))
            }
            MailboxRequest::Change(VfRequest::Mtu(asked)) if *asked > mtu => {
                Err(Refusal::MtuBeyond { asked: *asked, mtu })
            }
            MailboxRequest::Change(request) => self.request(vf, request),
        }
    }

    pub(super) fn request(
        &mut self,
        vf: VfIndex,
        request: &VfRequest,
    ) -> Result<(Option<Changed>, Option<Refusal>), Refusal> {
        let mut anew = None;
        if let VfRequest::Reset { .. } = request {
            let entry = self.existing(vf)?;
            let (filters, rss) = (!entry.driver_filters.is_empty(), entry.driver_rss.is_some());
            if filters {
                anew = Some(self.drop_driver_filters(vf, |_| true)?);
            }
            if rss {
                self.entry_mut(vf)?.driver_rss = None;
                anew = anew.max(Some(Changed::Flows));
            }
        }
        let entry = self.existing(vf)?;
        let taken = |macs: &[MacAddr]| self.taken(vf, macs);
        let asked = entry.asked.clone().with(request, &entry.policy, taken)?;
        let silicon = self.silicon;
        let granted = asked.granted(&entry.policy, &silicon);
        let denied = asked.denied(request, &granted, &entry.policy, &silicon);
        if asked == entry.asked {
            return Ok((anew, denied));
        }
        let entry = self.entry_mut(vf)?;
        let same = entry.rx == granted && entry.asked.mtu == asked.mtu;
        let changed = if same { Changed::Flows } else { Changed::Vfs };
        (entry.asked, entry.rx) = (asked, granted);
        Ok((anew.max(Some(changed)), denied))
    }
}

impl Policy {
    /// Which of these addresses, in order, are another VF's than this one, or a station's behind the PF. Each VF is looked at once: drivers list a
    /// thousand.
    fn taken(&self, vf: VfIndex, macs: &[MacAddr]) -> Vec<MacAddr> {
        let mut found = self.given_away(vf, macs);
        for other in self.others(vf) {
            other.claimed_of(macs, &mut found);
        }
        found.into_iter().collect()
    }

    /// Which of them have been given to another, whoever uses them.
    fn given_away(&self, vf: VfIndex, macs: &[MacAddr]) -> BTreeSet<MacAddr> {
        let stations = macs.iter().copied();
        let mut found = stations.filter(|mac| self.fdb.has_anywhere(*mac)).collect();
        for other in self.others(vf) {
            other.given_of(macs, &mut found);
        }
        found
    }

    fn others(&self, vf: VfIndex) -> impl Iterator<Item = &Entry> {
        let all = self.present().iter().enumerate();
        all.filter(move |(i, _)| *i != vf.index())
            .map(|(_, entry)| entry.as_ref())
    }

    /// Takes from drivers the addresses that are given to other VFs by now, and gives them back those that are not any more.
    fn settle_addresses(&mut self) -> Result<(), Refusal> {
        for vf in (0..self.present().len()).map(VfIndex::from) {
            let entry = self.existing(vf)?;
            let given = |macs: &[MacAddr]| self.given_away(vf, macs).into_iter().collect();
            let used = |macs: &[MacAddr]| self.taken(vf, macs);
            let Some(asked) = entry.asked.settled(given, used) else {
                continue;
            };
            let granted = asked.granted(&entry.policy, &self.silicon);
            let entry = self.entry_mut(vf)?;
            (entry.asked, entry.rx) = (asked, granted);
        }
        Ok(())
    }
}

/// What a change of a filter with this match changes.
fn changed_by(matches: &FilterMatch) -> Changed {
    match Rows::of(matches) {
        Rows::Flows4 | Rows::Flows6 => Changed::Flows,
        Rows::Fields if matches.flags().intersects(MatchFlags::FLOW) => Changed::Flows,
        // With the first of a VF something changes for frames that it does not match, too.
        Rows::Macs | Rows::EtherTypes | Rows::Unknown | Rows::Fields | Rows::Egress => {
            Changed::Verdicts
        }
    }
}
