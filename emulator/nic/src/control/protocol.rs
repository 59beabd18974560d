//! The control socket's protocol: one JSON object a line each way, an answer for each request and in their order. The words
//! of commands are those of the command line; what they do is not known here.
//!
//! It has a version. Within one, requests, answers and fields are only added: whoever knows fewer of them goes on working,
//! and one that does not know a request says which ones it knows. A client that wants to be sure begins with
//! [`Request::Hello`].

use serde::{Deserialize, Serialize};
use vf_model::{DriverFilter, NumberedFilter, VfIndex, nearest};

use super::show::Show;
use super::why::Why;
use crate::plane::MAX_QUEUE_PAIRS;

/// The version of the protocol that this vfnic speaks.
pub const PROTOCOL: u32 = 1;

/// What a line of [`Response::Done`] begins with that says why a change, which is in force, could not be written down for the next start.
pub const NOT_KEPT: &str = "in force, but not kept: ";

/// Longest request, in bytes: a batch that fills the largest filter table several times.
pub const MAX_LINE: usize = 4 << 20;
/// The same of an observer, who asks for little: others wait while a line is read.
pub(super) const MAX_OBSERVER_LINE: usize = 16 << 10;

/// Most descriptors that come along with a request: a tap device has as many queues at most as a VF has queue pairs.
pub(crate) const MOST_BROUGHT: usize = MAX_QUEUE_PAIRS as usize;

/// What a client asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// Which version of the protocol the two have in common.
    Hello {
        /// The client's; if it is left out, any will do.
        protocol: Option<u32>,
    },
    /// Counters and settings of everything.
    Show,
    /// The filters of one NIC.
    Filters {
        /// Which NIC; may be left out when there is one.
        nic: Option<String>,
    },
    /// The same with their ids.
    FilterTable {
        /// Which NIC; may be left out when there is one.
        nic: Option<String>,
    },
    /// The configuration file that makes all NICs as they are.
    Save,
    /// What would become of a frame, and why.
    Why(NicCommand),
    /// An administrator's command for one NIC, in words such as `vf 0 set path mediated`.
    Command(NicCommand),
    /// Frames as they pass, or are dropped, from now on.
    Capture(CaptureRequest),
    /// What happens from now on.
    Monitor {
        /// Which NIC; all of them if it is left out.
        nic: Option<String>,
        /// Whether dropped frames are told, too.
        #[serde(default)]
        drops: bool,
    },
    /// Frames judged again on both paths as they pass, and where they do not agree.
    CheckPaths {
        /// Which NIC; all of them if it is left out.
        nic: Option<String>,
        /// How many a second of each port at most.
        rate: u32,
    },
    /// A tap on a VF in place of a VM. A descriptor of each of its queues comes along with the line (unix(7), `SCM_RIGHTS`): whoever asks has
    /// opened it.
    AttachTap(AttachTap),
    /// No tap on a VF any more.
    DetachTap {
        /// Which NIC; may be left out when there is one.
        nic: Option<String>,
        /// Which VF.
        vf: u16,
    },
    /// Everything, for another process to go on where this one is ([`handover`](crate::handover)). An end of a socket pair comes along
    /// with the line, on which it is sent.
    HandOver {
        /// In which format.
        format: u32,
    },
    /// Several such commands, one after the other: all of them or none.
    Batch {
        /// They may be for different NICs.
        commands: Vec<NicCommand>,
    },
}

/// Words for a NIC: an administrator's command, or a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NicCommand {
    /// Which NIC; may be left out when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// The words.
    pub words: Vec<String>,
}

/// Which tap is to be on which VF.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachTap {
    /// Which NIC; may be left out when there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// Which VF.
    pub vf: u16,
    /// The name of the device.
    pub tap: String,
    /// The namespace that it is in, as `ip netns` names it, or a path; the host's own if it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub netns: Option<String>,
}

/// What is to be captured.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureRequest {
    /// Which NIC; may be left out when there is one, or when the words name it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub nic: Option<String>,
    /// `[NIC] vf N|wire|pf ... [flow-type ...]`.
    pub words: Vec<String>,
    /// Whether only dropped frames are wanted.
    #[serde(default)]
    pub drops: bool,
    /// Bytes of each frame at most; 0 is all of them.
    #[serde(default)]
    pub snaplen: u32,
}

