//! What the controller of an EF10 NIC answers to the driver of a VF, command by command, as its firmware does: what it knows of the NIC it
//! reads in the NIC's policy, and what it changes there it asks for in the driver's name. Grants nothing of the NIC's itself, and never
//! judges a frame.

use vf_model::{
    DriverAction, FilterMatch, FilterOp, MacAddr, MailboxRequest, MatchFlags, Mtu, Policy,
    Privileges, Refusal, RxMode, TableError, VfRequest,
};

use super::command::Command;
use super::event::{FULL_DUPLEX, LinkState};
use super::filter::{self, Installed, Operation, Said};
use super::mcdi::{McError, Payload, Reply};
use super::rss::Contexts;
use super::{Adaptor, Ef10, regs, stats};
use crate::function::{Host, NotGranted};

/// The number that a function's own port has for it.
const PORT: u32 = 0x0100_0000;
/// What the controller says it runs.
const FIRMWARE: [u16; 4] = [6, 2, 7, 1000];
/// The number of the workaround by which a frame to a group is for all that want it, whichever filter says so (BUG26807).
const GROUPS_CHAIN: u32 = 6;
/// 10 Gb/s, as the PHY's capabilities have it.
const CAPABLE_10G: u32 = 1 << 7;
/// Flow control by pause frames, in both directions and in one.
const CAPABLE_PAUSE: u32 = 1 << 8 | 1 << 9;
/// Nanoseconds of one count of an event queue's timer, and the most counts.
const TIMER_NS: u32 = 1000;
/// Cycles of the system clock in one count, from which drivers conclude that time if they do not ask for it.
const TIMER_CYCLES: u32 = 1536;
/// Megahertz of the system clock, which follow from these two, and of the processors in the data path.
const SYSTEM_MHZ: u32 = TIMER_CYCLES * 1000 / TIMER_NS;
const DATA_PATH_MHZ: u32 = 800;
pub(super) const TIMER_MAX: u32 = (1 << 14) - 1;
/// A timer holds interrupts back: the only of its modes that is one of moderation.
pub(super) const TIMER_HOLDS_OFF: u32 = 3;
/// What a MAC counts of a frame beyond its MTU: Ethernet header, a tag, checksum.
const BEYOND_MTU: u32 = 14 + 4 + 4;
/// What drivers ask for beyond that: a gap that the MAC of another generation needed, and what makes it a multiple of 8.
const SLACK: u32 = 16 + 7;

