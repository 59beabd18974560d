//! A scenario's guests played by Linux kernels: jobs become a shell script for each guest, which waits for each job's time
//! and says what came of it. The output of a job that has not ended at the end is lost where the job still holds it.
//! Decides nothing about time.

use std::path::Path;

use tempfile::TempDir;
use vf_model::{Command, Nanos};
use vf_nic::watch::Detail;

use super::guests::{Ended, Guests, JobEnd, RunError};
use super::plan::{Amount, FrontEnd, GuestPlan, Job, ScenarioPlan, Work};
use crate::linux::{CALENDAR, GuestSpec, Image, Launcher, WATCHDOG};
use crate::timetravel::{Settings, Simulation};
use crate::virtual_hosts::{VirtualHosts, Watcher};

/// Memory of each guest.
const MEMORY_MIB: u32 = 128;

/// The hosts with the guests on them.
pub(super) struct Linux<'a> {
    plan: &'a ScenarioPlan,
    image: Image,
    /// Kept until the guests have ended.
    dir: TempDir,
    simulation: Simulation,
}

impl<'a> Linux<'a> {
    /// Starts the guests; they boot when time passes. What arrives on `stop` ends them.
    pub(super) fn new(
        plan: &'a ScenarioPlan,
        image: Option<&Path>,
        stop: Option<std::os::unix::net::UnixStream>,
    ) -> Result<Linux<'a>, RunError> {
        let image = Image::find(image)?;
        let dir = tempfile::Builder::new()
            .prefix("vfnic-scenario")
            .tempdir()
            .map_err(|source| RunError::System {
                what: "a folder for the run",
                source,
            })?;
        let mut config = plan.config.clone();
        config.socket_dir = dir.path().to_owned();
        for vf in config.nics.iter_mut().flat_map(|nic| &mut nic.vf) {
            vf.socket = dir.path().join(&vf.socket);
        }
        let settings = Settings {
            calendar: dir.path().join(CALENDAR),
            guests: u16::try_from(plan.guests.len()).unwrap_or(u16::MAX),
            shared: true,
            until: Some(plan.until),
            watchdog: WATCHDOG,
            moderation: plan.moderation,
            digest: false,
        };
        let mut simulation = Simulation::start(&config, settings)?;
        if let Some(stop) = stop {
            simulation.stop_on(stop);
        }
        let launcher = launcher(plan, &image, dir.path());
        for (g, guest) in plan.guests.iter().enumerate() {
            let spec = spec(plan, g, guest);
            let child = launcher.start(&spec)?;
            simulation.watch_child(spec.id, spec.name, child);
        }
        Ok(Linux {
            plan,
            image,
            dir,
            simulation,
        })
    }
}

fn launcher<'a>(plan: &ScenarioPlan, image: &'a Image, dir: &'a Path) -> Launcher<'a> {
    let memory = u64::from(MEMORY_MIB) * plan.guests.len() as u64;
    Launcher::new(image, dir, Path::new(CALENDAR), memory)
}

impl Guests for Linux<'_> {
    fn world(&self) -> &VirtualHosts {
        self.simulation.world()
    }

    fn watch(&mut self, detail: Detail, watcher: Watcher) {
        self.simulation.watch(detail, watcher);
    }

    fn at(&mut self, when: Nanos, nic: usize, command: Command) {
        self.simulation.at(when, nic, command);
    }

    fn front_end(&mut self, _: usize, _: FrontEnd) -> Result<(), RunError> {
        Ok(()) // a plan for Linux guests has none
    }

    fn run_until(&mut self, until: Nanos) -> Result<(), RunError> {
        self.simulation.run_until(until)?;
        Ok(())
    }

    fn finish(self: Box<Self>) -> Ended {
        let Linux {
            plan,
            image,
            dir,
            simulation,
        } = *self;
        let summary = simulation.finish();
        let launcher = launcher(plan, &image, dir.path());
        let mut ended = Ended {
            jobs: vec![JobEnd::default(); plan.jobs.len()],
            faults: summary.faults,
        };
        for guest in &plan.guests {
            tell_apart(&launcher.output(&guest.name).text, &mut ended.jobs);
        }
        ended
    }
}

fn spec(plan: &ScenarioPlan, g: usize, guest: &GuestPlan) -> GuestSpec {
    let nics = guest.interfaces.iter().map(|on| {
        let nic = &plan.config.nics[on.nic];
        let vf = &nic.vf[on.vf.index()];
        (vf.device, vf.socket.clone())
    });
    let address = guest
        .interfaces
        .first()
        .map(|on| format!("{}/{}", on.address, on.prefix_len));
    GuestSpec {
        name: guest.name.clone(),
        id: g as u64 + 1,
        nics: nics.collect(),
        mtu: guest.mtu,
        address: address.unwrap_or_default(),
        script: script(plan, g),
        memory_mib: MEMORY_MIB,
        seed: plan.seed.wrapping_mul(1 << 16).wrapping_add(g as u64 + 1),
    }
}

