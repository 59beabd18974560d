//! The command line of `vfnic filter`. Does nothing.

use clap::Subcommand;

use super::show::Show;

/// What to do with a NIC's filters.
#[derive(Debug, Subcommand)]
pub enum Filter {
    /// Add a filter
    Add {
        /// [dev NIC] MATCH vf N [loc N] | MATCH action drop [loc N] | MATCH mirror N | egress [vf N] MATCH action drop|pass
        #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
        words: Vec<String>,
    },
    /// Add a filter, in place of one with the same match and priority if there is one
    Replace {
        /// [dev NIC] MATCH vf N [action Q|context C] | MATCH action drop|mediated | MATCH mirror N | egress [vf N] MATCH action drop|pass
        #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
        words: Vec<String>,
    },
    /// Delete the filter with this id, or with this match, and of this priority
    #[command(visible_alias = "delete")]
    Del {
        /// [dev NIC] ID | MATCH | egress [vf N] MATCH
        #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
        words: Vec<String>,
    },
    /// Delete all filters
    Flush {
        /// [dev NIC]
        #[arg(num_args = 0..)]
        words: Vec<String>,
    },
    /// Show all filters, those that win first
    Show {
        /// [dev NIC]
        #[arg(num_args = 0..)]
        words: Vec<String>,
        /// How it is shown.
        #[command(flatten)]
        show: Show,
    },
}

pub(super) const FILTER_HELP: &str = "\
Matches, in the order in which they win, of the kinds that NICs have tables for:
  flow-type tcp4|udp4|tcp6|udp6 src-ip IP dst-ip IP src-port PORT dst-port PORT
  flow-type tcp4|udp4|tcp6|udp6 dst-ip IP dst-port PORT
  flow-type ether dst MAC vlan VID
  flow-type ether dst MAC
  flow-type ether proto TYPE
  flow-type ether dst unknown-multicast  (groups that no filter before names; not broadcast)
  flow-type ether dst unknown-unicast    (from the wire, and no VF has the address)
The generic NIC takes any fields together, ef10 some more (its refusal says which):
  flow-type ether [dst MAC] [src MAC] [proto TYPE]
  flow-type ip4|ip6 [src-ip IP] [dst-ip IP] [l4proto N] [dst-mac MAC] [src-mac MAC]
  flow-type tcp4|udp4|sctp4|tcp6|udp6|sctp6 [src-ip IP] [dst-ip IP] [src-port PORT] [dst-port PORT] [dst-mac MAC] [src-mac MAC]
  each with [vlan VID [vlan-etype 0x88a8]] [inner-vlan VID]
An IP may be a prefix, 10.0.0.0/8. After a MAC or IP, m MASK names the bits that do not matter, as ethtool has it (of an IP those behind a prefix). Of two filters \
that match a frame the one wins that has the first field, of dst-port, src-port, dst-ip, src-ip, l4proto, dst, src, vlan, inner-vlan \
and proto in this order, that the other has not; of the same fields the longer prefix or mask. \
They judge what is received, from the wire or by a VF from another; not what a VF sends to the wire.

mirror N in place of vf N gives VF N a copy, besides where the frame goes anyway: the next filter that matches decides that. What is \
dropped is not copied. Only the generic NIC has it.

vf N action Q gives it to queue Q of the guest; vf N context C to one of its queues by the RSS context C of the VF, see 'vfnic vf \
--help'. action mediated says nothing of who gets it: it goes to them by way of the PF and the hypervisor, and to no later filter.

With egress in front, as tc and rte_flow call it, a filter judges what VFs send, wherever it goes: action drop, or action pass, after \
which no other egress filter is asked. vf N says whose frames (of all VFs without); such a filter goes before others. The generic \
NIC takes any fields, and what no filter matches passes. siena has a table of source addresses for each VF: egress vf N flow-type \
ether src MAC [vlan VID] action pass, and a VF with one sends nothing else. Other profiles have none.

Each may end with priority hint|auto|manual|required [default: manual]. There is one filter for a match: a higher priority \
takes the place of a lower one, a lower one is refused. What took the place of an auto one gives it back when it is deleted. \
To delete a filter, name the priority that it has.

'filter show' says each filter's id, behind the words that add it, and 'show' how full the NIC's tables are. The generic NIC, \
igb, ixgbe and i40e have rows that software numbers: the id is the row, the lowest free one unless loc N chooses it. falcon, \
siena and ef10 choose the row themselves by a hash, and refuse a filter whose rows are taken, a hint sooner than others; of \
their filters that with the lowest id wins. Behind them are those that drivers have for what their VFs receive, as comments.

Examples:
  vfnic filter add flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 1
  vfnic filter add flow-type ether proto 0x88b5 action drop
  vfnic filter add egress vf 1 flow-type tcp4 dst-port 25 action drop
  vfnic filter del flow-type tcp4 dst-ip 10.0.0.1 dst-port 80
  vfnic filter delete 5";