impl Ef10 {
    /// Answers a request.
    pub(super) fn command(
        &mut self,
        command: Command,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        match command {
            Command::GET_ASSERTS => Ok(Reply::zeros(140).u32(0, 1)),
            Command::LOG_CTRL | Command::SET_LINK => Ok(Reply::default()),
            Command::GET_VERSION => Ok(version(payload)),
            Command::DRV_ATTACH => self.attach(payload, host),
            Command::ENTITY_RESET => {
                self.forget(host);
                Ok(Reply::default())
            }
            Command::GET_FUNCTION_INFO => Ok(Reply::zeros(8).u32(4, host.vf().0.into())),
            Command::GET_PORT_ASSIGNMENT => Ok(Reply::zeros(4)),
            Command::GET_PF_COUNT => Ok(Reply::zeros(1).bytes(0, &[1])),
            Command::GET_CAPABILITIES => Ok(capabilities()),
            Command::GET_RXDP_CONFIG => Ok(Reply::zeros(4)),
            Command::GET_CLOCK => Ok(Reply::zeros(8).u32(0, SYSTEM_MHZ).u32(4, DATA_PATH_MHZ)),
            Command::GET_PHY_CFG => Ok(phy()),
            Command::GET_PHY_STATE => Ok(Reply::zeros(4).u32(0, 1)),
            Command::GET_LOOPBACK_MODES => Ok(Reply::zeros(40)),
            Command::GET_LINK => Ok(link(link_of(host))),
            Command::SET_MAC => {
                self.settle(host)?;
                set_mac(payload, host)
            }
            Command::MAC_STATS => self.mac_stats(payload, host),
            Command::GET_WORKAROUNDS => {
                let groups_chain = 1 << GROUPS_CHAIN;
                Ok(Reply::zeros(8).u32(0, groups_chain).u32(4, groups_chain))
            }
            // It is on already, and there are no others. A driver takes EPERM for "on", too.
            Command::WORKAROUND => match payload.u32(0)? {
                GROUPS_CHAIN => Ok(Reply::zeros(4)),
                _ => Err(McError::ENOENT),
            },
            Command::GET_EVQ_TMR_PROPERTIES => Ok(timers()),
            Command::PRIVILEGE_MASK => privileges(payload, host),
            Command::TRIGGER_INTERRUPT => {
                let vector = u16::try_from(payload.u32(0)?).map_err(|_| McError::EINVAL)?;
                self.environment.vectors.raise(vector);
                Ok(Reply::default())
            }
            Command::GET_PARSER_DISP_INFO => parser(payload, host),
            Command::VADAPTOR_ALLOC => self.adaptor_alloc(payload),
            Command::VADAPTOR_FREE => {
                port(payload)?;
                self.adaptor = None;
                Ok(Reply::default())
            }
            Command::VADAPTOR_QUERY => {
                port(payload)?;
                Ok(Reply::zeros(12).u32(8, 1))
            }
            Command::EVB_PORT_QUERY => {
                port(payload)?;
                Ok(Reply::zeros(8).u32(4, 1))
            }
            Command::VADAPTOR_GET_MAC => {
                port(payload)?;
                Ok(Reply::zeros(6).bytes(0, &mac_of(host).0))
            }
            Command::VADAPTOR_SET_MAC => self.adaptor_set_mac(payload, host),
            Command::VPORT_GET_MAC_ADDRESSES => {
                port(payload)?;
                Ok(Reply::zeros(10).u32(0, 1).bytes(4, &mac_of(host).0))
            }
            Command::FILTER_OP => self.filter_op(payload, host),
            Command::RSS_CONTEXT_ALLOC => {
                port(payload)?;
                self.change_rss(host, |rss| rss.alloc(payload))
            }
            Command::RSS_CONTEXT_FREE => self.change_rss(host, |rss| rss.free(payload)),
            Command::RSS_CONTEXT_SET_KEY => self.change_rss(host, |rss| rss.set_key(payload)),
            Command::RSS_CONTEXT_SET_TABLE => self.change_rss(host, |rss| rss.set_table(payload)),
            Command::RSS_CONTEXT_SET_FLAGS => self.change_rss(host, |rss| rss.set_flags(payload)),
            Command::RSS_CONTEXT_GET_KEY => {
                let of_nic = host.policy().rss(host.vf()).key();
                self.rss.key(payload, of_nic)
            }
            Command::RSS_CONTEXT_GET_TABLE => self.rss.table(payload),
            Command::RSS_CONTEXT_GET_FLAGS => self.rss.flags(payload),
            Command::ALLOC_VIS => self.alloc_interfaces(payload),
            Command::FREE_VIS => self.free_interfaces(),
            Command::GET_VI_ALLOC_INFO => Ok(Reply::zeros(12).u32(0, self.interfaces)),
            Command::INIT_EVQ => self.init_events(payload),
            Command::FINI_EVQ => self.fini_events(payload),
            Command::SET_EVQ_TMR => self.set_timer(payload),
            Command::DRIVER_EVENT => self.driver_event(payload),
            Command::INIT_RXQ => self.init_receive(payload, host),
            Command::FINI_RXQ => self.fini_receive(payload, host),
            Command::INIT_TXQ => self.init_transmit(payload, host),
            Command::FINI_TXQ => self.fini_transmit(payload, host),
            privileged if privileged.is_privileged() => Err(McError::EPERM),
            _ => Err(McError::ENOSYS),
        }
    }

    fn attach(&mut self, payload: &Payload<'_>, host: &dyn Host) -> Result<Reply, McError> {
        const ATTACHED: u32 = 1;
        const WANTS_V2_LINK: u32 = 1 << 4;
        const TRUSTED: u32 = 1 << 2;
        let (new, update) = (payload.u32(0)?, payload.u32(4)?);
        let old = self.attached;
        if update != 0 {
            self.attached = new & ATTACHED;
            self.link_v2 = new & WANTS_V2_LINK != 0;
        }
        let trusted = host.policy().vf(host.vf()).trust;
        Ok(Reply::zeros(8)
            .u32(0, old)
            .u32(4, if trusted { TRUSTED } else { 0 }))
    }

