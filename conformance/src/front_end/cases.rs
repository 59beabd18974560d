//! The cases for front ends. What the guest of one does with frames is not looked at, except that it may send some.

use std::time::Duration;

use vf_guest::message::{FLAG_REPLY, FLAG_VERSION, protocol, request};
use vf_vhost::endpoint::DeviceConfig;
use vf_vhost::features::{ProtocolFeatures, VirtioFeatures};

use super::{Rules, Session, Stage};
use crate::case::{Case, Level};
use crate::verdict::{Failure, Seen, ensure};

/// How long frames of a guest are waited for, where nothing has it send any.
const FRAMES: Duration = Duration::from_secs(10);

/// All there are, in the order in which they are run.
pub const CASES: &[Case<Stage>] = &[
    Case {
        id: "front/rings-run",
        level: Level::Text,
        needs: &[],
        source: "VU Ring states",
        sent: "All that our back end serves.",
        expected: "The first pair of rings is placed, kicked and enabled.",
        run: |stage| {
            let mut session = stage.session(device(), Rules::default())?;
            session.runs(stage)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/frames",
        level: Level::Text,
        needs: &[],
        source: "V 5.1.9",
        sent: "Rings that run, for 10 seconds, and each frame of the guest's back to it.",
        expected: "Its driver does nothing that breaks a ring. If it sends nothing, there is nothing to see.",
        run: |stage| {
            let mut session = stage.session(device(), Rules::default())?;
            session.runs(stage)?;
            let sent = session.until(FRAMES, |session| session.device.frames > 0)?;
            session.until(Duration::from_secs(1), |_| false)?;
            let fault = session.device.fault;
            ensure(fault.is_none(), format_args!("a ring broke: {fault:?}"))?;
            Ok(if sent {
                Seen::Conforms
            } else {
                Seen::Tolerated
            })
        },
    },
    Case {
        id: "front/offered-only",
        level: Level::Must,
        needs: &[],
        source: "V 2.2.1 Driver Requirements: Feature Bits",
        sent: "Features without EVENT_IDX, checksums and segmentation.",
        expected: "SET_FEATURES has no bit that was not offered.",
        run: |stage| {
            let mut config = device();
            config.features = VirtioFeatures::VERSION_1
                | VirtioFeatures::PROTOCOL_FEATURES
                | VirtioFeatures::MRG_RXBUF
                | VirtioFeatures::MAC;
            let offered = config.features.bits();
            let mut session = stage.session(config, Rules::default())?;
            let outcome = session.runs(stage);
            for heard in session.of(request::SET_FEATURES) {
                let more = heard.number() & !offered;
                ensure(more == 0, format_args!("bits {more:#x} were not offered"))?;
            }
            outcome?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/protocol-offered-only",
        level: Level::Text,
        needs: &[],
        source: "VU Communication; VU SET_PROTOCOL_FEATURES",
        sent: "REPLY_ACK as the only protocol feature.",
        expected: "SET_PROTOCOL_FEATURES has no other bit, and no request is sent that belongs to another. One that cannot do without another (CONFIG, where nothing else tells a driver its address) may leave the rings alone.",
        run: |stage| {
            let mut config = device();
            config.protocol_features = ProtocolFeatures::REPLY_ACK;
            let offered = config.protocol_features.bits();
            let mut session = stage.session(config, Rules::default())?;
            let outcome = session.runs(stage);
            for heard in session.of(request::SET_PROTOCOL_FEATURES) {
                let more = heard.number() & !offered;
                ensure(more == 0, format_args!("bits {more:#x} were not offered"))?;
            }
            for (id, feature) in [
                (request::GET_QUEUE_NUM, "MQ"),
                (request::NET_SET_MTU, "NET_MTU"),
                (request::SET_BACKEND_REQ_FD, "BACKEND_REQ"),
                (request::GET_CONFIG, "CONFIG"),
                (request::SET_CONFIG, "CONFIG"),
                (request::RESET_DEVICE, "RESET_DEVICE"),
                (request::GET_MAX_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"),
                (request::ADD_MEM_REG, "CONFIGURE_MEM_SLOTS"),
            ] {
                let none = session.of(id).next().is_none();
                let name = request::name(id).unwrap_or_default();
                ensure(none, format_args!("{name} came without {feature}"))?;
            }
            or_leaves(stage, outcome)
        },
    },
    Case {
        id: "front/without-protocol-features",
        level: Level::Text,
        needs: &[],
        source: "VU GET_PROTOCOL_FEATURES; VU SET_VRING_ENABLE",
        sent: "The features VERSION_1, MRG_RXBUF and MAC, and no VHOST_USER_F_PROTOCOL_FEATURES.",
        expected: "Neither GET_PROTOCOL_FEATURES nor SET_VRING_ENABLE comes: they are legal only with it. The rings run, or are left alone: no text has a front end do without.",
        run: |stage| {
            let mut config = device();
            config.features =
                VirtioFeatures::VERSION_1 | VirtioFeatures::MRG_RXBUF | VirtioFeatures::MAC;
            let mut session = stage.session(config, Rules::default())?;
            let outcome = session.runs(stage);
            for id in [
                request::GET_PROTOCOL_FEATURES,
                request::SET_PROTOCOL_FEATURES,
                request::SET_VRING_ENABLE,
            ] {
                let none = session.of(id).next().is_none();
                let name = request::name(id).unwrap_or_default();
                ensure(none, format_args!("{name} came"))?;
            }
            or_leaves(stage, outcome)
        },
    },
    Case {
        id: "front/without-mq",
        level: Level::Must,
        needs: &[],
        source: "VU Multiple queue support",
        sent: "Protocol features without MQ, and features without it.",
        expected: "The first pair runs: a front end must not rely on MQ where it needs no more.",
        run: |stage| {
            let mut config = device();
            config.features -= VirtioFeatures::MQ;
            config.protocol_features -= ProtocolFeatures::MQ;
            let mut session = stage.session(config, Rules::default())?;
            session.runs(stage)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/legal-requests",
        level: Level::Must,
        needs: &[],
        source: "VU Header; VU GET_VRING_BASE; VU ADD_MEM_REG; VU REM_MEM_REG",
        sent: "All that our back end serves.",
        expected: "Each header has version 1 and is no reply; a region comes with one descriptor; what is reserved is 0; none is refused.",
        run: |stage| {
            let mut session = stage.session(device(), Rules::default())?;
            let outcome = session.runs(stage);
            legal(&session)?;
            outcome?;
            let refused = session.endpoint.refusals();
            ensure(
                refused == 0,
                format_args!("{refused} requests were refused"),
            )?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/late-answers",
        level: Level::Text,
        needs: &[],
        source: "VU Communication",
        sent: "Every reply a fifth of a second late.",
        expected: "The rings run: the document says nothing of how soon a back end has to answer.",
        run: |stage| {
            let rules = Rules {
                late: Duration::from_millis(200),
                ..Rules::default()
            };
            let mut session = stage.session(device(), rules)?;
            session.runs(stage)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/wrong-reply",
        level: Level::Text,
        needs: &[],
        source: "VU Communication",
        sent: "A reply to GET_FEATURES with another request's number.",
        expected: "The front end closes the connection. Its process lives, or ends by itself.",
        run: |stage| {
            let rules = Rules {
                mislabel: Some(request::GET_FEATURES),
                ..Rules::default()
            };
            let mut session = stage.session(device(), rules)?;
            session.until(stage.patience, |session| session.over)?;
            stage.lives()?;
            ensure(session.over, "the connection is still open")?;
            Ok(Seen::Closed)
        },
    },
    Case {
        id: "front/refused",
        level: Level::Hard,
        needs: &[],
        source: "VU REPLY_ACK",
        sent: "SET_VRING_NUM and SET_MEM_TABLE refused, each in a session of its own, if the front end asks for an answer.",
        expected: "The process lives, or ends by itself.",
        run: |stage| {
            let mut seen = Seen::Tolerated;
            for refuse in [request::SET_VRING_NUM, request::SET_MEM_TABLE] {
                let rules = Rules {
                    refuse: Some(refuse),
                    ..Rules::default()
                };
                let mut config = device();
                config.protocol_features -= ProtocolFeatures::CONFIGURE_MEM_SLOTS;
                let mut session = stage.session(config, rules)?;
                session.until(stage.patience, |session| {
                    session.refused || session.device.runs()
                })?;
                session.until(Duration::from_millis(500), |session| session.over)?;
                if session.refused && session.over {
                    seen = Seen::Closed;
                }
                stage.lives()?;
            }
            Ok(seen)
        },
    },
    Case {
        id: "front/closed-anywhere",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication",
        sent: "Sessions that are closed with the 1st, 3rd, 6th, 10th, 15th and 21st request.",
        expected: "The process lives, or ends by itself, each time; a fresh one has its rings run.",
        run: |stage| {
            for close_at in [0, 2, 5, 9, 14, 20] {
                let rules = Rules {
                    close_at: Some(close_at),
                    ..Rules::default()
                };
                let mut session = stage.session(device(), rules)?;
                session.until(Duration::from_secs(3), |session| session.over)?;
                drop(session);
                std::thread::sleep(Duration::from_millis(200));
                stage.lives()?;
            }
            stage.session(device(), Rules::default())?.runs(stage)?;
            Ok(Seen::Conforms)
        },
    },
    Case {
        id: "front/back-end-restarts",
        level: Level::Hard,
        needs: &[],
        source: "VU Communication",
        sent: "A connection that closes while rings run; a back end with the same features, and after that one with fewer.",
        expected: "The process lives, or ends by itself. One that comes again has its rings run with the same features, and with fewer accepts none that was not offered.",
        run: |stage| {
            let mut session = stage.session(device(), Rules::default())?;
            session.runs(stage)?;
            drop(session);
            let Some(mut session) = stage.again(device(), Rules::default())? else {
                return Ok(Seen::Tolerated);
            };
            session.runs(stage)?;
            drop(session);
            let mut config = device();
            config.features -= VirtioFeatures::EVENT_IDX | VirtioFeatures::MRG_RXBUF;
            let offered = config.features.bits();
            let Some(mut session) = stage.again(config, Rules::default())? else {
                return Ok(Seen::Tolerated);
            };
            session.until(Duration::from_secs(3), |session| session.device.runs())?;
            stage.lives()?;
            for heard in session.of(request::SET_FEATURES) {
                let more = heard.number() & !offered;
                ensure(more == 0, format_args!("bits {more:#x} were not offered"))?;
            }
            Ok(Seen::Conforms)
        },
    },
];

/// Whether the rings run, or the front end leaves this back end alone and lives.
fn or_leaves(stage: &Stage, outcome: Result<(), Failure>) -> Result<Seen, Failure> {
    if outcome.is_ok() {
        return Ok(Seen::Conforms);
    }
    stage.lives()?;
    Ok(Seen::Tolerated)
}

/// A device with one pair of rings.
fn device() -> DeviceConfig {
    DeviceConfig::new("front-end", [0x02, 0, 0, 0, 0xfe, 0x01], 1)
}

/// Whether all requests are as the document has them.
fn legal(session: &Session) -> Result<(), Failure> {
    let mut protocol_features = 0;
    for heard in &session.heard {
        let (id, flags, fds) = (heard.header.request, heard.header.flags, heard.fds);
        let name = request::name(id).unwrap_or("a request");
        ensure(
            flags & 3 == FLAG_VERSION && flags & FLAG_REPLY == 0,
            format_args!("{name} has flags {flags:#x}"),
        )?;
        match id {
            request::SET_PROTOCOL_FEATURES => protocol_features = heard.number(),
            request::SET_MEM_TABLE => {
                let regions = heard.number() & 0xffff_ffff;
                ensure(
                    regions == fds as u64,
                    format_args!("{name} has {regions} regions and {fds} descriptors"),
                )?;
            }
            request::ADD_MEM_REG => ensure(fds == 1, format_args!("{name} has {fds} descriptors"))?,
            request::REM_MEM_REG => ensure(fds == 0, format_args!("{name} has {fds} descriptors"))?,
            request::GET_VRING_BASE => ensure(
                heard.second() == 0,
                format_args!("{name} has {} where 0 is reserved", heard.second()),
            )?,
            request::SET_VRING_KICK | request::SET_VRING_CALL | request::SET_VRING_ERR => {
                let polled = heard.number() & 0x100 != 0;
                ensure(
                    polled == (fds == 0),
                    format_args!("{name} says no descriptor: {polled}, and has {fds}"),
                )?;
            }
            request::GET_QUEUE_NUM => ensure(
                protocol_features & protocol::MQ != 0,
                format_args!("{name} came without MQ"),
            )?,
            _ => {}
        }
    }
    Ok(())
}
