//! `vfnic top`: what passes NICs and VFs, on a terminal, with keys that change a VF. The loop: it reads keys and counters, and does what
//! [`state`] says; [`view`] draws. The counters are those that planes publish: whoever looks stops no plane.

mod end;
mod state;
mod view;

use std::collections::BTreeMap;
use std::io::{self, IsTerminal};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ratatui::crossterm::event;
use ratatui::crossterm::event::KeyEventKind;
use vfnic::cli;
use vfnic::control::{CaptureRequest, Connection, CtlError, NicCommand, Request, Response};
use vfnic::log::complain;

use self::state::{Action, Event, Port, Top};
use self::view::Theme;
use crate::capture;
use crate::failure::{Failure, failed, unanswered, usage};
use crate::show::named;

/// How soon a key, a reading or a signal is noticed.
const TICK: Duration = Duration::from_millis(50);

/// Shows until the user has enough. A vfnic that is not there, or goes, is waited for.
pub(crate) fn top(ctl: &Path, nic: Option<String>, args: &cli::Top) -> Result<(), Failure> {
    let term = std::env::var("TERM").unwrap_or_default();
    if !io::stdout().is_terminal() || !io::stdin().is_terminal() || matches!(&*term, "" | "dumb") {
        return Err(usage(
            "top draws on a terminal, which this is not: 'vfnic show --watch 1' says the same in lines",
        ));
    }
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let theme = Theme { colour: !no_colour };
    let stop = Arc::new(AtomicBool::new(false));
    let has_ended = end::watch(&stop)?;
    let (say, events) = channel();
    let (commands, asked) = channel();
    let asker = Asker {
        ctl: ctl.to_owned(),
        nic: nic.clone(),
        every: args.interval,
        say: say.clone(),
    };
    let thread = std::thread::Builder::new().name("ask".to_owned());
    thread.spawn(move || asker.run(&asked)).map_err(failed)?;
    let mut captures = Captures {
        ctl: ctl.to_owned(),
        say,
        running: BTreeMap::new(),
    };
    let mut screen = Screen::open().map_err(failed)?;
    let socket = ctl.display().to_string();
    let mut top = Top::new(nic);
    let outcome = 'shown: loop {
        let draw = screen
            .terminal
            .draw(|frame| view::draw(frame, &top, &socket, theme));
        if let Err(error) = draw {
            break Err(failed(error));
        }
        loop {
            if stop.load(Ordering::Relaxed) {
                break 'shown Ok(());
            }
            let happened = match happens(&events) {
                Ok(Some(happened)) => happened,
                Ok(None) => continue,
                Err(why) => break 'shown Err(why),
            };
            let action = match happened {
                Happened::Resized => None,
                Happened::Event(event) => top.update(event),
            };
            match action {
                None => {}
                Some(Action::Quit) => break 'shown Ok(()),
                Some(Action::Command(nic, words)) => {
                    let nic = Some(nic);
                    // This fails only if the thread that sends commands has ended.
                    let _ = commands.send(NicCommand { nic, words });
                }
                Some(Action::Capture(port)) => captures.begin(port),
                Some(Action::EndCapture(port)) => captures.end(&port),
            }
            break;
        }
    };
    drop(screen);
    captures.end_all();
    drop(has_ended);
    outcome
}

/// A terminal that is drawn on, and is as it was when this is dropped; after a panic, too.
struct Screen {
    terminal: ratatui::DefaultTerminal,
}

impl Screen {
    fn open() -> io::Result<Screen> {
        let terminal = ratatui::try_init()?;
        Ok(Screen { terminal })
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // The terminal may have gone.
        let _ = ratatui::try_restore();
    }
}

enum Happened {
    Event(Event),
    Resized,
}

/// What has happened, or nothing for a while. What others say goes first: they say little.
fn happens(events: &Receiver<Result<Event, Failure>>) -> Result<Option<Happened>, Failure> {
    if let Ok(said) = events.try_recv() {
        return Ok(Some(Happened::Event(said?)));
    }
    match event::poll(TICK) {
        Ok(false) => return Ok(None),
        Ok(true) => {}
        // By a signal.
        Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(None),
        Err(error) => return Err(failed(error)),
    }
    Ok(match event::read().map_err(failed)? {
        event::Event::Key(key) if key.kind == KeyEventKind::Press => {
            Some(Happened::Event(Event::Key(key)))
        }
        event::Event::Resize(..) => Some(Happened::Resized),
        _ => None,
    })
}

/// Asks for the counters again and again, and carries out commands between, on a thread of its own: an answer may take long.
struct Asker {
    ctl: PathBuf,
    /// The one that is looked at, if it is one.
    nic: Option<String>,
    every: Duration,
    say: Sender<Result<Event, Failure>>,
}