    fn mac_stats(&mut self, payload: &Payload<'_>, host: &dyn Host) -> Result<Reply, McError> {
        const WRITE: u32 = 1;
        const CLEAR: u32 = 1 << 1;
        // What else there is of periods says how they are to be from such a change on; DPDK's driver says so always.
        const CHANGES_PERIOD: u32 = 1 << 2;
        let (address, what) = (payload.u64(0)?, payload.u32(8)?);
        let len = payload.u32(12)? as usize;
        if what & CHANGES_PERIOD != 0 {
            return Err(McError::ENOTSUP);
        }
        let counters = host.counters();
        if what & CLEAR != 0 {
            self.readings.clear(&counters);
        }
        if what & WRITE == 0 {
            let reading = self.readings.read(&counters);
            return Ok(match what {
                0 => Reply::zeros(stats::BYTES).bytes(0, &reading),
                _ => Reply::default(),
            });
        }
        let reading = self.readings.read(&counters);
        let len = len.min(stats::BYTES);
        let memory = self.environment.memory.as_ref();
        let place = memory.and_then(|memory| memory.slice_mut(address, len));
        place.ok_or(McError::EINVAL)?.copy_from(&reading);
        Ok(Reply::default())
    }

    fn adaptor_alloc(&mut self, payload: &Payload<'_>) -> Result<Reply, McError> {
        const SETS_MAC_UNDER_FILTERS: u32 = 1 << 1;
        port(payload)?;
        let flags = payload.u32(8)?;
        if self.adaptor.is_some() {
            return Err(McError::EEXIST);
        }
        let sets_mac_under_filters = flags & SETS_MAC_UNDER_FILTERS != 0;
        self.adaptor = Some(Adaptor {
            sets_mac_under_filters,
        });
        Ok(Reply::default())
    }

    fn adaptor_set_mac(
        &mut self,
        payload: &Payload<'_>,
        host: &mut dyn Host,
    ) -> Result<Reply, McError> {
        port(payload)?;
        let adaptor = self.adaptor.unwrap_or_default();
        let mac = MacAddr(payload.bytes(4)?);
        if !self.filters.is_empty() && !adaptor.sets_mac_under_filters {
            return Err(McError::FILTERS_PRESENT);
        }
        self.settle(host)?;
        if mac != mac_of(host) {
            ask(host, VfRequest::Mac(mac))?;
        }
        Ok(Reply::default())
    }

    /// Changes contexts, and has the NIC spread flows as they say. What the NIC refuses has not changed.
    fn change_rss(
        &mut self,
        host: &mut dyn Host,
        change: impl FnOnce(&mut Contexts) -> Result<Reply, McError>,
    ) -> Result<Reply, McError> {
        self.settle(host)?;
        let before = self.rss.clone();
        let reply = change(&mut self.rss)?;
        if let Err(error) = self.tell_spread(host) {
            self.rss = before;
            return Err(error);
        }
        self.tell_hash(host);
        Ok(reply)
    }

    /// Has the NIC spread flows as the driver's contexts say, over the rings that there are.
    fn tell_spread(&mut self, host: &mut dyn Host) -> Result<(), McError> {
        let queues = self.receive_numbers;
        let spread = self
            .rss
            .spread(queues, || host.policy().rss(host.vf()).key());
        if spread != self.told_spread {
            let asked = MailboxRequest::SetRss(spread.clone().map(Box::new));
            host.request(&asked).map_err(|why| error_of(&why))?;
            self.told_spread = spread;
        }
        Ok(())
    }