/// What the emulator answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Response {
    /// The answer to [`Request::Hello`].
    Hello {
        /// The version of the protocol, which is [`PROTOCOL`].
        protocol: u32,
        /// The version of the program.
        program: String,
    },
    /// Done; what is worth knowing about it, a line each.
    Done(Vec<String>),
    /// The answer to [`Request::Show`].
    Show(Box<Show>),
    /// The answer to [`Request::Filters`]: each in the words that add it, those that win first.
    Filters(Vec<String>),
    /// The answer to [`Request::FilterTable`]: those that win first.
    FilterTable(Vec<FilterLine>),
    /// The answer to [`Request::Save`]: TOML.
    Save(String),
    /// The answer to [`Request::Why`].
    Why(Why),
    /// The answer to [`Request::Capture`] and [`Request::Monitor`]: what follows on this connection is no answer any more, but
    /// pcapng, or JSON objects of which each is a [line](crate::capture::lines::Line), until the client closes its half of the
    /// connection and is given the rest.
    Stream,
    /// Not done, nothing has changed; one line that says why.
    Refused(String),
    /// Nothing of a batch is done, since one of its commands is refused.
    RefusedAt {
        /// The first that is, counted from 0.
        at: usize,
        /// Its words.
        words: Vec<String>,
        /// One line that says why.
        why: String,
    },
}

impl Response {
    /// The same, of changes that could not be written down.
    pub(super) fn not_kept(self, why: &str) -> Response {
        match self {
            Response::Done(mut notes) => {
                notes.push(format!("{NOT_KEPT}{why}"));
                Response::Done(notes)
            }
            other => other,
        }
    }
}

/// A filter of a NIC.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FilterLine {
    /// What `filter delete` takes; none for one of priority auto that waits until another with the same match is deleted, and for one of
    /// a driver.
    pub id: Option<u32>,
    /// The words that add it.
    pub words: String,
    /// The VF whose driver has it: with an id it is in the NIC's table, and without it is for frames that the VF receives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub driver: Option<u8>,
    /// Frames that it has decided on, on either path; none of one that waits, and of one that path `auto` has learned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hits: Option<u64>,
}

impl From<(NumberedFilter, Option<VfIndex>, Option<u64>)> for FilterLine {
    fn from((filter, driver, hits): (NumberedFilter, Option<VfIndex>, Option<u64>)) -> FilterLine {
        FilterLine {
            id: filter.id.map(|id| id.0),
            words: filter.spec.to_string(),
            driver: driver.map(|vf| vf.0),
            hits,
        }
    }
}

impl FilterLine {
    /// One that the driver of a VF has for frames which that receives.
    pub(super) fn of_driver(vf: VfIndex, filter: &DriverFilter, hits: Option<u64>) -> FilterLine {
        FilterLine {
            id: None,
            words: filter.to_string(),
            driver: Some(vf.0),
            hits,
        }
    }
}

impl Request {
    /// Whether who is only to look may ask this.
    #[must_use]
    pub fn is_for_observers(&self) -> bool {
        match self {
            Request::Hello { .. }
            | Request::Show
            | Request::Filters { .. }
            | Request::FilterTable { .. }
            | Request::Save
            | Request::Why(_)
            | Request::Monitor { .. } => true,
            // What guests send is for those who administer the NIC.
            Request::Capture(_)
            | Request::CheckPaths { .. }
            | Request::Command(_)
            | Request::AttachTap(_)
            | Request::DetachTap { .. }
            | Request::HandOver { .. }
            | Request::Batch { .. } => false,
        }
    }

    /// All there are, as a refusal names them.
    const KNOWN: &str = "hello, show, filters, filter_table, save, why, capture, check_paths, monitor, command, attach_tap, detach_tap, hand_over or batch";

    /// Reads a line.
    ///
    /// # Errors
    /// What is wrong with it, on one line.
    pub fn parse(line: &[u8]) -> Result<Request, String> {
        serde_json::from_slice(line).map_err(|error| {
            let known = Request::KNOWN;
            let error = error.to_string();
            let unknown = error.strip_prefix("unknown variant `");
            let what = match unknown.and_then(|rest| rest.rsplit_once("`, expected one of")) {
                // Which there are is said once.
                Some((name, _)) => {
                    let words = known.split(", ").flat_map(|words| words.split(" or "));
                    let meant = nearest(name, words);
                    let meant = meant.map(|word| format!(": did you mean '{word}'?"));
                    format!("'{}'{}", on_a_line(name), meant.unwrap_or_default())
                }
                None => on_a_line(&error),
            };
            format!("not a request of version {PROTOCOL}: {what} (requests are {known})")
        })
    }
}

