//! Starting guests. A guest's script travels in a small archive behind the initramfs, where its size does not matter and
//! nothing in it needs quoting; a kernel's command line is short, and every program may read it. The script's output comes
//! back through the guest's second serial line, which is this process' file. Waits for no guest and ends none.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FsWord, StatVfsMountFlags, statfs, statvfs};
use rustix::thread::{CpuSet, sched_getcpu, sched_setaffinity};

use vf_nic::config::DeviceKind;

use super::{Image, ImageError};

/// Wall time that a guest may compute without a word, on a machine that does other things as well.
pub(crate) const WATCHDOG: Duration = Duration::from_secs(60);
/// Where guests take their time from, relative to the run's folder, as all is that they are told of.
pub(crate) const CALENDAR: &str = "calendar";

/// One guest.
#[derive(Clone, Debug)]
pub struct GuestSpec {
    /// Names its files in the run's folder; short, of letters and digits.
    pub name: String,
    /// Its number on the calendar: the lower is first when two want to run at the same time.
    pub id: u64,
    /// Its NICs, eth0 first: what each is, and its socket, relative to the run's folder.
    pub nics: Vec<(DeviceKind, PathBuf)>,
    /// MTU of its NICs.
    pub mtu: u16,
    /// IP address and prefix length of eth0, such as `10.0.0.1/24`.
    pub address: String,
    /// What it does once eth0 is up: a script of sh. The guest powers off behind its end.
    pub script: String,
    /// Its memory.
    pub memory_mib: u32,
    /// All its random numbers come from this.
    pub seed: u64,
}

impl GuestSpec {
    /// What its kernel is to have a driver for: that of the first of its NICs that is no virtio device, if there is one.
    fn device(&self) -> DeviceKind {
        let mut devices = self.nics.iter().map(|(device, _)| *device);
        let hardware = devices.find(|device| *device != DeviceKind::Virtio);
        hardware.unwrap_or_default()
    }
}

/// Why a guest cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// A word of the kernel's command line cannot be one word.
    #[error("guest {guest}: '{word}' is no name, address or socket")]
    Word {
        /// Its name.
        guest: String,
        /// The word.
        word: String,
    },
    /// The system refuses.
    #[error("guest {guest}: {what}: {source}")]
    System {
        /// Its name.
        guest: String,
        /// What was tried.
        what: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// There is no kernel with a driver of its NIC.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// A NIC takes no guest memory on a disk.
    #[error(
        "no tmpfs has room for {mib} MiB of guests' memory: make /dev/shm larger (mount -o remount,size={mib}M /dev/shm), or set \
         TMPDIR to a folder on another"
    )]
    NoMemory {
        /// How much that is.
        mib: u64,
    },
}

/// What a guest's script has printed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Output {
    /// Standard output and standard error.
    pub text: String,
    /// Its exit code, once it has ended.
    pub code: Option<u8>,
}

/// Starts the guests of one run, all in the same folder, which is not to be used by another run.
#[derive(Debug)]
pub struct Launcher<'a> {
    image: &'a Image,
    run: &'a Path,
    calendar: &'a Path,
    memory: Option<PathBuf>,
    memory_mib: u64,
}

/// Where guests' memory is, if there is room.
const SHARED_MEMORY: &str = "/dev/shm";

/// The type of a tmpfs, as statfs(2) has it.
const TMPFS: FsWord = 0x0102_1994;

