//! From the sections of a file to a [`ScenarioPlan`]: resolves names, and refuses what cannot be done before anything runs.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Spanned;
use vf_model::{
    Addressed, Command, Mtu, Nanos, Policy, Profile, Question, Source, VfIndex, VfRequest,
};
use vf_nic::config::initial_policy;
use vf_nic::config::{Config, DeviceKind, Sections, one_line, read_text};
use vf_nic::uplink::UplinkSpec;

use crate::virtual_hosts::cost_model;
use crate::virtual_hosts::{NUM_VFS, changes_vfs};

use super::error::{LoadError, ScenarioError, value};
use super::expect;
use super::parse::{
    EventSection, File, FrameSection, GuestSection, JobSection, PingSection, SendSection,
};
use super::plan::{
    Amount, Event, FramePlan, GuestKind, GuestPlan, Interface, Job, Names, Request, ScenarioPlan,
    Work,
};
use super::shipped::Shipped;
use vf_model::duration::Duration;

/// Bytes of each frame that a capture keeps, unless told otherwise: all headers.
const SNAPLEN: u32 = 128;
/// Least time between two interrupts of a VF, unless told otherwise.
const MODERATION: Nanos = Nanos(20_000);
/// Streams of a job.
const MAX_STREAMS: u16 = 64;
/// The port of the first job that sends; each has one of its own.
const FIRST_PORT: u16 = 5201;

impl ScenarioPlan {
    /// Reads and checks a file. `kind` takes the place of what the file says of its guests, `profile` that of its first NIC.
    ///
    /// # Errors
    /// [`LoadError`].
    pub fn load(
        path: &Path,
        kind: Option<GuestKind>,
        profile: Option<Profile>,
    ) -> Result<ScenarioPlan, LoadError> {
        let (path, text) = ScenarioPlan::read(path)?;
        ScenarioPlan::parse(&path, &text, kind, profile)
    }

    /// The text of a file, or of the shipped scenario of that name.
    pub(super) fn read(path: &Path) -> Result<(PathBuf, String), LoadError> {
        read_text(path)
            .map(|text| (path.to_owned(), text))
            .or_else(|source| {
                let name = path.to_str();
                let shipped = name.and_then(Shipped::named);
                let shipped = shipped.ok_or_else(|| LoadError::Read {
                    path: path.to_owned(),
                    source,
                    meant: name.and_then(Shipped::nearest),
                })?;
                Ok((shipped.name.into(), shipped.text.to_owned()))
            })
    }

    pub(super) fn parse(
        path: &Path,
        text: &str,
        kind: Option<GuestKind>,
        profile: Option<Profile>,
    ) -> Result<ScenarioPlan, LoadError> {
        let file: File = toml::from_str(text).map_err(|e| LoadError::Parse {
            path: path.to_owned(),
            what: one_line(text, &e),
        })?;
        let whole = |mistake| LoadError::Whole {
            path: path.to_owned(),
            mistake,
        };
        let sections = Sections {
            text,
            hypervisor: file.hypervisor,
            nic: file.nic,
            wire: file.wire,
        };
        let seed = file.seed.unwrap_or(1);
        let mut config =
            Config::from_sections(sections, PathBuf::new(), false).map_err(|source| {
                LoadError::Config {
                    path: path.to_owned(),
                    source: Box::new(source),
                }
            })?;
        check_config(&config).map_err(whole)?;
        if let (Some(nic), Some(profile)) = (config.nics.first_mut(), profile) {
            let vfs = nic.vf.len();
            if vfs > usize::from(profile.max_vfs()) {
                return Err(whole(ScenarioError::VfCount {
                    nic: nic.name.clone(),
                    vfs,
                    profile,
                }));
            }
            for (i, vf) in nic.vf.iter().enumerate() {
                let fits = vf.device.fits(profile);
                fits.map_err(|why| {
                    whole(ScenarioError::Device {
                        nic: nic.name.clone(),
                        vf: VfIndex::from(i),
                        device: vf.device,
                        why,
                    })
                })?;
            }
            nic.profile = profile;
        }
        let policies = config.nics.iter().map(|nic| {
            initial_policy(nic).map_err(|(vf, refusal)| {
                whole(ScenarioError::Policy {
                    nic: nic.name.clone(),
                    vf,
                    refusal,
                })
            })
        });
        let policies = policies.collect::<Result<Vec<_>, _>>()?;
        for nic in &mut config.nics {
            for spec in [&mut nic.netem.egress, &mut nic.netem.ingress] {
                *spec = spec
                    .take()
                    .map(|spec| Arc::new((*spec).clone().or_seed(seed)));
            }
            let commands = std::mem::take(&mut nic.switch).into_iter();
            nic.switch = commands.map(|command| command.or_seed(seed)).collect();
        }
        let until = file.until.0;
        if until == Nanos(0) {
            return Err(whole(value("until", file.until, "a time after the start")));
        }
        let mut plan = ScenarioPlan {
            file: path.to_owned(),
            about: file.about.unwrap_or_default(),
            profile: config
                .nics
                .first()
                .map_or_else(Profile::default, |nic| nic.profile),
            kind: kind.or(file.guests).unwrap_or_default(),
            until,
            snaplen: file.snaplen.unwrap_or(SNAPLEN),
            seed,
            moderation: file.moderation.map_or(MODERATION, |time| time.0),
            config,
            guests: Vec::new(),
            jobs: Vec::new(),
            frames: Vec::new(),
            events: Vec::new(),
            expectations: Vec::new(),
            names: Names::default(),
        };
        let place = Place::new(path, text);
        for section in file.guest {
            let guest = place.check(section, |s| plan.guest(s))?;
            plan.guests.push(guest);
        }
        for section in file.job {
            let job = place.check(section, |s| plan.job(s))?;
            plan.names.jobs.insert(job.name.clone(), plan.jobs.len());
            plan.jobs.push(job);
        }
        for section in file.frame {
            let frame = place.check(section, |s| plan.frame(s, &policies))?;
            plan.names
                .frames
                .insert(frame.name.clone(), plan.frames.len());
            plan.frames.push(frame);
        }
        place.events(&mut plan, file.event, policies)?;
        for section in file.expect {
            let line = place.line(&section);
            let expectation = place.check(section, |s| expect::check(&plan, s, line))?;
            plan.expectations.push(expectation);
        }
        if plan.guests.is_empty() {
            return Err(whole(ScenarioError::Needs("the file names no [[guest]]")));
        }
        Ok(plan)
    }

