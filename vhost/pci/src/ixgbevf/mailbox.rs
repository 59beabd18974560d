//! The mailbox between VF and PF, both ends of it: the registers as the VF has them, and the PF, which answers as Linux's `ixgbe` does
//! in `ixgbe_sriov.c`. What it grants is the NIC's business; requests are put in the model's words. Knows no queue.

use vf_model::{
    GroupHash, MacAddr, MailboxRequest, Mtu, RssKey, RxMode, VfLinkState, VfRequest, Vid,
};

use crate::function::Host;

/// Words of the message.
const WORDS: usize = 16;

/// Bits of VFMAILBOX.
pub(super) const REQUEST: u32 = 1;
const ACK: u32 = 1 << 1;
/// The VF has the buffer.
const VF_USES: u32 = 1 << 2;
/// The PF has written a message, has read one, has done its reset: cleared when they are read.
const PF_STATUS: u32 = 1 << 4;
const PF_ACK: u32 = 1 << 5;
const RESET_DONE: u32 = 1 << 7;
const CLEARED_BY_READ: u32 = PF_STATUS | PF_ACK | RESET_DONE;

/// Bits of the first word of an answer: yes, no, and the VF may go on asking.
const SUCCESS: u32 = 1 << 31;
const FAILURE: u32 = 1 << 30;
const CLEAR_TO_SEND: u32 = 1 << 29;

/// Messages of the VF.
const RESET: u32 = 0x01;
const SET_MAC_ADDR: u32 = 0x02;
const SET_MULTICAST: u32 = 0x03;
const SET_VLAN: u32 = 0x04;
const SET_LPE: u32 = 0x05;
const SET_MACVLAN: u32 = 0x06;
const API_NEGOTIATE: u32 = 0x08;
const GET_QUEUES: u32 = 0x09;
const GET_RETA: u32 = 0x0a;
const GET_RSS_KEY: u32 = 0x0b;
const UPDATE_XCAST_MODE: u32 = 0x0c;
const GET_LINK_STATE: u32 = 0x10;
/// And the one of the PF.
const PF_CONTROL: u32 = 0x100;

/// What UPDATE_XCAST_MODE asks for.
const XCAST_NONE: u32 = 0;
const XCAST_MULTI: u32 = 1;
const XCAST_ALLMULTI: u32 = 2;
const XCAST_PROMISC: u32 = 3;

/// Most group hashes in a message.
const HASHES: usize = 30;
/// Most further addresses that are listed one by one: more than any VF has room for.
const ADDRESSES: usize = 256;
/// Ethernet header and FCS, which the length of a frame has and an MTU has not.
const FRAMING: u32 = 18;
/// Entries of the indirection table, two bits each in a message.
const RETA: u16 = 128;

/// What version of the words both have agreed on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum Api {
    #[default]
    V10,
    V11,
    V12,
    V13,
    V14,
}

impl Api {
    fn of(word: u32) -> Option<Api> {
        // 1 is 2.0, which is Solaris's.
        Some(match word {
            0 => Api::V10,
            2 => Api::V11,
            3 => Api::V12,
            4 => Api::V13,
            5 => Api::V14,
            _ => return None,
        })
    }
}

/// Whether there is something new for the VF to look at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Raised {
    Yes,
    No,
}

/// The PF says no.
struct Nack;

/// What the driver has been told without being asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Told {
    link: bool,
    /// What the administrator has done that has the driver start anew.
    state: VfLinkState,
    resets: u64,
}

