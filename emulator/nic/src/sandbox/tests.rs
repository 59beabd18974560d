//! Each kind of thread, in a process of its own: what is not for it is refused, and what is for it is not.

use std::fs::{self, File};
use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rustix::process::{Pid, Signal};
use vm_memory::MmapRegion;

use super::*;

/// Says to the test binary which thread it is to be.
const ROLE: &str = "VFNIC_TEST_SANDBOX";
/// A folder of its own.
const FOLDER: &str = "VFNIC_TEST_FOLDER";

type Attempt = fn(&Path) -> io::Result<()>;

fn nix_error<T>(result: nix::Result<T>) -> io::Result<()> {
    result.map(drop).map_err(Into::into)
}

/// What nobody is to be able to do.
const FORBIDDEN: &[(&str, Attempt)] = &[
    ("run a program in a process of its own", |_| {
        Command::new("/bin/true").spawn().map(drop)
    }),
    ("become another program", |_| {
        Err(Command::new("/bin/true").exec())
    }),
    ("read a file of this user's", |_| {
        File::open("/etc/passwd").map(drop)
    }),
    ("write a file of this user's", |folder| {
        File::create(folder.join("../outside")).map(drop)
    }),
    ("remove one", |folder| {
        fs::remove_file(folder.join("../victim"))
    }),
    ("make a device", |folder| {
        let device = rustix::fs::makedev(1, 3);
        let path = folder.join("null");
        let kind = rustix::fs::FileType::CharacterDevice;
        Ok(rustix::fs::mknodat(
            rustix::fs::CWD,
            path,
            kind,
            0o600.into(),
            device,
        )?)
    }),
    ("make a link to elsewhere", |folder| {
        std::os::unix::fs::symlink("/etc/shadow", folder.join("link"))
    }),
    ("connect to another machine", |_| {
        TcpStream::connect("127.0.0.1:9").map(drop)
    }),
    ("listen on the network", |_| {
        TcpListener::bind("127.0.0.1:0").map(drop)
    }),
    ("send datagrams", |_| {
        UdpSocket::bind("127.0.0.1:0").map(drop)
    }),
    ("send signals to others", |_| {
        Ok(rustix::process::kill_process(Pid::INIT, Signal::WINCH)?)
    }),
    // Nor have it send signals to other processes, which is one of those things.
    ("ask of a descriptor what nobody here needs", |_| {
        Ok(rustix::pipe::fcntl_getpipe_size(io::stdout()).map(drop)?)
    }),
    ("be traced, or trace", |_| {
        nix_error(nix::sys::ptrace::traceme())
    }),
    ("look into another process", |_| {
        File::open("/proc/1/mem").map(drop)
    }),
    ("have a namespace of its own", |_| {
        nix_error(nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWUSER))
    }),
    ("mount", |folder| {
        let flags = nix::mount::MsFlags::empty();
        let none = None::<&str>;
        nix_error(nix::mount::mount(
            Some("tmpfs"),
            folder,
            Some("tmpfs"),
            flags,
            none,
        ))
    }),
    ("become another user", |_| {
        // The thread alone: the C library has all threads do it, and aborts if some can and some cannot.
        Ok(rustix::thread::set_thread_uid(
            rustix::process::Uid::from_raw(65534),
        )?)
    }),
    ("have memory that can be executed", |_| {
        let flags = nix::libc::MAP_PRIVATE | nix::libc::MAP_ANONYMOUS;
        let all = nix::libc::PROT_READ | nix::libc::PROT_WRITE | nix::libc::PROT_EXEC;
        let mapped = MmapRegion::<()>::build(None, 4096, all, flags);
        mapped
            .map(drop)
            .map_err(|_| io::Error::from_raw_os_error(nix::libc::EPERM))
    }),
];

/// What the control thread does.
const OF_CONTROL: &[(&str, Attempt)] = &[
    ("listen on a socket in its folder", |folder| {
        UnixListener::bind(folder.join("vf9.sock")).map(drop)
    }),
    ("connect to one", |folder| {
        UnixStream::connect(folder.join("there.sock")).map(drop)
    }),
    ("keep its state", |folder| {
        let (new, state) = (folder.join("state.new"), folder.join("state.toml"));
        let mut file = File::create(&new)?;
        file.write_all(b"x")?;
        file.sync_all()?;
        fs::rename(&new, &state)?;
        File::open(folder)?.sync_all()?;
        fs::remove_file(state)
    }),
    ("start a thread", |_| {
        let thread = std::thread::Builder::new().name("another".to_owned());
        let thread = thread.spawn(|| UdpSocket::bind("127.0.0.1:0").is_err())?;
        // It is in there, too.
        thread
            .join()
            .ok()
            .filter(|refused| *refused)
            .map(drop)
            .ok_or(io::ErrorKind::Other.into())
    }),
    ("look at a descriptor", |_| {
        let event = vf_vhost::eventfd::EventFd::new()?;
        let event = std::os::fd::AsFd::as_fd(&event).try_clone_to_owned()?;
        vf_vhost::eventfd::EventFd::from_fd(event)
            .map(drop)
            .map_err(io::Error::other)
    }),
];

