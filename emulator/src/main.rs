//! The command line tool: runs what was asked for and turns its outcome into text and an exit code. 0: done. 1: failed.
//! 2: the command or the configuration is wrong, and nothing has changed.
#![forbid(unsafe_code)]

mod batch;
mod bridge;
mod capture;
mod check;
#[cfg(feature = "lab")]
mod demo;
mod extcap;
mod filter;
mod guest;
#[cfg(feature = "lab")]
mod lab;
mod monitor;
mod netns;
mod pages;
mod profile;
#[cfg(feature = "lab")]
mod progress;
mod rates;
mod show;
#[cfg(feature = "top")]
mod top;
mod units;
mod upgrade;
mod why;

use std::ffi::OsString;
use std::io::{IsTerminal, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use batch::Batch;
use clap::{CommandFactory, Parser};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
#[cfg(feature = "lab")]
use vfnic::cli::RunClock;
use vfnic::cli::{self, Cli};
use vfnic::config::{Config, Overrides, SocketAccess, default_socket_dir, temporary_socket_dir};
use vfnic::control::{NicCommand, Request, Response, ask};
use vfnic::log::{Log, RateLimit, StandardError, complain};
use vfnic::sandbox::{Role, Sandbox};
use vfnic::server::ready::{Ready, is_own_dir};
use vfnic::server::{Belongings, RunError, Server};
use vfnic::state_file::StateFile;

/// What ends the program other than success: one line, and whose fault it is.
enum Failure {
    Usage(String),
    Failed(String),
}

fn usage(e: impl ToString) -> Failure {
    Failure::Usage(e.to_string())
}

fn failed(e: impl ToString) -> Failure {
    Failure::Failed(e.to_string())
}

fn refused(e: RunError) -> Failure {
    if e.is_usage() { usage(e) } else { failed(e) }
}

fn main() -> ExitCode {
    vfnic::panics::end_the_process();
    // A shell asks what may follow, and is answered.
    match complete() {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => {}
        Err(error) => error.exit(),
    }
    let cli = match Cli::try_parse_from(arguments()) {
        Ok(cli) => cli,
        Err(error) => match misread(&error, arguments()) {
            Some(line) => {
                complain(&line);
                return ExitCode::from(2);
            }
            None => error.exit(),
        },
    };
    match carry_out(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Usage(line)) => {
            complain(&line);
            ExitCode::from(2)
        }
        Err(Failure::Failed(line)) => {
            complain(&line);
            ExitCode::FAILURE
        }
    }
}

/// Answers a shell, if it is one that asks.
fn complete() -> clap::error::Result<bool> {
    let said = std::env::args_os();
    let completer = clap_complete::CompleteEnv::with_factory(Cli::command);
    let said: Vec<_> = said
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    completer.try_complete(cli::joined(said), std::env::current_dir().ok().as_deref())
}

