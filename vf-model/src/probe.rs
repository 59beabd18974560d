//! The decisions that make a verdict, as those who make them tell them to whom it may concern: a probe, which is `()` for frames that pass.
//! Never decides anything.

use std::fmt;

use vf_packet::{MacAddr, Vlan, VlanTag};

use crate::filter_spec::{FilterAction, NumberedFilter};
use crate::rule::Rule;
use crate::source::Source;
use crate::stats::DropReason;
use crate::verdict::TagEdit;
use crate::vf::{Path, VfIndex, VfSet};

/// Who is told of the decisions that make a verdict. Frames that pass are judged with `()`, which costs nothing.
pub(crate) trait Probe {
    /// A decision, put together only if somebody wants to know.
    fn note(&mut self, step: impl FnOnce() -> Step);

    /// A filter matches.
    fn filter(&mut self, rule: &Rule, met: Met);
}

/// What a filter that matches has to do with a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Met {
    /// It judges what a VF sends.
    Egress,
    /// It decides who gets it, or which way.
    Filter,
    /// It has it copied.
    Copied,
    /// It is passed over.
    PassedOver,
    /// It is one of the driver of this VF, which would get it otherwise.
    Driver(VfIndex),
}

impl Probe for () {
    #[inline(always)]
    fn note(&mut self, _: impl FnOnce() -> Step) {}

    #[inline(always)]
    fn filter(&mut self, _: &Rule, _: Met) {}
}

/// One decision about a frame, in the order in which they are made. Its `Display` is a sentence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Who judges it.
    Judge {
        /// Whether it is the NIC, of the direct path, or the hypervisor.
        path: Path,
        /// Where it comes from.
        source: Source,
    },
    /// The sender's port VLAN.
    PortVlan {
        /// The sender.
        vf: VfIndex,
        /// The tag that is put in front.
        tag: VlanTag,
        /// Whether the frame has a tag of its own.
        tagged: bool,
    },
    /// The VLAN in which it goes on.
    InVlan(Vlan),
    /// The sender's source address and VLAN are looked at, and are its own.
    Spoofchk {
        /// The sender.
        vf: VfIndex,
        /// The source address.
        src: MacAddr,
    },
    /// The sender's source address is none of its own.
    Spoofed {
        /// The sender.
        vf: VfIndex,
        /// The source address.
        src: MacAddr,
        /// The one that it should be.
        own: MacAddr,
    },
    /// The sender's address is its own, and the VLAN is not.
    NotItsVlan {
        /// The sender.
        vf: VfIndex,
        /// Whether the administrator allows it and its driver has not listed it.
        unlisted: bool,
    },
    /// The sender may use any source address and any VLAN.
    NoSpoofchk(VfIndex),
    /// A filter on what VFs send matches.
    Egress {
        /// What it says.
        action: FilterAction,
        /// The filter.
        rule: Option<NumberedFilter>,
    },
    /// The VF sends only what filters let out that name it, and none of them matches.
    NotListed(VfIndex),
    /// A filter of the NIC's table matches, and decides.
    Filter {
        /// What it says.
        action: FilterAction,
        /// The filter.
        rule: Option<NumberedFilter>,
    },
    /// A filter matches and has it copied to a VF, if somebody gets it; the next one is asked.
    Copied {
        /// What it says.
        action: FilterAction,
        /// The filter.
        rule: Option<NumberedFilter>,
    },
    /// A filter matches and is passed over: its VF has sent the frame, or takes no part in the VLAN.
    PassedOver {
        /// What it says.
        action: FilterAction,
        /// The filter.
        rule: Option<NumberedFilter>,
    },
    /// The destination is an address of this VF.
    Owner {
        /// The VF.
        vf: VfIndex,
        /// The destination address.
        dst: MacAddr,
    },
    /// The destination is an address of this VF, which takes no part in the VLAN.
    OwnerElsewhere {
        /// The VF.
        vf: VfIndex,
        /// The VLAN.
        vlan: Vlan,
    },
    /// The driver of the VF has switched off what is for its own address.
    Unwanted(VfIndex),
    /// The driver of the VF has a filter that drops it.
    DriverDrops(VfIndex),
    /// The driver of the VF has a filter that matches, and may say in which of its queues it is received.
    DriverTakes(VfIndex),
    /// It is the sender itself, which gets nothing back.
    OwnFrame(VfIndex),
    /// VFs that would get it, and whose link is down.
    LinkDown(VfSet),
    /// The VF gets it.
    Gets {
        /// The VF.
        vf: VfIndex,
        /// On which path.
        path: Path,
        /// How its copy differs from what was sent.
        edit: TagEdit,
    },
    /// No VF that takes part in its VLAN has the destination address.
    Nobody(MacAddr),
    /// Frames from the wire that are for nobody go to those that have asked for them.
    Promiscuous(VfSet),
    /// It is for a group or for all.
    Group {
        /// The group, or the broadcast address.
        dst: MacAddr,
        /// VFs that want it.
        listening: VfSet,
        /// Those among them that take part in its VLAN.
        members: VfSet,
    },
    /// It leaves on the wire, its copy different from what was sent in this way.
    Wire(TagEdit),
    /// The NIC has no switch: what is for VFs here it hands to the hypervisor.
    NoSwitch,
    /// The switch is a VEPA, which sends everything to the adjacent bridge.
    Vepa,
    /// The switch has been told that a station with this address is behind the PF.
    BehindPf(MacAddr),
    /// It goes up to the hypervisor's bridge on the PF, which gives it to those of these that it has learned of.
    Stations(VfSet),
    /// It is too long for the MTU of some whom it would reach.
    TooLong {
        /// These VFs.
        vfs: VfSet,
        /// Whether the port is one of them.
        port: bool,
    },
    /// VFs that get a copy, as somebody is mirrored to them.
    Mirrored(VfSet),
    /// It is flooded, and storm control lets so many pass.
    StormControl {
        /// Who has had it flooded.
        source: Source,
        /// How many a second may be, if there is a limit.
        limit: Option<u32>,
        /// As how many frames it counts.
        frames: u64,
        /// Whether it does not pass even if it is the first.
        too_much: bool,
    },
    /// The receiver is on path `auto`.
    AutoReceiver {
        /// The VF.
        vf: VfIndex,
        /// Whether a filter puts the frame on the fast path.
        fast: bool,
    },
    /// The sender is on path `auto`.
    AutoSender(VfIndex),
    /// Nobody gets it.
    Dropped(DropReason),
}