/// What the thread of a tap on a VF does.
const OF_TAP: &[(&str, Attempt)] = &[
    ("connect to a VF's socket", |folder| {
        UnixStream::connect(folder.join("there.sock")).map(drop)
    }),
    ("have a guest's memory and queues", |_| {
        let config = vf_guest::net::NetConfig::default();
        let guest = vf_guest::net::NetDevice::detached(config.features, &config);
        guest.map(drop).map_err(io::Error::other)
    }),
    ("tell a tap of its link", |_| {
        let none = vf_guest::eventfd::EventFd::new()?;
        // It is asked, and is none.
        match vf_vhost::tap::set_carrier(&none, true) {
            Err(error) if error.raw_os_error() == Some(nix::libc::ENOTTY) => Ok(()),
            other => other,
        }
    }),
];

/// What every thread does.
const OF_ALL: &[(&str, Attempt)] = &[
    ("have memory", |_| {
        drop(std::hint::black_box(vec![1u8; 64 << 20]));
        Ok(())
    }),
    ("sleep", |_| {
        std::thread::sleep(Duration::from_millis(1));
        Ok(())
    }),
    ("say something", |_| writeln!(io::stderr(), "something")),
];

/// Is run by the test below in a process of its own, and does nothing otherwise.
#[test]
fn a_confined_thread() {
    let (Ok(role), Some(folder)) = (std::env::var(ROLE), std::env::var_os(FOLDER)) else {
        return;
    };
    let folder = PathBuf::from(folder);
    let _there = UnixListener::bind(folder.join("there.sock")).unwrap();
    let needs = Needs {
        folders: vec![folder.clone()],
        privileges: CapabilitySet::empty(),
    };
    let role = match role.as_str() {
        "data" => Role::Data,
        "quiet" => Role::Quiet,
        "scrapes" => Role::Scrapes,
        "tap" => Role::Tap,
        _ => Role::Control(&needs),
    };
    Sandbox::On.confine(role);
    for (what, attempt) in FORBIDDEN {
        match attempt(&folder) {
            Ok(()) => println!("forbidden: {what}: done"),
            Err(error) => println!("forbidden: {what}: {error}"),
        }
    }
    let own = match role {
        Role::Control(_) => OF_CONTROL,
        Role::Tap => OF_TAP,
        _ => &[],
    };
    for (what, attempt) in own.iter().chain(OF_ALL) {
        match attempt(&folder) {
            Ok(()) => println!("allowed: {what}: done"),
            Err(error) => println!("allowed: {what}: {error}"),
        }
    }
    if !matches!(role, Role::Control(_)) {
        for (what, attempt) in &OF_CONTROL[..1] {
            let refused = attempt(&folder).is_err();
            println!(
                "forbidden: {what}: {}",
                if refused { "not permitted" } else { "done" }
            );
        }
    }
}

#[test]
fn each_thread_can_do_what_it_is_for_and_nothing_else() {
    for role in ["data", "quiet", "scrapes", "tap", "control"] {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("folder");
        fs::create_dir(&folder).unwrap();
        fs::write(parent.path().join("victim"), "x").unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "sandbox::tests::a_confined_thread",
                "--nocapture",
            ])
            .args(["--test-threads", "1"])
            .env(ROLE, role)
            .env(FOLDER, &folder)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&child.stdout);
        let lines = |kind| said.lines().filter_map(move |line| line.split_once(kind));
        let mut refused = 0;
        for (_, line) in lines("forbidden: ") {
            let files = ["read a file", "write a file", "remove one", "look into"];
            let of_landlock = role == "control" && files.iter().any(|f| line.starts_with(f));
            if of_landlock && !has_landlock() {
                println!("skipped: files in the sandbox, because this kernel has no Landlock");
                continue;
            }
            let errors = ["not permitted", "Permission denied"];
            assert!(errors.iter().any(|e| line.contains(e)), "{role}: {line}");
            refused += 1;
        }
        assert!(refused + 4 >= FORBIDDEN.len(), "{role}: {child:?}");
        let own: Vec<_> = lines("allowed: ").collect();
        for (_, line) in &own {
            assert!(line.ends_with(": done"), "{role}: {line}");
        }
        assert!(own.len() >= OF_ALL.len(), "{role}: {child:?}");
        assert!(child.status.success(), "{role}: {child:?}");
        assert!(parent.path().join("victim").exists());
    }
}

/// Whether this kernel restricts files at all.
fn has_landlock() -> bool {
    let handled = std::thread::spawn(|| {
        let needs = Needs {
            folders: Vec::new(),
            privileges: CapabilitySet::all(),
        };
        files::confine(&needs).is_ok()
    });
    handled.join().unwrap()
}
