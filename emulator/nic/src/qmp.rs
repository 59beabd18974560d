//! QEMU's monitor as a client (QMP, `qapi/net.json`): shows a guest its carrier with `set_link`, and hears what its driver asks for of the
//! control queue that QEMU keeps to itself (`query-rx-filter`, NIC_RX_FILTER_CHANGED). Never waits: it is a machine that is fed by
//! whoever polls its socket. Grants nothing.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use mio::net::UnixStream;
use mio::{Interest, Registry, Token};
use rustix::io::Errno;
use serde::Deserialize;
use serde_json::{Value, json};
use vf_model::{MacAddr, RxMode, VfRequest, Vid};
use vf_vhost::closer::{Aside, Closer};

/// Time between two attempts to connect.
const AGAIN: Duration = Duration::from_secs(1);
/// Least time between two questions for what the driver asks for: one that changes its mind all the time keeps nobody busy.
const PACE: Duration = Duration::from_millis(20);
/// Longest line that is taken: an rx-filter of a guest with all VLANs and full tables is a tenth of it.
const MAX_LINE: usize = 1 << 18;
/// Most lines that are looked at in one turn: one that never stops talking has its turns as everybody else.
const LINES: usize = 16;
/// The same in bytes.
const TURN_BYTES: usize = 64 << 10;

/// A connection to the monitor of a VF's QEMU, made again and again.
#[derive(Debug)]
pub struct Monitor {
    device: String,
    path: PathBuf,
    registration: Option<(Registry, Token)>,
    connection: Option<Connection>,
    /// Closes what a monitor has sent that is no line: descriptors.
    closer: Closer,
    /// The carrier that the guest is to see.
    link_up: bool,
    /// Whether it has been taken: QEMU gives it to its guest itself when the VF's socket is opened, and is not told otherwise.
    taken: bool,
    /// When to connect again, or to look at what may be left of what has come.
    retry_at: Option<Instant>,
    /// What was in the way of the last attempt, if it has been logged.
    complaint: Option<String>,
}

#[derive(Debug)]
struct Connection {
    closer: Closer,
    stream: Aside<UnixStream>,
    line: Vec<u8>,
    /// How much of it is known to have no end.
    searched: usize,
    /// What has been asked and not answered: answers come in this order.
    asked: VecDeque<Asked>,
    /// Whether it has greeted, which a monitor does once.
    greeted: bool,
    /// QEMU's name of the VF's NIC, once it is known.
    nic: Option<String>,
    /// The carrier that QEMU has said that the guest sees.
    shown: Option<bool>,
    /// When the driver's wishes may be asked for again.
    ask_from: Instant,
    /// Whether they have changed since they were asked for.
    changed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    Capabilities,
    RxFilter,
    SetLink(bool),
}

/// Why there is no talking to a monitor.
#[derive(Debug, thiserror::Error)]
enum MonitorError {
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("it hung up")]
    HungUp,
    #[error("it says what is not QMP: {0}")]
    NotQmp(String),
    #[error("none of the guest's {0} NICs has the VF's address")]
    WhichNic(usize),
    #[error("{0}")]
    Refused(String),
}

impl Monitor {
    /// A monitor at `path` for the guest on `device`, not connected yet.
    #[must_use]
    pub fn new(device: String, path: PathBuf, link_up: bool) -> Monitor {
        Monitor {
            device,
            path,
            registration: None,
            connection: None,
            closer: Closer::default(),
            link_up,
            taken: false,
            retry_at: None,
            complaint: None,
        }
    }

    /// Has `token` become ready when something comes, and connects.
    ///
    /// # Errors
    /// The system's, of a registry that cannot be shared.
    pub fn register(&mut self, registry: &Registry, token: Token, now: Instant) -> io::Result<()> {
        self.registration = Some((registry.try_clone()?, token));
        self.connect(now);
        Ok(())
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether QEMU has said that its guest sees no carrier.
    #[must_use]
    pub fn shows_no_carrier(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.shown == Some(false))
    }

