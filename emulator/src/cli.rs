//! The command line. Says what can be said; does nothing.

pub mod complete;
mod filter;
mod guest;
#[cfg(feature = "lab")]
mod lab;
mod line;
mod netns;
mod number;
mod show;
mod target;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use vf_model::{MacAddr, Profile, SETTING_KEYS};
use vf_nic::config::{CpuList, DeviceKind, PollMode, QmpOf, SocketMode};
use vf_nic::metrics::MetricsAddress;
use vf_nic::plane::MAX_QUEUE_PAIRS;

use filter::FILTER_HELP;
pub use filter::Filter;
use guest::GUEST_HELP;
pub use guest::{Functions, Guest, GuestOf};
#[cfg(feature = "lab")]
pub use lab::{
    ClockChoice, Demo, Experiment, GuestsWord, ProfileWord, RunClock, Scenario, ScenarioRun,
    VirtualClock, Which,
};
pub use line::{Line, joined};
use netns::NETNS_HELP;
pub use netns::Netns;
use number::whole;
use show::SHOW_HELP;
#[cfg(feature = "top")]
pub use show::Top;
pub use show::{Show, ShowAll, ShowWhat};
pub use target::Target;

/// A 10 GbE NIC in software: each virtual function (VF) is a vhost-user socket for an unmodified guest.
#[derive(Debug, Parser)]
#[command(name = "vfnic", version, max_term_width = 100)]
pub struct Cli {
    /// Control socket of a running vfnic, or of the one to run [default: ctl.sock in the runtime directory, or in --socket-dir]
    #[arg(long, value_name = "SOCKET")]
    pub ctl: Option<PathBuf>,
    /// Which NIC is meant, when there are several
    #[arg(long, value_name = "NAME")]
    pub nic: Option<String>,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

impl Command {
    /// What it is for, if it is for a NIC that runs.
    #[must_use]
    pub fn target(&self) -> Option<&Target> {
        match self {
            Command::Show(ShowAll { at, .. })
            | Command::Why(Why { at, .. })
            | Command::Vf { at, .. }
            | Command::Filter { at, .. }
            | Command::Link { at, .. }
            | Command::Bridge { at, .. }
            | Command::Fdb { at, .. }
            | Command::Capture(Capture { at, .. })
            | Command::Monitor(Monitor { at, .. })
            | Command::Check { at, .. }
            | Command::Guest(Guest { at, .. })
            | Command::Netns { at, .. }
            | Command::Batch { at, .. } => Some(at),
            #[cfg(feature = "top")]
            Command::Top(Top { at, .. }) => Some(at),
            Command::Run(_)
            | Command::Save { .. }
            | Command::Upgrade(_)
            | Command::Extcap(_)
            | Command::Profile { .. }
            | Command::Man { .. }
            | Command::Completions { .. } => None,
            #[cfg(feature = "lab")]
            Command::Demo(_) | Command::Experiment(_) | Command::Scenario { .. } => None,
        }
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run NICs until stopped: each VF is a socket for a guest
    Run(Run),
    /// Have two Linux guests with a prompt each on a NIC, and switch its path while they talk
    #[cfg(feature = "lab")]
    Demo(Demo),
    /// Reproduce the 2009 experiment: hypervisor path against direct path on one 10 GbE link
    #[cfg(feature = "lab")]
    Experiment(Experiment),
    /// Run what a file says on the virtual clock: guests, their jobs, commands at given times, and what is to come of it
    #[cfg(feature = "lab")]
    Scenario {
        /// What to do with it.
        #[command(subcommand)]
        command: Scenario,
    },
    /// Print what to paste to have a guest on a VF: QEMU's command line, libvirt's XML, or what others want
    #[command(after_help = GUEST_HELP)]
    Guest(Guest),
    /// Have a network namespace on a VF, as a container is, in place of a VM: a network device there is the VF
    #[command(after_help = NETNS_HELP)]
    Netns {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// What to do.
        #[command(subcommand)]
        command: Netns,
    },
    /// Show settings, counters and utilisation
    #[command(after_help = SHOW_HELP)]
    Show(ShowAll),
    /// Show what passes NICs and VFs as it does, on a terminal, with keys that change a VF's path and state and capture it
    #[cfg(feature = "top")]
    Top(Top),
    /// Print the configuration file that makes the NICs again as they are now, for 'run --config'; what drivers have asked for and what
    /// path auto has learned is not in it
    Save {
        /// Control socket of a running vfnic [default: ctl.sock in the runtime directory]
        #[arg(long, value_name = "SOCKET")]
        ctl: Option<PathBuf>,
    },
    /// Have another version go on where the vfnic that runs is, with its guests' sessions and frames
    #[command(after_help = UPGRADE_HELP)]
    Upgrade(Upgrade),
    /// Change a VF while it runs, in the words of 'ip link set dev PF vf N'
    #[command(after_help = vf_help())]
    Vf {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// N SETTING VALUE ... | N mac add|del MAC [vlan VID] | N vlan add|del VID |
        /// N set netem [egress|ingress|both] delay TIME ...|none (see 'vfnic link --help') |
        /// N rss [hkey KEY] [equal N|weight W0 W1 ...|table Q0 ... Q127|default] | N rss context new|C ... | N reset | N request VERB ...; N and VID may be ranges, such as 0-7
        #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
        words: Vec<String>,
    },
    /// Give received frames to a VF, or drop them, by what they are, in the words of 'ethtool -N'
    #[command(after_help = FILTER_HELP)]
    Filter {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// What to do with the NIC's filters.
        #[command(subcommand)]
        command: Filter,
    },
    /// Pull and plug the NIC's cable, so that the NIC at its other end loses the carrier, too; say how its switch forwards, its
    /// MTU, and how many VFs it has; and what 'ip link' has for VFs
    #[command(after_help = LINK_HELP)]
    Link {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// set [dev NIC] [up|down] [carrier on|off] [mtu BYTES] [storm_control PPS] [numvfs N] | set [dev NIC] hwmode veb|vepa|floating |
        /// set [dev NIC] netem [egress|ingress|both] delay TIME ...|none | set [dev NIC] flap up TIME down TIME|none | set [dev NIC] vf N ... |
        /// show [dev NIC]
        #[arg(num_args = 0.., allow_negative_numbers = true)]
        words: Vec<String>,
        /// How it is shown.
        #[command(flatten)]
        show: Show,
    },
    /// Say how the NIC's switch forwards, and tell it of stations behind the PF, in the words of bridge(8)
    #[command(after_help = BRIDGE_HELP)]
    Bridge {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// link set dev NIC hwmode veb|vepa|floating [self] | link [show [dev NIC]] |
        /// fdb add|del MAC dev NIC [vlan VID] [self] | fdb [show [dev NIC]]
        #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
        words: Vec<String>,
        /// How it is shown.
        #[command(flatten)]
        show: Show,
    },
    /// The same as 'bridge fdb'
    Fdb {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// add|del MAC [dev NIC] [vlan VID] [self] | show [dev NIC]
        #[arg(num_args = 0.., allow_negative_numbers = true)]
        words: Vec<String>,
        /// How it is shown.
        #[command(flatten)]
        show: Show,
    },
    /// Say what becomes of a frame and why: every decision in order, the receivers, or the reason of the drop
    #[command(after_help = WHY_HELP)]
    Why(Why),
    /// Capture frames as they pass a VF, the wire or the PF, or are dropped there, as pcapng: each with its path, queue and receivers,
    /// each dropped one with the reason and the rule
    #[command(after_help = CAPTURE_HELP)]
    Capture(Capture),
    /// Print what happens to NICs as it happens: guests that come and go, paths, commands, the link; and dropped frames
    #[command(after_help = MONITOR_HELP)]
    Monitor(Monitor),
    /// Stand in Wireshark's list of interfaces (extcap)
    #[command(after_help = EXTCAP_HELP)]
    Extcap(Extcap),
    /// Look whether a NIC that runs does what it should
    Check {
        /// Which NIC; all of them if none is said.
        #[command(flatten)]
        at: Target,
        /// What to look at.
        #[command(subcommand)]
        command: Check,
    },
    /// Say what NICs of a family can do, and where two families differ
    Profile {
        /// What to say.
        #[command(subcommand)]
        command: ProfileCommand,
    },
    /// Print what a shell is to read to complete commands: 'source <(vfnic completions bash)'; VFs are those of the NIC that runs
    Completions {
        /// Which shell
        shell: Shell,
    },
    /// Write the man pages into a folder, for packages
    #[command(hide = true)]
    Man {
        /// The folder
        dir: PathBuf,
    },
    /// Carry out the commands of a file, a line each, all of them or none: also 'vfnic -batch FILE', as ip(8) has it
    #[command(short_flag = 'b', long_flag = "batch", after_help = BATCH_HELP)]
    Batch {
        /// Which NIC.
        #[command(flatten)]
        at: Target,
        /// The file, or - for standard input
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
}

/// Options of `vfnic why`.
#[derive(Debug, Args)]
pub struct Why {
    /// Which NIC.
    #[command(flatten)]
    pub at: Target,
    /// Ask about the frames of a capture, in pcap or pcapng; - is standard input
    #[arg(long, value_name = "FILE")]
    pub pcap: Option<PathBuf>,
    /// Ask about this frame of the capture only, counted from 1
    #[arg(long, value_name = "N", requires = "pcap")]
    pub packet: Option<usize>,
    /// How it is shown.
    #[command(flatten)]
    pub show: Show,
    /// from vfN|wire, and then the frame, unless it is in a capture
    #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
    pub words: Vec<String>,
}

const BRIDGE_HELP: &str = "\
A NIC's switch learns nothing: what its VFs send to a station behind the PF, such as a tap on the bridge there ('vf N set \
bridge on'), leaves on the wire until the switch is told of that station. With one NIC, 'dev NIC' need not be said.
  veb        what is for a VF here goes there and not to the wire
  vepa       everything goes to the adjacent bridge, which gives back what is for a VF here
  floating   a VEB without an uplink: VFs reach each other without a link

Examples:
  vfnic bridge link set dev a hwmode vepa
  vfnic bridge fdb add 02:00:00:00:00:99 dev a self
  vfnic bridge fdb show dev a";

const WHY_HELP: &str = "\
A frame is what is said of it, in any order, or its bytes:
  dst MAC|vfN|broadcast   src MAC|vfN|broadcast
  vlan VID [prio N] [proto 802.1Q|802.1ad]        several: the outermost first
  type TYPE | tcp|udp [sport PORT] [dport PORT]   src-ip IP   dst-ip IP
  len BYTES   gso BYTES
  hex BYTES [len BYTES] [gso BYTES]
What is left out is as plain as can be: the sender's own address, no tag, 60 bytes. It is the rules in force \
that are asked: no frame is sent, nothing is counted. Told with it are a port without a cable, VFs without a guest, and impairments (netem, flap). \
Left out is a limit on a sender's rate, which makes frames wait; of storm_control it is said how many may be flooded, not how many are just now. \
What is longer than a frame can be and is TCP, as in a capture of a guest with TSO, is taken for a super-frame of segments as long as the MTU; \
gso says another length.

Examples:
  vfnic why from vf0 dst vf1
  vfnic why from vf0 dst 52:54:00:00:00:07 vlan 5 tcp dst-ip 10.0.0.1 dport 80
  vfnic why --pcap trace.pcapng --packet 3 from wire";

/// Options of `vfnic capture`.
#[derive(Debug, Args)]
pub struct Capture {
    /// Which NIC.
    #[command(flatten)]
    pub at: Target,
    /// Where to, a file or - for standard output [default: standard output, unless that is a terminal]
    #[arg(long, short, value_name = "FILE")]
    pub write: Option<PathBuf>,
    /// Dropped frames only
    #[arg(long)]
    pub drops: bool,
    /// Bytes of each frame at most; 0 is all of them
    #[arg(long, short, value_name = "N", default_value_t = 0)]
    pub snaplen: u32,
    /// Ports, vf N, wire or pf, behind the name of their NIC if there are several; and then what frames are to be like: flow-type ...,
    /// the words of 'filter add'
    #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
    pub words: Vec<String>,
}

const CAPTURE_HELP: &str = "\
Ports may be several, of several NICs, and N a range such as 0-3; each is an interface of the capture, such as a-vf0. Directions \
are as the guest sees them, on the wire as the NIC does, at the PF as the hypervisor does. At a VF and the PF frames \
are as they pass: what is still to be segmented is whole, and checksums may be the receiver's to complete; on the wire they are as \
it has them. Commands, switches of paths and guests that come and \
go are comments of the frame that follows. What flow-type ... may say, tells 'vfnic filter --help'; src-port 80 and dst-port 80 are the two directions of \
connections, and for both of them capture all and have the reader choose (tcpdump -r FILE port 80).

It ends with Ctrl-C, the file whole. A NIC never waits for a capture: frames that the disk or reader is too slow for are counted, and \
their number is printed at the end and is in the file. Who does not capture pays nothing; a VF that is captured may be slower.

Examples:
  vfnic capture vf 0 -w vf0.pcapng
  vfnic capture vf 0 | wireshark -k -i -
  vfnic capture a vf 0 wire b vf 0 -w both-ends.pcapng
  vfnic capture vf 0-7 --drops | tshark -r - -T fields -e frame.interface_name -e frame.comment
  vfnic capture wire --snaplen 128 -w web.pcapng flow-type tcp4 dst-ip 10.0.0.1 dst-port 80";

/// Options of `vfnic monitor`.
#[derive(Debug, Args)]
pub struct Monitor {
    /// Which NIC; all of them if none is said.
    #[command(flatten)]
    pub at: Target,
    /// Dropped frames, too, each with the reason and the rule
    #[arg(long)]
    pub drops: bool,
    /// How it is shown.
    #[command(flatten)]
    pub show: Show,
}

const MONITOR_HELP: &str = "\
A line each, with the time of day in UTC; with --json an object a line. A reader that is too slow is told how much it has missed.

Example:
  vfnic monitor --drops";

/// What Wireshark asks.
#[derive(Debug, Args)]
pub struct Extcap {
    /// Control socket of a running vfnic [default: ctl.sock in the runtime directory]
    #[arg(long, value_name = "SOCKET")]
    pub ctl: Option<PathBuf>,
    /// List the interfaces
    #[arg(long)]
    pub extcap_interfaces: bool,
    /// The interface that is meant
    #[arg(long, value_name = "NAME")]
    pub extcap_interface: Option<String>,
    /// Say its link types
    #[arg(long)]
    pub extcap_dlts: bool,
    /// Say its options
    #[arg(long)]
    pub extcap_config: bool,
    /// Capture
    #[arg(long)]
    pub capture: bool,
    /// Where to
    #[arg(long, value_name = "FILE")]
    pub fifo: Option<PathBuf>,
    /// Wireshark's version
    #[arg(long, value_name = "VERSION")]
    pub extcap_version: Option<String>,
    /// A filter in the words of pcap, which is not applied: Wireshark's display filters are for that
    #[arg(long, value_name = "FILTER")]
    pub extcap_capture_filter: Option<String>,
    /// Dropped frames only
    #[arg(long)]
    pub drops: bool,
    /// Bytes of each frame at most; 0 is all of them
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub snaplen: u32,
}

const EXTCAP_HELP: &str = "\
Wireshark looks for programs in its extcap folder, which 'tshark -G folders' names; a link to vfnic there is enough:
  mkdir -p ~/.local/lib/wireshark/extcap   # before Wireshark 4.2: ~/.config/wireshark/extcap
  ln -s \"$(command -v vfnic)\" ~/.local/lib/wireshark/extcap/vfnic
The ports of the NICs that run are in the list then, after a look for new interfaces (F5). Those of a vfnic elsewhere (--socket-dir, the unit vfnic@NAME) \
are, if in place of the link there is an executable file of two lines:
  #!/bin/sh
  exec vfnic extcap --ctl /run/vfnic/NAME/ctl.sock \"$@\"";

/// What to look at of a NIC that runs.
#[derive(Debug, Subcommand)]
pub enum Check {
    /// Judge frames that pass once more, on both paths, and say of which they disagree about who gets what: exit code 1 if of any
    #[command(after_help = CHECK_PATHS_HELP)]
    Paths(CheckPaths),
}

/// Options of `vfnic check paths`.
#[derive(Debug, Args)]
pub struct CheckPaths {
    /// End after so many seconds [default: with Ctrl-C]
    #[arg(long, value_name = "S", value_parser = number::number(0.0..=1e6, "seconds"))]
    pub seconds: Option<f64>,
    /// Frames a second of each VF, and of the wire, at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = number::whole::<u32>(1..=1_000_000))]
    pub rate: u32,
    /// How it is shown.
    #[command(flatten)]
    pub show: Show,
}

const CHECK_PATHS_HELP: &str = "\
The direct and the mediated path give the same bytes to the same receivers: that is what makes one of them a stand-in for the other. \
Each frame that is sampled where it enters a NIC is set against what the NIC and what the hypervisor say of it, by the policy by which it \
was judged. A difference is told with all decisions of both. It would be a mistake of vfnic's: please report it. What a bridge on the PF has learned \
('vf N set bridge on') is left out. Who does not check pays nothing.

Examples:
  vfnic check paths --seconds 10
  vfnic check paths --rate 1000000 --json";

const BATCH_HELP: &str = "\
Each line is a vf, filter, link, bridge or fdb command without 'vfnic', and may begin with --nic NAME. What follows a # is a comment. If \
one is refused, the line and the reason are said, and nothing is changed. A line that ends in \\ goes on in the next. A batch is one request, which \
has room for some 1.5 MB of commands; what is more takes several.

Example:
  vfnic batch - <<END
  vf 0 set trust on
  filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 1   # the web server
  END";

/// The keys of `vf N set`, and what else there is to say.
fn vf_help() -> String {
    let keys = SETTING_KEYS.iter().map(|key| {
        let words = format!("{} {}", key.name, key.values);
        format!("  {words:<28} {}\n", key.help)
    });
    let keys: String = keys.collect();
    format!("Settings (several may follow one 'set'; all are applied or none):\n{keys}\n{VF_HELP}")
}

const VF_HELP: &str = "\
How received flows are spread over the guest's queues ('ethtool -X'): N rss
  hkey KEY                     key of the Toeplitz hash, 40 bytes in hexadecimal
  equal N                      evenly over the first N queues
  weight W0 W1 ...             in these proportions over the first queues
  table Q0 ... Q127            each entry by itself
  default                      evenly over the queues that the guest uses
  context new [C] [hkey KEY] [equal N|...]    a further table, for filters that say vf N context C
  context C [hkey KEY] [equal N|...]    changes it;  context C delete    takes it away

Reset of the function (FLR): N reset
  Forgets what the driver has asked for and closes its session, so that the front end connects again. What you have set stays.

What the driver asks of its NIC over the mailbox, for guests whose front end answers their control queue itself: N request
  reset [groups] [vlans]       starts anew; it will list those
  mac MAC | macvlan [MAC ...] | multicast [MAC ...] | table [MAC ...]
                               MAC*N: N addresses that follow each other
  hashes [HEX ...]    bits 36 to 47 of groups, by which Intel's drivers list them
  promisc on|off | allmulti on|off | mode [promisc] [allmulti] [alluni] [nomulti] [nouni] [nobcast]
  vlan add|del VID | vlans [VID ...] | mtu BYTES
  filter add|del flow-type ...  of its driver (generic, ef10): dst MAC, dst
                               unknown-unicast|unknown-multicast, or fields of
                               packets, which may end with action drop or
                               action N (a queue) for what the VF receives
  rss [types none|ipv4|tcpv4|udpv4|ipv6|tcpv6|udpv6 ...] [hkey KEY]
      [equal N|...] | rss delete    spreads its flows itself (generic, ef10)
  link | rss                   the answers are printed

Examples:
  vfnic vf 0 set path mediated
  vfnic vf 0 request promisc on
  vfnic vf 1 set vlan 100 qos 3 spoofchk on
  vfnic link set dev a vf 1 vlan 100 qos 3       as ip-link(8) has it
  vfnic vf 0-7 vlan add 100-119
  vfnic vf 1 mac add 02:00:00:00:00:99
  vfnic vf 1 rss weight 3 1";

const LINK_HELP: &str = "\
numvfs is sriov_numvfs of sysfs: 0, or up to 'vfs' of the configuration (sriov_totalvfs), and from one number to another through 0. \
With the VFs go their sessions, their sockets, all that was set for them, and filters that name them, which are named. New ones \
have sockets and default settings.

Impairments of what passes the port, in the words of tc-netem(8), each time all of them: [netem] [egress|ingress|both] WORDS|none
  delay TIME [JITTER [CORRELATION]] [distribution uniform|normal|pareto|paretonormal]
  loss [random] PERCENT [CORRELATION] | loss state P13 [P31 [P32 [P23 [P14]]]]
  loss gemodel P [R [1-H [1-K]]]
  duplicate|corrupt PERCENT [CORRELATION] | reorder PERCENT [CORRELATION] [gap N] | rate RATE
  limit FRAMES | memory_limit SIZE | seed N
A TIME is in microseconds unless it says s, ms, us or ns (sec, msec, usec, nsec). slot, ecn and a rate's overhead are not known. Of what leaves unless ingress or both is said. What is held back when they change or end is not lost. For what a VF sends (egress) and \
gets (ingress): vf N set [netem] ...

storm_control is how many frames a second from outside are flooded to VFs, broadcasts and groups; 0, the default, is no limit.

'flap' takes the cable out and puts it in again, over and over; 'carrier off' takes it out until 'carrier on'; either of them ends a flap.

Examples:
  vfnic link set dev a down
  vfnic link set numvfs 0
  vfnic link set numvfs 4
  vfnic link set delay 10ms 1ms distribution normal loss 0.1% seed 7
  vfnic link set both netem none
  vfnic vf 0 set netem ingress rate 100mbit limit 1000
  vfnic link set flap up 5s down 200ms";

/// Options of `vfnic run`.
#[derive(Debug, Args)]
pub struct Run {
    /// Where to make the control socket [default: ctl.sock in --socket-dir]
    #[arg(long, value_name = "SOCKET")]
    pub ctl: Option<PathBuf>,
    /// What to run, a file or - for standard input [default: one NIC with two VFs]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Number of VFs (of the first NIC)
    #[arg(long, value_name = "N", value_parser = whole::<u16>(1..=256))]
    pub vfs: Option<u16>,
    /// Workers of each NIC's direct path, a thread each: VF i is served by worker i modulo N [default: 1]
    #[arg(long, value_name = "N")]
    pub workers: Option<u16>,
    /// Threads that the direct paths of all NICs share [default: 1, or as many as a NIC has workers]
    #[arg(long, value_name = "N")]
    pub threads: Option<u16>,
    /// CPUs that these threads run on, one each in turn, such as 1 or 2-5 [default: any]
    #[arg(long, value_name = "LIST")]
    pub cpus: Option<CpuList>,
    /// Where sockets are made [default: $XDG_RUNTIME_DIR/vfnic, else /run/vfnic for root and /tmp/vfnic-UID for others]
    #[arg(long, value_name = "DIR")]
    pub socket_dir: Option<PathBuf>,
    /// QMP socket of the QEMU on VF N (of the first NIC): its guest is shown its link there, and what it asks for is heard
    #[arg(long, value_name = "N=PATH")]
    pub qmp: Vec<QmpOf>,
    /// Where to keep what commands change, for the next start with the same configuration [default: the folder of the sockets, or
    /// $STATE_DIRECTORY]
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Start from the configuration, and keep nothing that commands change
    #[arg(long, conflicts_with = "state")]
    pub no_state: bool,
    /// Keep all privileges, files and system calls that this user has. Without this, each thread gives up what it does not need once
    /// everything is open (on the wall clock)
    #[arg(long)]
    pub no_sandbox: bool,
    /// Make a socket for observers, too: who connects there may ask (show, filter show, why, save, monitor) and change nothing
    #[arg(long, value_name = "SOCKET")]
    pub observe: Option<PathBuf>,
    /// Answer scrapes of metrics (Prometheus, OpenMetrics) at ADDRESS:PORT or unix:PATH, over HTTP at /metrics
    #[arg(long, value_name = "ADDRESS")]
    pub metrics: Option<MetricsAddress>,
    /// Group whose members may connect to the sockets of VFs, of observers and of scrapers [default: nobody but this user]
    #[arg(long, value_name = "NAME")]
    pub group: Option<String>,
    /// Mode of these sockets, 0660 or 0666 [default: 0600, with --group 0660]
    #[arg(long, value_name = "MODE")]
    pub mode: Option<SocketMode>,
    /// Group whose members may connect to the control socket, and so change everything
    #[arg(long, value_name = "NAME")]
    pub ctl_group: Option<String>,
    /// MAC address of VF 0; VF i has this plus i (of the first NIC) [default: of this machine and --socket-dir, and printed]
    #[arg(long, value_name = "MAC")]
    pub mac_base: Option<MacAddr>,
    /// Queue pairs offered to each guest, which may use fewer [default: 8]
    #[arg(long, value_name = "N", value_parser = whole::<u16>(1..=MAX_QUEUE_PAIRS.into()))]
    pub queue_pairs: Option<u16>,
    /// What a guest finds on each VF: virtio, or VFs of hardware, for the driver that is named [default: virtio]
    #[arg(long, value_enum, value_name = "DRIVER")]
    pub device: Option<DeviceKind>,
    /// NIC to be like: generic, falcon, siena, ef10, igb, ixgbe, i40e or mlx5-legacy [default: generic]
    #[arg(long, value_name = "NAME")]
    pub profile: Option<Profile>,
    /// How workers wait for frames [default: adaptive]
    #[arg(long, value_enum, value_name = "HOW")]
    pub poll: Option<PollMode>,
    /// Write the line 'ready' to this inherited descriptor, a pipe or file, when everything listens
    #[arg(long, value_name = "N")]
    pub ready_fd: Option<u32>,
    /// Do not print what there is and what to do next
    #[arg(long, short)]
    pub quiet: bool,
    /// Go on where the vfnic at --ctl is, with all that it runs: what 'vfnic upgrade' starts
    #[arg(long, hide = true, requires = "ctl")]
    pub take_over: bool,
    /// Clock to run on
    #[cfg(feature = "lab")]
    #[arg(long, value_enum, default_value_t)]
    pub clock: RunClock,
    /// Options of the virtual clock.
    #[cfg(feature = "lab")]
    #[command(flatten)]
    pub virtual_clock: VirtualClock,
}

/// Options of `vfnic upgrade`.
#[derive(Debug, Args)]
pub struct Upgrade {
    /// Control socket of a running vfnic [default: ctl.sock in the runtime directory]
    #[arg(long, value_name = "SOCKET")]
    pub ctl: Option<PathBuf>,
    /// Have the new process keep all privileges, as 'run --no-sandbox' has
    #[arg(long)]
    pub no_sandbox: bool,
    /// The program that is to go on [default: this one]
    #[arg(value_name = "PROGRAM")]
    pub program: Option<PathBuf>,
}

const UPGRADE_HELP: &str = "\
The new process is given everything: sockets, sessions of front ends, guests' memory and rings, \
frames that wait, settings and counters. No front end has to connect again, and no frame is lost; \
guests stand still meanwhile, while frames that are on their way go on for a second at most; the \
log says for how long. It runs in the background, its log goes where the old one's went, and \
the old one ends. A service manager is told (sd_notify(3), MAINPID).

If anything cannot be handed over (a tap in place of a VM, devices of hardware, an uplink \
vhost-user), or not to that version, the line says so and the old process goes on as if nothing \
had been asked. Clients of the control socket, and captures, connect again.

Examples:
  vfnic upgrade                       the version of this command
  vfnic upgrade /opt/vfnic-0.2/vfnic  another one";

/// A shell that completes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU Bash
    Bash,
    /// Z shell
    Zsh,
    /// fish
    Fish,
}

/// What to say of profiles.
#[derive(Debug, Subcommand)]
pub enum ProfileCommand {
    /// All profiles, a line each
    List(Show),
    /// Everything that one says
    Show {
        /// Which
        profile: Profile,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// What two say differently
    Diff {
        /// One
        a: Profile,
        /// The other
        b: Profile,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(line.split(' '))
    }

    #[test]
    fn what_a_command_is_for_may_be_said_behind_its_words() {
        for (line, words) in [
            ("vfnic vf 0 set vlan 5 --nic a", "0 set vlan 5"),
            ("vfnic --nic a link set mtu 1500", "set mtu 1500"),
            ("vfnic link set --nic=a up", "set up"),
        ] {
            let cli = parse(line).unwrap();
            let nic = cli.command.target().and_then(|at| at.nic.as_deref());
            assert_eq!(nic.or(cli.nic.as_deref()), Some("a"), "{line}");
            let (Command::Vf { words: said, .. } | Command::Link { words: said, .. }) = cli.command
            else {
                panic!("{line}");
            };
            assert_eq!(said.join(" "), words);
        }
        let cli = parse("vfnic filter add flow-type tcp4 dst-port 80 action -1 --nic a").unwrap();
        let Command::Filter {
            command: Filter::Add { words },
            at,
        } = cli.command
        else {
            panic!("no filter");
        };
        assert_eq!(words.last().map(String::as_str), Some("-1"));
        assert_eq!(at.nic.as_deref(), Some("a"));
        for verb in ["add", "delete"] {
            let line = format!("vfnic netns {verb} blue vf 0 --nic a --ctl c");
            let cli = parse(&line).unwrap();
            let Command::Netns { at, command } = cli.command else {
                panic!("{line}");
            };
            let (Netns::Add { words } | Netns::Delete { words }) = command else {
                panic!("{line}");
            };
            assert_eq!(words.join(" "), "blue vf 0", "{line}");
            assert_eq!(at.nic.as_deref(), Some("a"), "{line}");
            assert!(at.ctl.is_some(), "{line}");
        }
    }

    #[test]
    fn help_behind_words_is_help() {
        for line in [
            "vfnic link set --help",
            "vfnic vf 0 set --help",
            "vfnic fdb add -h",
            "vfnic netns add blue vf 0 --help",
        ] {
            let kind = parse(line).unwrap_err().kind();
            assert_eq!(kind, clap::error::ErrorKind::DisplayHelp, "{line}");
        }
    }

    /// Every command and what is under it.
    fn each(command: &clap::Command, into: &mut Vec<clap::Command>) {
        into.push(command.clone());
        command.get_subcommands().for_each(|sub| each(sub, into));
    }

    /// A paragraph is one line of the source, which clap breaks where the terminal ends. Lines of tables and examples are indented.
    #[test]
    fn no_line_of_help_ends_before_the_terminal_does() {
        let mut program = Cli::command();
        program.build();
        let mut all = Vec::new();
        each(&program, &mut all);
        assert!(all.len() > 30, "{}", all.len());
        for width in [80, 100] {
            for command in &all {
                let help = command.clone().term_width(width).max_term_width(width);
                let help = help.clone().render_long_help().to_string();
                let lines: Vec<_> = help.lines().collect();
                for pair in lines.windows(2) {
                    let [line, next] = pair else { continue };
                    let is_text = |line: &str| !line.is_empty() && !line.starts_with(' ');
                    if !is_text(line) || !is_text(next) {
                        continue;
                    }
                    // Its first word would have fitted.
                    let word = next.split(' ').next().unwrap_or_default();
                    let fits = line.chars().count() + 1 + word.chars().count() <= width;
                    let name = command.get_name();
                    assert!(
                        !fits,
                        "{name} --help at {width}: '{line}' ends before '{next}'"
                    );
                }
            }
        }
    }

    /// A terminal has 80 columns: a row of a table that is longer, and that the source goes on with on another line, would be broken twice.
    #[test]
    fn rows_of_help_that_go_on_are_not_broken_by_clap_as_well() {
        let mut all = Vec::new();
        each(&Cli::command(), &mut all);
        for command in &all {
            let help = command
                .get_after_help()
                .map(ToString::to_string)
                .unwrap_or_default();
            let lines: Vec<_> = help.lines().collect();
            let indent = |line: &str| line.len() - line.trim_start().len();
            for pair in lines.windows(2) {
                let [line, next] = pair else { continue };
                let goes_on = indent(line) > 0 && indent(next) > indent(line) + 2;
                assert!(
                    !goes_on || line.chars().count() <= 80,
                    "{}: {line}",
                    command.get_name()
                );
            }
        }
    }
}