    fn guest(&self, section: GuestSection) -> Result<GuestPlan, ScenarioError> {
        let name = section.name;
        let good = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
        if name.is_empty() || !name.chars().all(good) {
            return Err(value(
                "name",
                format!("\"{name}\""),
                "letters, digits, '-' and '_'",
            ));
        }
        if self.guests.iter().any(|guest| guest.name == name) {
            return Err(ScenarioError::Twice {
                what: "guest",
                name,
                advice: "each has a name of its own",
            });
        }
        if !section.also.is_empty() && self.kind == GuestKind::Embedded {
            return Err(ScenarioError::Needs(
                "also: only Linux guests have several interfaces: guests = \"linux\"",
            ));
        }
        let mut interfaces =
            vec![self.interface(section.nic.as_deref(), section.vf, &section.address, &[])?];
        for also in section.also {
            let interface =
                self.interface(also.nic.as_deref(), also.vf, &also.address, &interfaces)?;
            interfaces.push(interface);
        }
        let told = interfaces
            .iter()
            .map(|i| self.config.nics[i.nic].told_mtu(i.vf));
        let most = told.min().unwrap_or(Mtu::ETHERNET).get();
        let mtu = section.mtu.unwrap_or(most);
        if !(576..=most).contains(&mtu) {
            return Err(value("mtu", mtu, "576 bytes to the mtu of its [[nic]]"));
        }
        Ok(GuestPlan {
            name,
            interfaces,
            mtu,
        })
    }

    /// `own`: the interfaces that the guest has already.
    fn interface(
        &self,
        nic: Option<&str>,
        vf: u16,
        address: &str,
        own: &[Interface],
    ) -> Result<Interface, ScenarioError> {
        let nic = self.nic(nic)?;
        if vf >= self.config.nics[nic].num_vfs() {
            return Err(value("vf", vf, "the VFs of a NIC are 0 to its vfs - 1"));
        }
        let vf = VfIndex::from(usize::from(vf));
        let settings = &self.config.nics[nic].vf[vf.index()];
        if settings.device != DeviceKind::Virtio && self.kind == GuestKind::Embedded {
            return Err(ScenarioError::Needs(
                "device: embedded guests have a driver of virtio-net only: guests = \"linux\"",
            ));
        }
        let wrong = || value("address", format!("\"{address}\""), "such as 10.0.0.1/24");
        let (ip, prefix_len) = address.split_once('/').ok_or_else(wrong)?;
        let address: Ipv4Addr = ip.parse().map_err(|_| wrong())?;
        let prefix_len: u8 = prefix_len.parse().map_err(|_| wrong())?;
        let unicast =
            !(address.is_multicast() || address.is_broadcast() || address.octets()[0] == 0);
        if !unicast || address.is_loopback() || !(1..=31).contains(&prefix_len) {
            return Err(wrong());
        }
        for other in self.guests.iter().flat_map(|g| &g.interfaces).chain(own) {
            let (what, name) = if (other.nic, other.vf) == (nic, vf) {
                ("guest on", format!("{} {vf}", self.config.nics[nic].name))
            } else if other.address == address {
                ("guest at", address.to_string())
            } else {
                continue;
            };
            let advice = "a VF and an address belong to one guest";
            return Err(ScenarioError::Twice { what, name, advice });
        }
        Ok(Interface {
            nic,
            vf,
            address,
            prefix_len,
        })
    }

