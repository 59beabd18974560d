//! The words of `vfnic netns`. Does nothing.

use clap::Subcommand;

use super::show::Show;

/// What to do with namespaces.
#[derive(Debug, Subcommand)]
pub enum Netns {
    /// Make a network device in a namespace that is a VF
    Add {
        /// NS vf N [name DEVICE] [default: eth0]
        #[arg(required = true, num_args = 1..)]
        words: Vec<String>,
    },
    /// Take it away
    #[command(visible_alias = "del")]
    Delete {
        /// NS [vf N]
        #[arg(required = true, num_args = 1..)]
        words: Vec<String>,
    },
    /// Show which namespaces are on which VFs
    #[command(visible_alias = "show")]
    List(Show),
}

pub(super) const NETNS_HELP: &str = "\
NS is a namespace that 'ip netns add' has made, or the path of another, such as /proc/PID/ns/net or /run/netns/cni-... What is said by the number \
of a process is not kept for the next start of vfnic: 'ip netns attach NAME PID' gives it a name.

The device is a tap with the VF's address and MTU, super-frames and checksums left to the NIC, and a carrier while the VF has a link and vfnic \
runs. Policy, filters, both paths, captures and counters are as for a VM. It is made down and without an address, and goes when it is deleted or vfnic \
ends. To make it takes CAP_NET_ADMIN and CAP_SYS_ADMIN (root); the vfnic that runs needs neither. In a file it is tap = \"eth0\" and netns = \
\"NS\" of a [[nic.vf]], and then vfnic makes it at its start.

Examples:
  ip netns add blue
  vfnic netns add blue vf 0
  ip -n blue address add 10.0.0.1/24 dev eth0
  ip -n blue link set eth0 up
  vfnic netns delete blue";
