//! One host: a NIC, its hypervisor, and what carries frames between them. Says nothing of who ought to receive what.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use vf_model::{
    Command, Counters, DriverAction, DropReason, FilterMatch, FilterOp, FilterSpec, FrameMeta, Gso,
    HypervisorModel, Judge, MacAddr, MailboxRequest, Mtu, Nanos, Nic, NicConfig, Onward, Path,
    Policy, Profile, Refusal, Source, TagEdit, Verdict, VfIndex, VfRequest, VfSetting, VlanTag,
};

use crate::any::parse;
use crate::promise::has_no_switch;
use crate::{BASE, VFS};

/// One host: every frame is carried between the two planes until nobody has it any more.
pub(crate) struct Host {
    /// What both planes judge by.
    pub(crate) policy: Arc<Policy>,
    pub(crate) nic: Nic,
    pub(crate) hypervisor: HypervisorModel,
    pub(crate) now: Nanos,
    /// Bytes of each frame that the model is not shown.
    pub(crate) beyond: u32,
    /// Of super-frames, whose headers are all that it is shown: how many of those bytes each segment has.
    pub(crate) cut: Option<u16>,
    /// Addresses that drivers have asked for and that another VF had then, or has been given since.
    pub(crate) taken: BTreeSet<(VfIndex, MacAddr)>,
    /// MTUs to which drivers have agreed.
    pub(crate) agreed: BTreeMap<VfIndex, Mtu>,
}

/// A frame on its way over the PF.
pub(crate) struct Crossing {
    /// To the plane of this path.
    pub(crate) to: Path,
    pub(crate) onward: Onward,
    pub(crate) bytes: Vec<u8>,
}

/// What changes a NIC.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    /// The administrator.
    Admin(Command),
    /// The driver of a VF.
    Driver(VfIndex, VfRequest),
}

impl From<Command> for Act {
    fn from(command: Command) -> Act {
        Act::Admin(command)
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) vfs: BTreeMap<u8, Vec<u8>>,
    pub(crate) wire: Option<Vec<u8>>,
    /// The verdict's drop reasons along the way.
    pub(crate) drops: Vec<DropReason>,
}

pub(crate) fn edited(bytes: &[u8], edit: TagEdit) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    match edit {
        TagEdit::Keep => {}
        TagEdit::Insert(tag) => drop(bytes.splice(12..12, tag.to_bytes())),
        TagEdit::Strip => drop(bytes.drain(12..16)),
    }
    bytes
}

pub(crate) fn inserted(bytes: &[u8], tag: Option<VlanTag>) -> Vec<u8> {
    edited(bytes, tag.map_or(TagEdit::Keep, TagEdit::Insert))
}

fn others(vf: VfIndex) -> impl Iterator<Item = VfIndex> {
    (0..VFS).map(VfIndex).filter(move |other| *other != vf)
}

/// The addresses that the driver of a VF has asked for.
fn asked(policy: &Policy, vf: VfIndex) -> impl Iterator<Item = MacAddr> + '_ {
    let asked = policy.asked(vf);
    asked.unicast.iter().copied().chain(asked.mac)
}

/// Whether the administrator or the NIC has given an address to another VF, or to a station behind the PF.
fn is_given(policy: &Policy, vf: VfIndex, mac: MacAddr) -> bool {
    let added = |other| policy.filters(other).macs().iter().any(|(m, _)| *m == mac);
    policy
        .stations_behind_pf()
        .iter()
        .any(|entry| entry.mac == mac)
        || others(vf).any(|other| policy.vf(other).mac == mac || added(other))
}

/// Whether the driver of another VF has an address in force.
fn is_used(policy: &Policy, vf: VfIndex, mac: MacAddr) -> bool {
    let has = |other| policy.mac(other) == mac || policy.in_force(other).unicast.contains(&mac);
    others(vf).any(|other| !policy.vf(other).bridge && has(other))
}

