//! Carries out requests, for either clock. Decides what is refused and what changes; when and how a new policy gets to planes
//! and guests is for whoever owns the NICs. Reads no socket and moves no ring.

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::Arc;

use vf_model::{Addressed, Command, Nanos, Policy, Question, Refused, VfIndex};

use super::observe::Observer;
use super::protocol::{AttachTap, FilterLine, NicCommand, PROTOCOL, Request, Response};
use super::stream::{self, Takeover};
use super::why::Why;
use crate::capture::event::Happening;
use crate::config::{Config, NicSettings};
use crate::handover::{FORMAT, OTHER_FORMAT};
use crate::instance::NicInstance;
use crate::kept::Kept;
use crate::tap_port::TapDevice;

/// The NICs that requests are about, on whichever clock.
pub trait Nics {
    /// Why the owner cannot go on. What is refused is none.
    type Error;

    /// The time.
    fn now(&self) -> Nanos;

    /// All NICs, always in the same order.
    fn nics(&self) -> impl Iterator<Item = impl Deref<Target = NicInstance>>;

    /// Puts new policies in force, and says in a line each what guests cannot be shown of them. Refused, with all of them as they
    /// were, is only what the owner alone can know: that VFs cannot have their sockets.
    ///
    /// # Errors
    /// The owner's, when it cannot go on.
    fn change(&mut self, changes: Vec<Change>) -> Result<Result<Vec<String>, String>, Self::Error>;

    /// Puts the tap whose descriptor has come with the request on a VF, or takes the one away that is there. Refused, with all as it was,
    /// where the time is not this machine's.
    ///
    /// # Errors
    /// Why it is refused, on one line.
    fn set_tap(
        &mut self,
        _nic: usize,
        _vf: VfIndex,
        _tap: Option<TapDevice>,
    ) -> Result<(), String> {
        Err(
            "a tap is of this machine, which has no virtual time: it is for run --clock wall"
                .to_owned(),
        )
    }

    /// Begins to hand everything over to the process whose end of a socket pair has come with the request. Refused, with all as it was,
    /// is what cannot be handed over.
    ///
    /// # Errors
    /// Why it is refused, on one line.
    fn hand_over(&mut self) -> Result<(), String> {
        Err(
            "guests of the virtual clock cannot be handed over: that is for run --clock wall"
                .to_owned(),
        )
    }
}

/// A new policy for a NIC.
#[derive(Debug)]
pub struct Change {
    /// The NIC, by its place among all.
    pub nic: usize,
    /// What holds from now on.
    pub policy: Policy,
    /// What the administrator said, for the log.
    pub said: String,
    /// What is worth knowing of it, a line each: what drivers of such NICs take for said and leave as it is, and what the NIC answers to
    /// a driver's requests.
    pub notes: Vec<String>,
}

/// Answers requests, one after the other.
pub struct Dispatcher {
    observer: Observer,
    /// What was to be run, and the taps that requests have put on VFs since.
    config: Arc<Config>,
    takeover: Option<Takeover>,
}

impl Dispatcher {
    /// Answers for NICs of this configuration, in its order.
    #[must_use]
    pub fn new(config: Config) -> Dispatcher {
        Dispatcher {
            observer: Observer::default(),
            config: Arc::new(config),
            takeover: None,
        }
    }

    /// What commands change is written down, and `show` tells how far.
    pub fn keep(&mut self, kept: Kept) {
        self.observer.keep(kept);
    }