    /// Whether QEMU does what it is told.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        let connection = self.connection.as_ref();
        connection.is_some_and(|connection| connection.nic.is_some())
    }

    /// When it wants to be polled though nothing has come.
    #[must_use]
    pub fn next_timer(&self) -> Option<Instant> {
        let connection = self.connection.as_ref();
        let ask = connection.and_then(Connection::asks_at);
        self.retry_at.into_iter().chain(ask).min()
    }

    /// Shows the guest a carrier, or none. One whose front end is not `connected` gets its carrier when that is.
    pub fn set_link(&mut self, up: bool, connected: bool) {
        self.link_up = up;
        self.taken &= connected || !up;
        self.tell();
    }

    /// The front end is another, or its driver is: QEMU has shown the guest a carrier when its socket was opened.
    pub fn look_again(&mut self) {
        if let Some(connection) = &mut self.connection
            && connection.nic.is_some()
        {
            connection.shown = None;
            connection.changed = true;
        }
        self.tell();
    }

    /// Looks at what has come; all that the driver asks for, if QEMU has said that. `mac` tells the VF's NIC from others of the guest.
    pub fn poll(&mut self, now: Instant, mac: MacAddr) -> Option<Vec<VfRequest>> {
        if self.retry_at.take_if(|at| *at <= now).is_some() && self.connection.is_none() {
            self.connect(now);
        }
        let (mut heard, mut lines, mut bytes) = (None, 0, 0);
        while let Some(connection) = &mut self.connection {
            lines += 1;
            if lines > LINES || bytes > TURN_BYTES {
                self.retry_at = Some(now);
                break;
            }
            let line = match connection.read_line() {
                Ok(Some(line)) => line,
                Ok(None) => break,
                Err(why) => {
                    self.give_up(&why, now);
                    break;
                }
            };
            bytes += line.len();
            match connection.hear(&line, mac, now) {
                Ok(Some(requests)) => {
                    heard = Some(requests);
                    self.complaint = None;
                }
                Ok(None) => {}
                Err(why) => {
                    self.give_up(&why, now);
                    break;
                }
            }
            self.tell();
        }
        if let Some(connection) = &mut self.connection
            && connection.asks_at().is_some_and(|at| at <= now)
        {
            let asked = connection.query(now);
            self.hold(asked);
        }
        heard
    }

    fn connect(&mut self, now: Instant) {
        self.retry_at = None;
        let stream = UnixStream::connect(&self.path).and_then(|mut stream| {
            if let Some((registry, token)) = &self.registration {
                registry.register(&mut stream, *token, Interest::READABLE)?;
            }
            Ok(stream)
        });
        match stream {
            Ok(stream) => {
                self.connection = Some(Connection {
                    closer: self.closer.clone(),
                    stream: Aside::new(stream, &self.closer),
                    line: Vec::new(),
                    searched: 0,
                    asked: VecDeque::new(),
                    greeted: false,
                    nic: None,
                    shown: None,
                    ask_from: now,
                    changed: false,
                });
            }
            Err(why) => self.give_up(&why.into(), now),
        }
    }

    /// Shows the guest the carrier that it is to see, unless it has been shown that or will be.
    fn tell(&mut self) {
        let up = self.link_up;
        let Some(connection) = &mut self.connection else {
            return;
        };
        let Some(nic) = connection.nic.clone() else {
            return;
        };
        let pending = connection.asked.iter().rev().find_map(|asked| match asked {
            Asked::SetLink(up) => Some(*up),
            _ => None,
        });
        if pending.or(connection.shown) == Some(up) || up && !self.taken {
            return;
        }
        self.taken |= !up;
        let command = json!({"execute": "set_link", "arguments": {"name": nic, "up": up}});
        let asked = connection.ask(Asked::SetLink(up), command);
        self.hold(asked);
    }

    /// A monitor that does not take a line is not waited for.
    fn hold(&mut self, asked: Result<(), MonitorError>) {
        if let Err(why) = asked {
            self.give_up(&why, Instant::now());
        }
    }

    fn give_up(&mut self, why: &MonitorError, now: Instant) {
        self.connection = None;
        self.retry_at = Some(now + AGAIN);
        let why = why.to_string();
        if self.complaint.as_ref() != Some(&why) {
            let (device, path) = (self.device.as_str(), self.path.display());
            tracing::info!(device, qmp = %path, %why, "no monitor, trying again");
            self.complaint = Some(why);
        }
    }
}

