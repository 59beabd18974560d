//! Commands, requests and frames, at random and by name.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use vf_model::{
    Command, DriverAction, GroupHash, LinkSetting, MacAddr, Mtu, Nanos, Path, RxMode, Source,
    SwitchMode, UnknownIn, VfIndex, VfRequest, VfSetting, Vid,
};

use crate::host::Act;
use crate::{BASE, VFS};

pub(crate) fn sets_mirror(command: &Command) -> bool {
    let Command::SetVf { settings, .. } = command else {
        return false;
    };
    settings.iter().any(|s| matches!(s, VfSetting::Mirror(_)))
}

pub(crate) fn parse(words: &str) -> Command {
    let words: Vec<&str> = words.split(' ').collect();
    Command::parse(&words).unwrap()
}

pub(crate) fn any_mac() -> impl Strategy<Value = String> {
    (0..VFS + 4).prop_map(|i| BASE.offset(i.into()).to_string())
}

pub(crate) fn any_command() -> impl Strategy<Value = Command> {
    let vid = || select(vec![10, 20, 30]);
    let words = prop_oneof![
        4 => (0u16..3, select(vec!["802.1Q", "802.1Q", "802.1ad"]), 0..8)
            .prop_map(|(v, proto, qos)| match v * 10 {
                0 => "set vlan 0".to_owned(),
                v => format!("set vlan {v} proto {proto} qos {qos}"),
            }),
        3 => vid().prop_map(|v| format!("vlan add {v}")),
        1 => vid().prop_map(|v| format!("vlan del {v}")),
        2 => any_mac().prop_map(|m| format!("mac add {m}")),
        2 => (any_mac(), vid()).prop_map(|(m, v)| format!("mac add {m} vlan {v}")),
        1 => any_mac().prop_map(|m| format!("mac del {m}")),
        1 => any_mac().prop_map(|m| format!("set mac {m}")),
        3 => select(vec!["on", "off"]).prop_map(|s| format!("set spoofchk {s}")),
        3 => select(vec!["on", "on", "off"]).prop_map(|s| format!("set trust {s}")),
        1 => select(vec!["new", "1 equal 2", "1 delete"]).prop_map(|op| format!("rss context {op}")),
        2 => select(vec!["+PROMISCUOUS", "+ALL_MULTICAST,-UNICAST", "-MULTICAST,-BROADCAST", "+CHANGE_MAC", "UNICAST,BROADCAST,MAC_SPOOFING_TX"])
            .prop_map(|p| format!("set privilege {p}")),
        2 => select(vec!["auto", "enable", "disable"]).prop_map(|s| format!("set state {s}")),
        1 => select(vec!["0", "1", "2", "none"]).prop_map(|to| format!("set mirror {to}")),
        2 => select(vec![0, 68, 72, 76, 9216]).prop_map(|mtu| format!("set mtu {mtu}")),
    ];
    prop_oneof![
        12 => (0..VFS, words).prop_map(|(vf, words)| parse(&format!("vf {vf} {words}"))),
        1 => any::<bool>().prop_map(|up| Command::SetLink(vec![LinkSetting::Up(up)])),
        1 => select(vec![68, 72, 9216]).prop_map(|mtu| Command::SetLink(vec![LinkSetting::Mtu(mtu)])),
        2 => select(SwitchMode::ALL.to_vec()).prop_map(Command::SetSwitchMode),
        1 => (any_mac(), select(vec!["", " vlan 10"])).prop_map(|(m, v)| parse(&format!("fdb add {m}{v} self"))),
        8 => any_filter_command(),
    ]
}