    fn filter_op(&mut self, payload: &Payload<'_>, host: &mut dyn Host) -> Result<Reply, McError> {
        let operation = filter::parse(payload, PORT)?;
        if filter::context(payload).is_some_and(|context| !self.rss.has(context)) {
            return Err(McError::EINVAL);
        }
        self.settle(host)?;
        let handle = match operation {
            Operation::Insert { filter, again } => self.insert(filter, again, host)?,
            Operation::Remove(handle) => {
                self.remove(handle, host)?;
                handle
            }
            Operation::Replace(handle, action) => {
                self.replace(handle, action, host)?;
                handle
            }
        };
        // What is asked for in vain now is asked for again with the next request.
        let _ = self.settle(host);
        let reply = Reply::zeros(12).u32(0, payload.u32(0)?);
        Ok(reply.bytes(4, &handle.to_le_bytes()))
    }

    fn insert(&mut self, said: Said, again: bool, host: &mut dyn Host) -> Result<u64, McError> {
        let asked = self.meant(&said, host)?;
        if self.filters.is_full() {
            return Err(McError::ENOSPC);
        }
        if let Some(alike) = self.filters.alike(&said)
            && !(again && !is_station(&said.op.matches) && alike.asked == asked)
        {
            return Err(McError::EEXIST);
        }
        self.change_asked(None, &[], &asked, host)?;
        Ok(self.filters.add(Installed { said, asked }))
    }

    /// What the NIC is asked for, that a filter be in force. What is for an address of the VF's goes to its queues as its flows are spread, unless the
    /// filter names one of several, or drops it.
    ///
    /// # Errors
    /// EINVAL: there is no such queue. ENOTSUP: of what is unknown the VF receives all, as its flows are spread; and see [`Said::of_address`].
    fn meant(&self, said: &Said, host: &dyn Host) -> Result<Vec<FilterOp>, McError> {
        let op = said.op;
        if let DriverAction::Queue(queue) = op.action
            && u32::from(queue) >= self.interfaces
        {
            return Err(McError::EINVAL);
        }
        let received = FilterOp {
            action: DriverAction::Receive,
            ..op
        };
        match (op.matches, op.action) {
            (FilterMatch::Mac(mac), action) => {
                let is_asked = mac != mac_of(host) && action != DriverAction::Drop;
                let becomes = match action {
                    DriverAction::Receive => None,
                    DriverAction::Queue(0) if self.receive_numbers < 2 => None,
                    _ => Some(said.of_address(mac)?),
                };
                let received = is_asked.then_some(received);
                Ok(received.into_iter().chain(becomes).collect())
            }
            (
                FilterMatch::UnknownMulticast | FilterMatch::UnknownUnicast,
                DriverAction::Receive | DriverAction::Queue(0),
            ) => Ok(vec![received]),
            (FilterMatch::UnknownMulticast | FilterMatch::UnknownUnicast, _) => {
                Err(McError::ENOTSUP)
            }
            _ => Ok(vec![op]),
        }
    }

    /// Has the NIC do what a filter asks for, the one with this handle or a new one, and no longer what it has asked for before; nothing is asked of it
    /// that another filter has asked for as well.
    ///
    /// # Errors
    /// The NIC refuses what is new; what was before is in force then, unless the NIC refuses that as well.
    fn change_asked(
        &self,
        handle: Option<u64>,
        before: &[FilterOp],
        after: &[FilterOp],
        host: &mut dyn Host,
    ) -> Result<(), McError> {
        let alone = |op: &&FilterOp| !self.filters.has_asked(op, handle);
        let gone = before.iter().filter(|op| !after.contains(op)).filter(alone);
        let gone: Vec<_> = gone.collect();
        let new = after.iter().filter(|op| !before.contains(op)).filter(alone);
        for op in &gone {
            match ask_filter(host, FilterOp { add: false, ..**op }) {
                // The administrator has taken it out.
                Ok(()) | Err(McError::ENOENT) => {}
                Err(error) => return Err(error),
            }
        }
        let mut done = Vec::new();
        for op in new {
            if let Err(error) = ask_filter(host, *op) {
                for op in done {
                    let _ = ask_filter(host, FilterOp { add: false, ..op });
                }
                for op in gone {
                    let _ = ask_filter(host, *op);
                }
                return Err(error);
            }
            done.push(*op);
        }
        Ok(())
    }