/// Frames are shown to the model by their first bytes; this one goes on for `beyond` bytes.
pub(crate) fn meta(bytes: &[u8], beyond: u32) -> FrameMeta {
    FrameMeta {
        len: bytes.len() as u32 + beyond,
        gso: None,
    }
}

/// The path of the plane that has the rings of a VF on this path.
pub(crate) fn home(path: Path) -> Path {
    match path {
        Path::Auto => Path::Direct,
        path => path,
    }
}

impl Host {
    pub(crate) fn new(acts: &[Act], paths: &[Path]) -> Host {
        Host::like(Profile::Generic, acts, paths)
    }

    pub(crate) fn like(profile: Profile, acts: &[Act], paths: &[Path]) -> Host {
        let config = NicConfig {
            vfs: VFS.into(),
            mac_base: BASE,
            profile,
        };
        // What becomes of a frame is asked here, not how many have come before it.
        let calm = parse(&format!("vf 0-{} set storm_control 0", VFS - 1));
        let policy = Arc::new(Policy::new(config).with(&calm).unwrap());
        let mut host = Host {
            nic: Nic::new(Arc::clone(&policy)),
            hypervisor: HypervisorModel::new(Arc::clone(&policy)),
            policy,
            now: Nanos(0),
            beyond: 0,
            cut: None,
            taken: BTreeSet::new(),
            agreed: BTreeMap::new(),
        };
        for act in acts {
            let _ = host.act(act);
        }
        host.set_paths(paths);
        host
    }

    /// What is said of a frame.
    pub(crate) fn meta(&self, bytes: &[u8]) -> FrameMeta {
        let header_len = bytes.len() as u16;
        let gso = self.cut.map(|size| Gso { header_len, size });
        FrameMeta {
            gso,
            ..meta(bytes, self.beyond)
        }
    }

    pub(crate) fn set_paths(&mut self, paths: &[Path]) {
        for (vf, path) in paths.iter().enumerate() {
            let settings = vec![VfSetting::Path(*path)];
            let vf = VfIndex::from(vf);
            self.act(
                &Command::SetVf {
                    vfs: vf.into(),
                    settings,
                }
                .into(),
            )
            .unwrap();
        }
    }

    pub(crate) fn act(&mut self, act: &Act) -> Result<(), Refusal> {
        let policy = match act {
            Act::Admin(command) => self.policy.with(command),
            Act::Driver(vf, request) => {
                let granted = self.policy.with_request(*vf, request);
                granted.map(|granted| granted.policy)
            }
        };
        let before = Arc::clone(&self.policy);
        self.adopt(Arc::new(policy?));
        match act {
            Act::Driver(vf, VfRequest::Reset { .. }) => drop(self.agreed.remove(vf)),
            Act::Driver(vf, VfRequest::Mtu(mtu)) => drop(self.agreed.insert(*vf, *mtu)),
            _ => {}
        }
        match act {
            Act::Driver(vf, VfRequest::Reset { .. }) => self.taken.retain(|(by, _)| by != vf),
            Act::Driver(vf, VfRequest::MacTable { .. } | VfRequest::Mac(_)) => {
                self.taken.retain(|(by, _)| by != vf);
                for mac in asked(&self.policy, *vf) {
                    if is_given(&before, *vf, mac) || is_used(&before, *vf, mac) {
                        self.taken.insert((*vf, mac));
                    }
                }
            }
            _ => {}
        }
        let settles = match act {
            Act::Admin(Command::SetVf { settings, .. }) => {
                settings.iter().any(|s| matches!(s, VfSetting::Mac(_)))
            }
            Act::Admin(
                Command::VfFilterAdd { .. }
                | Command::VfFilterDel { .. }
                | Command::FdbAdd(_)
                | Command::FdbDel(_),
            ) => true,
            _ => false,
        };
        if settles {
            let now = &self.policy;
            let all = (0..VFS).map(VfIndex);
            let all = all.flat_map(|vf| asked(now, vf).map(move |mac| (vf, mac)));
            let taken = all.filter(|&(vf, mac)| {
                is_given(now, vf, mac) || self.taken.contains(&(vf, mac)) && is_used(now, vf, mac)
            });
            self.taken = taken.collect();
        }
        Ok(())
    }