pub(crate) fn any_filter_command() -> impl Strategy<Value = Command> {
    let ip4 = || (1u8..4).prop_map(|i| format!("10.0.0.{i}"));
    let ip6 = || (1u8..4).prop_map(|i| format!("fd00::{i}"));
    let port = || 80u16..82;
    let flow = |transport: &'static str, ip: BoxedStrategy<String>| {
        (ip.clone(), port(), proptest::option::of((ip, port()))).prop_map(
            move |(dst, port, remote)| {
                let local = format!("flow-type {transport} dst-ip {dst} dst-port {port}");
                match remote {
                    None => local,
                    Some((src, port)) => format!("{local} src-ip {src} src-port {port}"),
                }
            },
        )
    };
    let station = || prop_oneof![3 => any_mac(), 1 => Just("01:00:5e:00:00:01".to_owned()), 1 => Just(MacAddr::BROADCAST.to_string())];
    let matches = prop_oneof![
        4 => flow("tcp4", ip4().boxed()),
        2 => flow("udp4", ip4().boxed()),
        2 => flow("tcp6", ip6().boxed()),
        3 => station().prop_map(|m| format!("flow-type ether dst {m}")),
        3 => (station(), select(vec![10, 20, 30])).prop_map(|(m, v)| format!("flow-type ether vlan {v} dst {m}")),
        1 => select(vec!["0x800", "0x86dd", "0x8100"]).prop_map(|p| format!("flow-type ether proto {p}")),
        2 => select(vec!["unicast", "multicast"]).prop_map(|u| format!("flow-type ether dst unknown-{u}")),
    ];
    let matches = prop_oneof![3 => matches.boxed(), 2 => any_fields()].boxed();
    let priority = select(vec!["", " priority hint", " priority required"]);
    let action = prop_oneof![
        1 => Just("action drop".to_owned()),
        3 => (0..VFS).prop_map(|vf| format!("vf {vf}")),
        1 => (0..VFS, 0u8..4).prop_map(|(vf, queue)| format!("vf {vf} action {queue}")),
        1 => (0..VFS).prop_map(|vf| format!("vf {vf} context 1")),
        1 => (0..VFS).prop_map(|vf| format!("mirror {vf}")),
        2 => Just("action mediated".to_owned()),
    ];
    let sender = || prop_oneof![1 => Just("egress".to_owned()), 3 => (0..VFS).prop_map(|vf| format!("egress vf {vf}"))];
    let source = (any_mac(), select(vec!["", " vlan 10", " vlan 20"]))
        .prop_map(|(mac, vlan)| format!("flow-type ether src {mac}{vlan}"));
    let sent = (sender(), prop_oneof![source.boxed(), any_fields()])
        .prop_map(|(s, m)| format!("{s} {m}"))
        .boxed();
    let verdict = select(vec!["pass", "drop"]);
    prop_oneof![
        20 => (matches.clone(), action, priority.clone())
            .prop_map(|(m, a, p)| parse(&format!("filter add {m} {a}{p}"))),
        6 => (sent.clone(), verdict, priority.clone())
            .prop_map(|(m, a, p)| parse(&format!("filter add {m} action {a}{p}"))),
        1 => (sent, priority.clone()).prop_map(|(m, p)| parse(&format!("filter del {m}{p}"))),
        4 => (matches, priority).prop_map(|(m, p)| parse(&format!("filter del {m}{p}"))),
        1 => Just(Command::FlushFilters),
    ]
}

/// Words for any fields of frames, alone or together.
pub(crate) fn any_fields() -> BoxedStrategy<String> {
    let some = |words: BoxedStrategy<String>| proptest::option::of(words);
    let of = |key: &'static str, values: Vec<&'static str>| {
        some(
            select(values)
                .prop_map(move |value| format!(" {key} {value}"))
                .boxed(),
        )
    };
    let masks = || select(vec!["", " m 00:00:00:00:00:01", " m fe:ff:ff:ff:ff:ff"]);
    let mac = move |key: &'static str| {
        some(
            (any_mac(), masks())
                .prop_map(move |(mac, mask)| format!(" {key} {mac}{mask}"))
                .boxed(),
        )
    };
    let vlans = vec!["10", "20", "20 vlan-etype 0x88a8", "10 vlan-etype 0x9100"];
    let link = (of("vlan", vlans), of("inner-vlan", vec!["10", "20"]));
    let ether = (mac("dst"), mac("src"), of("proto", vec!["0x800", "0x86dd"])).prop_map(
        |(dst, src, proto)| {
            format!(
                "flow-type ether{}",
                [dst, src, proto].map(Option::unwrap_or_default).concat()
            )
        },
    );
    let ips = |key| {
        of(
            key,
            vec!["10.0.0.1", "10.0.0.2/31", "10.0.0.0/8", "10.0.0.2"],
        )
    };
    let packet = (
        select(vec!["ip4", "tcp4", "udp4", "sctp4", "tcp6"]),
        ips("dst-ip"),
        ips("src-ip"),
        (
            of("dst-port", vec!["80", "81"]),
            of("src-port", vec!["80", "81"]),
        ),
        of("l4proto", vec!["1", "6", "17"]),
        mac("dst-mac"),
    )
        .prop_map(|(flow_type, dst, src, (to, from), protocol, mac)| {
            let is_ip = flow_type == "ip4";
            let v4 = |ip: Option<String>| match (flow_type, ip) {
                ("tcp6", Some(ip)) => Some(
                    ip.replace("10.0.0.", "fd00::")
                        .replace("/8", "/16")
                        .replace("/31", "/127"),
                ),
                (_, ip) => ip,
            };
            let l4 = [
                to.filter(|_| !is_ip),
                from.filter(|_| !is_ip),
                protocol.filter(|_| is_ip),
            ];
            let all = [v4(dst), v4(src), mac].into_iter().chain(l4).flatten();
            format!("flow-type {flow_type}{}", all.collect::<String>())
        });
    (prop_oneof![ether, packet], link)
        .prop_map(|(words, (vlan, inner))| {
            let link = [vlan, inner].map(Option::unwrap_or_default);
            format!("{words}{}", link.concat())
        })
        .prop_filter("no field", |words| words != "flow-type ether")
        .boxed()
}