    /// Has the NIC give what is for the VF's addresses to the queues that filters name, if there are several by now: drivers put in filters before they
    /// have all their queues.
    fn name_queues(&mut self, host: &mut dyn Host) -> Result<(), McError> {
        if self.receive_numbers < 2 {
            return Ok(());
        }
        for (handle, said) in self.filters.naming_in_vain() {
            let asked = self
                .filters
                .get(handle)
                .map(|filter| filter.asked.as_slice());
            let is_own = said.op.matches == FilterMatch::Mac(mac_of(host));
            // What is left has been the VF's own address before.
            if !is_own && asked.is_none_or(<[FilterOp]>::is_empty) {
                continue;
            }
            let FilterMatch::Mac(mac) = said.op.matches else {
                continue;
            };
            let becomes = said.of_address(mac)?;
            self.change_asked(Some(handle), &[], &[becomes], host)?;
            self.filters.add_asked(handle, becomes);
        }
        Ok(())
    }

    fn remove(&mut self, handle: u64, host: &mut dyn Host) -> Result<(), McError> {
        let filter = self.filters.get(handle).ok_or(McError::ENOENT)?;
        self.change_asked(Some(handle), &filter.asked, &[], host)?;
        self.filters.remove(handle);
        Ok(())
    }

    fn replace(
        &mut self,
        handle: u64,
        action: DriverAction,
        host: &mut dyn Host,
    ) -> Result<(), McError> {
        let was = self.filters.get(handle).ok_or(McError::ENOENT)?;
        let mut said = was.said;
        said.op.action = action;
        let asked = self.meant(&said, host)?;
        self.change_asked(Some(handle), &was.asked, &asked, host)?;
        self.filters.set(handle, Installed { said, asked });
        Ok(())
    }

    /// Has the NIC know what it should of the driver: that it is a new one, whether it wants frames to its addresses, and in which queue.
    ///
    /// # Errors
    /// EAGAIN: the NIC does not hear it now.
    pub(super) fn settle(&mut self, host: &mut dyn Host) -> Result<(), McError> {
        if !self.is_new_told {
            ask(
                host,
                VfRequest::Reset {
                    lists_groups: true,
                    lists_vlans: false,
                },
            )?;
            let mode = RxMode {
                nouni: true,
                nobcast: true,
                ..RxMode::default()
            };
            ask(host, VfRequest::RxMode(mode))?;
            self.is_new_told = true;
        }
        let nouni = !self.filters.wants_unicast();
        let mode = host.policy().asked(host.vf()).mode;
        if mode.nouni != nouni {
            ask(host, VfRequest::RxMode(RxMode { nouni, ..mode }))?;
        }
        for told in [self.tell_spread(host), self.name_queues(host)] {
            // Where there is no room for it, flows stay spread.
            if told == Err(McError::EAGAIN) {
                return told;
            }
        }
        Ok(())
    }
}

fn ask(host: &mut dyn Host, request: VfRequest) -> Result<(), McError> {
    let asked = host.request(&MailboxRequest::Change(request));
    asked.map_err(|why| error_of(&why))
}

fn ask_filter(host: &mut dyn Host, op: FilterOp) -> Result<(), McError> {
    let asked = host.request(&MailboxRequest::Filter(op));
    asked.map_err(|why| error_of(&why))
}

/// Whether it is one station's address, which is one VF's.
fn is_station(matches: &FilterMatch) -> bool {
    match matches {
        FilterMatch::Mac(mac) => mac.is_unicast(),
        FilterMatch::UnknownMulticast => false,
        _ => true,
    }
}

/// The number that a refusal has for drivers.
fn error_of(why: &NotGranted) -> McError {
    let refusal = match why {
        NotGranted::TooMany => return McError::EAGAIN,
        NotGranted::Refused(refusal) => refusal,
    };
    match refusal {
        Refusal::Privilege { .. }
        | Refusal::MacSet(_)
        | Refusal::MacTaken(_)
        | Refusal::PortVlan
        | Refusal::MtuBeyond { .. }
        | Refusal::NoFilterOp(_)
        | Refusal::NoMessage(_) => McError::EPERM,
        Refusal::DriverFilterExists(_) => McError::EEXIST,
        Refusal::NoDriverFilter(_) => McError::ENOENT,
        Refusal::DriverFilters(_) | Refusal::Filter(_) => McError::ENOSPC,
        Refusal::Table(table) => match **table {
            TableError::Exists(..) | TableError::Held { .. } => McError::EEXIST,
            TableError::NotFound(..) => McError::ENOENT,
            TableError::Combination { .. } | TableError::NoAction { .. } => McError::ENOTSUP,
            TableError::Full { .. }
            | TableError::NoRow { .. }
            | TableError::KindFull { .. }
            | TableError::Combinations { .. } => McError::ENOSPC,
            _ => McError::EINVAL,
        },
        _ => McError::EINVAL,
    }
}