/// What may repeat whatever a client has sent: on a line, and cut between two words if it is long.
fn on_a_line(text: &str) -> String {
    const MOST: usize = 200;
    let text = text.replace(char::is_control, " ");
    match text.char_indices().nth(MOST) {
        None => text,
        Some((at, _)) => {
            let begun = text.get(..at).unwrap_or_default();
            let whole = begun.rsplit_once(' ').map_or(begun, |(whole, _)| whole);
            format!("{whole} ...")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_requests_are_read_as_ever() {
        for (line, request) in [
            ("\"show\"", Request::Show),
            (
                "{\"filters\":{\"nic\":\"a\"}}",
                Request::Filters {
                    nic: Some("a".into()),
                },
            ),
            (
                "{\"command\":{\"nic\":null,\"words\":[\"link\"]}}",
                Request::Command(NicCommand {
                    nic: None,
                    words: vec!["link".into()],
                }),
            ),
            // What may be left out may be missing altogether.
            ("{\"hello\":{}}", Request::Hello { protocol: None }),
        ] {
            assert_eq!(Request::parse(line.as_bytes()), Ok(request), "{line}");
        }
    }

    #[test]
    fn a_refusal_names_every_request_there_is() {
        let error = Request::parse(b"\"a\\nb\"").unwrap_err();
        assert!(!error.contains('\n'), "{error}");
        let (_, known) = error.split_once("(requests are").unwrap();
        // Serde lists them as they are declared, in ticks.
        let serde = serde_json::from_slice::<Request>(b"\"a\"").unwrap_err();
        let serde = serde.to_string();
        let (_, declared) = serde.split_once("expected one of").unwrap();
        let names: Vec<_> = declared.split('`').skip(1).step_by(2).collect();
        assert_eq!(names.len(), 14);
        assert!(names.iter().all(|name| known.contains(name)), "{error}");
    }

    #[test]
    fn a_refusal_says_everything_once() {
        let error = Request::parse(b"\"shw\"").unwrap_err();
        let begins =
            "not a request of version 1: 'shw': did you mean 'show'? (requests are hello, show,";
        assert!(error.starts_with(begins), "{error}");
        assert_eq!(error.matches("filter_table").count(), 1, "{error}");
        let long = format!("{{\"{}\":1}}", "long word ".repeat(100));
        let error = Request::parse(long.as_bytes()).unwrap_err();
        assert!(error.len() < 2000, "{error}");
        let error = Request::parse(b"{\"why\":{\"words\":\"from vf0\"}}").unwrap_err();
        assert!(
            error.contains("string \"from vf0\""),
            "quotes are quotes: {error}"
        );
    }

    #[test]
    fn the_page_of_the_protocol_has_every_request_and_no_other() {
        let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/control.md");
        let page = std::fs::read_to_string(page).unwrap();
        // `"show"` or `{"why":...}` in the first column.
        let rows = page.lines().filter_map(|line| {
            let request = line.strip_prefix("| `")?;
            request.trim_start_matches('{').split('"').nth(1)
        });
        let mut documented: Vec<_> = rows.collect();
        let known = Request::KNOWN.replace(" or ", ", ");
        let mut known: Vec<_> = known.split(", ").collect();
        documented.sort_unstable();
        known.sort_unstable();
        assert_eq!(documented, known);
        let of_observers = page.split("who connects there may ask ").nth(1).unwrap();
        let of_observers = of_observers.split("which tells").next().unwrap();
        for request in [
            Request::Hello { protocol: None },
            Request::Show,
            Request::Filters { nic: None },
            Request::FilterTable { nic: None },
            Request::Save,
            Request::Monitor {
                nic: None,
                drops: false,
            },
        ] {
            assert!(request.is_for_observers());
            let json = serde_json::to_string(&request).unwrap();
            let name = json.split('"').nth(1).unwrap();
            assert!(of_observers.contains(&format!("`{name}`")), "{name}");
        }
    }
}