    /// What is run now, but for what is said by policies.
    #[must_use]
    pub fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config)
    }

    /// The file that makes the NICs again.
    ///
    /// # Errors
    /// What cannot be written in a file, in one line.
    pub fn save(&self, nics: &impl Nics) -> Result<String, String> {
        let policies: Vec<_> = nics.nics().map(|nic| nic.policy().saved()).collect();
        self.config.saved(&policies)
    }

    /// Carries out a request; nothing has changed if it is refused.
    ///
    /// # Errors
    /// The owner's of the NICs, when it cannot go on.
    pub fn answer<N: Nics>(
        &mut self,
        nics: &mut N,
        request: Request,
    ) -> Result<Response, N::Error> {
        Ok(match request {
            Request::Hello { protocol } => hello(protocol),
            Request::Show => {
                let show = self.observer.show(nics.now(), nics.nics());
                Response::Show(Box::new(show))
            }
            Request::Filters { nic } => match nic_named(&names(nics), nic.as_deref()) {
                Ok(n) => {
                    let filters = filters(nics, n).into_iter();
                    Response::Filters(filters.map(|line| line.words).collect())
                }
                Err(why) => Response::Refused(why),
            },
            Request::FilterTable { nic } => match nic_named(&names(nics), nic.as_deref()) {
                Ok(n) => {
                    let mut table = filters(nics, n);
                    if let Some(nic) = nics.nics().nth(n) {
                        let own = nic.driver_filters().into_iter();
                        table.extend(
                            own.map(|(vf, filter, hits)| FilterLine::of_driver(vf, &filter, hits)),
                        );
                    }
                    Response::FilterTable(table)
                }
                Err(why) => Response::Refused(why),
            },
            Request::Save => self
                .save(nics)
                .map_or_else(Response::Refused, Response::Save),
            Request::Why(NicCommand { nic, words }) => {
                let asked = nic_named(&names(nics), nic.as_deref()).and_then(|n| {
                    let nic = nics.nics().nth(n);
                    nic.map_or(Err("it is gone".to_owned()), |nic| why(&nic, &words))
                });
                asked.map_or_else(Response::Refused, Response::Why)
            }
            Request::Capture(request) => {
                let nic = nic_or_any(&names(nics), request.nic.as_deref());
                self.begin(nic.and_then(|nic| stream::capture(nics, &request, nic)))
            }
            Request::CheckPaths { nic, rate } => {
                let nic = nic
                    .as_deref()
                    .map(|nic| nic_named(&names(nics), Some(nic)))
                    .transpose();
                self.begin(nic.and_then(|nic| stream::check_paths(nics, nic, rate)))
            }
            Request::Monitor { nic, drops } => self.monitor(nics, nic.as_deref(), drops, false),
            Request::Command(command) => match plan(nics, &[command]) {
                Ok(changes) => self.change(nics, changes)?,
                Err(Rejected { why, .. }) => Response::Refused(why),
            },
            Request::AttachTap(AttachTap {
                nic,
                vf,
                tap: name,
                netns,
            }) => self.set_tap(nics, nic.as_deref(), vf, Some(TapDevice { name, netns })),
            Request::DetachTap { nic, vf } => self.set_tap(nics, nic.as_deref(), vf, None),
            Request::HandOver { format: FORMAT } => match nics.hand_over() {
                Ok(()) => Response::Done(Vec::new()),
                Err(why) => Response::Refused(why),
            },
            Request::HandOver { .. } => Response::Refused(OTHER_FORMAT.to_owned()),
            Request::Batch { mut commands } => match plan(nics, &commands) {
                Ok(changes) => self.change(nics, changes)?,
                Err(Rejected { at, why }) => Response::RefusedAt {
                    at,
                    words: commands.swap_remove(at).words,
                    why,
                },
            },
        })
    }
}

impl Dispatcher {
    /// The same for an observer, who changes nothing.
    ///
    /// # Errors
    /// As of [`Dispatcher::answer`].
    pub fn answer_observer<N: Nics>(
        &mut self,
        nics: &mut N,
        request: Request,
    ) -> Result<Response, N::Error> {
        match request {
            Request::Monitor { nic, drops } => {
                Ok(self.monitor(nics, nic.as_deref(), drops, true))
            }
            request if request.is_for_observers() => self.answer(nics, request),
            _ => Ok(Response::Refused(
                "this socket is for observers, who change nothing and capture nothing: commands go to the control socket (--ctl)"
                    .to_owned(),
            )),
        }
    }

    fn monitor(
        &mut self,
        nics: &impl Nics,
        nic: Option<&str>,
        drops: bool,
        observer: bool,
    ) -> Response {
        let nic = nic.map(|nic| nic_named(&names(nics), Some(nic)));
        let nic = nic.transpose();
        self.begin(nic.and_then(|nic| stream::monitor(nics, nic, drops, observer)))
    }

    /// What is to have the connection of the client that has been answered last, if anything is.
    pub fn take_takeover(&mut self) -> Option<Takeover> {
        self.takeover.take()
    }