    /// Drivers put in these filters on what their VFs receive, as far as they may.
    pub(crate) fn put_in(&mut self, filters: &[(u8, String, DriverAction)]) {
        for (vf, fields, action) in filters {
            let spec: Result<FilterSpec, _> = format!("{fields} action drop").parse();
            let Ok(FilterSpec { matches, .. }) = spec else {
                continue;
            };
            // An address is one that the VF has from then on.
            if matches!(matches, FilterMatch::Mac(_)) && *action == DriverAction::Receive {
                continue;
            }
            let (add, vlan, action) = (true, None, *action);
            let op = FilterOp {
                add,
                matches,
                vlan,
                action,
            };
            let message = MailboxRequest::Filter(op);
            if let Ok(granted) = self.policy.with_message(VfIndex(*vf), &message) {
                self.adopt(Arc::new(granted.policy));
            }
        }
    }

    pub(crate) fn adopt(&mut self, policy: Arc<Policy>) {
        let moved: Vec<VfIndex> = (0..VFS)
            .map(VfIndex)
            .filter(|vf| self.policy.vf(*vf).path != policy.vf(*vf).path)
            .collect();
        self.nic.adopt(Arc::clone(&policy));
        self.hypervisor.adopt(Arc::clone(&policy));
        self.policy = policy;
        for vf in moved {
            match home(self.policy.vf(vf).path) {
                Path::Mediated => self.hypervisor.take_limit(vf, &self.nic),
                _ => self.nic.take_limit(vf, &self.hypervisor),
            }
        }
        self.pass_markers();
    }

    /// Nothing is on its way between the planes.
    pub(crate) fn pass_markers(&mut self) {
        while let Some(marker) = self.nic.marker_to_send() {
            self.nic.marker_sent();
            self.nic.marker_back(marker);
        }
    }

    /// Path `auto` learns from what has passed.
    pub(crate) fn learn(&mut self) {
        if let Some(mac) = self.hypervisor.take_announced() {
            self.nic.may_be_local(mac);
        }
        let mut events = self.hypervisor.take_events();
        events.extend(self.nic.take_events());
        if let Some(policy) = self.policy.with_events(&events) {
            self.adopt(Arc::new(policy));
        }
        self.pass_markers();
    }

    pub(crate) fn send(&mut self, source: Source, bytes: &[u8]) -> Outcome {
        let (mut outcome, crossing) = self.enter(source, bytes);
        if let Some(crossing) = crossing {
            self.cross(crossing, &mut outcome);
        }
        self.learn();
        outcome
    }

    /// A frame on the plane where it enters the host; what of it crosses the PF.
    pub(crate) fn enter(&mut self, source: Source, bytes: &[u8]) -> (Outcome, Option<Crossing>) {
        let mut outcome = Outcome::default();
        let meta = self.meta(bytes);
        let crossing = match source {
            Source::Vf(vf) if self.policy.vf(vf).path == Path::Mediated => {
                let verdict = self.hypervisor.ingress(self.now, vf, bytes, &meta);
                let wire = Verdict {
                    wire: false,
                    ..verdict
                };
                self.deliver(Path::Mediated, &wire, bytes, &mut outcome);
                (Path::Direct, verdict)
            }
            _ => {
                let verdict = self.nic.ingress(self.now, source, bytes, &meta);
                self.deliver(Path::Direct, &verdict, bytes, &mut outcome);
                (Path::Mediated, verdict)
            }
        };
        let (to, verdict) = crossing;
        let why = self.policy.why(source, bytes, &meta);
        // The answer does not look at storm control, by which no long super-frame comes in for a group.
        let calm = verdict.drop != Some(DropReason::StormControl);
        // What the bridge on the PF has learned is no part of the policy.
        if calm && (0..VFS).all(|vf| !self.policy.vf(VfIndex(vf)).bridge) {
            // Nor is what the NIC of path `auto` knows of a flow: that is no question of who receives it.
            let said = |verdict: &Verdict| match self.policy.auto().is_empty() {
                true => *verdict,
                false => Verdict {
                    vfs: verdict.vfs.union(verdict.beyond),
                    wire: verdict.wire || verdict.wire_beyond,
                    insert: verdict.insert,
                    drop: verdict.drop,
                    ..Verdict::default()
                },
            };
            assert_eq!(said(&why.verdict), said(&verdict), "{:#?}", why.steps);
        }
        let goes_on = !verdict.vfs.is_empty() || verdict.pf || verdict.wire;
        assert_eq!(verdict.drop.is_none(), goes_on, "{verdict:?}");
        let crossing = verdict.pf.then(|| Crossing {
            to,
            onward: self.policy.onward(&verdict),
            bytes: inserted(bytes, verdict.insert),
        });
        (outcome, crossing)
    }