/// The port that a request names is the function's.
fn port(payload: &Payload<'_>) -> Result<(), McError> {
    match payload.u32(0)? {
        PORT => Ok(()),
        _ => Err(McError::NO_EVB_PORT),
    }
}

fn mac_of(host: &dyn Host) -> MacAddr {
    host.policy().mac(host.vf())
}

/// The link as it is now.
pub(super) fn link_of(host: &dyn Host) -> LinkState {
    LinkState {
        up: host.policy().link_up_for(host.vf()),
        mbps: host.speed_mbps(),
    }
}

/// The far end has no flow control, so there is none.
fn link(LinkState { up, mbps }: LinkState) -> Reply {
    Reply::zeros(28)
        .u32(0, CAPABLE_10G | CAPABLE_PAUSE)
        .u32(4, CAPABLE_10G)
        .u32(8, mbps)
        .u32(16, u32::from(up) | FULL_DUPLEX)
}

fn version(payload: &Payload<'_>) -> Reply {
    const FIRMWARE_ID: u32 = 0xb007_0001;
    let len = if payload.0.is_empty() { 32 } else { 48 };
    let numbers = FIRMWARE.map(u16::to_le_bytes);
    let reply = Reply::zeros(len).u32(0, FIRMWARE_ID);
    reply.bytes(24, numbers.as_flattened())
}

fn capabilities() -> Reply {
    const VADAPTOR_QUERY: u32 = 1 << 5;
    const SET_MAC_ENHANCED: u32 = 1 << 9;
    const SETS_MAC_UNDER_FILTERS: u32 = 1 << 11;
    const CHECKS_SOURCE: u32 = 1 << 12;
    const RSS_FIELDS: u32 = 1 << 13;
    const PREFIX_0: u32 = 1 << 22;
    const PREFIX_14: u32 = 1 << 23;
    const GROUPS_CHAIN: u32 = 1 << 26;
    const EVB: u32 = 1 << 30;
    const TSO_V2: u32 = 1;
    const TIMERS_BY_REQUEST: u32 = 1 << 2;
    const FULL_FEATURED: u16 = 3 << 12;
    const HIDDEN: [u8; 32] = [0xff; 32];
    let flags = VADAPTOR_QUERY
        | SET_MAC_ENHANCED
        | SETS_MAC_UNDER_FILTERS
        | CHECKS_SOURCE
        | RSS_FIELDS
        | PREFIX_0
        | PREFIX_14
        | GROUPS_CHAIN
        | EVB;
    Reply::zeros(72)
        .u32(0, flags)
        .u16(8, FULL_FEATURED)
        .u16(10, FULL_FEATURED)
        .u32(20, TSO_V2 | TIMERS_BY_REQUEST)
        // Each transmit queue may segment. Which ports and VFs others have is not for a VF to see.
        .u32(24, regs::INTERFACES)
        .bytes(26, &HIDDEN)
        // Their logarithms: the descriptor caches hold 64 and 16.
        .bytes(66, &[6, 4])
}

fn phy() -> Reply {
    const PRESENT: u32 = 1;
    const SFP_PLUS: u32 = 5;
    Reply::zeros(72)
        .u32(0, PRESENT)
        .u32(8, CAPABLE_10G | CAPABLE_PAUSE)
        .bytes(24, b"vfnic")
        .u32(44, SFP_PLUS)
}

fn timers() -> Reply {
    let most_ns = TIMER_NS.saturating_mul(TIMER_MAX);
    Reply::zeros(36)
        .u32(4, TIMER_NS)
        .u32(8, TIMER_MAX)
        .u32(12, 1)
        .u32(16, most_ns)
        .u32(20, TIMER_NS)
        .u32(24, TIMER_NS)
        .u32(28, TIMER_MAX)
        .u32(32, 1)
}

