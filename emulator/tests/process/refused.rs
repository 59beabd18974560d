//! Commands of every verb, many of them wrong, one by one and in batches: what is refused leaves what `vfnic save` prints as it was.

use std::collections::BTreeSet;

use vfnic::control::{NicCommand, Request, Response, ask};

use crate::emulator::Emulator;

/// What each word in capitals may stand for; words in capitals in there as well.
const MEANT: [(&str, &str); 8] = [
    ("VF", "0, 0, 0, 1, 1, 0-1, 1-3, 9, x, 2-0"),
    (
        "MAC",
        "02:00:00:00:00:91, 02:00:00:00:00:91, 02:00:00:00:00:91, 02:00:00:00:00:92, 01:00:5e:00:00:01, 00:00:00:00:00:00, 02:00",
    ),
    ("VID", "0, 5, 6, 100-119, 4094, 4095"),
    (
        "VALUE",
        "mac MAC, vlan VID, vlan VID qos 3 proto 802.1ad, qos 3, qos 9, proto 802.1Q, spoofchk on, spofchk off, trust on, trust off, \
         trust maybe, privilege +PROMISCUOUS, privilege +TRUST, state auto, state enable, state disable, state up, max_tx_rate 100, \
         max_tx_rate 0, max_tx_rate 20000, rate 7, min_tx_rate 100 max_tx_rate 50, min_tx_rate 6000, min_tx_rate 0, storm_control 9, \
         storm_control -1, query_rss on, mtu 1400, mtu 67, path direct, path mediated, path auto, path none, bridge on, bridge off, \
         mirror 1, mirror none, mirror 9, max_filters 3, max_mcasts 70000, max_buf_pages 3, trust on path none, NETEM, ingress NETEM",
    ),
    (
        "NETEM",
        "loss 1%, loss 200%, delay 1ms, delay -1ms, netem none, duplicate 1% limit 10",
    ),
    (
        "FILTER",
        "ether proto 0x88b5, ether proto 0x8808, ether dst MAC, ether dst MAC vlan 5, ether dst unknown-unicast, ether src MAC, \
         tcp4 dst-ip 10.0.0.1 dst-port 80, tcp4 dst-ip fd00::1 dst-port 80, udp6 dst-ip fd00::1 dst-port 0, ip4 src-ip 10.0.0.0/8",
    ),
    (
        "ACTION",
        "vf VF, vf 0 action 2, vf 0 action 99, vf 1 context 1, action drop, action -1, action mediated, mirror 1, vf 0 priority hint, \
         vf 1 priority required, vf 0 priority auto, vf 0 loc 3, vf 0 loc 9000, action drop vf 0, action pass, mirror 1 vf 0",
    ),
    (
        "REQUEST",
        "promisc on, allmulti maybe, mac MAC, macvlan MAC MAC, vlan add VID, vlan del VID, mtu 9000, link, rss, reset groups, \
         filter add flow-type ether dst MAC, mode promisc nobcast, table 02:00:00:00:00:91*20, multicast MAC, hashes 0x001, dance",
    ),
];

const COMMANDS: &str = "vf VF set VALUE, vf VF set VALUE VALUE, vf VF VALUE, vf VF mac add MAC, vf VF mac add MAC vlan VID, vf VF mac del MAC, \
    vf VF vlan add VID, vf VF vlan del VID, vf VF rss weight 3 1, vf VF rss default, vf VF rss context new equal 2, \
    vf VF rss context 1 delete, vf VF request REQUEST, vf VF reset, link set up, link set mtu 4000, link set storm_control 9, link set hwmode vepa, \
    link set carrier off, link set carrier on, link set flap up 3600s down 1s, link set flap none, link set NETEM, link set both NETEM, \
    link set numvfs 0, link set numvfs 2, link set numvfs 2, link set numvfs 2, link set vf VF VALUE, fdb add MAC self, fdb add MAC vlan VID self, fdb del MAC self, \
    bridge link set dev a hwmode veb, bridge fdb add MAC dev b self, filter add flow-type FILTER ACTION, \
    filter replace flow-type FILTER ACTION, filter add egress vf VF flow-type FILTER action drop, filter del flow-type FILTER, \
    filter delete 3, filter flush";
const NEVER_RIGHT: &str = "fly, vf VF fly, vf VF rss equal 17, link set fly, link set down mtu 9217, link set hwmode none, link set flap up, \
    link set numvfs 99, fdb add MAC dev c self, filter fly";

/// Numbers that are the same in every run.
struct Dice(u64);

impl Dice {
    fn one_of<'a>(&mut self, all: &'a str) -> &'a str {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        let all: Vec<_> = all.split(", ").collect();
        all[(self.0 >> 11) as usize % all.len()]
    }

    /// What a text may mean, as words.
    fn meant(&mut self, text: &str, words: &mut Vec<String>) {
        for word in text.split_whitespace() {
            match MEANT.iter().find(|(meant, _)| *meant == word) {
                Some((_, all)) => {
                    let one = self.one_of(all);
                    self.meant(one, words);
                }
                None => words.push(word.to_owned()),
            }
        }
    }

    /// A command, and what kind it is of.
    fn command(&mut self) -> (&'static str, NicCommand) {
        let kinds = self.one_of("right, right, right, right, wrong");
        let kind = match kinds {
            "wrong" => self.one_of(NEVER_RIGHT),
            _ => self.one_of(COMMANDS),
        };
        let mut words = Vec::new();
        self.meant(kind, &mut words);
        let nic = Some(self.one_of("a, a, a, b, b, c").to_owned());
        (kind, NicCommand { nic, words })
    }
}

#[test]
fn what_is_refused_leaves_what_is_saved_as_it_was_to_the_byte() {
    let emulator = Emulator::with_config(
        "[[nic]]\nname = 'a'\nvfs = 4\n[[nic]]\nname = 'b'\nvfs = 3\nprofile = 'ixgbe'\n[[wire]]\nbetween = ['a', 'b']\n",
    );
    let ask = |request| ask(&emulator.ctl(), &request).unwrap();
    let save = || match ask(Request::Save) {
        Response::Save(text) => text,
        other => panic!("{other:?}"),
    };
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut refused, mut done) = (BTreeSet::new(), BTreeSet::new());
    let mut changed = 0;
    let mut before = save();
    for step in 0..2000 {
        let (kind, command) = dice.command();
        let commands: Vec<_> = match step % 4 {
            // The last of several, behind others that may be right.
            0 => (0..3).map(|_| dice.command().1).chain([command]).collect(),
            _ => vec![command],
        };
        let said = format!("{step}: {commands:?}");
        let answer = match commands.as_slice() {
            [one] => ask(Request::Command(one.clone())),
            _ => ask(Request::Batch { commands }),
        };
        let after = save();
        match answer {
            Response::Done(_) => {
                changed += usize::from(after != before);
                done.insert(kind);
            }
            Response::Refused(why) | Response::RefusedAt { why, .. } => {
                assert!(!why.is_empty() && !why.contains('\n'), "{said}: {why}");
                assert_eq!(after, before, "{said}: {why}");
                refused.insert(kind);
            }
            other => panic!("{said}: {other:?}"),
        }
        before = after;
    }
    let never: Vec<_> = COMMANDS
        .split(", ")
        .filter(|kind| !done.contains(kind))
        .collect();
    assert!(never.len() < 6, "never done: {never:?}");
    for kind in COMMANDS.split(", ").chain(NEVER_RIGHT.split(", ")) {
        assert!(refused.contains(kind), "never refused: {kind}");
    }
    assert!(changed > 150, "{changed}");
}
