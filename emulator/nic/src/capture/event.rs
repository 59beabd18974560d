//! What happens to a NIC beside frames, as captures and `vfnic monitor` tell it. Decides nothing.

use std::cell::RefCell;
use std::fmt;
use std::sync::{Arc, Weak};

use serde::{Deserialize, Serialize};
use vf_model::{Nanos, Path};

use super::Capture;

/// Something that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, by the clock of its NIC.
    pub at: Nanos,
    /// What.
    pub what: Happening,
}

/// What has happened. Its `Display` is what people read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Happening {
    /// The administrator has given a command, and it is in force.
    Command {
        /// Its words, or of several how many they are.
        words: String,
    },
    /// A VF's frames take this path from now on.
    Path {
        /// Whose.
        vf: u8,
        /// Which.
        path: Path,
    },
    /// The cable carries, or does not.
    Carrier {
        /// Whether it does.
        up: bool,
    },
    /// A front end has connected to a VF.
    Attached {
        /// Whose socket.
        vf: u8,
    },
    /// The driver of a VF has acknowledged features.
    Driver {
        /// Whose.
        vf: u8,
        /// Their bits, in hexadecimal.
        features: String,
    },
    /// The front end of a VF has gone.
    Left {
        /// Whose.
        vf: u8,
        /// What it did wrong, if its session has ended for that.
        why: Option<String>,
    },
    /// A request of a front end was refused.
    Refused {
        /// Whose.
        vf: u8,
        /// Why.
        why: String,
    },
    /// A frame was dropped.
    Drop {
        /// At which port: `vf0`, `wire` or `pf`.
        port: String,
        /// Which way: as the guest sees it, as the NIC sees its wire, and as the hypervisor sees the PF.
        direction: String,
        /// The reason, as it is counted.
        reason: String,
        /// What made it so: the rule, where one did.
        why: String,
        /// Source address, if it is a frame.
        src: Option<String>,
        /// Destination address.
        dst: Option<String>,
        /// EtherType behind the tags, in hexadecimal.
        ethertype: Option<String>,
        /// Bytes without FCS.
        len: u32,
    },
    /// The reader was too slow for these.
    Missed {
        /// Dropped frames.
        drops: u64,
        /// Other events.
        events: u64,
    },
    /// The driver of a VF has broken a ring.
    RingBroken {
        /// Whose.
        vf: u8,
        /// Which.
        ring: u32,
        /// What it did.
        why: String,
    },
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Happening::Command { words } => write!(f, "command: {words}"),
            Happening::Path { vf, path } => write!(f, "vf{vf}: path {path}"),
            Happening::Carrier { up: true } => f.write_str("carrier"),
            Happening::Carrier { up: false } => f.write_str("no carrier"),
            Happening::Attached { vf } => write!(f, "vf{vf}: front end attached"),
            Happening::Driver { vf, features } => {
                write!(f, "vf{vf}: driver acknowledged features {features}")
            }
            Happening::Left { vf, why: None } => write!(f, "vf{vf}: front end left"),
            Happening::Left { vf, why: Some(why) } => {
                write!(f, "vf{vf}: front end sent away: {why}")
            }
            Happening::Refused { vf, why } => write!(f, "vf{vf}: refused to its front end: {why}"),
            Happening::Drop {
                port,
                direction,
                reason,
                why,
                src,
                dst,
                ethertype,
                len,
            } => {
                write!(f, "drop: {port} {direction} {reason}")?;
                if let (Some(src), Some(dst), Some(ethertype)) = (src, dst, ethertype) {
                    write!(f, ", {src} > {dst} type {ethertype}, {len} bytes")?;
                }
                write!(f, ": {why}")
            }
            Happening::Missed { drops, events } => {
                write!(
                    f,
                    "missed: {drops} drops and {events} events, for the reader was too slow"
                )
            }
            Happening::RingBroken { vf, ring, why } => {
                write!(
                    f,
                    "vf{vf}: ring {ring} is broken until its driver restarts it: {why}"
                )
            }
        }
    }
}

/// Who is told of what happens to a NIC.
#[derive(Default)]
pub(crate) struct Audience(RefCell<Vec<Weak<Capture>>>);

impl Audience {
    /// Tells `capture`, too, until it is closed or gone.
    pub(crate) fn add(&self, capture: &Arc<Capture>) {
        self.0.borrow_mut().push(Arc::downgrade(capture));
    }

    /// How many administrators have.
    pub(crate) fn of_administrators(&self) -> usize {
        let own = |capture: &Arc<Capture>| !capture.wanted().observer;
        self.all().iter().filter(|capture| own(capture)).count()
    }

    /// Those that there are.
    fn all(&self) -> Vec<Arc<Capture>> {
        let mut all = Vec::new();
        self.0.borrow_mut().retain(|capture| {
            let open = capture.upgrade().filter(|capture| !capture.is_closed());
            all.extend(open.iter().cloned());
            open.is_some()
        });
        all
    }

    /// Tells all of them, if there are any.
    pub(crate) fn tell(&self, at: Nanos, what: impl FnOnce() -> Happening) {
        let all = self.all();
        if !all.is_empty() {
            let event = Event { at, what: what() };
            all.iter().for_each(|capture| capture.tell(event.clone()));
        }
    }
}