impl<'a> Launcher<'a> {
    /// For guests of `memory_mib` MiB in all, in the folder `run`. `calendar` is the socket that they take their time from,
    /// relative to that folder.
    ///
    /// From here on the calling thread and all guests that it starts keep to one CPU: only one of them ever runs, and waking
    /// another CPU for each turn costs more than it gives.
    #[must_use]
    pub fn new(
        image: &'a Image,
        run: &'a Path,
        calendar: &'a Path,
        memory_mib: u64,
    ) -> Launcher<'a> {
        let mut cpu = CpuSet::new();
        cpu.set(sched_getcpu());
        // Slower otherwise, not wrong.
        let _ = sched_setaffinity(None, &cpu);
        Launcher {
            image,
            run,
            calendar,
            memory: folder_for_memory([Path::new(SHARED_MEMORY), run], memory_mib),
            memory_mib,
        }
    }

    /// Starts a guest in a process group of its own, for it has helpers. Its console goes to the file `NAME.console`.
    ///
    /// # Errors
    /// [`LaunchError`].
    pub fn start(&self, spec: &GuestSpec) -> Result<Child, LaunchError> {
        let failed = |what| {
            move |source| LaunchError::System {
                guest: spec.name.clone(),
                what,
                source,
            }
        };
        let Some(memory) = &self.memory else {
            let mib = self.memory_mib;
            return Err(LaunchError::NoMemory { mib });
        };
        let initramfs = format!("{}.initramfs", spec.name);
        write_initramfs(self.image, &self.run.join(&initramfs), spec)
            .map_err(failed("its initramfs"))?;
        let file =
            |kind: &str| File::create(self.file(&spec.name, kind)).map_err(failed("its files"));
        let (console, result) = (file("console")?, file("result")?);
        // Addresses that are not random: where memory is decides how much of it is left, and that how wide TCP windows are.
        let mut command = Command::new("/usr/bin/setarch");
        command
            .arg("-R")
            .arg(self.image.kernel_for(spec.device())?)
            .args(words(spec, self.calendar, &initramfs)?)
            .current_dir(self.run)
            .env_clear()
            .env("TMPDIR", memory)
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(result)
            .stderr(console);
        command.spawn().map_err(failed("setarch (util-linux)"))
    }

    /// What the script of the guest with this name has printed so far.
    #[must_use]
    pub fn output(&self, guest: &str) -> Output {
        let bytes = std::fs::read(self.file(guest, "result")).unwrap_or_default();
        Output::parse(&String::from_utf8_lossy(&bytes))
    }

    /// The last line on the console of the guest with this name: why it has died, if it has.
    #[must_use]
    pub fn last_words(&self, guest: &str) -> String {
        let bytes = std::fs::read(self.file(guest, "console")).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let last = text.lines().map(str::trim).rfind(|line| !line.is_empty());
        last.unwrap_or_default().to_owned()
    }

    fn file(&self, guest: &str, kind: &str) -> PathBuf {
        self.run.join(format!("{guest}.{kind}"))
    }
}

/// The command that runs a guest by this machine's clock, with its console on its standard input and output. Its number and seed are of
/// no use to it; its files are in the folder `run`.
///
/// # Errors
/// [`LaunchError`].
pub fn on_console(image: &Image, run: &Path, spec: &GuestSpec) -> Result<Command, LaunchError> {
    let mib = u64::from(spec.memory_mib);
    let memory = folder_for_memory([Path::new(SHARED_MEMORY), run], mib);
    let memory = memory.ok_or(LaunchError::NoMemory { mib })?;
    let initramfs = run.join(format!("{}.initramfs", spec.name));
    let written = write_initramfs(image, &initramfs, spec);
    written.map_err(|source| LaunchError::System {
        guest: spec.name.clone(),
        what: "its initramfs",
        source,
    })?;
    let mut words = vec![
        format!("mem={mib}M"),
        format!("initrd={}", initramfs.display()),
        format!("uml_dir={}", run.join("uml").display()),
        "con=null".to_owned(),
        "con0=fd:0,fd:1".to_owned(),
        "ssl=null".to_owned(),
        "quiet".to_owned(),
        "panic=-1".to_owned(),
    ];
    words.extend(words_of_network(spec));
    words_are_words(spec, &words)?;
    let mut command = Command::new(image.kernel_for(spec.device())?);
    command.args(words).current_dir(run).env("TMPDIR", memory);
    Ok(command)
}

/// What comes behind the script of a guest with PCI devices: User-Mode Linux removes those after it has shut them down, which drivers of
/// real NICs do not expect.
const UNBIND: &str = "code=$?\nfor nic in /sys/bus/pci/drivers/*/0000:*; do echo \"${nic##*/}\" >\"${nic%/*}/unbind\"; done\nexit $code\n";

