//! `vfnic run`: from the command line to a server that serves, and its log. What it does is in [`vfnic::server`].

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use vfnic::cli;
#[cfg(feature = "lab")]
use vfnic::cli::RunClock;
use vfnic::config::{Config, Overrides, SocketAccess, default_socket_dir};
use vfnic::log::{Log, RateLimit, StandardError};
use vfnic::sandbox::{Role, Sandbox};
use vfnic::server::ready::Ready;
use vfnic::server::{Belongings, Server};
use vfnic::state_file::StateFile;

use crate::failure::{Failure, failed, refused, usage};
#[cfg(feature = "lab")]
use crate::lab;
use crate::output::print_beside;
use crate::signals::signals_in;
use crate::upgrade;

/// Runs NICs, on whichever clock, or goes on where another process is.
pub(crate) fn run(args: cli::Run, ctl: Option<PathBuf>) -> Result<(), Failure> {
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
pub(crate) fn keep(
    server: &mut Server,
    ready: &Ready,
    state: Option<StateFile>,
) -> Result<(), Failure> {
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
pub(crate) fn serve(mut server: Server, ready: Ready) -> Result<(), Failure> {
    let outcome = server.run().map_err(failed);
    if server.has_handed_over() {
        // What would be removed or closed is the other process' now.
        std::mem::forget((server, ready));
    } else {
        // The file `ready` goes before the first socket does.
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
    let texts = files
        .iter()
        .filter_map(|file| std::fs::read_to_string(file).ok());
    first_id(texts).unwrap_or_default()
}

/// The first text that names this machine. An image has an empty file or the word `uninitialized` in place of an id until it is booted for the
/// first time (machine-id(5)); all machines made from it have that in common.
fn first_id(mut texts: impl Iterator<Item = String>) -> Option<String> {
    texts.find(|text| !matches!(text.trim(), "" | "uninitialized"))
}

/// Where a service manager has this service keep its state (systemd.exec(5), `StateDirectory=`): the first folder, if it names several.
fn state_directory() -> Option<PathBuf> {
    let folders = std::env::var_os("STATE_DIRECTORY")?;
    std::env::split_paths(&folders).find(|folder| folder.is_absolute())
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
    // Commands look in the default folder by themselves; another path is printed.
    let ctl = match ctl == default_socket_dir().join("ctl.sock") {
        true => String::new(),
        false => format!(" --ctl {}", ctl.display()),
    };
    format!(
        "{}\nnext: vfnic{ctl} guest 0{several} [--for qemu|libvirt|...] prints what starts a guest; vfnic{ctl} show\n",
        nics.join("; ")
    )
}

#[cfg(test)]
mod tests {
    use super::first_id;

    #[test]
    fn an_image_that_was_not_booted_yet_gives_its_machines_no_common_id() {
        let id = |texts: [&str; 3]| first_id(texts.into_iter().map(String::from));
        assert_eq!(
            id(["uninitialized\n", "", "hosta\n"]).as_deref(),
            Some("hosta\n")
        );
        assert_eq!(
            id(["\n", "uninitialized", "hostb\n"]).as_deref(),
            Some("hostb\n")
        );
        assert_eq!(
            id(["0123abcd\n", "", "hosta\n"]).as_deref(),
            Some("0123abcd\n")
        );
        assert_eq!(id(["uninitialized\n", "", ""]), None);
    }
}