/// Changes what a request says of the MAC. Who knows its longer form is told the longest frame, also if nothing is to change.
fn set_mac(payload: &Payload<'_>, host: &mut dyn Host) -> Result<Reply, McError> {
    const CHANGES_MTU: u32 = 1;
    let longest = payload.u32(0)?;
    let Ok(changes) = payload.u32(28) else {
        // The shorter form changes all.
        payload.u32(24)?;
        set_longest(longest, host)?;
        return Ok(Reply::default());
    };
    if changes & CHANGES_MTU != 0 {
        set_longest(longest, host)?;
    }
    let (policy, vf) = (host.policy(), host.vf());
    let longest = u32::from(policy.rx_mtu(vf).get()).saturating_add(BEYOND_MTU);
    Ok(Reply::zeros(4).u32(0, longest))
}

/// A frame of this length is to pass, and so is one that is shorter. DPDK's driver asks for a length of 0 before it knows one, and goes on only if
/// that is not the VF's to say.
fn set_longest(longest: u32, host: &mut dyn Host) -> Result<(), McError> {
    let (policy, vf) = (host.policy(), host.vf());
    let most = u32::from(policy.tx_mtu(vf).get());
    let wanted = longest.saturating_sub(BEYOND_MTU);
    if wanted > most.saturating_add(SLACK) {
        return Err(McError::EPERM);
    }
    let mtu = Mtu::new(wanted.min(most)).map_err(|_| McError::EPERM)?;
    if policy.agreed_mtu(vf) != Some(mtu) {
        ask(host, VfRequest::Mtu(mtu))?;
    }
    Ok(())
}

/// What the function may do; no other's are for it to read, and none for it to change.
fn privileges(payload: &Payload<'_>, host: &dyn Host) -> Result<Reply, McError> {
    const CHANGE: u32 = 1 << 31;
    const NAMES: [(Privileges, u32); 8] = [
        (Privileges::INSECURE_FILTERS, 0x10),
        (Privileges::UNICAST, 0x40),
        (Privileges::MULTICAST, 0x80),
        (Privileges::BROADCAST, 0x100),
        (Privileges::ALL_MULTICAST, 0x200),
        (Privileges::PROMISCUOUS, 0x400),
        (Privileges::MAC_SPOOFING_TX, 0x800),
        (Privileges::CHANGE_MAC, 0x1000),
    ];
    let (function, mask) = (payload.u32(0)?, payload.u32(4)?);
    if function != u32::from(host.vf().0) << 16 || mask & CHANGE != 0 {
        return Err(McError::EPERM);
    }
    let policy = host.policy();
    let vf = policy.vf(host.vf());
    let has = |privilege| vf.trust || vf.privileges().contains(privilege);
    let names = NAMES.iter().filter(|(privilege, _)| has(*privilege));
    Ok(Reply::zeros(4).u32(0, names.fold(0, |all, (_, bit)| all | bit)))
}

/// Which fields filters can look at together.
fn parser(payload: &Payload<'_>, host: &dyn Host) -> Result<Reply, McError> {
    const MATCHES: u32 = 1;
    const MOST: usize = 61;
    let operation = payload.u32(0)?;
    if operation != MATCHES {
        return Err(McError::ENOTSUP);
    }
    let in_vlan = [
        MatchFlags::DST_MAC,
        MatchFlags::UNKNOWN_MULTICAST,
        MatchFlags::UNKNOWN_UNICAST,
    ]
    .map(|one| one.union(MatchFlags::OUTER_VID));
    let policy: std::sync::Arc<Policy> = host.policy();
    let listed = policy.profile().driver_matches().into_iter();
    let listed = listed.chain(in_vlan).take(MOST);
    let matches: Vec<_> = listed.map(filter::field_bits).collect();
    let words = matches.len().saturating_add(2);
    let mut reply = Reply::zeros(words.saturating_mul(4))
        .u32(0, operation)
        .u32(4, u32::try_from(matches.len()).unwrap_or(0));
    for (at, bits) in (8..).step_by(4).zip(matches) {
        reply = reply.u32(at, bits);
    }
    Ok(reply)
}