    /// A frame that comes over the PF.
    pub(crate) fn cross(&mut self, crossing: Crossing, outcome: &mut Outcome) {
        let Crossing { to, onward, bytes } = crossing;
        let meta = self.meta(&bytes);
        let verdict = match to {
            Path::Mediated => self.hypervisor.from_pf(self.now, &onward, &bytes, &meta),
            _ => self.nic.from_pf(&onward, &bytes, &meta),
        };
        if verdict.pf {
            let auto = !self.policy.auto().is_empty();
            assert!(
                to == Path::Mediated && (has_no_switch(&self.policy) || auto || onward.held),
                "back to where it came from"
            );
            let crossing = Crossing {
                to: Path::Direct,
                onward: onward.back_to(verdict.beyond),
                bytes: bytes.clone(),
            };
            self.cross(crossing, outcome);
        }
        outcome.drops.extend(verdict.drop);
        for vf in verdict.vfs.iter() {
            self.deliver_to(to, vf, edited(&bytes, onward.tagging.edit(vf)), outcome);
        }
        if verdict.wire && to == Path::Direct {
            assert_eq!(outcome.wire.replace(bytes), None, "a duplicate");
        }
    }

    pub(crate) fn deliver(
        &mut self,
        on: Path,
        verdict: &Verdict,
        bytes: &[u8],
        outcome: &mut Outcome,
    ) {
        outcome.drops.extend(verdict.drop);
        let tagging = self.policy.tagging(verdict.insert);
        for vf in verdict.vfs.iter() {
            assert_eq!(home(self.policy.vf(vf).path), on);
            self.deliver_to(on, vf, edited(bytes, tagging.edit(vf)), outcome);
        }
        if verdict.wire {
            let copy = inserted(bytes, verdict.insert);
            assert_eq!(outcome.wire.replace(copy), None, "a duplicate");
        }
    }

    pub(crate) fn deliver_to(
        &mut self,
        on: Path,
        vf: VfIndex,
        copy: Vec<u8>,
        outcome: &mut Outcome,
    ) {
        let (dst, len) = (MacAddr::of_frame(&copy), copy.len() as u32 + self.beyond);
        match on {
            Path::Mediated => self.hypervisor.count_delivered(vf, dst, len),
            _ => self.nic.count_delivered(vf, dst, len),
        }
        assert_eq!(outcome.vfs.insert(vf.0, copy), None, "a duplicate");
    }

    pub(crate) fn counters(&self, vf: VfIndex) -> Counters {
        let mut sum = self.nic.counters(vf);
        sum += &self.hypervisor.counters(vf);
        sum
    }

    /// Every drop counted anywhere.
    pub(crate) fn drops(&self) -> u64 {
        DropReason::all().map(|why| self.drops_for(why)).sum()
    }

    pub(crate) fn drops_for(&self, why: DropReason) -> u64 {
        let vfs = (0..VFS).map(|i| self.counters(VfIndex(i)));
        let others = [
            self.nic.pf_counters(),
            self.nic.wire_counters(),
            self.hypervisor.pf_counters(),
        ];
        vfs.chain(others)
            .map(|c| c.rx_drops.get(why) + c.tx_drops.get(why))
            .sum()
    }
}