impl Connection {
    /// When it asks what the driver asks for, if that has changed: not before the last such question has been answered.
    fn asks_at(&self) -> Option<Instant> {
        let asks = self.changed && self.nic.is_some() && !self.asked.contains(&Asked::RxFilter);
        asks.then_some(self.ask_from)
    }

    /// Asks what the driver asks for. Of all NICs: nobody has said which is the VF's.
    fn query(&mut self, now: Instant) -> Result<(), MonitorError> {
        (self.changed, self.ask_from) = (false, now + PACE);
        self.ask(Asked::RxFilter, json!({"execute": "query-rx-filter"}))
    }

    fn ask(&mut self, asked: Asked, command: Value) -> Result<(), MonitorError> {
        let line = format!("{command}\n");
        match self.stream.write(line.as_bytes())? {
            n if n == line.len() => {
                self.asked.push_back(asked);
                Ok(())
            }
            _ => Err(MonitorError::Io(io::ErrorKind::WriteZero.into())),
        }
    }

    /// The next whole line, if it has come.
    fn read_line(&mut self) -> Result<Option<Vec<u8>>, MonitorError> {
        loop {
            let new = self.line.iter().skip(self.searched);
            if let Some(end) = new.copied().position(|byte| byte == b'\n') {
                let rest = self.line.split_off(self.searched + end + 1);
                self.searched = 0;
                return Ok(Some(std::mem::replace(&mut self.line, rest)));
            }
            self.searched = self.line.len();
            if self.searched > MAX_LINE {
                return Err(MonitorError::NotQmp(format!(
                    "a line of over {MAX_LINE} bytes"
                )));
            }
            let mut bytes = [0; 4096];
            match self.closer.read(&*self.stream, &mut bytes) {
                Ok(0) => return Err(MonitorError::HungUp),
                Ok(n) => self.line.extend(bytes.iter().take(n)),
                Err(Errno::AGAIN) => return Ok(None),
                Err(errno) => return Err(MonitorError::Io(errno.into())),
            }
        }
    }

    fn hear(
        &mut self,
        line: &[u8],
        mac: MacAddr,
        now: Instant,
    ) -> Result<Option<Vec<VfRequest>>, MonitorError> {
        let said: Said = serde_json::from_slice(line)
            .map_err(|e| MonitorError::NotQmp(e.to_string().chars().take(100).collect()))?;
        match said {
            Said::Greeting { .. } => {
                if std::mem::replace(&mut self.greeted, true) {
                    return Err(MonitorError::NotQmp("a second greeting".into()));
                }
                self.ask(Asked::Capabilities, json!({"execute": "qmp_capabilities"}))?;
            }
            // Once it has said this it is silent until it is asked.
            Said::Event { event } if event == "NIC_RX_FILTER_CHANGED" => {
                self.changed = true;
            }
            Said::Event { .. } => {}
            Said::Error { error } => {
                self.asked.pop_front();
                let why = error
                    .desc
                    .chars()
                    .flat_map(char::escape_debug)
                    .take(200)
                    .collect();
                return Err(MonitorError::Refused(why));
            }
            Said::Return { answer } => match self.asked.pop_front() {
                Some(Asked::Capabilities) => self.query(now)?,
                Some(Asked::SetLink(up)) => self.shown = Some(up),
                Some(Asked::RxFilter) => {
                    let nics: Vec<QemuFilter> = serde_json::from_value(answer)
                        .map_err(|e| MonitorError::NotQmp(e.to_string()))?;
                    let nic = self.ours(&nics, mac)?;
                    self.nic = Some(nic.name.clone());
                    return Ok(Some(nic.requests()));
                }
                None => return Err(MonitorError::NotQmp("an answer to no question".into())),
            },
        }
        Ok(None)
    }

