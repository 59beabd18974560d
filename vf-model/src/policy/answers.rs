//! What a policy says about a command that has made it: to the administrator, and to the driver of a VF. Changes nothing.

use vf_packet::Vid;

use super::Policy;
use crate::command::Command;
use crate::lack::{Answer, PortState};
use crate::mailbox::{MailboxRequest, VfRequest};
use crate::rss_context::RssContextOp;
use crate::vf::{VfIndex, VfSetting};

impl Policy {
    /// What a command says that drivers of such NICs take for said and leave as it is, or do although others would not: a line each, as
    /// their log might have it.
    #[must_use]
    pub fn ignored(&self, command: &Command) -> Vec<String> {
        let Command::SetVf { settings, .. } = command else {
            return Vec::new();
        };
        let reserved = settings.contains(&VfSetting::Vlan(Vid::RESERVED.get()));
        let reserved = reserved.then(|| {
            format!(
                "vlan {}: done, as drivers of {} do, but IEEE 802.1Q reserves it: switches may drop its frames",
                Vid::RESERVED,
                self.profile()
            )
        });
        let port = PortState {
            link_up: true,
            mbps: None,
        };
        let ignored = |s: &&VfSetting| self.silicon.lack(s, port) == Some(Answer::Ignored);
        let line = |setting| {
            format!(
                "{setting}: not supported by {}, nothing has changed",
                self.profile()
            )
        };
        let ignored = settings.iter().filter(ignored).map(line);
        ignored.chain(reserved).collect()
    }

    /// What a NIC of this policy answers to a request of a driver that has made it what it is, and to a new RSS context, a line for
    /// each VF; nothing to any other command.
    #[must_use]
    pub fn answers(&self, command: &Command) -> Vec<String> {
        if let Command::RssContext { vfs, op } = command {
            let vfs = vfs.iter().filter(|vf| vf.index() < self.num_vfs());
            let made = vfs.filter(|_| matches!(op, RssContextOp::New { .. }));
            return made.map(|vf| self.contexts_line(vf)).collect();
        }
        let Command::Request { vfs, request } = command else {
            return Vec::new();
        };
        let vfs = vfs.iter().filter(|vf| vf.index() < self.num_vfs());
        vfs.map(|vf| format!("{vf}: {}", self.answer(vf, request)))
            .collect()
    }

    fn contexts_line(&self, vf: VfIndex) -> String {
        let ids = self.rss_contexts(vf).iter().map(|(id, _)| id.to_string());
        let ids: Vec<_> = ids.collect();
        format!("{vf}: has RSS contexts {} now", ids.join(", "))
    }

    fn answer(&self, vf: VfIndex, request: &MailboxRequest) -> String {
        const LATER: &str = "it is remembered, and in force as soon as that is allowed";
        let entry = self.entry(vf);
        let (asked, in_force) = (&entry.asked.filter.mode, &entry.rx.mode);
        let request = match request {
            MailboxRequest::Link if self.link_up_for(vf) => return "up".to_owned(),
            MailboxRequest::Link => return "down".to_owned(),
            MailboxRequest::Rss => {
                let rss = self.rss(vf);
                return format!("hkey {} {}", rss.key(), rss.spread());
            }
            // What it may not have is refused.
            MailboxRequest::Filter(_) | MailboxRequest::SetRss(_) => return "yes".to_owned(),
            MailboxRequest::Change(request) => request,
        };
        let withheld = match request {
            VfRequest::Promisc(_) => asked.promisc && !in_force.promisc,
            VfRequest::AllMulti(_) => asked.allmulti && !in_force.allmulti,
            VfRequest::RxMode(_) => asked != in_force,
            _ => false,
        };
        if withheld && entry.policy.trust {
            return "yes, but VFs of this NIC receive only what is for them".to_owned();
        }
        if withheld {
            return format!("yes, but a VF without trust receives only what is for it; {LATER}");
        }
        let (policy, silicon) = (&entry.policy, &self.silicon);
        let denied = entry.asked.denied(request, &entry.rx, policy, silicon);
        match denied {
            Some(why) => format!("no, not all of it: {why}; {LATER}"),
            None => "yes".to_owned(),
        }
    }
}
