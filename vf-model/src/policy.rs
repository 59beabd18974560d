//! All that has been said about a NIC, as a value that never changes: what the administrator and the drivers have said about
//! each VF, the NIC's own filters, its link, and what frames are looked up in. The planes of a NIC share it. A command makes
//! a new value of it, which shares with the old one all that is the same; whoever refuses one has changed nothing.
//! Never counts anything and knows nothing of what passes.

mod answers;
mod apply;
mod auto;
mod driver_filters;
mod filter_op;
mod num_vfs;
mod saved;

use std::sync::Arc;

use vf_packet::{Header, MacAddr};

use crate::command::Command;
use crate::config::NicConfig;
use crate::entry::Entry;
use crate::fdb::{Fdb, SelfEntry};
use crate::filter_index::Actions;
use crate::filter_spec::QueueChoice;
use crate::filter_table::FilterTable;
use crate::learned::Learned;
use crate::lookup::Lookup;
use crate::mailbox::{MailboxRequest, RxFilter, VfRequest};
use crate::mtu::Mtu;
use crate::netem::{Flap, Impairments};
use crate::profile::{Profile, Silicon, VfRoom};
use crate::refusal::{Refusal, Refused};
use crate::rss::Rss;
use crate::rss_context::RssContexts;
use crate::source::Source;
use crate::stats::DropReason;
use crate::switch_mode::SwitchMode;
use crate::vf::{FloodRate, MAX_VFS, VfIndex, VfPolicy, VfSet};
use crate::vf_filter::VfFilters;

pub use saved::{SavedPolicy, SavedVf};

/// See the module. Each `VfIndex` given to its functions must be below [`Policy::vf_count`], or they panic; only changes
/// refuse.
#[derive(Clone, Debug)]
pub struct Policy {
    version: u64,
    /// The version that last changed what becomes of a frame with a given header and given actions of flow filters.
    verdicts: u64,
    /// All that there can be; what is said of those that there are not now is nothing.
    entries: Arc<[Arc<Entry>]>,
    /// How many VFs there are now, the first ones.
    num_vfs: usize,
    /// How often VFs have been made since there was a policy.
    enabled: u64,
    /// Whether the administrator has the NIC's port up.
    port_up: bool,
    /// Whether the cable in it carries: the port at the other end is up.
    carrier: bool,
    /// How the cable comes out of the port and goes in again, if it does.
    flap: Option<Flap>,
    /// Whether it is out now.
    unplugged: bool,
    /// What becomes of frames that pass the port.
    netem: Impairments,
    /// The port's MTU, if the administrator has set one.
    mtu: Option<Mtu>,
    /// How many frames from outside are flooded.
    storm_control: FloodRate,
    /// The port's rate in bit/s, where that is known: no more is guaranteed to VFs.
    port_rate: Option<u64>,
    silicon: Silicon,
    switch_mode: SwitchMode,
    /// Stations behind the PF.
    fdb: Arc<Fdb>,
    /// The filters that say who receives a frame.
    pub(crate) filter_table: FilterTable,
    /// Those and the learned ones, which take rows of the same table; `None` until one is learned. It stays then, so that filters
    /// keep their ids.
    with_learned: Option<FilterTable>,
    learned: Learned,
    /// VFs whose guests are being migrated.
    migrating: VfSet,
    /// The last generation of counters of drivers' own filters.
    own_counters: u32,
    /// How often frames may have come to the direct path at once: by filters of VFs on path `auto`, and by what changes whether a filter has
    /// them go over the PF.
    steered: u64,
    lookup: Lookup,
}

/// What becomes of a driver's request.
#[derive(Clone, Debug)]
pub struct Granted {
    /// The policy by which it has what it may have.
    pub policy: Policy,
    /// Why that is not all, for the driver to be told. What it may not have is remembered, and in force as soon as the
    /// administrator allows it.
    pub denied: Option<Refusal>,
}

/// What a command has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Changed {
    /// Filters on flows, of which every frame is asked anyway, or queues: verdicts still hold.
    Flows,
    /// Other filters.
    Verdicts,
    /// What is said about a VF or the link.
    Vfs,
}