pub(crate) fn group(i: u32) -> MacAddr {
    MacAddr([1, 0, 0x5e, 0, 0, 0]).offset(i)
}

pub(crate) fn any_group() -> impl Strategy<Value = MacAddr> {
    (0u32..3).prop_map(group)
}

pub(crate) fn any_driver_action() -> impl Strategy<Value = DriverAction> {
    select(vec![
        DriverAction::Receive,
        DriverAction::Drop,
        DriverAction::Queue(1),
    ])
}

/// Numbers below `of`, some of them and in any order.
pub(crate) fn any_list(of: u32, len: std::ops::Range<usize>) -> impl Strategy<Value = Vec<u32>> {
    prop::sample::subsequence((0..of).collect::<Vec<_>>(), len).prop_shuffle()
}

pub(crate) fn any_request() -> impl Strategy<Value = VfRequest> {
    let mac = || (0..VFS + 6).prop_map(|i| BASE.offset(i.into()));
    let vid = || select(vec![10, 20, 30]).prop_map(|vid| Vid::new(vid).unwrap());
    let mode = vec(any::<bool>(), 6).prop_map(|flags| RxMode {
        promisc: flags[0],
        allmulti: flags[1],
        alluni: flags[2],
        nomulti: flags[3] && flags[0],
        nouni: flags[4] && flags[1],
        nobcast: flags[5],
    });
    prop_oneof![
        2 => any::<(bool, bool)>().prop_map(|(lists_groups, lists_vlans)| VfRequest::Reset {
            lists_groups,
            lists_vlans,
        }),
        2 => mac().prop_map(VfRequest::Mac),
        1 => select(vec![68, 76]).prop_map(|mtu| VfRequest::Mtu(Mtu::new(mtu).unwrap())),
        3 => mode.prop_map(VfRequest::RxMode),
        3 => (vec(mac(), 0..4), vec(any_group(), 0..4)).prop_map(|(unicast, multicast)| {
            VfRequest::MacTable { unicast, multicast }
        }),
        // More than fit, in any order: which are in force depends on it.
        1 => (any_list(40, 0..24), any_list(36, 0..36)).prop_map(|(stations, groups)| {
            VfRequest::MacTable {
                unicast: stations.into_iter().map(|i| BASE.offset(i)).collect(),
                multicast: groups.into_iter().map(group).collect(),
            }
        }),
        2 => vec(any_group().prop_map(GroupHash::of), 0..40).prop_map(VfRequest::GroupHashes),
        3 => vid().prop_map(VfRequest::VlanAdd),
        1 => vid().prop_map(VfRequest::VlanDel),
        2 => vec((vid(), any::<bool>()), 0..4).prop_map(|all| {
            let all = all.into_iter().map(|(vid, multicast)| UnknownIn { vid, multicast });
            VfRequest::UnknownIn(all.collect())
        }),
    ]
}

pub(crate) fn any_act() -> impl Strategy<Value = Act> {
    prop_oneof![
        any_command().prop_map(Act::Admin),
        (0..VFS, any_request()).prop_map(|(vf, request)| Act::Driver(VfIndex(vf), request)),
    ]
}

pub(crate) fn any_change() -> impl Strategy<Value = Act> {
    prop_oneof![any_act(), any_filter_command().prop_map(Act::Admin)]
}

pub(crate) fn any_paths() -> impl Strategy<Value = Vec<Path>> {
    let all = vec![Path::Direct, Path::Mediated, Path::Auto];
    vec(select(all), usize::from(VFS))
}

pub(crate) fn any_source() -> impl Strategy<Value = Source> {
    prop_oneof![
        4 => (0..VFS).prop_map(|vf| Source::Vf(VfIndex(vf))),
        1 => Just(Source::Wire),
    ]
}