    fn job(&self, section: JobSection) -> Result<Job, ScenarioError> {
        let guest = self.guest_named("guest", &section.guest)?;
        let name = section.name.unwrap_or(section.guest);
        if self.names.jobs.contains_key(&name) {
            return Err(ScenarioError::Twice {
                what: "job",
                name,
                advice: "give this one a name of its own",
            });
        }
        let at = self.within("at", section.at)?;
        let mut port = section.port;
        if port == Some(0) || (port.is_some() && section.run.is_none()) {
            return Err(ScenarioError::Needs(
                "port: 1 to 65535, and only beside run: it tells the connections of jobs apart",
            ));
        }
        let work = match (section.run, section.send, section.ping) {
            (Some(command), None, None) if self.kind == GuestKind::Linux => Work::Run(command),
            (Some(_), None, None) => {
                return Err(ScenarioError::Needs(
                    "run: only Linux guests have a shell: guests = \"linux\", or use send or ping",
                ));
            }
            (None, Some(send), None) => {
                let number = u16::try_from(self.jobs.len()).unwrap_or(u16::MAX);
                port = Some(FIRST_PORT.saturating_add(number));
                self.send(guest, send)?
            }
            (None, None, Some(ping)) => self.ping(guest, ping)?,
            _ => return Err(ScenarioError::Needs("a job has one of run, send and ping")),
        };
        Ok(Job {
            name,
            guest,
            at,
            work,
            port,
        })
    }

    fn send(&self, guest: usize, section: SendSection) -> Result<Work, ScenarioError> {
        let to = self.peer(guest, &section.to)?;
        let amount = match (section.bytes, section.duration) {
            (Some(0), _) => return Err(value("bytes", 0, "at least 1")),
            (Some(bytes), None) => Amount::Bytes(bytes),
            (None, Some(time)) => Amount::For(time.0),
            (None, None) => Amount::Endless,
            (Some(_), Some(_)) => {
                return Err(ScenarioError::Needs("send has bytes or for, not both"));
            }
        };
        let streams = section.streams;
        if !(1..=MAX_STREAMS).contains(&streams) {
            return Err(value("streams", streams, "1 to 64"));
        }
        Ok(Work::Send {
            to,
            amount,
            streams,
        })
    }

    fn ping(&self, guest: usize, section: PingSection) -> Result<Work, ScenarioError> {
        if section.count == 0 {
            return Err(value("count", 0, "at least 1"));
        }
        Ok(Work::Ping {
            to: self.peer(guest, &section.to)?,
            count: section.count,
            interval: section.interval.map_or(Nanos(1_000_000), |time| time.0),
        })
    }

    fn peer(&self, guest: usize, name: &str) -> Result<usize, ScenarioError> {
        let to = self.guest_named("to", name)?;
        if to == guest {
            return Err(value("to", name, "another guest"));
        }
        Ok(to)
    }

    fn frame(
        &self,
        section: FrameSection,
        policies: &[Policy],
    ) -> Result<FramePlan, ScenarioError> {
        if self.kind == GuestKind::Linux {
            return Err(ScenarioError::Needs(
                "frame: Linux guests send what Linux sends: guests = \"embedded\"",
            ));
        }
        let name = section.name;
        if self.names.frames.contains_key(&name) {
            return Err(ScenarioError::Twice {
                what: "frame",
                name,
                advice: "each has a name of its own",
            });
        }
        let nic = self.nic(section.nic.as_deref())?;
        let words: Vec<&str> = section.send.split_whitespace().collect();
        let question = Question::parse(&words, &policies[nic])?;
        let sender = self.guests.iter().position(|guest| {
            let mut on = guest.interfaces.iter();
            on.any(|i| i.nic == nic && question.source == Source::Vf(i.vf))
        });
        Ok(FramePlan {
            name,
            at: self.within("at", section.at)?,
            guest: sender.ok_or(ScenarioError::Needs(
                "send: it is from a VF that a [[guest]] is on; the wire's frames are another NIC's",
            ))?,
            bytes: question.frame,
        })
    }