fn carry_out(cli: Cli) -> Result<(), Failure> {
    let Cli { ctl, nic, command } = cli;
    let (ctl, nic) = match (&command, command.target()) {
        (_, Some(behind)) => (behind.ctl.clone().or(ctl), behind.nic.clone().or(nic)),
        (
            cli::Command::Run(cli::Run { ctl: behind, .. })
            | cli::Command::Save { ctl: behind }
            | cli::Command::Upgrade(cli::Upgrade { ctl: behind, .. })
            | cli::Command::Extcap(cli::Extcap { ctl: behind, .. }),
            _,
        ) if nic.is_none() => (behind.clone().or(ctl), None),
        (_, None) if nic.is_none() && ctl.is_none() => (None, None),
        _ => {
            const NICS: &str = "show, top, guest, netns, vf, filter, link, bridge, fdb, why, capture, monitor, check and batch";
            return Err(usage(match nic {
                Some(_) => format!("--nic is for {NICS}"),
                None => format!("--ctl is for {NICS}, save, upgrade, extcap and run"),
            }));
        }
    };
    match command {
        cli::Command::Run(args) => run(args, ctl),
        #[cfg(feature = "lab")]
        cli::Command::Demo(args) => demo::demo(&args),
        #[cfg(feature = "lab")]
        cli::Command::Experiment(args) => lab::run_experiment(&args),
        #[cfg(feature = "lab")]
        cli::Command::Scenario { command } => lab::run_scenario(command),
        cli::Command::Guest(args) => guest::guest(&running(ctl)?, nic.as_deref(), &args),
        cli::Command::Show(args) => show::show_all(&running(ctl)?, nic.as_deref(), &args),
        #[cfg(feature = "top")]
        cli::Command::Top(args) => top::top(&running(ctl)?, nic, &args),
        cli::Command::Netns { command, .. } => {
            netns::netns(&running(ctl)?, nic.as_deref(), &command)
        }
        cli::Command::Save { .. } => save(&running(ctl)?),
        cli::Command::Upgrade(args) => upgrade::upgrade(&running(ctl)?, &args),
        cli::Command::Vf { words, .. } => self::command(&running(ctl)?, nic, "vf", words),
        cli::Command::Filter { command, .. } => filter::filter(&running(ctl)?, nic, command),
        cli::Command::Link { words, show, .. } => match bridge::question_of_link(&words) {
            Some(question) => question.ask(&running(ctl)?, nic.as_deref(), show.json),
            None if show.json => Err(usage(NO_JSON)),
            None => self::command(&running(ctl)?, nic, "link", words),
        },
        cli::Command::Capture(args) => capture::capture(&running(ctl)?, nic, &args),
        cli::Command::Check {
            command: cli::Check::Paths(args),
            ..
        } => check::paths(&running(ctl)?, nic, &args),
        cli::Command::Monitor(args) => monitor::monitor(&running(ctl)?, nic, &args),
        cli::Command::Extcap(args) => extcap::extcap(&running(ctl)?, &args),
        cli::Command::Why(args) => why::ask_why(&running(ctl)?, nic, &args),
        cli::Command::Bridge { words, show, .. } => match bridge::question(&words) {
            Some(question) => question.ask(&running(ctl)?, nic.as_deref(), show.json),
            None if show.json => Err(usage(NO_JSON)),
            None => self::command(&running(ctl)?, nic, "bridge", words),
        },
        cli::Command::Fdb {
            mut words, show, ..
        } => {
            words.insert(0, "fdb".to_owned());
            carry_out(Cli {
                ctl,
                nic,
                command: cli::Command::Bridge {
                    at: cli::Target::default(),
                    words,
                    show,
                },
            })
        }
        cli::Command::Profile { command } => profile::say(&command),
        cli::Command::Man { dir } => pages::man(&dir),
        cli::Command::Completions { shell } => pages::completions(shell),
        cli::Command::Batch { file, .. } => carry_out_batch(ctl, nic.as_deref(), &file),
    }
}

/// What a change is told that is to be shown as JSON.
const NO_JSON: &str = "--json is for what shows: show [dev NIC] --json";

/// The command line, in which `-batch` is one word, as it is to ip(8).
fn arguments() -> impl Iterator<Item = OsString> {
    let mut args: Vec<_> = std::env::args_os().collect();
    for arg in args.iter_mut().filter(|arg| *arg == "-batch") {
        *arg = "--batch".into();
    }
    // From its extcap folder, Wireshark runs it without a command.
    if args.get(1).is_some_and(is_of_extcap) {
        args.insert(1, "extcap".into());
    }
    args.into_iter()
}

/// Whether Wireshark has said it.
fn is_of_extcap(arg: &OsString) -> bool {
    let arg = arg.to_string_lossy();
    arg.starts_with("--extcap-") || arg == "--capture"
}