/// How a script waits for the time of a job, and says what came of it: line by line `N|line`, and then `N=code`.
/// The kernel's monotonic clock begins at virtual time zero, and this is where busybox can read it to the nanosecond.
const JOBS: &str = r#"at() { # NANOSECONDS of virtual time
    left=$(($1 - $(sed -n 's/^now at \([0-9]*\) .*/\1/p' /proc/timer_list)))
    [ $left -le 0 ] || sleep "$(printf '%d.%09d' $((left / 1000000000)) $((left % 1000000000)))"
}
job() { # NUMBER AT COMMAND
    at "$2"
    { sh -c "$3" 2>&1; echo $? >"/tmp/exit.$1"; } | sed "s/^/$1|/"
    echo "$1=$(cat "/tmp/exit.$1")"
}
"#;

/// What a guest does: its further addresses, a server for all that is sent to it, its jobs, and then nothing.
fn script(plan: &ScenarioPlan, g: usize) -> String {
    let mut script = JOBS.to_owned();
    for (i, on) in plan.guests[g].interfaces.iter().enumerate().skip(1) {
        script += &format!("ip addr add {}/{} dev eth{i}\n", on.address, on.prefix_len);
    }
    for job in &plan.jobs {
        if matches!(job.work, Work::Send { to, .. } if to == g) {
            let port = job.port.unwrap_or_default();
            script += &format!("iperf3 -s -p {port} >/dev/null 2>&1 &\n");
        }
    }
    for (n, job) in plan
        .jobs
        .iter()
        .enumerate()
        .filter(|(_, job)| job.guest == g)
    {
        let command = command(plan, job).replace('\'', r"'\''");
        script += &format!("job {n} {} '{command}' &\n", job.at.0);
    }
    script + "wait $(jobs -p) 2>/dev/null\nsleep 1000000\n"
}

/// A job in the words of a shell.
fn command(plan: &ScenarioPlan, job: &Job) -> String {
    match &job.work {
        Work::Run(command) => command.clone(),
        Work::Ping {
            to,
            count,
            interval,
        } => {
            let to = plan.guests[*to].address();
            format!("ping -c {count} -i {} {to}", decimal(*interval))
        }
        Work::Send {
            to,
            amount,
            streams,
        } => {
            let to = plan.guests[*to].address();
            let port = job.port.unwrap_or_default();
            let iperf3 = format!("iperf3 -c {to} -p {port} -P {streams}");
            match amount {
                Amount::Bytes(bytes) => format!("{iperf3} -n {bytes}"),
                Amount::Endless => format!("{iperf3} -t 86400"),
                // It counts whole seconds only.
                Amount::For(time) => format!(
                    "{iperf3} -t 86400 & sleep {}; kill -TERM $! || exit 1; wait $!; exit 0",
                    decimal(*time)
                ),
            }
        }
    }
}

/// Seconds.
fn decimal(time: Nanos) -> String {
    format!("{}.{:09}", time.0 / 1_000_000_000, time.0 % 1_000_000_000)
}

/// Takes a guest's output apart.
fn tell_apart(text: &str, jobs: &mut [JobEnd]) {
    for line in text.lines() {
        let digits = line.bytes().take_while(u8::is_ascii_digit).count();
        let (number, rest) = line.split_at(digits);
        let Some(job) = number.parse().ok().and_then(|n: usize| jobs.get_mut(n)) else {
            continue; // the guest's own words
        };
        if let Some(line) = rest.strip_prefix('|') {
            job.output += line.trim_end_matches('\r');
            job.output.push('\n');
        } else if let Some(code) = rest.strip_prefix('=') {
            job.exit = code.trim().parse().ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::GuestKind;
    use vf_nic::config::DeviceKind;

    #[test]
    fn a_shell_gets_each_job_as_one_word() {
        let text = "until = '1s'\n[[nic]]\nname = 'a'\n\
                    [[guest]]\nname = 'x'\naddress = '10.0.0.1/24'\nalso = [{ vf = 1, address = '10.1.0.1/16' }]\n\
                    [[job]]\nguest = 'x'\nat = '2ms'\nrun = \"echo 'it is'\"\n";
        let plan = ScenarioPlan::parse(Path::new("test.toml"), text, Some(GuestKind::Linux), None)
            .unwrap();
        let script = script(&plan, 0);
        assert!(
            script.contains("ip addr add 10.1.0.1/16 dev eth1\n"),
            "{script}"
        );
        let quoted = r"job 0 2000000 'echo '\''it is'\''' &";
        assert!(script.contains(quoted), "{script}");
        let spec = spec(&plan, 0, &plan.guests[0]);
        assert_eq!(
            spec.nics,
            ["a-vf0.sock", "a-vf1.sock"].map(|socket| (DeviceKind::Virtio, socket.into()))
        );
    }

    #[test]
    fn output_is_told_apart() {
        let mut jobs = vec![JobEnd::default(); 2];
        tell_apart("boot\n1|one\n0|x\n7|?\n1=3\n1|\r\n0=\n", &mut jobs);
        assert_eq!(
            (jobs[1].output.as_str(), jobs[1].exit),
            ("one\n\n", Some(3))
        );
        assert_eq!((jobs[0].output.as_str(), jobs[0].exit), ("x\n", None));
    }
}