    /// Puts changes in force; with VFs that are no more go their taps.
    fn change<N: Nics>(
        &mut self,
        nics: &mut N,
        changes: Vec<Change>,
    ) -> Result<Response, N::Error> {
        let response = done(nics, changes)?;
        for (n, nic) in nics.nics().enumerate() {
            let there = &nic.settings.vf;
            let gone = |ours: &NicSettings| {
                let mut pairs = ours.vf.iter().zip(there);
                pairs.any(|(ours, there)| ours.tap.is_some() && there.tap.is_none())
            };
            if self.config.nics.get(n).is_some_and(gone)
                && let Some(ours) = Arc::make_mut(&mut self.config).nics.get_mut(n)
            {
                for (ours, there) in ours.vf.iter_mut().zip(there) {
                    ours.tap.clone_from(&there.tap);
                }
            }
        }
        Ok(response)
    }

    fn set_tap(
        &mut self,
        nics: &mut impl Nics,
        nic: Option<&str>,
        vf: u16,
        tap: Option<TapDevice>,
    ) -> Response {
        let words = match &tap {
            Some(tap) => format!("vf {vf}: {tap}"),
            None => format!("vf {vf}: no tap"),
        };
        let set = nic_named(&names(nics), nic).and_then(|n| {
            if let Some(tap) = &tap {
                self.config.check_tap_is_free(tap, (n, vf.into()))?;
            }
            let nic = Arc::make_mut(&mut self.config).nics.get_mut(n);
            let settings = nic.and_then(|nic| nic.vf.get_mut(usize::from(vf)));
            let settings = settings.ok_or_else(|| format!("vf {vf}: there is none"))?;
            match (&tap, &settings.tap) {
                (Some(tap), _) => tap.check().and_then(|()| settings.check_tap())?,
                (None, None) => return Err(format!("vf {vf}: no tap is on it")),
                (None, Some(_)) => {}
            }
            nics.set_tap(n, VfIndex::from(usize::from(vf)), tap.clone())?;
            let passing = tap.as_ref().filter(|tap| !tap.is_lasting()).map(|tap| {
                format!("vf {vf}: {tap}: it is not kept for the next start, when the number may be another process's ('ip netns attach NAME PID' gives the namespace a name that is)")
            });
            settings.tap = tap;
            Ok((n, passing))
        });
        match set {
            Ok((n, passing)) => {
                if let Some(nic) = nics.nics().nth(n) {
                    nic.tell(|| Happening::Command { words });
                }
                Response::Done(passing.into_iter().collect())
            }
            Err(why) => Response::Refused(why),
        }
    }

    fn begin(&mut self, begun: Result<(Response, Takeover), String>) -> Response {
        match begun {
            Ok((response, takeover)) => {
                self.takeover = Some(takeover);
                response
            }
            Err(why) => Response::Refused(why),
        }
    }
}

fn filters(nics: &impl Nics, n: usize) -> Vec<FilterLine> {
    let filters = nics.nics().nth(n).map(|nic| nic.filters());
    let filters = filters.unwrap_or_default().into_iter();
    filters.map(FilterLine::from).collect()
}

fn why(nic: &NicInstance, words: &[String]) -> Result<Why, String> {
    let policy = nic.policy();
    let asked = Question::parse(words, &policy).map_err(|e| e.to_string())?;
    let explanation = policy.why(asked.source, &asked.frame, &asked.meta);
    let mut why = Why::new(&explanation, asked.source, nic);
    if let Some(gso) = asked.meta.gso
        && !words.iter().any(|word| word == "gso")
    {
        let size = gso.size;
        why.steps.insert(0, format!("a super-frame: no frame is as long, so it is taken for one of segments of {size} bytes ('gso SIZE' says another)"));
    }
    Ok(why)
}

/// Puts changes in force and says what is worth knowing of them.
fn done<N: Nics>(nics: &mut N, changes: Vec<Change>) -> Result<Response, N::Error> {
    let known = changes.iter().flat_map(|change| change.notes.clone());
    let mut notes: Vec<_> = known.collect();
    let said = changes
        .iter()
        .map(|change| (change.nic, change.said.clone()));
    let said: Vec<_> = said.collect();
    Ok(match nics.change(changes)? {
        Ok(more) => {
            notes.extend(more);
            for (n, words) in said {
                if let Some(nic) = nics.nics().nth(n) {
                    nic.tell(|| Happening::Command { words });
                }
            }
            Response::Done(notes)
        }
        Err(why) => Response::Refused(why),
    })
}