/// The control socket of the vfnic that runs.
fn running(ctl: Option<PathBuf>) -> Result<PathBuf, Failure> {
    if let Some(ctl) = ctl {
        return Ok(ctl);
    }
    let dir = default_socket_dir();
    // Somebody else's NIC would take this user's commands.
    if dir == temporary_socket_dir() && dir.exists() && !is_own_dir(&dir) {
        return Err(failed(RunError::ForeignDir(dir)));
    }
    Ok(dir.join("ctl.sock"))
}

/// What is behind where to read what the command line has: what this program was built without.
const WITHOUT: &str = match (cfg!(feature = "lab"), cfg!(feature = "top")) {
    (true, true) => "",
    (true, false) => "; top needs a vfnic built with the feature 'top'",
    (false, _) => {
        "; experiment, scenario and run --clock need a vfnic built with the feature 'lab', and top one with 'top'"
    }
};

/// What is wrong with the command line, on one line; `None` where help was asked for or is all there is to say.
fn misread(error: &clap::Error, args: impl Iterator<Item = OsString>) -> Option<String> {
    use clap::error::ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand;
    if !error.use_stderr() || error.kind() == DisplayHelpOnMissingArgumentOrSubcommand {
        return None;
    }
    let text = error.to_string();
    // Usage and hints follow behind an empty line.
    let what: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.is_empty())
        .collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let meant = meant(error).map_or_else(String::new, |word| format!(": did you mean '{word}'?"));
    if let Some(number) = negative(error) {
        return Some(format!("{number}: nothing is less than zero here"));
    }
    let number = STD_NUMBERS.into_iter().find(|(std, _)| what.ends_with(std));
    let what = match number {
        Some((std, ours)) => what.replace(std, ours),
        None => what.to_owned(),
    };
    let args: Vec<_> = args.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let program = Cli::command();
    let line = cli::Line::of(&args, &program);
    let (command, _) = line.command(&program);
    Some(format!("{what}{meant} (see '{command} --help'{WITHOUT})"))
}