    /// Which of a guest's NICs is the VF's: the one that it was the last time, the one with its address, the only one.
    fn ours<'a>(
        &self,
        nics: &'a [QemuFilter],
        mac: MacAddr,
    ) -> Result<&'a QemuFilter, MonitorError> {
        let before = |nic: &&QemuFilter| self.nic.as_ref() == Some(&nic.name);
        let with_mac = |nic: &&QemuFilter| nic.main_mac.parse() == Ok(mac);
        let named = nics.iter().find(before);
        match (named.or_else(|| nics.iter().find(with_mac)), nics) {
            (Some(nic), _) | (None, [nic]) => Ok(nic),
            (None, _) => Err(MonitorError::WhichNic(nics.len())),
        }
    }
}

/// A line of QEMU's.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Greeting {
        #[serde(rename = "QMP")]
        _qmp: Value,
    },
    Return {
        #[serde(rename = "return")]
        answer: Value,
    },
    Error {
        error: QemuError,
    },
    Event {
        event: String,
    },
}

#[derive(Deserialize)]
struct QemuError {
    desc: String,
}

/// What QEMU says of a NIC of its guest (RxFilterInfo). Its `broadcast-allowed` is left out: QEMU gives the bit of
/// VIRTIO_NET_CTRL_RX_NOBCAST there, which says the opposite.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct QemuFilter {
    name: String,
    main_mac: String,
    promiscuous: bool,
    multicast: RxState,
    unicast: RxState,
    vlan: RxState,
    #[serde(default)]
    multicast_overflow: bool,
    #[serde(default)]
    unicast_overflow: bool,
    #[serde(default)]
    unicast_table: Vec<String>,
    #[serde(default)]
    multicast_table: Vec<String>,
    #[serde(default)]
    vlan_table: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RxState {
    Normal,
    None,
    All,
}

