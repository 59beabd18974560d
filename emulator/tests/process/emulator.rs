//! The real `vfnic`, started in a folder of its own. Whoever drops it finds out that it still lived. Judges nothing by itself.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;
use tempfile::TempDir;
use vfnic::control::show::{Show, ShowCounters, ShowVf};
use vfnic::control::{Request, Response, ask};

/// How long anything that must happen may take, on a machine that is busy with other tests.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// Two NICs with a wire between them and two VFs each.
pub(crate) const BACK_TO_BACK: &str = "\
[[nic]]
name = 'a'
[[nic]]
name = 'b'
[[wire]]
between = ['a', 'b']
";

/// The same with so many workers on each NIC: each VF has a worker of its own, if there are two.
pub(crate) fn back_to_back(workers: usize) -> String {
    BACK_TO_BACK.replace("'\n[[", &format!("'\nworkers = {workers}\n[["))
}

/// Waits until `done` gives something; what it waits for is said when it never does.
pub(crate) fn wait_for<T>(what: &str, mut done: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(value) = done() {
            return value;
        }
        assert!(Instant::now() < deadline, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A running `vfnic`.
pub(crate) struct Emulator {
    dir: TempDir,
    args: Vec<String>,
    child: Child,
    /// The process that goes on where the child was.
    successor: Option<Pid>,
}

impl Emulator {
    /// `vfnic run` with these arguments and nothing printed.
    pub(crate) fn start(args: &[&str]) -> Emulator {
        let dir = tempfile::tempdir().unwrap();
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        let child = spawn(dir.path(), &args);
        let emulator = Emulator {
            dir,
            args,
            child,
            successor: None,
        };
        emulator.wait_until_it_answers();
        emulator
    }

    /// `vfnic run --config` with this text as the file.
    pub(crate) fn with_config(text: &str) -> Emulator {
        Emulator::with_config_and(text, |_| Vec::new())
    }

    /// The same on the virtual clock, waiting for a guest that does not come.
    #[cfg(feature = "lab")]
    pub(crate) fn on_virtual_clock(text: &str) -> Emulator {
        Emulator::with_config_and(text, |dir| {
            let clock = ["--clock", "virtual", "--wait-for", "1", "--calendar"].map(str::to_owned);
            let calendar = dir.join("calendar").display().to_string();
            clock.into_iter().chain([calendar]).collect()
        })
    }

    fn with_config_and(text: &str, args: impl FnOnce(&Path) -> Vec<String>) -> Emulator {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("nic.toml");
        fs::write(&file, text).unwrap();
        let file = ["--config".to_owned(), file.display().to_string()];
        let args: Vec<String> = file.into_iter().chain(args(dir.path())).collect();
        let child = spawn(dir.path(), &args);
        let emulator = Emulator {
            dir,
            args,
            child,
            successor: None,
        };
        emulator.wait_until_it_answers();
        emulator
    }

    fn wait_until_it_answers(&self) {
        wait_for("vfnic answers", || ask(&self.ctl(), &Request::Show).ok());
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        match self.successor {
            None => {
                self.child.kill().unwrap();
                self.child.wait().unwrap();
            }
            Some(pid) => {
                rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
                wait_for("its end", || (!is_alive(pid)).then_some(()));
            }
        }
    }

    /// Has the same program go on where this process is.
    pub(crate) fn upgrade(&mut self) {
        let output = self.try_to_upgrade(&[]);
        assert!(output.status.success(), "{output:?}\n{}", self.log());
        self.follow();
    }

    /// Another process has gone on where this one is.
    pub(crate) fn follow(&mut self) {
        let before = self.process();
        let pid = fs::read_to_string(self.path("ready")).unwrap();
        let pid = Pid::from_raw(pid.trim().parse().unwrap());
        assert_ne!(pid, Some(before));
        wait_for("the end of the one before", || {
            let lives = match self.successor {
                None => self.child.try_wait().unwrap().is_none(),
                Some(pid) => is_alive(pid),
            };
            (!lives).then_some(())
        });
        self.successor = pid;
    }

    /// What `vfnic upgrade` says.
    pub(crate) fn try_to_upgrade(&self, args: &[&str]) -> Output {
        self.upgrade_command().args(args).output().unwrap()
    }

    /// `vfnic upgrade`, which is not started yet.
    pub(crate) fn upgrade_command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfnic"));
        command
            .arg("upgrade")
            .arg("--ctl")
            .arg(self.ctl())
            .env_remove("RUST_LOG");
        command
    }

    fn process(&self) -> Pid {
        let child = Pid::from_raw(self.child.id().cast_signed());
        self.successor.or(child).unwrap()
    }

    /// SIGTERM, which must end it.
    pub(crate) fn terminate(&mut self, after: &str) {
        rustix::process::kill_process(self.process(), rustix::process::Signal::TERM).unwrap();
        let deadline = Instant::now() + DEADLINE;
        while self.lives() {
            assert!(Instant::now() < deadline, "SIGTERM ignored after {after}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// The same again, after [`Emulator::kill`] or [`Emulator::terminate`].
    pub(crate) fn restart(&mut self) {
        self.child = spawn(self.dir.path(), &self.args);
        self.successor = None;
        self.wait_until_it_answers();
    }

    /// Where `name` is, such as `vf0.sock` or `a-vf0.sock`.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn ctl(&self) -> PathBuf {
        self.path("ctl.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process().as_raw_nonzero().get().cast_unsigned()
    }

    /// Runs a command of the real tool against this emulator.
    pub(crate) fn vfnic(&self, args: &[&str]) -> Output {
        vfnic(&[&["--ctl", self.ctl().to_str().unwrap()], args].concat())
    }

    /// Runs a command that is expected to be carried out, given as its words.
    pub(crate) fn does(&self, words: &str) {
        let args: Vec<&str> = words.split_whitespace().collect();
        let output = self.vfnic(&args);
        assert!(output.status.success(), "{words}: {output:?}");
    }

    /// What `vfnic show --json` prints.
    pub(crate) fn show(&self) -> Show {
        let output = self.vfnic(&["show", "--json"]);
        assert!(output.status.success(), "{output:?}");
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// All that `vfnic show --json` prints but what passes by itself: times, and what threads have done meanwhile.
    pub(crate) fn settled(&self) -> String {
        let output = self.vfnic(&["show", "--json"]);
        assert!(output.status.success(), "{output:?}");
        let mut show: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let take = |from: &mut serde_json::Value, keys: &[&str]| {
            let from = from.as_object_mut().unwrap();
            keys.iter().for_each(|key| drop(from.remove(*key).unwrap()));
        };
        take(&mut show, &["uptime_s", "interval_s"]);
        // On the wall clock only.
        drop(show.as_object_mut().unwrap().remove("memory"));
        for nic in show["nics"].as_array_mut().unwrap() {
            take(nic, &["worker", "hypervisor", "workers"]);
        }
        show.to_string()
    }

    /// One VF of what `vfnic show` says, asked for over the socket.
    pub(crate) fn vf(&self, nic: usize, vf: usize) -> ShowVf {
        match ask(&self.ctl(), &Request::Show).unwrap() {
            Response::Show(show) => show.nics[nic].vfs[vf].clone(),
            other => panic!("{other:?}"),
        }
    }

    /// What it has logged so far, in all its lives.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap()
    }

    /// Whether the process is there.
    pub(crate) fn lives(&mut self) -> bool {
        match self.successor {
            None => self.child.try_wait().unwrap().is_none(),
            Some(pid) => is_alive(pid),
        }
    }
}

impl Drop for Emulator {
    fn drop(&mut self) {
        let lived = self.lives();
        // It may have ended already, which is what the assertion below is about.
        let _ = rustix::process::kill_process(self.process(), rustix::process::Signal::KILL);
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("vfnic's log:\n{}", self.log());
        } else {
            assert!(lived, "vfnic has ended:\n{}", self.log());
        }
    }
}

fn spawn(dir: &Path, args: &[String]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .args(["run", "--quiet", "--socket-dir"])
        .arg(dir)
        .args(args)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stderr(log_file(dir))
        .spawn()
        .unwrap()
}

fn log_file(dir: &Path) -> File {
    let log = File::options().create(true).append(true).clone();
    log.open(dir.join("log")).unwrap()
}

/// Whether a process that is no child is there, and has not ended.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()));
    let state = |stat: &str| stat.rsplit(") ").next()?.chars().next();
    stat.is_ok_and(|stat| !matches!(state(&stat), None | Some('Z' | 'X')))
}

/// Runs the tool to its end.
pub(crate) fn vfnic(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_vfnic"))
        .args(args)
        .output()
        .unwrap()
}

/// Every drop of a VF's counters, both ways.
pub(crate) fn drops(counters: &ShowCounters) -> Vec<(String, u64)> {
    let all = counters.rx_drops.iter().chain(&counters.tx_drops);
    all.map(|(reason, n)| (reason.clone(), *n)).collect()
}