/// The word that was taken for an option, if it is a number or begins with one, such as `-1ms`.
fn negative(error: &clap::Error) -> Option<String> {
    use clap::error::{ContextKind, ContextValue, ErrorKind};
    let Some(ContextValue::String(word)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let is_number = word
        .strip_prefix('-')?
        .starts_with(|c: char| c.is_ascii_digit());
    // Of `-1ms` clap tells the first letter.
    let said = std::env::args().find(|said| said.starts_with(word.as_str()));
    said.filter(|_| is_number && error.kind() == ErrorKind::UnknownArgument)
}

/// What the standard library says of text that is no number, and what a user is told.
const STD_NUMBERS: [(&str, &str); 4] = [
    ("invalid digit found in string", "a whole number is wanted"),
    (
        "cannot parse integer from empty string",
        "a whole number is wanted",
    ),
    ("invalid float literal", "a number is wanted"),
    ("cannot parse float from empty string", "a number is wanted"),
];

/// The word that was probably meant.
fn meant(error: &clap::Error) -> Option<&str> {
    use clap::error::{ContextKind, ContextValue};
    let suggested = [
        ContextKind::SuggestedSubcommand,
        ContextKind::SuggestedArg,
        ContextKind::SuggestedValue,
    ];
    suggested
        .into_iter()
        .find_map(|kind| match error.get(kind)? {
            ContextValue::String(word) => Some(word.as_str()),
            // Those that are most alike come last.
            ContextValue::Strings(words) => words.last().map(String::as_str),
            _ => None,
        })
}

fn run(args: cli::Run, ctl: Option<PathBuf>) -> Result<(), Failure> {
    #[cfg(feature = "lab")]
    let wall = args.clock == RunClock::Wall;
    #[cfg(not(feature = "lab"))]
    let wall = true;
    let sandbox = match wall && !args.no_sandbox {
        true => Sandbox::On,
        false => Sandbox::Off,
    };
    let log = start_log(sandbox, args.take_over).map_err(failed)?;
    let outcome = match args.take_over {
        true => upgrade::take_over(&args, ctl, sandbox),
        false => run_nics(args, ctl, wall, sandbox),
    };
    log.flush();
    outcome
}

/// Has all that is logged from now on written to standard error.
fn start_log(sandbox: Sandbox, takes_over: bool) -> std::io::Result<Log> {
    // What goes on where another process is writes to that one's log, which may be a file.
    let ansi = std::io::stderr().is_terminal() && !takes_over;
    let log = Log::start(StandardError::of_process(), sandbox)?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let lines = tracing_subscriber::fmt::layer()
        .with_target(false)
        .with_ansi(ansi)
        .with_writer(log.clone())
        .log_internal_errors(false);
    tracing_subscriber::registry()
        .with(lines)
        .with(RateLimit::new(log.clone()))
        .with(filter)
        .init();
    Ok(log)
}

fn run_nics(
    args: cli::Run,
    ctl: Option<PathBuf>,
    wall: bool,
    sandbox: Sandbox,
) -> Result<(), Failure> {
    let over = Overrides {
        socket_dir: args.socket_dir,
        ctl,
        observe: args.observe,
        metrics: args.metrics,
        access: SocketAccess {
            mode: args.mode,
            group: args.group,
        },
        ctl_group: args.ctl_group,
        vfs: args.vfs,
        qmp: args.qmp,
        workers: args.workers,
        mac_base: args.mac_base,
        // On the virtual clock the same run is to be the same everywhere.
        machine: wall.then(machine_id),
        queue_pairs: args.queue_pairs,
        device: args.device,
        profile: args.profile,
        poll: args.poll,
        threads: args.threads,
        cpus: args.cpus,
    };
    let config = Config::load(args.config.as_deref(), &over).map_err(usage)?;
    #[cfg(feature = "lab")]
    if !wall {
        if args.no_sandbox {
            return Err(usage(
                "--no-sandbox is for --clock wall: there is no sandbox on the virtual clock",
            ));
        }
        if args.workers.is_some() || over.threads.is_some() || over.cpus.is_some() {
            return Err(usage(
                "--workers, --threads and --cpus are for --clock wall",
            ));
        }
        if args.state.is_some() || args.no_state {
            return Err(usage(
                "--state is for --clock wall: a run on the virtual clock always starts from its configuration",
            ));
        }
        if config.observe.is_some()
            || config.metrics.is_some()
            || config.access != SocketAccess::default()
            || config.ctl_group.is_some()
        {
            return Err(usage(
                "observe, metrics, mode, group and ctl_group are for --clock wall: sockets of the virtual clock are this user's alone",
            ));
        }
        return lab::run_virtual(&config, args.virtual_clock, args.ready_fd);
    }
    #[cfg(feature = "lab")]
    if args.virtual_clock.is_asked_for() {
        return Err(usage(
            "--calendar, --wait-for, --until, --watchdog, --moderation, --messages and --digest are for --clock virtual",
        ));
    }
    let ctl = config.ctl_socket();
    let signals = signals_in(sandbox)?;
    let mut ready = Ready::claim(&config, args.ready_fd).map_err(refused)?;
    // Whoever goes on where this process is may be started elsewhere.
    let folder = args.state.or_else(state_directory);
    let folder = folder.map(|folder| std::path::absolute(&folder).unwrap_or(folder));
    let (state, config) = match args.no_state {
        true => (None, config),
        false => {
            let opened = StateFile::open(folder.as_deref(), config);
            let (state, config) = opened.map_err(usage)?;
            (Some(state), config)
        }
    };
    let needs = config.needs(folder.as_deref());
    let mut server = Server::start(config, sandbox).map_err(refused)?;
    // Nothing of a guest has been looked at yet, and what is started from here on goes along.
    sandbox.confine(Role::Control(&needs));
    if sandbox == Sandbox::Off {
        tracing::warn!(
            "--no-sandbox: a bug that a guest finds would have all that this user has, not the guests' memory only"
        );
    }
    ready.announce().map_err(refused)?;
    keep(&mut server, &ready, state)?;
    server.stop_on(signals).map_err(failed)?;
    if !args.quiet {
        print_beside(welcome(&server, &ctl)).map_err(failed)?;
    }
    serve(server, ready)
}

/// Has a server keep its state, and what else it is to hand over some day.
fn keep(server: &mut Server, ready: &Ready, state: Option<StateFile>) -> Result<(), Failure> {
    if let Some(ready) = ready.file().map_err(failed)? {
        let state = state.as_ref().map(StateFile::save).transpose();
        let state = state.map_err(failed)?;
        let log = StandardError::of_process().duplicate().map_err(failed)?;
        server.keep_ready(Belongings { ready, log, state });
    }
    match state {
        Some(state) => server.keep_state(state).map_err(failed),
        None => Ok(()),
    }
}

/// Serves until it is time to stop, or until another process has everything.
fn serve(mut server: Server, ready: Ready) -> Result<(), Failure> {
    let outcome = server.run().map_err(failed);
    if server.has_handed_over() {
        // What would be removed or closed is the other process' now.
        std::mem::forget((server, ready));
    } else {
        // Before the first socket goes.
        drop(ready);
    }
    outcome
}

/// This machine's id (machine-id(5)), or its name where it has none.
fn machine_id() -> String {
    let files = [
        "/etc/machine-id",
        "/var/lib/dbus/machine-id",
        "/etc/hostname",
    ];
    let mut ids = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    ids.find(|id| !id.trim().is_empty()).unwrap_or_default()
}

/// Where a service manager has this service keep its state (systemd.exec(5), `StateDirectory=`): the first folder, if it names several.
fn state_directory() -> Option<PathBuf> {
    let folders = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&folders).find(|folder| folder.is_absolute())
}