impl Told {
    fn now(host: &dyn Host) -> Told {
        let (policy, vf) = (host.policy(), host.vf());
        Told {
            link: policy.link_up_for(vf),
            state: policy.vf(vf).state,
            resets: policy.resets(vf),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Mailbox {
    words: [u32; WORDS],
    status: u32,
    queue_pairs: u16,
    /// Whether the VF has been reset since the PF wanted it to be: before, it is asked for nothing else.
    clear_to_send: bool,
    api: Api,
    /// The address that the driver has chosen. The PF keeps it when the driver starts anew.
    mac: Option<MacAddr>,
    /// The addresses that it has listed one by one.
    unicast: Vec<MacAddr>,
    told: Told,
    /// The PF's last message has not been read.
    unread: bool,
    /// The PF has something to say as soon as it may.
    news: bool,
}

impl Mailbox {
    pub(super) fn new(queue_pairs: u16) -> Mailbox {
        Mailbox {
            words: [0; WORDS],
            status: RESET_DONE,
            queue_pairs,
            clear_to_send: false,
            api: Api::V10,
            mac: None,
            unicast: Vec::new(),
            told: Told::default(),
            unread: false,
            news: false,
        }
    }

    /// The driver has reset the function, and the PF sees it.
    pub(super) fn reset(&mut self, host: &mut dyn Host) {
        *self = Mailbox {
            mac: self.mac,
            ..Mailbox::new(self.queue_pairs)
        };
        self.forget(host);
    }

    /// The driver that has chosen an address is gone.
    pub(super) fn forget_address(&mut self) {
        self.mac = None;
    }

    /// Forgets all that the driver has asked for, but for its address.
    fn forget(&mut self, host: &mut dyn Host) {
        self.api = Api::V10;
        self.unicast.clear();
        self.told = Told::now(host);
        let reset = VfRequest::Reset {
            lists_groups: true,
            lists_vlans: true,
        };
        // One that gives too many commands keeps what it has, and asks for the same again.
        let _ = host.request(&MailboxRequest::Change(reset));
        if let Some(mac) = self.mac {
            // If it may no longer have that, it is told which one it has.
            let _ = change(host, VfRequest::Mac(mac));
        }
    }

    /// A word of the message.
    pub(super) fn word(&self, at: usize) -> u32 {
        self.words.get(at).copied().unwrap_or_default()
    }

    pub(super) fn set_word(&mut self, at: usize, value: u32) {
        if let Some(word) = self.words.get_mut(at) {
            *word = value;
        }
    }

    /// VFMAILBOX, which forgets some of it.
    pub(super) fn take_status(&mut self) -> u32 {
        let status = self.status;
        self.status &= !CLEARED_BY_READ;
        status
    }

    /// A write to VFMAILBOX. The PF never holds the buffer for so long that the VF could see it.
    pub(super) fn control(&mut self, value: u32, host: &mut dyn Host) -> Raised {
        self.status = self.status & !VF_USES | value & VF_USES;
        let mut raised = Raised::No;
        if value & ACK != 0 {
            self.unread = false;
            if !self.clear_to_send {
                // It should not be reading either: it has missed that it was to start anew.
                raised = self.say(FAILURE);
            }
        }
        if value & REQUEST != 0 {
            self.status = self.status & !VF_USES | PF_ACK;
            raised = Raised::Yes;
            let [first, ..] = self.words;
            if first & (SUCCESS | FAILURE) == 0 {
                self.answer(first, host);
                (self.unread, self.status) = (true, self.status | PF_STATUS);
            }
        }
        if self.news && !self.unread && self.status & VF_USES == 0 {
            self.news = false;
            raised = self.ping();
        }
        raised
    }

    /// Puts a message of the PF into the buffer.
    fn say(&mut self, word: u32) -> Raised {
        let [first, ..] = &mut self.words;
        *first = word;
        (self.unread, self.status) = (true, self.status | PF_STATUS);
        Raised::Yes
    }

    fn ping(&mut self) -> Raised {
        self.say(match self.clear_to_send {
            true => PF_CONTROL | CLEAR_TO_SEND,
            false => PF_CONTROL,
        })
    }

    /// What is true of the VF has changed: link, administrator's word.
    pub(super) fn changed(&mut self, host: &dyn Host) -> Raised {
        let now = Told::now(host);
        if now == self.told {
            return Raised::No;
        }
        if (now.state, now.resets) != (self.told.state, self.told.resets) {
            self.clear_to_send = false;
        }
        self.told = now;
        // A message that is there is not overwritten; the interrupt has the driver look at its link in any case.
        self.news = self.unread || self.status & VF_USES != 0;
        if !self.news {
            let _ = self.ping();
        }
        Raised::Yes
    }

    fn answer(&mut self, first: u32, host: &mut dyn Host) {
        if first == RESET {
            self.forget(host);
            self.clear_to_send = true;
            let mac = words_of(host.policy().mac(host.vf()));
            let [answer, low, high, filter, ..] = &mut self.words;
            // Groups are hashed by bits 36 to 47.
            (*answer, *filter) = (RESET | SUCCESS, 0);
            [*low, *high] = mac;
            return;
        }
        let answered = match self.clear_to_send {
            true => self.grant(first, host).map(|()| SUCCESS),
            false => Err(Nack),
        };
        let go_on = if self.clear_to_send { CLEAR_TO_SEND } else { 0 };
        let [answer, ..] = &mut self.words;
        *answer = first | go_on | answered.unwrap_or(FAILURE);
    }

    /// Does what a message asks, or answers what it asks for, from its second word on.
    fn grant(&mut self, first: u32, host: &mut dyn Host) -> Result<(), Nack> {
        let info = first >> 16 & 0xff;
        let [_, second, third, ..] = self.words;
        let mac = mac_of([second, third]);
        match first & 0xffff {
            API_NEGOTIATE => self.api = Api::of(second).ok_or(Nack)?,
            SET_MAC_ADDR => {
                change(host, VfRequest::Mac(mac))?;
                self.mac = Some(mac);
            }
            SET_MULTICAST => {
                let hashes = self.hashes(info);
                change(host, VfRequest::GroupHashes(hashes))?;
                // As the PF of Linux: they are received in every mode.
                let mode = host.policy().asked(host.vf()).mode;
                if mode.nomulti {
                    let nomulti = false;
                    change(host, VfRequest::RxMode(RxMode { nomulti, ..mode }))?;
                }
            }
            SET_VLAN => set_vlan(host, info != 0, second & 0xfff)?,
            SET_LPE => {
                let mtu = second.checked_sub(FRAMING).map(Mtu::new);
                let mtu = mtu.ok_or(Nack)?.map_err(|_| Nack)?;
                change(host, VfRequest::Mtu(mtu))?;
            }
            SET_MACVLAN => self.set_macvlan(host, info, mac)?,
            GET_QUEUES if self.api >= Api::V11 => self.say_queues(host),
            GET_RETA if self.api >= Api::V12 => self.say_table(host)?,
            GET_RSS_KEY if self.api >= Api::V12 => self.say_key(host)?,
            UPDATE_XCAST_MODE if self.api >= Api::V12 => self.set_xcast(host, second)?,
            GET_LINK_STATE if self.api >= Api::V12 => {
                let state = host.policy().vf(host.vf()).state;
                self.put([u32::from(state != VfLinkState::Disable)]);
            }
            _ => return Err(Nack),
        }
        Ok(())
    }

    /// Answers from the second word on.
    fn put<const N: usize>(&mut self, words: [u32; N]) {
        let to = self.words.iter_mut().skip(1);
        to.zip(words).for_each(|(to, word)| *to = word);
    }

    /// The hashes of a message, two in a word.
    fn hashes(&self, n: u32) -> Vec<GroupHash> {
        let n = usize::try_from(n).unwrap_or(HASHES).min(HASHES);
        let words = self.words.iter().skip(1);
        let halves = words.flat_map(|word| {
            let [a, b, c, d] = word.to_le_bytes();
            [[a, b], [c, d]].map(u16::from_le_bytes)
        });
        halves.take(n).map(GroupHash::new).collect()
    }

    /// One more address, or the first one after the others are forgotten, or none.
    fn set_macvlan(&mut self, host: &mut dyn Host, index: u32, mac: MacAddr) -> Result<(), Nack> {
        let mut list = match index {
            0 | 1 => Vec::new(),
            _ => self.unicast.clone(),
        };
        if index > 0 {
            if list.len() >= ADDRESSES || !mac.is_unicast() {
                return Err(Nack);
            }
            list.push(mac);
        }
        // What does not fit, or is another's, is asked for all the same, and granted when it may be. It takes nothing from the others.
        let _ = change(host, VfRequest::Unicast(list.clone()));
        self.unicast = list;
        let granted = host.policy().in_force(host.vf()).unicast.contains(&mac);
        (granted || index == 0).then_some(()).ok_or(Nack)
    }

    fn say_queues(&mut self, host: &dyn Host) {
        let port_vlan = host.policy().vf(host.vf()).port_vlan.is_some();
        let queues = u32::from(self.queue_pairs);
        self.put([queues, queues, u32::from(port_vlan), 0]);
    }

    /// The indirection table, if the administrator shows it (`query_rss`).
    fn say_table(&mut self, host: &mut dyn Host) -> Result<(), Nack> {
        host.request(&MailboxRequest::Rss).map_err(|_| Nack)?;
        let policy = host.policy();
        let rss = policy.rss(host.vf());
        let mut words = [0; RETA as usize / 16];
        let mut entries = 0..RETA;
        for word in &mut words {
            let queues = entries.by_ref().take(16);
            let queues = queues.map(|entry| u32::from(rss.entry(entry, self.queue_pairs)) & 3);
            // The first in the lowest bits.
            let queues = queues.zip((0..32).step_by(2));
            *word = queues.fold(0, |all, (queue, at)| all | queue << at);
        }
        self.put(words);
        Ok(())
    }

    fn say_key(&mut self, host: &mut dyn Host) -> Result<(), Nack> {
        host.request(&MailboxRequest::Rss).map_err(|_| Nack)?;
        let RssKey(key) = host.policy().rss(host.vf()).key();
        let (words, _) = key.as_chunks::<4>();
        let mut said = [0; 10];
        let to = said.iter_mut().zip(words);
        to.for_each(|(to, word)| *to = u32::from_le_bytes(*word));
        self.put(said);
        Ok(())
    }

    /// Modes are taken as they are asked for, broadcasts in each of them, and answered as they are in force: one without trust is told that it is as if it had asked
    /// for no more than groups.
    fn set_xcast(&mut self, host: &mut dyn Host, mode: u32) -> Result<(), Nack> {
        if mode > XCAST_PROMISC || mode == XCAST_PROMISC && self.api < Api::V13 {
            return Err(Nack);
        }
        let asked = RxMode {
            promisc: mode == XCAST_PROMISC,
            allmulti: mode == XCAST_ALLMULTI || mode == XCAST_PROMISC,
            nomulti: mode == XCAST_NONE,
            ..RxMode::default()
        };
        change(host, VfRequest::RxMode(asked))?;
        let (policy, vf) = (host.policy(), host.vf());
        let has = policy.in_force(vf).mode;
        let granted = match mode {
            XCAST_PROMISC if has.promisc => XCAST_PROMISC,
            // "82599 does not have it", says the PF of one that is trusted.
            XCAST_PROMISC if policy.vf(vf).trust => return Err(Nack),
            XCAST_PROMISC | XCAST_ALLMULTI if has.allmulti => XCAST_ALLMULTI,
            XCAST_NONE => XCAST_NONE,
            _ => XCAST_MULTI,
        };
        self.put([granted]);
        Ok(())
    }
}

fn change(host: &mut dyn Host, request: VfRequest) -> Result<(), Nack> {
    let request = MailboxRequest::Change(request);
    host.request(&request).map_err(|_| Nack)
}

/// VLAN 0 is no VLAN: frames that carry a priority only are received anyway.
fn set_vlan(host: &mut dyn Host, add: bool, vid: u32) -> Result<(), Nack> {
    if vid == 0 {
        return Ok(());
    }
    let vid = u16::try_from(vid).map_err(|_| Nack)?;
    let vid = Vid::new(vid).map_err(|_| Nack)?;
    change(
        host,
        match add {
            true => VfRequest::VlanAdd(vid),
            false => VfRequest::VlanDel(vid),
        },
    )
}

/// An address as two words have it.
fn mac_of(words: [u32; 2]) -> MacAddr {
    let [low, high] = words.map(u32::to_le_bytes);
    let [a, b, c, d] = low;
    let [e, f, ..] = high;
    MacAddr([a, b, c, d, e, f])
}

fn words_of(mac: MacAddr) -> [u32; 2] {
    let [a, b, c, d, e, f] = mac.0;
    [[a, b, c, d], [e, f, 0, 0]].map(u32::from_le_bytes)
}