impl QemuFilter {
    /// All that its driver asks for, in the words of the control queue. A table that overflows in QEMU is as if all were asked for.
    fn requests(&self) -> Vec<VfRequest> {
        let macs = |macs: &[String]| {
            let macs = macs.iter().filter_map(|mac| mac.parse::<MacAddr>().ok());
            macs.collect::<Vec<_>>()
        };
        let (unicast, multicast) = (macs(&self.unicast_table), macs(&self.multicast_table));
        // QEMU's NIC is promiscuous until a driver says otherwise: one without the control queue never does, and wants its groups.
        let untouched = self.promiscuous && unicast.is_empty() && multicast.is_empty();
        let (lists_groups, lists_vlans) = (!untouched, self.vlan != RxState::All);
        let mut requests = vec![VfRequest::Reset {
            lists_groups,
            lists_vlans,
        }];
        requests.extend(self.main_mac.parse().ok().map(VfRequest::Mac));
        requests.push(VfRequest::RxMode(RxMode {
            promisc: self.promiscuous && !untouched,
            allmulti: self.multicast == RxState::All || self.multicast_overflow,
            alluni: self.unicast == RxState::All || self.unicast_overflow,
            nomulti: self.multicast == RxState::None,
            nouni: self.unicast == RxState::None,
            nobcast: false,
        }));
        requests.push(VfRequest::Unicast(unicast));
        if lists_groups {
            requests.push(VfRequest::Multicast(multicast));
        }
        if lists_vlans {
            let vlans = self.vlan_table.iter();
            let vlans = vlans.filter_map(|vid| Vid::new(*vid).ok());
            requests.push(VfRequest::Vlans(vlans.collect()));
        }
        requests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What QEMU 7.2 says of a Linux guest with a VLAN device, and of one whose BIOS has not looked at its NIC yet.
    #[test]
    fn what_qemu_says_of_a_driver_is_what_it_asks_for() {
        let linux = r#"{"promiscuous":false,"name":"virtio-net-pci.0","main-mac":"52:54:00:98:2d:e3","unicast":"normal","vlan":"normal",
            "vlan-table":[42,0],"unicast-table":["02:00:00:00:00:07"],"multicast":"normal","multicast-overflow":false,
            "unicast-overflow":true,"multicast-table":["33:33:ff:98:2d:e3"],"broadcast-allowed":false}"#;
        let words = |text| {
            let filter: QemuFilter = serde_json::from_str(text).unwrap();
            let requests = filter.requests();
            let words: Vec<_> = requests.iter().map(ToString::to_string).collect();
            words.join("; ")
        };
        assert_eq!(
            words(linux),
            "reset groups vlans; mac 52:54:00:98:2d:e3; mode alluni; macvlan 02:00:00:00:00:07; multicast 33:33:ff:98:2d:e3; vlans 42"
        );
        let untouched = r#"{"promiscuous":true,"name":"n","main-mac":"52:54:00:98:2d:e3","unicast":"normal","vlan":"all",
            "vlan-table":[],"unicast-table":[],"multicast":"normal","multicast-overflow":false,"unicast-overflow":false,
            "multicast-table":[],"broadcast-allowed":false}"#;
        assert_eq!(
            words(untouched),
            "reset; mac 52:54:00:98:2d:e3; mode; macvlan"
        );
    }

    fn connected() -> (Monitor, std::os::unix::net::UnixStream, tempfile::TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let mut monitor = Monitor::new("vf0".to_owned(), path, true);
        monitor.connect(Instant::now());
        let (qemu, _) = listener.accept().unwrap();
        (monitor, qemu, dir)
    }

    /// Each greeting is answered at once, whatever the pace, and what is asked is kept until it is answered.
    #[test]
    fn a_monitor_greets_once() {
        let (mut monitor, mut qemu, _dir) = connected();
        qemu.write_all(b"{\"QMP\":{}}\n").unwrap();
        monitor.poll(Instant::now(), MacAddr::default());
        assert!(monitor.connection.is_some());
        qemu.write_all(b"{\"QMP\":{}}\n").unwrap();
        monitor.poll(Instant::now(), MacAddr::default());
        assert!(monitor.connection.is_none());
    }

    /// How many lines with this word have been said.
    fn heard(qemu: &mut std::os::unix::net::UnixStream, word: &str) -> usize {
        let mut said = Vec::new();
        qemu.set_nonblocking(true).unwrap();
        // It is not closed, so it would be waited for.
        let _ = io::Read::read_to_end(qemu, &mut said);
        String::from_utf8(said).unwrap().matches(word).count()
    }

    #[test]
    fn a_monitor_that_does_not_answer_is_asked_no_second_time() {
        let (mut monitor, mut qemu, _dir) = connected();
        let (start, mac) = (Instant::now(), MacAddr([2, 0, 0, 0, 0, 1]));
        let nic = r#"{"promiscuous":false,"name":"n","main-mac":"52:54:00:98:2d:e3","unicast":"normal","vlan":"all","multicast":"normal"}"#;
        let answer = format!("{{\"return\": [{nic}]}}\n");
        let begins = format!("{{\"QMP\": {{}}}}\n{{\"return\": {{}}}}\n{answer}");
        qemu.write_all(begins.as_bytes()).unwrap();
        assert!(monitor.poll(start, mac).is_some());
        assert_eq!(heard(&mut qemu, "query-rx-filter"), 1);
        for n in 1..10 {
            let changed = b"{\"event\": \"NIC_RX_FILTER_CHANGED\"}\n";
            qemu.write_all(changed).unwrap();
            assert_eq!(monitor.poll(start + PACE * n, mac), None);
        }
        assert_eq!(monitor.next_timer(), None);
        assert_eq!(heard(&mut qemu, "query-rx-filter"), 1);
        // When it has, what has changed meanwhile is asked for.
        qemu.write_all(answer.as_bytes()).unwrap();
        assert!(monitor.poll(start + PACE * 20, mac).is_some());
        assert_eq!(heard(&mut qemu, "query-rx-filter"), 1);
    }

    #[test]
    fn of_what_a_monitor_says_so_many_lines_are_heard_at_once() {
        let (mut monitor, mut qemu, _dir) = connected();
        let now = Instant::now();
        let event = "{\"event\":\"RTC_CHANGE\"}\n";
        qemu.write_all(event.repeat(2 * LINES).as_bytes()).unwrap();
        for more in [true, true, false] {
            assert_eq!(monitor.poll(now, MacAddr([2, 0, 0, 0, 0, 1])), None);
            assert_eq!(monitor.next_timer(), more.then_some(now));
        }
        assert!(monitor.connection.is_some());
    }
}