/// How long the process may take to end in good order when it is told to.
const GRACE: Duration = Duration::from_secs(10);

/// Something arrives here when the user says stop, or closes the terminal. If that is not heard in time, or the user says it
/// again, the process ends all the same.
fn signals() -> Result<UnixStream, Failure> {
    signals_in(Sandbox::Off)
}

/// The same, where the thread that waits for them is in the sandbox.
fn signals_in(sandbox: Sandbox) -> Result<UnixStream, Failure> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    let (mut caught, on_signal) = UnixStream::pair().map_err(failed)?;
    // Under nohup(1) a closed terminal is to change nothing.
    let hang_up = (!is_ignored(SIGHUP)).then_some(SIGHUP);
    for signal in [SIGTERM, SIGINT].into_iter().chain(hang_up) {
        let on_signal = on_signal.try_clone().map_err(failed)?;
        signal_hook::low_level::pipe::register(signal, on_signal).map_err(failed)?;
    }
    let (signals, mut forward) = UnixStream::pair().map_err(failed)?;
    let wait = move || {
        sandbox.confine(Role::Quiet);
        let mut byte = [0];
        if caught.read_exact(&mut byte).is_err() {
            return;
        }
        // It fails only when whoever would hear it is about to end.
        let _ = forward.write_all(&byte);
        let _ = caught.set_read_timeout(Some(GRACE));
        let _ = caught.read(&mut byte);
        // Nothing is said: what holds the others up may be the log.
        signal_hook::low_level::exit(1);
    };
    let thread = std::thread::Builder::new().name("signals".to_owned());
    thread.spawn(wait).map_err(failed)?;
    Ok(signals)
}

/// Whether this process was started with that signal ignored.
fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 != 0)
}