fn hello(protocol: Option<u32>) -> Response {
    let program = env!("CARGO_PKG_VERSION");
    match protocol {
        Some(other) if other != PROTOCOL => Response::Refused(format!(
            "it is vfnic {program}, which speaks version {PROTOCOL} of the control protocol, and its client version {other}: use \
             the vfnic that it was started with"
        )),
        _ => Response::Hello {
            protocol: PROTOCOL,
            program: program.to_owned(),
        },
    }
}

fn names<N: Nics>(nics: &N) -> Vec<String> {
    nics.nics().map(|nic| nic.settings.name.clone()).collect()
}

/// The place of the NIC that is meant.
fn nic_named(names: &[String], nic: Option<&str>) -> Result<usize, String> {
    match nic {
        None if names.len() == 1 => Ok(0),
        None => Err(format!(
            "which NIC? say --nic with one of: {}",
            names.join(", ")
        )),
        Some(nic) => names
            .iter()
            .position(|name| name == nic)
            .ok_or_else(|| format!("no NIC '{nic}': there is {}", names.join(", "))),
    }
}

/// The same where words may name another; `None` if there are several and none is named.
fn nic_or_any(names: &[String], nic: Option<&str>) -> Result<Option<usize>, String> {
    match nic {
        None if names.len() > 1 => Ok(None),
        nic => nic_named(names, nic).map(Some),
    }
}

/// The first of several commands that cannot be carried out.
struct Rejected {
    at: usize,
    why: String,
}

/// The commands for one NIC, each with its place among all.
type ForOne = (Vec<usize>, Vec<Command>);

/// What commands make of the policies of their NICs, all of them or none.
fn plan<N: Nics>(nics: &N, commands: &[NicCommand]) -> Result<Vec<Change>, Rejected> {
    let (read, unread) = read(&names(nics), commands);
    let mut changes = Vec::new();
    let mut rejected = unread;
    for (n, nic) in nics.nics().enumerate() {
        let Some((places, commands)) = read.get(&n) else {
            continue;
        };
        match nic.policy().with_all(commands) {
            Ok(policy) => {
                let before = nic.policy();
                let ignored = commands
                    .iter()
                    .flat_map(|c| before.ignored(c).into_iter().chain(before.loses(c)));
                let answers = commands.iter().flat_map(|c| policy.answers(c));
                changes.push(Change {
                    nic: n,
                    notes: ignored.chain(answers).collect(),
                    said: said(commands),
                    policy,
                });
            }
            Err(Refused { at, why }) => {
                let at = places.get(at).copied().unwrap_or_default();
                if rejected.as_ref().is_none_or(|first| at < first.at) {
                    let why = why.to_string();
                    rejected = Some(Rejected { at, why });
                }
            }
        }
    }
    rejected.map_or(Ok(changes), Err)
}

/// Commands by NIC, up to the first that is none.
fn read(names: &[String], commands: &[NicCommand]) -> (BTreeMap<usize, ForOne>, Option<Rejected>) {
    let mut read = BTreeMap::<usize, ForOne>::new();
    for (at, NicCommand { nic, words }) in commands.iter().enumerate() {
        match read_one(names, nic.as_deref(), words) {
            Ok((n, command)) => {
                let (places, commands) = read.entry(n).or_default();
                places.push(at);
                commands.push(command);
            }
            Err(why) => return (read, Some(Rejected { at, why })),
        }
    }
    (read, None)
}

/// A command and the place of its NIC, which may be named beside its words or in them, as `dev`.
fn read_one(
    names: &[String],
    nic: Option<&str>,
    words: &[String],
) -> Result<(usize, Command), String> {
    let read = Command::parse_addressed(words);
    let Addressed { dev, command } = read.map_err(|refusal| refusal.to_string())?;
    match (nic, dev.as_deref()) {
        (Some(nic), Some(dev)) if nic != dev => Err(format!(
            "--nic {nic} and dev {dev}: a command is for one NIC"
        )),
        (nic, dev) => Ok((nic_named(names, nic.or(dev))?, command)),
    }
}

fn said(commands: &[Command]) -> String {
    match commands {
        [command] => command.to_string(),
        [first, .., last] => format!("{} commands, from '{first}' to '{last}'", commands.len()),
        [] => String::new(),
    }
}
