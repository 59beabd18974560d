//! A NIC that another process goes on with: what there is of it, and everything of that again. Decides nothing; moves rings between sessions
//! and planes that somebody holds.

use std::os::fd::BorrowedFd;
use std::time::Instant;

use vf_model::{MacAddr, MailboxRequest, VfIndex};
use vf_vhost::control::CtrlCommand;
use vf_vhost::endpoint::{Device, Endpoint, SessionEvent, SessionRefusal};
use vf_vhost::vring::Vring;

use super::{NicInstance, VfSocket, publish};
use crate::config::DeviceKind;
use crate::handover::{SavedNic, SavedVf, Taken};
use crate::plane::{DirectPlane, HeldPlanes, MediatedPlane, WaitingFrame};
use crate::thread::PlaneGuard;

/// Who has the rings of a VF while no plane has.
#[derive(Default)]
struct Collected(Vec<Vring>);

impl Device for Collected {
    fn start_rings(&mut self, rings: Vec<Vring>) {
        self.0.extend(rings);
    }

    fn stop_rings(&mut self, rings: &[u32]) -> Vec<Option<Vring>> {
        let take = |ring: &u32| {
            let at = self.0.iter().position(|vring| vring.index() == *ring)?;
            Some(self.0.swap_remove(at))
        };
        rings.iter().map(take).collect()
    }

    fn allows(&mut self) -> bool {
        false
    }

    fn command(&mut self, _command: &CtrlCommand) -> bool {
        false
    }

    fn session(&mut self, _event: SessionEvent<'_>) {}
}

impl NicInstance {
    /// What of it cannot be handed over, in one line.
    #[must_use]
    pub fn keeps_back(&self) -> Option<String> {
        let name = &self.settings.name;
        if let Some(uplink) = &self.settings.uplink
            && !uplink.can_be_handed_over()
        {
            return Some(format!("{name}: uplink {uplink}"));
        }
        self.settings.vf.iter().enumerate().find_map(|(i, vf)| {
            let what = match &vf.tap {
                Some(tap) => tap.to_string(),
                None if vf.device != DeviceKind::Virtio => "device of hardware".to_owned(),
                None => return None,
            };
            Some(format!("{name} vf {i}: {what}"))
        })
    }

    /// Holds all its planes: their threads go on without them meanwhile.
    #[must_use]
    pub fn hold(&self) -> HeldPlanes<PlaneGuard<'_, DirectPlane>, PlaneGuard<'_, MediatedPlane>> {
        HeldPlanes {
            workers: self.workers.iter().map(|worker| worker.borrow()).collect(),
            hypervisor: self.hypervisor.borrow(),
        }
    }

    /// Gives sessions the rings that planes had of them, so that they know where those are, and pauses them.
    pub fn pause(&mut self, rings: Vec<(VfIndex, Vring)>) {
        let now = Instant::now();
        let mut of_vfs: Vec<Collected> = self.vfs.iter().map(|_| Collected::default()).collect();
        for (vf, vring) in rings {
            if let Some(Collected(rings)) = of_vfs.get_mut(vf.index()) {
                rings.push(vring);
            }
        }
        for (vf, rings) in self.vfs.iter_mut().zip(&mut of_vfs) {
            if let Some(VfSocket::VhostUser(endpoint)) = &mut vf.socket {
                endpoint.pause(now, rings);
            }
        }
    }

    /// Has sessions go on; the rings that run from now on.
    pub fn resume(&mut self) -> Vec<(VfIndex, Vring)> {
        let now = Instant::now();
        let mut all = Vec::new();
        for (i, vf) in self.vfs.iter_mut().enumerate() {
            let mut rings = Collected::default();
            if let Some(VfSocket::VhostUser(endpoint)) = &mut vf.socket {
                endpoint.go_on(now, &mut rings);
                vf.rings = u16::try_from(rings.0.len()).unwrap_or(u16::MAX);
            }
            let of_vf = |vring| (VfIndex::from(i), vring);
            all.extend(rings.0.into_iter().map(of_vf));
        }
        all
    }