/// Prints while the caller goes on: nobody may be reading.
fn print_beside(text: String) -> std::io::Result<()> {
    let print = move || match print(&text) {
        Ok(()) => {}
        Err(Failure::Usage(why) | Failure::Failed(why)) => {
            tracing::warn!("cannot print what there is: {why}");
        }
    };
    let thread = std::thread::Builder::new().name("print".into());
    thread.spawn(print).map(drop)
}

/// Two lines: what there is, and what to do next.
fn welcome(server: &Server, ctl: &Path) -> String {
    let nics = server.hosts().iter().map(|host| {
        let nic = &host.settings;
        let folder = nic.vf.first().and_then(|vf| vf.socket.parent());
        let folder = folder.unwrap_or(Path::new(".")).display();
        let (name, vfs, base) = (&nic.name, nic.num_vfs(), nic.mac_base);
        format!("{name}: {vfs} VFs in {folder}, addresses from {base}")
    });
    let nics: Vec<_> = nics.collect();
    let several = if nics.len() > 1 { " --nic NAME" } else { "" };
    // Said where it would not be found.
    let ctl = match ctl == default_socket_dir().join("ctl.sock") {
        true => String::new(),
        false => format!(" --ctl {}", ctl.display()),
    };
    format!(
        "{}\nnext: vfnic{ctl} guest 0{several} [--for qemu|libvirt|...] prints what starts a guest; vfnic{ctl} show\n",
        nics.join("; ")
    )
}

fn save(ctl: &Path) -> Result<(), Failure> {
    match ask(ctl, &Request::Save).map_err(failed)? {
        Response::Save(text) => print(&text),
        Response::Refused(why) => Err(usage(why)),
        _ => Err(failed("the answer is not to this question")),
    }
}

fn command(ctl: &Path, nic: Option<String>, first: &str, rest: Vec<String>) -> Result<(), Failure> {
    let mut words = vec![first.to_owned()];
    words.extend(rest);
    // What can be known to be wrong without asking is said without a running emulator.
    let asked = vf_model::Command::parse_addressed(&words).map_err(usage)?;
    let answer = ask(ctl, &Request::Command(NicCommand { nic, words }));
    match (asked.command, answer.map_err(failed)?) {
        (
            vf_model::Command::Request { .. } | vf_model::Command::RssContext { .. },
            Response::Done(answers),
        ) => print(
            &answers
                .iter()
                .map(|line| format!("{line}\n"))
                .collect::<String>(),
        ),
        (_, answer) => done(answer),
    }
}

/// Says what is worth knowing of what has been done, or why it has not been.
fn done(answer: Response) -> Result<(), Failure> {
    match answer {
        Response::Refused(why) => Err(usage(why)),
        Response::Done(notes) => {
            for note in notes {
                complain(&note);
            }
            Ok(())
        }
        _ => Err(failed("the answer is not to this question")),
    }
}

fn carry_out_batch(ctl: Option<PathBuf>, nic: Option<&str>, file: &Path) -> Result<(), Failure> {
    let name = file.display();
    let text = batch::read(file).map_err(|error| usage(format!("{name}: {error}")))?;
    let batch = Batch::parse(&text, nic);
    let Batch { commands, lines } =
        batch.map_err(|(line, why)| usage(format!("{name}:{line}: {why}")))?;
    if commands.is_empty() {
        return Ok(());
    }
    match ask(&running(ctl)?, &Request::Batch { commands }).map_err(failed)? {
        Response::RefusedAt { at, words, why } => {
            let (line, words) = (lines.get(at).copied().unwrap_or_default(), words.join(" "));
            Err(usage(format!(
                "{name}:{line}: {words}: {why} (no line of it is in force)"
            )))
        }
        answer => done(answer),
    }
}

/// Standard output may be a pipe that somebody has read enough of.
fn print(text: &str) -> Result<(), Failure> {
    print_on(text).map(drop)
}

/// The same, for whoever has more to say: whether anybody still reads.
fn print_on(text: &str) -> Result<bool, Failure> {
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(failed(e)),
    }
}
