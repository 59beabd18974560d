//! Guests on the calendar's socket (linux/um_timetravel.h) that say anything.
//!
//! Rules: the simulation ends, and names in a line each guest that broke a rule. How late it is then a guest may have a say in: one that
//! runs alone and says that its time is far behind the end (UPDATE) is believed.
//!
//! Starts no kernel.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use vf_lab::timetravel::{Settings, Simulation};
use vf_model::Nanos;
use vf_nic::config::{Config, Overrides};

use crate::bytes::Bytes;

/// When a simulation ends.
const UNTIL: Nanos = Nanos(1 << 20);

/// See the module.
pub fn drive(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let dir = tempfile::tempdir().unwrap();
    let over = Overrides {
        socket_dir: Some(dir.path().to_owned()),
        ..Overrides::default()
    };
    let config = Config::load(None, &over).unwrap();
    let kind = bytes.u8();
    let guests = 1 + u16::from(kind & 1);
    let settings = Settings {
        calendar: dir.path().join("calendar"),
        guests,
        shared: kind & 2 != 0,
        until: Some(UNTIL),
        // All that guests will ever say has been said by then.
        watchdog: Duration::from_millis(2),
        moderation: Nanos(0),
        digest: false,
    };
    let simulation = Simulation::start(&config, settings).unwrap();
    let mut streams = Vec::new();
    for _ in 0..guests {
        let mut stream = UnixStream::connect(dir.path().join("calendar")).unwrap();
        let count = bytes.below(48);
        for seq in 0..u32::from(count) {
            let message = message(&mut bytes, seq);
            // It may have been hung up on.
            let _ = stream.write_all(&message);
        }
        // Half a message.
        let _ = stream.write_all(bytes.take(usize::from(kind >> 4)));
        let _ = stream.shutdown(Shutdown::Write);
        streams.push(stream);
    }
    match simulation.run() {
        Ok(summary) => {
            for fault in &summary.faults {
                assert!(!fault.contains('\n'), "{fault:?}");
            }
        }
        Err(why) => assert!(!why.to_string().is_empty()),
    }
}

/// A message, mostly of a kind that there is.
fn message(bytes: &mut Bytes<'_>, seq: u32) -> [u8; 16] {
    let kind = bytes.u8();
    let op = match kind & 0x0f {
        op @ 0..=9 => u32::from(op),
        10 | 11 => 1,
        12 | 13 => 2,
        14 => 3,
        _ => bytes.u32(),
    };
    let seq = match kind & 0x10 {
        0 => seq,
        _ => bytes.u32(),
    };
    let time = match kind >> 5 {
        0..=4 => bytes.u16().into(),
        5 => u64::from(bytes.u16()) << 12,
        6 => u64::MAX - u64::from(bytes.u8()),
        _ => bytes.u64(),
    };
    let mut message = [0; 16];
    message[..4].copy_from_slice(&op.to_ne_bytes());
    message[4..8].copy_from_slice(&seq.to_ne_bytes());
    message[8..].copy_from_slice(&time.to_ne_bytes());
    message
}
