//! What the hypervisor sees of VFs on path `auto`: frames that the fast path could have carried, and guests that announce an
//! address. Only notes it; what is learned is for the policy to say. Never keeps more than [`REMEMBERED`] notes.

use vf_packet::{Header, MacAddr};

use crate::learned::{FastEvent, FastKey};
use crate::policy::Policy;
use crate::verdict::Onward;
use crate::vf::VfIndex;

/// Notes that nobody has taken, and frames of which it is known that they have been noted.
const REMEMBERED: usize = 64;
/// A note may get lost on the way: after so many more frames it is made again.
const AGAIN: u32 = 1024;
const ETHERTYPE_ARP: u16 = 0x806;

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Learner {
    notes: Vec<FastEvent>,
    /// What has been noted under this policy, and how many frames came since.
    noted: Vec<(VfIndex, FastKey, u32)>,
    announced: Option<MacAddr>,
}

impl Learner {
    /// Another policy is in force: what it has not learned may be noted again.
    pub(crate) fn adopt(&mut self) {
        self.noted.clear();
    }

    /// Looks at a frame from the wire that the NIC has handed up. One that a filter has go this way teaches nothing: a filter that
    /// were learned from it would take a row and have no effect.
    pub(crate) fn look_at_arrival(&mut self, policy: &Policy, onward: &Onward, head: &[u8]) {
        let vfs = onward.vfs.intersection(policy.auto());
        if vfs.is_empty() || onward.held {
            return;
        }
        let Some(key) = FastKey::of_frame(head) else {
            return;
        };
        for vf in vfs.iter() {
            if policy.may_learn(vf, key, MacAddr::of_frame(head)) {
                self.note(vf, key);
            }
        }
    }

    fn note(&mut self, vf: VfIndex, key: FastKey) {
        let known = |(v, k, _): &&mut (VfIndex, FastKey, u32)| (*v, *k) == (vf, key);
        if let Some((.., frames)) = self.noted.iter_mut().find(known) {
            *frames = (*frames + 1) % AGAIN;
            if *frames > 0 {
                return;
            }
        } else {
            if self.noted.len() >= REMEMBERED {
                self.noted.clear();
            }
            self.noted.push((vf, key, 0));
        }
        if self.notes.len() < REMEMBERED {
            self.notes.push(FastEvent::Learn { vf, key });
        }
    }

    /// Looks at a frame that a guest of this host sends.
    pub(crate) fn look_at_guest(&mut self, header: &Header, head: &[u8]) {
        if header.ethertype == ETHERTYPE_ARP
            && let Some(mac) = announced(header, head)
        {
            self.announced = Some(mac);
        }
    }

    /// What has been noted since the last call.
    pub(crate) fn take_notes(&mut self) -> Vec<FastEvent> {
        std::mem::take(&mut self.notes)
    }

    /// The address that the last frame announced, if it did.
    pub(crate) fn take_announced(&mut self) -> Option<MacAddr> {
        self.announced.take()
    }
}

/// Whose address a gratuitous ARP packet announces, a reply, or a request in the other form (RFC 5227 3), in which both
/// protocol addresses are the same: its sender's own, which has been checked as such, and nobody else's.
fn announced(header: &Header, head: &[u8]) -> Option<MacAddr> {
    let packet = head
        .get(usize::from(header.l3_offset)..)?
        .first_chunk::<28>()?;
    let [.., op] = packet[..8] else { return None };
    let ethernet_and_ipv4 = packet[..7] == [0, 1, 8, 0, 6, 4, 0];
    let gratuitous = packet[14..18] == packet[24..28];
    let mac = MacAddr(*packet[8..].first_chunk()?);
    let own = mac == header.src && mac.is_unicast();
    (ethernet_and_ipv4 && matches!(op, 1 | 2) && gratuitous && own).then_some(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arp(op: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![0xff; 6];
        frame.extend([2, 0, 0, 0, 0, 7, 8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
        frame.extend([2, 0, 0, 0, 0, 7]);
        frame.extend(sender);
        frame.extend([0; 6]);
        frame.extend(target);
        frame
    }

    #[test]
    fn both_forms_of_gratuitous_arp_announce_and_nothing_else_does() {
        let ip = [10, 0, 0, 7];
        let mac = Some(MacAddr([2, 0, 0, 0, 0, 7]));
        let heard = |frame: &[u8]| {
            let mut learner = Learner::default();
            if let Ok(header) = Header::parse(frame) {
                learner.look_at_guest(&header, frame);
            }
            learner.take_announced()
        };
        assert_eq!(heard(&arp(1, ip, ip)), mac);
        assert_eq!(heard(&arp(2, ip, ip)), mac);
        let mut tagged = arp(2, ip, ip);
        tagged.splice(12..12, [0x81, 0, 0, 10]);
        assert_eq!(heard(&tagged), mac);
        assert_eq!(heard(&arp(1, ip, [10, 0, 0, 8])), None, "a question");
        assert_eq!(heard(&arp(2, ip, [10, 0, 0, 8])), None, "an answer");
        assert_eq!(heard(&arp(3, ip, ip)), None);
        for len in 0..42 {
            assert_eq!(heard(&arp(2, ip, ip)[..len]), None, "{len}");
        }
    }
}