impl Asker {
    /// Until nobody listens any more.
    fn run(&self, commands: &Receiver<NicCommand>) {
        let mut connection = None;
        loop {
            let next = Instant::now() + self.every;
            let said = match self.ask(&mut connection, &Request::Show) {
                Ok(Some(Response::Show(show))) => match &self.nic {
                    Some(nic) => named(&show, nic).map(drop).map(|()| Event::Shown(show)),
                    None => Ok(Event::Shown(show)),
                },
                Ok(Some(Response::Refused(why))) => Err(usage(why)),
                Ok(Some(_)) => Err(unanswered()),
                Ok(None) => Ok(Event::Missing),
                Err(why) => Err(why),
            };
            if self.say.send(said).is_err() {
                return;
            }
            let command =
                match commands.recv_timeout(next.saturating_duration_since(Instant::now())) {
                    Ok(command) => command,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => return,
                };
            // Which NIC it is of is not seen where there are many.
            let nic = command.nic.iter().map(|nic| format!("{nic}: "));
            let words = nic.collect::<String>() + &command.words.join(" ");
            let said = match self.ask(&mut connection, &Request::Command(command)) {
                Ok(Some(Response::Done(notes))) if notes.is_empty() => Ok(words),
                Ok(Some(Response::Done(notes))) => Ok(format!("{words}: {}", notes.join("; "))),
                Ok(Some(Response::Refused(why))) => Ok(why),
                Ok(_) => Ok(format!("{words}: there is no vfnic to do it")),
                Err(why) => Err(why),
            };
            if self.say.send(said.map(Event::Said)).is_err() {
                return;
            }
        }
    }

    /// Nothing if there is nobody who answers, for now.
    fn ask(
        &self,
        connection: &mut Option<Connection>,
        request: &Request,
    ) -> Result<Option<Response>, Failure> {
        let answer = match connection {
            Some(connection) => connection.ask(request),
            None => Connection::open(&self.ctl)
                .and_then(|opened| connection.insert(opened).ask(request)),
        };
        match answer {
            Ok(response) => Ok(Some(response)),
            Err(error @ (CtlError::Version { .. } | CtlError::Protocol { .. })) => {
                Err(failed(error))
            }
            Err(_) => {
                *connection = None;
                Ok(None)
            }
        }
    }
}

/// Captures into files, each on a thread of its own.
struct Captures {
    ctl: PathBuf,
    say: Sender<Result<Event, Failure>>,
    running: BTreeMap<Port, (UnixStream, JoinHandle<String>)>,
}

impl Captures {
    fn begin(&mut self, port: Port) {
        let said = match self.try_begin(&port) {
            Ok(file) => Event::CaptureBegun(port, format!("capturing into {file}: c ends it")),
            Err(Failure::Usage(why) | Failure::Failed(why)) => Event::Said(why),
        };
        // Whoever has pressed the key listens.
        let _ = self.say.send(Ok(said));
    }

    fn try_begin(&mut self, port: &Port) -> Result<String, Failure> {
        let (nic, vf) = port;
        let request = CaptureRequest {
            nic: Some(nic.clone()),
            words: vec!["vf".to_owned(), vf.to_string()],
            ..CaptureRequest::default()
        };
        let stream = capture::stream(&self.ctl, &Request::Capture(request))?;
        let end = stream.get_ref().try_clone().map_err(failed)?;
        let file = unused_name(nic, *vf);
        let mut out = capture::Out::open(Some(&file))?;
        let name = file.display().to_string();
        let (say, port, shown) = (self.say.clone(), port.clone(), name.clone());
        let of = port.clone();
        let thread = std::thread::Builder::new().name("capture".to_owned());
        let thread = thread.spawn(move || {
            let said = match capture::copy(stream, &mut out) {
                Ok(counted) => format!("{name}: {counted}"),
                Err(Failure::Usage(why) | Failure::Failed(why)) => why,
            };
            let _ = say.send(Ok(Event::CaptureEnded(of, said.clone())));
            said
        });
        self.running.insert(port, (end, thread.map_err(failed)?));
        Ok(shown)
    }

    /// Has it end; what has been captured so far still comes.
    fn end(&mut self, port: &Port) {
        if let Some((end, _)) = self.running.remove(port) {
            let _ = end.shutdown(Shutdown::Write);
        }
    }

    /// Ends all of them and says what they have come to, where there is no screen any more.
    fn end_all(&mut self) {
        for (end, thread) in std::mem::take(&mut self.running).into_values() {
            let _ = end.shutdown(Shutdown::Write);
            if let Ok(said) = thread.join() {
                complain(&said);
            }
        }
    }
}

/// A file in this folder that is not there yet.
fn unused_name(nic: &str, vf: u16) -> PathBuf {
    let names = (0..).map(|n| match n {
        0 => PathBuf::from(format!("{nic}-vf{vf}.pcapng")),
        n => PathBuf::from(format!("{nic}-vf{vf}-{n}.pcapng")),
    });
    let mut unused = names.skip_while(|name| name.exists());
    unused.next().unwrap_or_default()
}