/// The image's initramfs and behind it an archive with the script.
fn write_initramfs(image: &Image, path: &Path, spec: &GuestSpec) -> io::Result<()> {
    let script = match spec.device() {
        DeviceKind::Virtio => spec.script.clone(),
        DeviceKind::Ixgbevf | DeviceKind::Sfc => format!("(\n{}\n)\n{UNBIND}", spec.script),
    };
    let len = std::fs::copy(&image.initramfs, path)?;
    let mut out = File::options().append(true).open(path)?;
    // An archive begins at a multiple of four.
    let pad = len.next_multiple_of(4) - len;
    out.write_all(&[0; 4][..usize::try_from(pad).unwrap_or(0)])?;
    let size = u32::try_from(script.len()).map_err(|_| io::ErrorKind::FileTooLarge)?;
    let file = cpio::NewcBuilder::new("script").mode(0o100_755);
    let mut file = file.write(out, size);
    file.write_all(script.as_bytes())?;
    cpio::newc::trailer(file.finish()?)?.flush()
}

/// The first folder on a tmpfs that takes memory of so many MiB that holds programs.
fn folder_for_memory<'a>(folders: impl IntoIterator<Item = &'a Path>, mib: u64) -> Option<PathBuf> {
    let mut folders = folders.into_iter();
    let found = folders.find(|dir| {
        let in_memory = statfs(*dir).is_ok_and(|fs| fs.f_type == TMPFS);
        in_memory
            && statvfs(*dir).is_ok_and(|fs| {
                let room = fs.f_bavail.saturating_mul(fs.f_frsize) >> 20;
                room >= mib && !fs.f_flag.contains(StatVfsMountFlags::NOEXEC)
            })
    });
    found.map(Path::to_owned)
}

/// The kernel's command line. All of it goes into the guest's random numbers, so nothing in it is the run's own.
fn words(spec: &GuestSpec, calendar: &Path, initramfs: &str) -> Result<Vec<String>, LaunchError> {
    let calendar = calendar.display();
    let GuestSpec { name, id, .. } = spec;
    let mut words = vec![
        format!("mem={}M", spec.memory_mib),
        format!("initrd={initramfs}"),
        "uml_dir=uml".to_owned(),
        format!("umid={name}"),
        format!("uml-seed={}", spec.seed),
        // The first console, and the second serial line: this process' standard error and output.
        "con=null".to_owned(),
        "con0=null,fd:2".to_owned(),
        "ssl=null".to_owned(),
        "ssl1=null,fd:1".to_owned(),
        "quiet".to_owned(),
        "panic=-1".to_owned(),
        format!("time-travel=ext:{id}:{calendar}"),
    ];
    words.extend(words_of_network(spec));
    words_are_words(spec, &words)?;
    Ok(words)
}

/// The number of network devices (virtio 5).
const VIRTIO_NET: u16 = 1;
/// The number of PCI devices, as the guests' kernel has it (CONFIG_UML_PCI_OVER_VIRTIO_DEVICE_ID).
const PCI_BUS: u16 = 4660;

/// Its NICs and its address.
fn words_of_network(spec: &GuestSpec) -> impl Iterator<Item = String> {
    let words = [
        format!("guest.mtu={}", spec.mtu),
        format!("guest.ip={}", spec.address),
    ];
    let nics = spec.nics.iter().map(|(device, socket)| {
        let id = match device {
            DeviceKind::Virtio => VIRTIO_NET,
            DeviceKind::Ixgbevf | DeviceKind::Sfc => PCI_BUS,
        };
        format!("virtio_uml.device={}:{id}", socket.display())
    });
    words.into_iter().chain(nics)
}

fn words_are_words(spec: &GuestSpec, words: &[String]) -> Result<(), LaunchError> {
    let odd = |c: char| !c.is_ascii_graphic() || c == '"';
    match words.iter().find(|word| word.contains(odd)) {
        Some(word) => Err(LaunchError::Word {
            guest: spec.name.clone(),
            word: word.clone(),
        }),
        None => Ok(()),
    }
}