    fn event(&self, section: EventSection) -> Result<Event, ScenarioError> {
        let words = |text: &str| {
            text.split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let mut named = section.nic;
        let front_end = (section.guest, section.front_end);
        let asked = match (section.command, section.vf, section.ask, front_end) {
            (Some(command), None, None, (None, None)) => {
                let Addressed { dev, command } = Command::parse_addressed(&words(&command))?;
                if let (Some(nic), Some(dev)) = (&named, &dev)
                    && nic != dev
                {
                    return Err(value("nic", nic, "its command says another, behind dev"));
                }
                named = named.or(dev);
                Request::Command(command.or_seed(self.seed))
            }
            (None, Some(vf), Some(ask), (None, None)) => {
                Request::Driver(VfIndex(vf), VfRequest::parse(&words(&ask))?, ask)
            }
            (None, None, None, (Some(guest), Some(does))) => {
                let names = self.guests.iter().map(|guest| guest.name.as_str());
                let guest = find("guest", &guest, names)?;
                let on = self.guests[guest].interfaces.first();
                let on = on.filter(|_| self.kind == GuestKind::Embedded && named.is_none());
                let on = on.ok_or(ScenarioError::Needs(
                    "front_end is of an embedded guest, and its NIC is the guest's",
                ))?;
                named = self.config.nics.get(on.nic).map(|nic| nic.name.clone());
                let vf = on.vf;
                Request::FrontEnd { guest, vf, does }
            }
            _ => {
                return Err(ScenarioError::Needs(
                    "an event has do; or vf and ask: what the driver of that VF asks; or guest and front_end: what that does",
                ));
            }
        };
        Ok(Event {
            name: section.name,
            at: self.within("at", section.at)?,
            nic: self.nic(named.as_deref())?,
            asked,
            answer: String::new(),
            refused: false,
        })
    }

    pub(super) fn frame_named(&self, name: &str) -> Result<usize, ScenarioError> {
        let names = self.frames.iter().map(|frame| frame.name.as_str());
        known("reaches", name, &self.names.frames, names)
    }

    pub(super) fn event_named(&self, name: &str) -> Result<usize, ScenarioError> {
        let names = self.events.iter().filter_map(|event| event.name.as_deref());
        known("answer", name, &self.names.events, names)
    }

    pub(super) fn within(&self, key: &'static str, time: Duration) -> Result<Nanos, ScenarioError> {
        if time.0 > self.until {
            return Err(value(key, time, "the scenario ends before (until)"));
        }
        Ok(time.0)
    }

    /// The NIC of this name; with one NIC there is no need to say it.
    pub(super) fn nic(&self, name: Option<&str>) -> Result<usize, ScenarioError> {
        let names = self.config.nics.iter().map(|nic| nic.name.as_str());
        match (name, self.config.nics.len()) {
            (Some(name), _) => find("nic", name, names),
            (None, 1) => Ok(0),
            (None, _) => Err(ScenarioError::Needs("nic: say which, there are several")),
        }
    }

    pub(super) fn guest_named(
        &self,
        key: &'static str,
        name: &str,
    ) -> Result<usize, ScenarioError> {
        find(
            key,
            name,
            self.guests.iter().map(|guest| guest.name.as_str()),
        )
    }

    pub(super) fn job_named(&self, key: &'static str, name: &str) -> Result<usize, ScenarioError> {
        let names = self.jobs.iter().map(|job| job.name.as_str());
        known(key, name, &self.names.jobs, names)
    }
}

/// As [`find`], of names that may be many.
fn known<'a>(
    what: &'static str,
    name: &str,
    numbers: &HashMap<String, usize>,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<usize, ScenarioError> {
    let number = numbers.get(name).copied();
    number.map_or_else(|| find(what, name, names), Ok)
}

fn find<'a>(
    what: &'static str,
    name: &str,
    names: impl Iterator<Item = &'a str> + Clone,
) -> Result<usize, ScenarioError> {
    names
        .clone()
        .position(|known| known == name)
        .ok_or_else(|| {
            let known: Vec<_> = names.collect();
            ScenarioError::NoSuch {
                what,
                name: name.escape_debug().to_string(),
                known: if known.is_empty() {
                    "none above".to_owned()
                } else {
                    known.join(", ")
                },
            }
        })
}