impl Policy {
    /// The policy of a NIC that nobody has configured: its link is up, all VFs are as [`VfPolicy::new`] has them, and there
    /// are no filters.
    #[must_use]
    pub fn new(config: NicConfig) -> Policy {
        let vfs = u32::from(config.vfs.clamp(1, MAX_VFS));
        let silicon = config.profile.silicon();
        let rss = Rss::new(silicon.rss_queues);
        let entries: Arc<[Arc<Entry>]> = (0..vfs)
            .map(|i| Entry::new(config.mac_base.offset(i), rss.clone()))
            .map(Arc::new)
            .collect();
        Policy {
            version: 0,
            verdicts: 0,
            lookup: Lookup::new(&entries, true, Mtu::MAX, &silicon),
            num_vfs: entries.len(),
            enabled: 0,
            entries,
            port_up: true,
            carrier: true,
            flap: None,
            unplugged: false,
            netem: Impairments::default(),
            mtu: None,
            storm_control: FloodRate(0),
            port_rate: None,
            switch_mode: silicon.default_mode(),
            fdb: Arc::default(),
            silicon,
            filter_table: FilterTable::new(config.profile),
            with_learned: None,
            learned: Learned::new(vfs as usize, config.mac_base.to_u64()),
            migrating: VfSet::default(),
            own_counters: 0,
            steered: 0,
        }
    }

    /// How often it has been changed.
    #[must_use]
    #[inline]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// How many VFs the NIC can have (`sriov_totalvfs`).
    #[must_use]
    pub fn vf_count(&self) -> usize {
        self.entries.len()
    }

    /// What the administrator has said about a VF.
    #[must_use]
    pub fn vf(&self, vf: VfIndex) -> &VfPolicy {
        &self.entry(vf).policy
    }

    /// A VF's receive filters beyond its own address.
    #[must_use]
    pub fn filters(&self, vf: VfIndex) -> &VfFilters {
        &self.entry(vf).filters
    }

    /// The address of a VF: its driver's choice if that is allowed, else its policy's.
    #[must_use]
    pub fn mac(&self, vf: VfIndex) -> MacAddr {
        self.entry(vf).mac()
    }

    /// What the driver of a VF has asked for since it started.
    #[must_use]
    pub fn asked(&self, vf: VfIndex) -> &RxFilter {
        &self.entry(vf).asked.filter
    }

    /// The MTU to which the driver of a VF has agreed.
    #[must_use]
    pub fn agreed_mtu(&self, vf: VfIndex) -> Option<Mtu> {
        self.entry(vf).asked.mtu
    }

    /// What of that is in force.
    #[must_use]
    pub fn in_force(&self, vf: VfIndex) -> &RxFilter {
        &self.entry(vf).rx
    }

    /// How often the administrator has reset a VF.
    #[must_use]
    pub fn resets(&self, vf: VfIndex) -> u64 {
        self.entry(vf).resets
    }

    /// How much the driver of a VF may have of each kind.
    #[must_use]
    pub fn room(&self, vf: VfIndex) -> VfRoom {
        self.silicon.vf_room(self.vf(vf).trust)
    }

    /// How a VF's frames are spread over its queues: as its driver has set it, or else as the administrator has.
    #[must_use]
    #[inline]
    pub fn rss(&self, vf: VfIndex) -> &Rss {
        let entry = self.entry(vf);
        entry.driver_rss.as_ref().unwrap_or(&entry.rss)
    }

    /// The RSS contexts of a VF, which filters name.
    #[must_use]
    #[inline]
    pub fn rss_contexts(&self, vf: VfIndex) -> &RssContexts {
        &self.entry(vf).rss_contexts
    }

