//! Taps on VFs, in place of front ends of VMs: put there and taken away. Opens none.

use std::os::fd::OwnedFd;

use vf_model::VfIndex;

use super::NicInstance;
use crate::sandbox::Sandbox;
use crate::tap_port::{TapDevice, TapPort};

impl NicInstance {
    /// Puts a tap with these queues on a VF that nobody is on. More than the VF has are closed.
    ///
    /// # Errors
    /// Why it is refused, on one line; all is as it was then.
    pub fn attach_tap(
        &mut self,
        vf: VfIndex,
        tap: TapDevice,
        queues: Vec<OwnedFd>,
        sandbox: Sandbox,
    ) -> Result<(), String> {
        if let Some((place, settings)) = self
            .vfs
            .get(vf.index())
            .zip(self.settings.vf.get(vf.index()))
            && place.tap.as_ref().is_some_and(TapPort::is_there)
            && let Some(there) = &settings.tap
        {
            return Err(format!(
                "{vf}: {there} is on it, and is to be taken away first"
            ));
        }
        if self.is_connected(vf) {
            return Err(format!("{vf}: a front end is connected to its socket"));
        }
        let on = format!("{} {vf}", self.settings.name);
        let (place, settings) = self
            .vfs
            .get_mut(vf.index())
            .zip(self.settings.vf.get_mut(vf.index()))
            .ok_or_else(|| format!("{vf}: there is none"))?;
        let mut queues = queues;
        queues.truncate(self.settings.queue_pairs.into());
        let port = TapPort::start(queues, settings.socket.clone(), on, sandbox);
        place.tap = Some(port.map_err(|why| format!("{vf}: {tap}: {why}"))?);
        settings.tap = Some(tap);
        Ok(())
    }

    /// Takes the tap of a VF away: its device goes, unless it was there before.
    pub fn detach_tap(&mut self, vf: VfIndex) {
        if let Some(settings) = self.settings.vf.get_mut(vf.index()) {
            settings.tap = None;
        }
        // It is told before its session ends, so that it begins no other.
        if let Some(place) = self.vfs.get_mut(vf.index())
            && place.tap.take().is_some()
        {
            self.close_session(vf);
        }
    }
}