    /// What there is of it beside its settings, while its sessions are paused. Descriptors and the bytes of frames are added to `fds` and
    /// `bytes`.
    pub fn save<'a>(
        &'a self,
        waiting: &[WaitingFrame],
        bytes: &mut Vec<u8>,
        fds: &mut Vec<BorrowedFd<'a>>,
    ) -> SavedNic {
        let policy = self.policy();
        let vfs = self.vfs.iter().enumerate().map(|(i, vf)| {
            let of = VfIndex::from(i);
            let requests = policy.saved_requests(of).into_iter();
            let requests = requests.map(MailboxRequest::Change);
            let asked = requests.chain(policy.saved_messages(of));
            SavedVf {
                socket: vf.endpoint().map(|endpoint| endpoint.save(fds)),
                asked: asked.map(|request| request.to_string()).collect(),
                taken: policy
                    .saved_taken(of)
                    .iter()
                    .map(ToString::to_string)
                    .collect(),
                refused: vf.refused,
                fault: vf.fault.clone(),
                before: vf.before,
            }
        });
        SavedNic {
            vfs: vfs.collect(),
            position: None,
            statistics: self.statistics.save(),
            hits: self
                .filters()
                .into_iter()
                .filter_map(|(filter, _, hits)| Some((filter.spec.to_string(), hits?)))
                .filter(|(_, hits)| *hits > 0)
                .collect(),
            waiting: waiting.iter().map(|frame| frame.save(bytes)).collect(),
        }
    }

    /// Goes on from what there was of it in another process, but for its sockets. Before any plane counts anything.
    ///
    /// # Errors
    /// What is not understood, on one line.
    pub fn restore(&mut self, saved: &SavedNic) -> Result<(), String> {
        self.statistics.go_on_from(&saved.statistics);
        let mut policy = (*self.policy()).clone();
        let mut messages = Vec::new();
        for (i, (vf, saved)) in self.vfs.iter_mut().zip(&saved.vfs).enumerate() {
            (vf.refused, vf.fault) = (saved.refused, saved.fault.clone());
            vf.before = saved.before;
            let vf = VfIndex::from(i);
            let mut requests = Vec::new();
            for words in &saved.asked {
                let words: Vec<_> = words.split_whitespace().collect();
                match MailboxRequest::parse(&words).map_err(|refusal| refusal.to_string())? {
                    MailboxRequest::Change(request) => requests.push(request),
                    message => messages.push((vf, message)),
                }
            }
            let taken = saved.taken.iter().map(|mac| mac.parse());
            let taken: Result<Vec<MacAddr>, _> = taken.collect();
            let taken = taken.map_err(|error| error.to_string())?;
            let with = policy.with_saved(vf, &requests, &taken);
            policy = with.map_err(|refusal| refusal.to_string())?;
        }
        // What it may not have now it might not have had before either.
        for (vf, message) in &messages {
            if let Ok(granted) = policy.with_message(*vf, message) {
                policy = granted.policy;
            }
        }
        for filter in policy.filter_table().numbered() {
            let hits = saved.hits.get(&filter.spec.to_string());
            if let (Some(hits), Some(counter)) = (hits, policy.filter_counter(&filter)) {
                self.statistics.hits_go_on_from(counter, *hits);
            }
        }
        publish(&self.policies, policy, &self.workers, &self.hypervisor);
        Ok(())
    }

    /// The socket of a VF as another process has had it, its session paused.
    ///
    /// # Errors
    /// Why it cannot be had.
    pub(crate) fn restore_socket(
        &self,
        vf: VfIndex,
        saved: &mut SavedVf,
        taken: &mut Taken,
    ) -> Result<Option<VfSocket>, SessionRefusal> {
        let Some(saved) = saved.socket.take() else {
            return Ok(None);
        };
        let path = &self.settings.vf[vf.index()].socket;
        let device = self.device_config(vf);
        let endpoint = Endpoint::restore(path, device, saved, taken.descriptors())?;
        if let Some(policy) = self.policy().with_migrating(vf, endpoint.is_logging()) {
            publish(&self.policies, policy, &self.workers, &self.hypervisor);
        }
        Ok(Some(endpoint.into()))
    }

    /// The frames that waited for guests' buffers; their bytes are the first of `bytes`.
    #[must_use]
    pub fn restore_waiting(&self, saved: &SavedNic, bytes: &mut &[u8]) -> Vec<WaitingFrame> {
        let frames = saved.waiting.iter();
        frames
            .map_while(|frame| WaitingFrame::restore(frame, bytes, &self.pool))
            .collect()
    }
}