pub(crate) fn any_frame() -> impl Strategy<Value = Vec<u8>> {
    let known = || (0..VFS + 6).prop_map(|i| BASE.offset(i.into()));
    let group = select(vec![
        MacAddr::BROADCAST,
        MacAddr([1, 0, 0x5e, 0, 0, 1]),
        MacAddr([1, 0, 0x5e, 0, 0, 2]),
        MacAddr([1, 0x80, 0xc2, 0, 0, 0x0e]),
    ]);
    let tag = (
        select(vec![0x8100u16, 0x8100, 0x88a8, 0x9100]),
        select(vec![0u16, 10, 20, 30, 4095]),
        0u16..16,
    );
    let tags = prop_oneof![3 => Just(Vec::new()), 2 => vec(tag, 1..4)];
    let to = prop_oneof![3 => known(), 2 => group];
    (to, known(), tags, any_packet()).prop_map(|(dst, src, tags, packet)| {
        let mut frame = [dst.0, src.0].concat();
        for (tpid, vid, high) in tags {
            frame.extend(tpid.to_be_bytes());
            frame.extend((high << 12 | vid).to_be_bytes());
        }
        frame.extend(packet);
        frame.resize(frame.len().max(60), 0x5a);
        frame
    })
}

/// A type and what it announces: a flow, a fragment of one, an address, a pause, or nothing known.
pub(crate) fn any_packet() -> impl Strategy<Value = Vec<u8>> {
    let ends = || (1u8..4, 1u8..4, 80u16..82, 80u16..82);
    let protocol = || select(vec![6u8, 6, 17, 1, 132]);
    // Both may have something between their fixed header and the transport's: a word of options, a header with padding.
    let v4 =
        (ends(), protocol(), any::<bool>(), any::<bool>()).prop_map(|(ends, l4, whole, more)| {
            let (src, dst, from, to) = ends;
            let mut packet = vec![8, 0, 0x45 + u8::from(more), 0, 0, 40, 0, 0];
            packet.extend([u8::from(!whole) << 5, 0, 64, l4, 0, 0]);
            packet.extend([10, 0, 0, src, 10, 0, 0, dst]);
            packet.extend(more.then_some([1; 4]).into_iter().flatten());
            packet.extend(from.to_be_bytes());
            packet.extend(to.to_be_bytes());
            packet
        });
    let v6 = (ends(), protocol(), any::<bool>()).prop_map(|((src, dst, from, to), l4, more)| {
        let first = if more { 0 } else { l4 };
        let mut packet = vec![0x86, 0xdd, 0x60, 0, 0, 0, 0, 28, first, 64];
        for last in [src, dst] {
            packet.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
        }
        let hop_by_hop = [l4, 0, 1, 4, 0, 0, 0, 0];
        packet.extend(more.then_some(hop_by_hop).into_iter().flatten());
        packet.extend(from.to_be_bytes());
        packet.extend(to.to_be_bytes());
        packet
    });
    // Of a gratuitous one both ends are the same.
    let arp = (0..VFS, 1u8..4, 1u8..4).prop_map(|(vf, sender, target)| {
        let mac = BASE.offset(vf.into()).0;
        let mut packet = vec![8, 6, 0, 1, 8, 0, 6, 4, 0, 2];
        packet.extend([&mac[..], &[10, 0, 0, sender], &mac, &[10, 0, 0, target]].concat());
        packet
    });
    let pause = Just(vec![0x88, 0x08, 0, 1, 0xff, 0xff]);
    prop_oneof![4 => Just(vec![8, 0]), 8 => v4, 4 => v6, 2 => arp, 1 => pause]
}

/// Time between frames; bridges forget after 300 s.
pub(crate) fn any_gap() -> impl Strategy<Value = Nanos> {
    select(vec![0, 0, 0, 1, 299, 300]).prop_map(|s| Nanos(s * 1_000_000_000))
}

/// A frame whose sender owns its source address, so that most of them get past the checks.
pub(crate) fn any_traffic() -> impl Strategy<Value = (Source, Vec<u8>)> {
    (any_source(), any_frame(), any::<bool>()).prop_map(|(source, mut frame, own)| {
        if let (Source::Vf(vf), true) = (source, own) {
            frame[6..12].copy_from_slice(&BASE.offset(vf.0.into()).0);
        }
        (source, frame)
    })
}

pub(crate) fn frame(dst: u32, src: u32) -> Vec<u8> {
    let mut frame = [BASE.offset(dst).0, BASE.offset(src).0].concat();
    frame.extend([8, 0]);
    frame.resize(60, 0x5a);
    frame
}

/// A segment of a TCP flow to 10.0.0.9, port 80, in VLAN 10 as 802.1Q has it.
pub(crate) fn flow_frame(dst: MacAddr, src: MacAddr) -> Vec<u8> {
    let mut frame = [dst.0, src.0].concat();
    frame.extend([
        0x81, 0, 0, 10, 8, 0, 0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0,
    ]);
    frame.extend([10, 0, 0, 2, 10, 0, 0, 9, 0x13, 0x88, 0, 80]);
    frame.resize(64, 0);
    frame
}