impl Output {
    /// The guest's init says the exit code on a line behind the output.
    fn parse(text: &str) -> Output {
        let whole = text.strip_suffix('\n').unwrap_or(text);
        let (before, last) = whole.rsplit_once('\n').unwrap_or(("", whole));
        let code = last
            .strip_prefix("exit ")
            .and_then(|code| code.parse().ok());
        Output {
            text: if code.is_some() { before } else { whole }.to_owned(),
            code,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec() -> GuestSpec {
        GuestSpec {
            name: "a0".into(),
            id: 1,
            nics: vec![
                (DeviceKind::Virtio, "a0.sock".into()),
                (DeviceKind::Sfc, "a1.sock".into()),
            ],
            mtu: 1500,
            address: "10.0.0.1/24".into(),
            script: "echo hello\n".into(),
            memory_mib: 64,
            seed: 7,
        }
    }

    #[test]
    fn nothing_of_the_run_is_on_the_command_line() {
        let words = words(&spec(), Path::new("calendar"), "a0.initramfs").unwrap();
        assert!(words.contains(&"time-travel=ext:1:calendar".to_owned()));
        let nics = words.iter().filter(|word| word.starts_with("virtio_uml."));
        assert_eq!(nics.count(), 2);
        assert!(words.contains(&"virtio_uml.device=a0.sock:1".to_owned()));
        assert!(words.contains(&"virtio_uml.device=a1.sock:4660".to_owned()));
        assert!(words.iter().all(|word| !word.contains("/tmp")));
    }

    #[test]
    fn a_word_is_one_word() {
        for address in ["10.0.0.1/24 init=/bin/sh", "", "10.0.0.1\n", "\"x"] {
            let spec = GuestSpec {
                address: address.into(),
                ..spec()
            };
            let words = words(&spec, Path::new("calendar"), "a0.initramfs");
            assert_eq!(words.is_err(), !address.is_empty(), "{address:?}");
        }
    }

    #[test]
    fn a_script_ends_with_its_exit_code() {
        let output = |text, code| Output {
            text: String::from(text),
            code,
        };
        assert_eq!(
            Output::parse("one\ntwo\nexit 3\n"),
            output("one\ntwo", Some(3))
        );
        assert_eq!(Output::parse("exit 0\n"), output("", Some(0)));
        assert_eq!(
            Output::parse("one\nexit pursued"),
            output("one\nexit pursued", None)
        );
        assert_eq!(Output::parse(""), Output::default());
    }

    #[test]
    fn guests_memory_is_on_a_tmpfs_with_room_or_nowhere() {
        let shared = Path::new(SHARED_MEMORY);
        let elsewhere = Path::new("/proc");
        assert_eq!(folder_for_memory([elsewhere], 0), None);
        if statfs(shared).is_ok_and(|fs| fs.f_type == TMPFS) {
            let found = folder_for_memory([elsewhere, shared], 0);
            assert_eq!(found.as_deref(), Some(shared));
        }
        assert_eq!(folder_for_memory([shared], u64::MAX), None);
    }

    #[test]
    fn the_script_is_behind_the_initramfs() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("base");
        std::fs::write(&base, "odd").unwrap();
        let image = Image {
            kernel: base.clone(),
            pci_kernel: None,
            initramfs: base,
        };
        let script_of = |spec: &GuestSpec| {
            write_initramfs(&image, &dir.path().join("whole"), spec).unwrap();
            let whole = std::fs::read(dir.path().join("whole")).unwrap();
            assert_eq!(whole[..4], *b"odd\0");
            let mut archive = cpio::NewcReader::new(&whole[4..]).unwrap();
            assert_eq!(archive.entry().name(), "script");
            let mut script = String::new();
            io::Read::read_to_string(&mut archive, &mut script).unwrap();
            script
        };
        let mut spec = spec();
        let hardware = script_of(&spec);
        assert!(hardware.contains("\necho hello\n") && hardware.contains("/unbind"));
        spec.nics
            .retain(|(device, _)| *device == DeviceKind::Virtio);
        assert_eq!(script_of(&spec), "echo hello\n");
    }
}