/// VFs by name.
struct Names(VfSet);

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("nobody");
        }
        self.0.iter().enumerate().try_for_each(|(i, vf)| {
            let comma = if i == 0 { "" } else { ", " };
            write!(f, "{comma}{vf}")
        })
    }
}

/// A filter, or what it says if it is not known.
struct Named(FilterAction, Option<NumberedFilter>);

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            None => write!(f, "{}", self.0),
            Some(NumberedFilter { id: None, spec }) => write!(f, "{spec}"),
            Some(NumberedFilter { id: Some(id), spec }) => write!(f, "{spec} (id {id})"),
        }
    }
}

/// The words for a copy that differs in this way.
pub(crate) fn edited(edit: TagEdit) -> String {
    match edit {
        TagEdit::Keep => "as it was sent".to_owned(),
        TagEdit::Insert(tag) => format!("with the tag {} in front", tag_words(tag)),
        TagEdit::Strip => "without its outer tag".to_owned(),
    }
}

fn tag_words(tag: VlanTag) -> String {
    let prio = match tag.tci >> 13 {
        0 => String::new(),
        prio => format!(" prio {prio}"),
    };
    format!("{:#06x} vlan {}{prio}", tag.tpid, tag.vid())
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Step::Judge { path, source } => {
                match source {
                    Source::Vf(vf) => write!(f, "{vf} sends it on the {path} path: ")?,
                    Source::Wire => f.write_str("it comes from the wire: ")?,
                }
                f.write_str(match path {
                    Path::Direct | Path::Auto => "the NIC judges it",
                    Path::Mediated => "the hypervisor judges it",
                })
            }
            Step::PortVlan { vf, tag, tagged } => {
                let own = if tagged { ", in front of its own" } else { "" };
                write!(
                    f,
                    "{vf} has a port VLAN: the tag {} is put on{own}",
                    tag_words(tag)
                )
            }
            Step::InVlan(vlan) => match vlan.tag() {
                None => f.write_str("it is in no VLAN"),
                Some(tag) => write!(f, "it is in VLAN {} ({:#06x})", tag.vid(), tag.tpid),
            },
            Step::Spoofchk { vf, src } => {
                write!(f, "spoofchk: {vf} may send from {src} in this VLAN")
            }
            Step::Spoofed { vf, src, own } => {
                write!(f, "spoofchk: {src} is no address of {vf}, which has {own}")
            }
            Step::NotItsVlan { vf, unlisted } => {
                let why = match unlisted {
                    true => "its driver has listed others",
                    false => "its VLANs are others (vlan add)",
                };
                write!(f, "spoofchk: {vf} may not send in this VLAN: {why}")
            }
            Step::NoSpoofchk(vf) => write!(
                f,
                "spoofchk of {vf} is off: any source address and VLAN will do"
            ),
            Step::Egress { action, rule } => {
                write!(f, "an egress filter matches: {}", Named(action, rule))
            }
            Step::NotListed(vf) => write!(
                f,
                "{vf} has egress filters, and sends only what one of them lets out: none matches"
            ),
            Step::Filter { action, rule } => {
                write!(f, "a filter matches: {}", Named(action, rule))
            }
            Step::Copied { action, rule } => write!(
                f,
                "a filter matches and has what is delivered copied: {}",
                Named(action, rule)
            ),
            Step::PassedOver { action, rule } => write!(
                f,
                "a filter matches and is passed over, as its VF has sent the frame or is not in its VLAN: {}",
                Named(action, rule)
            ),
            Step::Owner { vf, dst } => write!(f, "{dst} is an address of {vf}"),
            Step::OwnerElsewhere { vf, .. } => write!(
                f,
                "the destination is an address of {vf}, which is not in this VLAN"
            ),
            Step::Unwanted(vf) => write!(
                f,
                "the driver of {vf} does not want what is for its own address"
            ),
            Step::DriverDrops(vf) => write!(f, "a filter of the driver of {vf} drops it"),
            Step::DriverTakes(vf) => write!(f, "a filter of the driver of {vf} matches"),
            Step::OwnFrame(vf) => write!(f, "{vf} has sent it and does not get it back"),
            Step::LinkDown(vfs) => write!(f, "link down: {}", Names(vfs)),
            Step::Gets { vf, path, edit } => {
                write!(f, "{vf} gets it on the {path} path, {}", edited(edit))
            }
            Step::Nobody(dst) => write!(f, "no VF in this VLAN has {dst}"),
            Step::Promiscuous(vfs) => write!(
                f,
                "VFs that receive what is for nobody here: {}",
                Names(vfs)
            ),
            Step::Group {
                dst,
                listening,
                members,
            } => {
                let kind = if dst.is_broadcast() {
                    "for all"
                } else {
                    "for a group"
                };
                write!(
                    f,
                    "it is {kind}: wanted by {}; of these, in its VLAN: {}",
                    Names(listening),
                    Names(members)
                )
            }
            Step::Wire(edit) => write!(f, "it leaves on the wire, {}", edited(edit)),
            Step::NoSwitch => {
                f.write_str("the NIC has no switch: what is for VFs here goes to the hypervisor")
            }
            Step::Vepa => {
                f.write_str("hwmode vepa: whomever it is for, it goes to the adjacent bridge")
            }
            Step::BehindPf(dst) => write!(f, "fdb: {dst} is behind the PF"),
            Step::Stations(vfs) => write!(
                f,
                "it goes to the hypervisor's bridge on the PF, and there to whom that has learned of: {}",
                Names(vfs)
            ),
            Step::TooLong { vfs, port } => {
                f.write_str("it is longer than the MTU")?;
                if !vfs.is_empty() {
                    write!(f, " of {}", Names(vfs))?;
                }
                match port {
                    true => f.write_str(if vfs.is_empty() {
                        " of the port"
                    } else {
                        " and of the port"
                    }),
                    false => Ok(()),
                }
            }
            Step::Mirrored(vfs) => write!(f, "a copy for {}, to whom this is mirrored", Names(vfs)),
            Step::StormControl {
                source,
                limit,
                frames,
                too_much,
            } => {
                f.write_str("storm_control: ")?;
                match (source, limit) {
                    (Source::Vf(vf), Some(pps)) => {
                        write!(f, "{vf} may have {pps} frames a second flooded")?;
                    }
                    (Source::Wire, Some(pps)) => {
                        write!(f, "the port may have {pps} frames a second flooded")?;
                    }
                    (_, None) => f.write_str("no limit is set")?,
                }
                match (too_much, frames) {
                    (true, _) => write!(
                        f,
                        ", and this one counts as {frames}, which is more than may be at once"
                    ),
                    (false, 0..=1) => f.write_str(", and what is more than that is dropped"),
                    (false, _) => write!(
                        f,
                        ", this one counts as {frames}, and what is more than that is dropped"
                    ),
                }
            }
            Step::AutoReceiver { vf, fast: true } => write!(
                f,
                "{vf} is on path auto and has a filter for it: it goes straight through the NIC"
            ),
            Step::AutoReceiver { vf, fast: false } => write!(
                f,
                "{vf} is on path auto and has no filter for it: it goes by way of the hypervisor"
            ),
            Step::AutoSender(vf) => write!(
                f,
                "{vf} is on path auto: TCP and UDP over IPv4 go straight to stations that it has heard on the fast path, all else by way of the hypervisor"
            ),
            Step::Dropped(reason) => write!(f, "dropped: {reason}. {}", reason.says()),
        }
    }
}