/// What cannot be on the virtual clock, or is the scenario's own business.
fn check_config(config: &Config) -> Result<(), ScenarioError> {
    cost_model(config.hypervisor)?;
    for nic in &config.nics {
        let uplink = nic.uplink.as_ref();
        if uplink.is_some_and(UplinkSpec::is_of_this_machine) {
            return Err(ScenarioError::Needs(
                "uplink, tap: the host's devices are not on the virtual clock",
            ));
        }
        for (i, vf) in nic.vf.iter().enumerate() {
            let own = Path::new(&format!("{}-vf{i}.sock", nic.name)) == vf.socket;
            if vf.tap.is_some() {
                return Err(ScenarioError::Needs(
                    "tap, netns: the host's devices are not on the virtual clock",
                ));
            }
            if vf.of_this_machine().is_some() || !own {
                return Err(ScenarioError::Needs(
                    "socket, socket_role, qmp, link_method: a scenario makes its own sockets",
                ));
            }
        }
    }
    Ok(())
}

/// Where sections are, for whoever has to mend them.
struct Place<'a> {
    path: &'a Path,
    /// Where the lines of the file end.
    ends: Vec<usize>,
}

impl Place<'_> {
    fn new<'a>(path: &'a Path, text: &str) -> Place<'a> {
        let ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let ends = ends.map(|(at, _)| at).collect();
        Place { path, ends }
    }

    /// Counted from 1.
    fn line<T>(&self, section: &Spanned<T>) -> usize {
        let start = section.span().start;
        self.ends.partition_point(|end| *end < start) + 1
    }

    fn check<T, R>(
        &self,
        section: Spanned<T>,
        check: impl FnOnce(T) -> Result<R, ScenarioError>,
    ) -> Result<R, LoadError> {
        let line = self.line(&section);
        check(section.into_inner()).map_err(|mistake| self.wrong(line, mistake))
    }

    fn wrong(&self, line: usize, mistake: ScenarioError) -> LoadError {
        LoadError::Section {
            path: self.path.to_owned(),
            line,
            mistake,
        }
    }

    /// Puts events in order, and tries them on the policies that they will change: none will be refused but those that have a
    /// name, for whoever wants to know what is answered.
    fn events(
        &self,
        plan: &mut ScenarioPlan,
        sections: Vec<Spanned<EventSection>>,
        mut policies: Vec<Policy>,
    ) -> Result<(), LoadError> {
        let mut events = Vec::new();
        let mut names = HashSet::new();
        for section in sections {
            let line = self.line(&section);
            let event = self.check(section, |s| plan.event(s))?;
            if let Some(name) = &event.name
                && !names.insert(name.clone())
            {
                let twice = ScenarioError::Twice {
                    what: "event",
                    name: name.clone(),
                    advice: "each has a name of its own",
                };
                return Err(self.wrong(line, twice));
            }
            events.push((event, line));
        }
        events.sort_by_key(|(event, _)| event.at);
        for (mut event, line) in events {
            let policy = &mut policies[event.nic];
            let done = match &event.asked {
                Request::Command(command) => policy.with(command).map(|after| {
                    let ignored = policy.ignored(command);
                    (
                        after,
                        [vec!["done".to_owned()], ignored].concat().join(": "),
                    )
                }),
                Request::Driver(vf, request, _) => {
                    policy.with_request(*vf, request).map(|granted| {
                        let denied = granted.denied.map(|why| format!("not all: {why}"));
                        (granted.policy, denied.unwrap_or("granted".to_owned()))
                    })
                }
                // Whoever was there has gone, and whoever comes has asked for nothing yet.
                Request::FrontEnd { vf, .. } => {
                    let anew = VfRequest::Reset {
                        lists_groups: false,
                        lists_vlans: false,
                    };
                    let anew = policy.with_request(*vf, &anew);
                    anew.map(|granted| (granted.policy, "done".to_owned()))
                }
            };
            match done {
                Ok((after, _)) if changes_vfs(policy, &after) => {
                    return Err(self.wrong(line, ScenarioError::Needs(NUM_VFS)));
                }
                Ok((after, answer)) => (*policy, event.answer) = (after, answer),
                Err(refusal) if event.name.is_some() => {
                    (event.refused, event.answer) = (true, format!("refused: {refusal}"));
                }
                Err(refusal) => return Err(self.wrong(line, refusal.into())),
            }
            if let Some(name) = &event.name {
                plan.names.events.insert(name.clone(), plan.events.len());
            }
            plan.events.push(event);
        }
        Ok(())
    }
}