    /// Which NIC it is like.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.filter_table.profile()
    }

    /// The filters that say who receives a frame: all that have not been learned.
    #[must_use]
    #[inline]
    pub fn filter_table(&self) -> &FilterTable {
        &self.filter_table
    }

    /// What filters say of the queue of this VF that a frame goes to.
    #[inline]
    pub(crate) fn queue_choice(&self, vf: VfIndex, head: &[u8]) -> Option<QueueChoice> {
        let named = self.filter_table.queue(vf, head);
        match self.lookup.own_filters.contains(vf) {
            false => named,
            true => named.or_else(|| self.own_queue(vf, head)),
        }
    }

    /// What the filters of its driver say of it. None of those looks at VLANs.
    #[cold]
    fn own_queue(&self, vf: VfIndex, head: &[u8]) -> Option<QueueChoice> {
        let header = Header::parse(head).ok()?;
        let rule = self.entry(vf).own_rule(&header, header.vlan(), head)?;
        rule.action.queue_choice()
    }

    /// What filters on flows say of a frame from there. Always inline: where there are none, it is one look.
    #[inline(always)]
    pub(crate) fn flow_actions(&self, source: Source, head: &[u8]) -> Actions {
        let sender = match source {
            Source::Vf(vf) => Some(vf),
            Source::Wire => None,
        };
        let port_vlan = || self.vf(sender?).port_vlan.map(|port| port.tag());
        self.filter_table.flow_actions(head, sender, port_vlan)
    }

    /// Whether filters on flows say nothing of a frame for sure, as of most: then what they say is not worked out.
    #[inline(always)]
    pub(crate) fn is_silent(&self, head: &[u8]) -> bool {
        self.filter_table.is_silent(head)
    }

    /// Whether the NIC's own link is up: its port is, and its cable carries.
    #[must_use]
    #[inline]
    pub fn link_up(&self) -> bool {
        self.port_up && self.carrier()
    }

    /// Whether the administrator has the NIC's port up.
    #[must_use]
    pub fn port_up(&self) -> bool {
        self.port_up
    }

    /// Whether the cable in the port carries.
    #[must_use]
    pub fn carrier(&self) -> bool {
        self.carrier && !self.unplugged
    }

    /// Whether the administrator, or a flapping link, has the cable out of the port.
    #[must_use]
    pub fn is_cable_out(&self) -> bool {
        self.unplugged
    }

    /// Whether the port at the other end of the cable sees a carrier.
    #[must_use]
    pub fn shows_carrier(&self) -> bool {
        self.port_up && !self.unplugged
    }

    /// How the cable comes out of the port and goes in again, if it does.
    #[must_use]
    pub fn flap(&self) -> Option<Flap> {
        self.flap
    }

    /// What becomes of frames that pass the port.
    #[must_use]
    pub fn netem(&self) -> &Impairments {
        &self.netem
    }

    /// What becomes of frames that a VF sends and receives.
    #[must_use]
    pub fn vf_netem(&self, vf: VfIndex) -> &Impairments {
        &self.entry(vf).netem
    }

    /// The port's MTU: the most that the NIC can do, unless the administrator has set one.
    #[must_use]
    pub fn mtu(&self) -> Mtu {
        self.mtu.unwrap_or(Mtu::MAX)
    }

    /// How many frames that come from outside are flooded to VFs; as many as come, unless the administrator has set a limit.
    #[must_use]
    pub fn storm_control(&self) -> FloodRate {
        self.storm_control
    }

    /// The MTU of what a VF may send: its own, else the port's.
    #[must_use]
    pub fn tx_mtu(&self, vf: VfIndex) -> Mtu {
        self.entry(vf).tx_mtu(self.mtu())
    }

    /// The MTU of what a VF is given: that, or less if its driver was told less.
    #[must_use]
    pub fn rx_mtu(&self, vf: VfIndex) -> Mtu {
        self.entry(vf).rx_mtu(self.mtu())
    }

    /// The MTU that a driver of the VF is told: the one that has been set for it, [`Mtu::ETHERNET`] if none has.
    #[must_use]
    pub fn told_mtu(&self, vf: VfIndex) -> Mtu {
        self.vf(vf).mtu.or(self.mtu).unwrap_or(Mtu::ETHERNET)
    }

    /// How its switch forwards.
    #[must_use]
    #[inline]
    pub fn switch_mode(&self) -> SwitchMode {
        self.switch_mode
    }

    /// Stations behind the PF that its switch has been told of.
    #[must_use]
    pub fn stations_behind_pf(&self) -> &[SelfEntry] {
        self.fdb.entries()
    }

    pub(crate) fn fdb(&self) -> &Fdb {
        &self.fdb
    }

    /// Whether frames pass the port.
    #[inline]
    pub(crate) fn uplink_up(&self) -> bool {
        self.link_up() && self.switch_mode != SwitchMode::Floating
    }

    /// Why nothing goes over the wire, if nothing does.
    pub(crate) fn why_no_link(&self) -> DropReason {
        match (self.switch_mode, self.port_up) {
            (SwitchMode::Floating, _) => DropReason::NoUplink,
            (_, true) => DropReason::NoCarrier,
            (_, false) => DropReason::LinkDown,
        }
    }

    /// Whether a VF's link is up.
    #[must_use]
    pub fn link_up_for(&self, vf: VfIndex) -> bool {
        self.lookup.up.contains(vf)
    }

    /// VFs on the mediated path.
    #[must_use]
    pub fn mediated(&self) -> VfSet {
        self.lookup.mediated
    }

    /// What a command makes of it.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn with(&self, command: &Command) -> Result<Policy, Refusal> {
        let all = self.with_all(std::slice::from_ref(command));
        all.map_err(|refused| refused.why)
    }

    /// What several commands make of it, one after the other: all of them or none. One new policy, whatever their number;
    /// that is what makes many commands cheap.
    ///
    /// # Errors
    /// [`Refused`] for the first that is.
    pub fn with_all(&self, commands: &[Command]) -> Result<Policy, Refused> {
        let mut policy = self.clone();
        let mut changed = None;
        for (at, command) in commands.iter().enumerate() {
            let done = policy.apply(command);
            changed = changed.max(Some(done.map_err(|why| Refused { at, why })?));
        }
        policy.publish(changed);
        Ok(policy)
    }

    /// What it becomes when the driver of a VF is given what it asks for, as far as it may have that; of the same version if
    /// that is nothing new.
    ///
    /// # Errors
    /// [`Refusal`] of what makes no sense, and of an address of its own that it may not have.
    pub fn with_request(&self, vf: VfIndex, request: &VfRequest) -> Result<Granted, Refusal> {
        let mut policy = self.clone();
        let (changed, denied) = policy.request(vf, request)?;
        policy.publish_asked(changed);
        Ok(Granted { policy, denied })
    }

    /// The same for a message over the mailbox, of which a NIC of this family has some and not others.
    ///
    /// # Errors
    /// [`Refusal`], of such a message as well.
    pub fn with_message(&self, vf: VfIndex, message: &MailboxRequest) -> Result<Granted, Refusal> {
        let mut policy = self.clone();
        let (changed, denied) = policy.mailbox(vf, message)?;
        policy.publish_asked(changed);
        Ok(Granted { policy, denied })
    }

    /// The same for all that a driver asks for at once, and why it does not have what it may not have.
    #[must_use]
    pub fn with_requests(&self, vf: VfIndex, requests: &[VfRequest]) -> (Policy, Vec<Refusal>) {
        let mut policy = self.clone();
        let (mut changed, mut denied) = (None, Vec::new());
        for request in requests {
            match policy.request(vf, request) {
                Ok((change, why)) => {
                    changed = changed.max(change);
                    denied.extend(why);
                }
                Err(why) => denied.push(why),
            }
        }
        let asked = |policy: &Policy| {
            let entry = policy.existing(vf);
            entry.map(|entry| {
                let (filters, rss) = (entry.driver_filters.clone(), entry.driver_rss.is_some());
                (entry.asked.clone(), filters, rss)
            })
        };
        if asked(self) == asked(&policy) {
            return (self.clone(), denied);
        }
        policy.publish_asked(changed);
        (policy, denied)
    }

    /// The same for a NIC with a port of this rate in bit/s.
    ///
    /// # Errors
    /// [`Refusal::Guarantees`] if more than that is guaranteed to VFs, [`Refusal::Lacking`] if drivers have no such limit on it.
    pub fn with_port_rate(mut self, bps: u64) -> Result<Policy, Refusal> {
        self.port_rate = Some(bps);
        self.check_guarantees()?;
        self.check_rates()?;
        Ok(self)
    }

    /// What it becomes when the cable in the NIC's port carries from now on, or no longer; `None` if that is nothing new.
    #[must_use]
    pub fn with_carrier(&self, carrier: bool) -> Option<Policy> {
        if carrier == self.carrier {
            return None;
        }
        let mut policy = self.clone();
        policy.carrier = carrier;
        policy.publish(Some(Changed::Vfs));
        Some(policy)
    }

    /// Whether what is said about VFs and the link is the same: the two differ in the NIC's filters at most.
    #[must_use]
    pub fn has_same_vfs(&self, other: &Policy) -> bool {
        Arc::ptr_eq(&self.entries, &other.entries) && self.has_same_link(other)
    }

    /// Whether what is said about the link and the switch is the same.
    pub(crate) fn has_same_link(&self, other: &Policy) -> bool {
        self.num_vfs == other.num_vfs
            && (self.port_up, self.carrier, self.mtu) == (other.port_up, other.carrier, other.mtu)
            && self.unplugged == other.unplugged
            && self.netem == other.netem
            && self.switch_mode == other.switch_mode
            && self.fdb == other.fdb
    }

    /// Whether verdicts on frames are the same, but for what filters on flows say of them.
    pub(crate) fn has_same_verdicts(&self, other: &Policy) -> bool {
        self.verdicts == other.verdicts
    }

    /// [Publishes](Self::publish) what a driver has changed of its VF, as often as it likes: nobody has queues emptied for that. What its filters say of
    /// frames that are handed up has been counted.
    fn publish_asked(&mut self, changed: Option<Changed>) {
        let steered = self.steered;
        self.publish(changed);
        self.steered = steered;
    }

    /// Makes what has been changed a version of its own.
    fn publish(&mut self, changed: Option<Changed>) {
        let Some(changed) = changed else { return };
        self.version += 1;
        if changed >= Changed::Verdicts {
            self.verdicts = self.version;
        }
        if changed == Changed::Vfs {
            // Another VLAN or address, and a filter no longer has a flow go over the PF: what has gone that way comes first.
            self.steered += u64::from(self.filter_table.hands_up());
            // VFs on a switch without an uplink do not follow the port.
            let up = self.link_up() || self.switch_mode == SwitchMode::Floating;
            self.lookup = Lookup::new(self.present(), up, self.mtu(), &self.silicon);
            if !self.learned.filters().is_empty() {
                self.prune();
            }
        }
    }

    #[inline]
    pub(crate) fn entry(&self, vf: VfIndex) -> &Entry {
        &self.entries[vf.index()]
    }

    #[inline]
    pub(crate) fn silicon(&self) -> &Silicon {
        &self.silicon
    }

    #[inline]
    pub(crate) fn lookup(&self) -> &Lookup {
        &self.lookup
    }

    pub(crate) fn existing(&self, vf: VfIndex) -> Result<&Entry, Refusal> {
        let entry = self.present().get(vf.index());
        entry
            .map(Arc::as_ref)
            .ok_or(match self.num_vfs.checked_sub(1) {
                Some(last) => Refusal::NoSuchVf {
                    vf,
                    last: VfIndex::from(last),
                },
                None => Refusal::NoVfs(vf),
            })
    }

    /// What is said about a VF, to be changed: in a copy, if other policies share it.
    fn entry_mut(&mut self, vf: VfIndex) -> Result<&mut Entry, Refusal> {
        self.existing(vf)?;
        let entries = Arc::make_mut(&mut self.entries);
        Ok(Arc::make_mut(&mut entries[vf.index()]))
    }
}
