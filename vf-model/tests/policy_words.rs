//! The words that a configuration file and a JSON reader see.

use vf_model::{
    AddrError, Answer, Command, LinkSetting, MacAddr, Mbps, NicConfig, Path, Policy, Profile,
    Refusal, SettingError, VfFilter, VfFilterError, VfIndex, VfLinkState, VfRequest, VfSetting,
    VlanProto,
};

#[derive(Debug, PartialEq, serde::Deserialize)]
struct Settings {
    mac: MacAddr,
    state: VfLinkState,
    path: Path,
    max_tx_rate: Mbps,
    proto: VlanProto,
}

const TOML: &str = r#"
mac = "02:00:00:00:00:07"
state = "enable"
path = "mediated"
max_tx_rate = 1000
proto = "802.1ad"
"#;

fn policy() -> Policy {
    Policy::new(NicConfig {
        vfs: 256,
        mac_base: MacAddr([2, 0, 0, 0, 1, 0]),
        profile: Profile::Generic,
    })
}

fn apply(policy: &mut Policy, command: &Command) -> Result<(), Refusal> {
    *policy = policy.with(command)?;
    Ok(())
}

fn command(words: &str) -> Command {
    Command::parse(&words.split(' ').collect::<Vec<_>>()).expect(words)
}

#[test]
fn toml_holds_the_words_of_ip_link() {
    let settings: Settings = toml::from_str(TOML).unwrap();
    let expected = Settings {
        mac: MacAddr([2, 0, 0, 0, 0, 7]),
        state: VfLinkState::Enable,
        path: Path::Mediated,
        max_tx_rate: Mbps(1000),
        proto: VlanProto::Dot1ad,
    };
    assert_eq!(settings, expected);
    let error = toml::from_str::<Settings>(&TOML.replace("02:00", "02-00")).unwrap_err();
    assert!(error.message().contains("six bytes such as"), "{error}");
}

#[test]
fn a_policy_is_shown_in_the_same_words() {
    let mut policy = policy();
    apply(
        &mut policy,
        &command("vf 5 set vlan 10 qos 3 path mediated max_tx_rate 100 state disable mtu 9000"),
    )
    .unwrap();
    let shown = serde_json::to_value(policy.vf(VfIndex(5))).unwrap();
    assert_eq!(
        shown,
        serde_json::json!({
            "mac": "02:00:00:00:01:05",
            "port_vlan": { "vid": 10, "qos": 3, "proto": "802.1Q" },
            "spoofchk": true,
            "trust": false,
            "state": "disable",
            "max_tx_rate": 100,
            "min_tx_rate": null,
            "storm_control": 10000,
            "query_rss": false,
            "mtu": 9000,
            "path": "mediated",
            "bridge": false,
            "mirror": null,
        })
    );
}

#[test]
fn all_settings_of_a_command_or_none() {
    let mut policy = policy();
    let before = *policy.vf(VfIndex(0));
    let refused = apply(
        &mut policy,
        &command("vf 0 set trust on spoofchk off vlan 4095"),
    );
    assert_eq!(
        refused,
        Err(SettingError::from(AddrError::Vlan(4095)).into())
    );
    assert_eq!(policy.vf(VfIndex(0)), &before);
}

#[test]
fn the_last_of_256_vfs_is_there() {
    let mut policy = policy();
    assert_eq!(policy.vf_count(), 256);
    apply(&mut policy, &command("vf 255 set path mediated")).unwrap();
    assert_eq!(policy.vf(VfIndex(255)).mac, MacAddr([2, 0, 0, 0, 1, 255]));
    let mut small = Policy::new(NicConfig {
        vfs: 2,
        mac_base: MacAddr([2, 0, 0, 0, 1, 0]),
        profile: Profile::Generic,
    });
    let refused = apply(&mut small, &command("vf 2 set trust on")).unwrap_err();
    assert_eq!(refused.to_string(), "vf2: the VFs of this NIC are 0 to 1");
}

#[test]
fn filters_are_limited_and_do_not_mix_with_a_port_vlan() {
    let mut policy = policy();
    let vf = VfIndex(0);
    apply(&mut policy, &command("vf 0 vlan add 100")).unwrap();
    let again = apply(&mut policy, &command("vf 0 vlan add 100"));
    assert!(matches!(
        again,
        Err(Refusal::Filter(VfFilterError::Exists(VfFilter::Vlan(_))))
    ));
    let gone = apply(&mut policy, &command("vf 0 vlan del 200"));
    assert!(matches!(
        gone,
        Err(Refusal::Filter(VfFilterError::NotFound(VfFilter::Vlan(_))))
    ));
    let port = Command::SetVf {
        vfs: vf.into(),
        settings: vec![VfSetting::Vlan(10)],
    };
    assert_eq!(apply(&mut policy, &port), Err(Refusal::PortVlanAndFilters));
    apply(&mut policy, &command("vf 1 set vlan 10")).unwrap();
    let tagged = apply(
        &mut policy,
        &command("vf 1 mac add 02:00:00:00:00:09 vlan 10"),
    );
    assert_eq!(tagged, Err(Refusal::PortVlanAndFilters));
    apply(&mut policy, &command("vf 1 mac add 02:00:00:00:00:09")).unwrap();
    let group = apply(&mut policy, &command("vf 1 mac add ff:ff:ff:ff:ff:ff"));
    assert_eq!(
        group,
        Err(VfFilterError::from(AddrError::NotUnicast(MacAddr::BROADCAST)).into())
    );
}

/// What the administrator says is not a matter of how far the guest is trusted, and a refusal speaks of trust only where
/// trust would change it.
#[test]
fn the_administrator_has_the_nics_room_whatever_the_guests_trust() {
    for (profile, room) in [
        (Profile::Generic, 1024),
        (Profile::Ef10, 32),
        (Profile::Siena, 0),
    ] {
        for trust in ["off", "on"] {
            if trust == "on" && profile != Profile::Generic {
                continue; // they have none
            }
            let mut policy = Policy::new(NicConfig {
                vfs: 1,
                mac_base: MacAddr([2, 0, 0, 0, 1, 0]),
                profile,
            });
            apply(&mut policy, &command(&format!("vf 0 set trust {trust}"))).unwrap();
            let mac = |i| format!("vf 0 mac add {}", MacAddr([2, 0, 0, 1, 0, 0]).offset(i));
            let vlans = (1..=4094).map(|vid| command(&format!("vf 0 vlan add {vid}")));
            let all: Vec<_> = vlans.chain((0..room).map(|i| command(&mac(i)))).collect();
            policy = policy.with_all(&all).unwrap();
            let refused = apply(&mut policy, &command(&mac(room))).unwrap_err();
            let says = format!("a VF has at most {room} further addresses");
            assert_eq!(refused.to_string(), says, "{profile}, trust {trust}");
        }
    }
}

/// libvirt and sriov-cni give a VF back with the address that they found, which may be none.
#[test]
fn an_address_that_was_set_can_be_unset() {
    let mut policy = policy();
    let vf = VfIndex(3);
    let fresh = *policy.vf(vf);
    let choice = VfRequest::Mac(MacAddr([2, 0, 0, 0, 0, 0x77]));
    apply(&mut policy, &command("vf 3 set mac 02:00:00:00:00:aa")).unwrap();
    assert!(policy.with_request(vf, &choice).is_err());
    apply(&mut policy, &command("vf 3 set mac 00:00:00:00:00:00")).unwrap();
    assert_eq!(*policy.vf(vf), fresh);
    assert!(
        policy.with_request(vf, &choice).is_ok(),
        "the driver's choice again"
    );
    let group = apply(&mut policy, &command("vf 3 set mac 01:00:5e:00:00:01"));
    assert!(group.is_err());
}

#[test]
fn a_filter_that_no_frame_can_meet_is_refused() {
    let mut policy = policy();
    for matches in [
        "dst 01:80:c2:00:00:00",
        "dst 01:80:c2:00:00:0e",
        "dst 01:80:c2:00:00:02 vlan 5",
        "proto 0x8808",
    ] {
        let words = format!("filter add flow-type ether {matches} vf 2");
        let refused = apply(&mut policy, &command(&words)).unwrap_err();
        assert!(
            refused.to_string().contains("no filter sees it"),
            "{refused}"
        );
    }
    for matches in [
        "dst 01:80:c2:00:00:10",
        "dst 01:80:c2:00:00:21",
        "proto 0x8809",
    ] {
        apply(
            &mut policy,
            &command(&format!("filter add flow-type ether {matches} vf 2")),
        )
        .unwrap();
    }
}

#[test]
fn filters_are_listed_from_the_one_that_wins() {
    let mut policy = policy();
    let lines = [
        "flow-type tcp4 dst-ip 10.0.0.1 dst-port 80 vf 2 priority hint",
        "flow-type ether dst 02:00:00:00:00:01 vf 1 priority manual",
        "flow-type ether proto 0x88b5 vf 1 priority required",
        // Waits until that has gone.
        "flow-type ether proto 0x88b5 action drop priority auto",
    ];
    for at in [1, 3, 2, 0] {
        apply(&mut policy, &command(&format!("filter add {}", lines[at]))).unwrap();
    }
    let shown = |policy: &Policy| {
        let listed = policy.filter_table().iter().map(|spec| spec.to_string());
        listed.collect::<Vec<_>>()
    };
    assert_eq!(shown(&policy), lines);
    // What is shown can be given again as it is.
    apply(&mut policy, &command("filter flush")).unwrap();
    for line in lines {
        apply(&mut policy, &command(&format!("filter add {line}"))).unwrap();
    }
    assert_eq!(shown(&policy), lines);
}

#[test]
fn a_profile_says_which_filters_there_are() {
    let filled = |profile, matches: &dyn Fn(u16) -> String| {
        let mut policy = Policy::new(NicConfig {
            vfs: 2,
            mac_base: MacAddr([2, 0, 0, 0, 1, 0]),
            profile,
        });
        let added = (1..=8192).map(|n| command(&format!("filter add {} vf 1", matches(n))));
        let refused = added.map(|c| apply(&mut policy, &c)).find_map(Result::err);
        (policy.filter_table().len(), refused.map(|r| r.to_string()))
    };
    let types = |n| format!("flow-type ether proto {}", 0x8800 + n);
    let (held, refused) = filled(Profile::Ixgbe, &types);
    assert_eq!(held, 5);
    assert!(
        refused
            .unwrap()
            .contains("profile ixgbe holds 5 of the kind flow-type ether proto")
    );
    let flows = |n| format!("flow-type tcp4 dst-ip 10.0.0.1 dst-port {n}");
    assert_eq!(filled(Profile::Falcon, &flows), (8192, None));
    assert_eq!(filled(Profile::Mlx5Legacy, &flows).0, 0);
    let flows = |n| format!("flow-type tcp6 dst-ip fd00::1 dst-port {n}");
    let (held, refused) = filled(Profile::Siena, &flows);
    assert_eq!(held, 0);
    assert!(
        refused
            .unwrap()
            .contains("profile siena holds 0 of the kind flow-type tcp6")
    );
    for profile in Profile::all() {
        assert_eq!(profile.to_string().parse(), Ok(profile));
        let json = serde_json::to_value(profile).unwrap();
        assert_eq!(json, serde_json::json!(profile.to_string()));
    }
}

/// What administrators of these NICs see, by the sources of their Linux drivers.
#[test]
fn each_family_refuses_what_its_drivers_refuse() {
    let profiles = Profile::all().map(|profile| profile.to_string());
    assert_eq!(
        profiles.collect::<Vec<_>>().join(" "),
        "generic falcon siena ef10 igb ixgbe i40e mlx5-legacy"
    );
    // In that order: . is yes, i EINVAL, o EOPNOTSUPP, p EPROTONOSUPPORT, - yes without a change.
    for (words, answers) in [
        ("mac 02:00:00:00:00:77", "........"),
        ("spoofchk off", "........"),
        ("vlan 10", ".o......"),
        ("vlan 10 qos 3", ".o.i...."),
        ("vlan 4096", "aoaaaaaa"),
        ("vlan 10 proto 802.1ad", ".opppppp"),
        ("max_tx_rate 100", ".ooo...."),
        ("max_tx_rate 0", "........"),
        ("max_tx_rate 10", ".ooo.i.."),
        ("trust on", ".ooo...."),
        ("state enable", ".oo.o-.."),
        ("state disable", ".oo.o..."),
        ("mirror 1", ".oooo..o"),
        ("mirror none", "........"),
        ("privilege +PROMISCUOUS", ".oo.oooo"),
    ] {
        for (profile, answer) in Profile::all().zip(answers.chars()) {
            let policy = like(profile);
            let command = command(&format!("vf 0 set {words}"));
            let said = policy.with(&command);
            let want = match answer {
                'i' => Some(Answer::Einval),
                'o' => Some(Answer::Eopnotsupp),
                'p' => Some(Answer::Eprotonosupport),
                'a' => {
                    assert!(matches!(said, Err(Refusal::Setting(SettingError::Addr(_)))));
                    continue;
                }
                _ => None,
            };
            match (&said, want) {
                (Ok(after), None) => {
                    let ignored = policy.ignored(&command).len();
                    assert_eq!(ignored, usize::from(answer == '-'), "{profile}: {words}");
                    let same = after.vf(VfIndex(0)) == policy.vf(VfIndex(0));
                    assert!(answer != '-' || same, "{profile}: {words}");
                }
                (Err(Refusal::Lacking { answer, .. }), Some(want)) => assert_eq!(*answer, want),
                _ => panic!("{profile}: {words}: {said:?}"),
            }
        }
    }
    // y is yes, and anything else a word of the refusal.
    for (words, answers) in [
        ("vf 0 rss context new equal 2", "ynnynnnn"),
        ("vf 0 rss equal 4", "yyyynyyy"),
        ("vf 0 request link", "yyyynyyy"),
        ("vf 0 request promisc on", "yyyynyyy"),
        ("vf 0 request allmulti on", "yyyyyyyy"),
        ("vf 0 request vlan add 5", "yyyyyyyy"),
    ] {
        for (profile, answer) in Profile::all().zip(answers.chars()) {
            let said = like(profile).with(&command(words));
            assert_eq!(said.is_ok(), answer == 'y', "{profile}: {words}: {said:?}");
            if let Err(why) = said {
                let why = why.to_string();
                let names = why.contains("igb has no such") || why.contains("has none:");
                assert!(names || why.contains("1 to 2 queues"), "{why}");
            }
        }
    }
    let refused = like(Profile::Ef10).with(&command("vf 0 set max_tx_rate 5"));
    assert_eq!(
        refused.unwrap_err().to_string(),
        "max_tx_rate 5: drivers of ef10 answer EOPNOTSUPP (see vfnic profile show ef10)"
    );
    // ixgbe limits what goes over a link that is up.
    let down = like(Profile::Ixgbe)
        .with(&command("link set down"))
        .unwrap();
    assert!(down.with(&command("vf 0 set max_tx_rate 100")).is_err());
}

/// The range checks of Linux's drivers end at 4095, which IEEE 802.1Q reserves: it is done, and said so.
#[test]
fn vlan_4095_is_taken_by_those_whose_drivers_take_it_with_a_warning() {
    let words = command("vf 0 set vlan 4095");
    for (profile, takes) in Profile::all().zip("nnnnyyyn".chars()) {
        let policy = like(profile);
        match policy.with(&words) {
            Ok(after) => {
                assert_eq!(takes, 'y', "{profile}");
                assert_eq!(after.vf(VfIndex(0)).port_vlan.unwrap().tag().vid(), 4095);
                let says = policy.ignored(&words).join("");
                assert!(says.contains("reserves it"), "{profile}: {says}");
            }
            Err(why) => assert_eq!(takes, 'n', "{profile}: {why}"),
        }
    }
}

/// What a port cannot carry no driver of Intel's promises, and ixgbe limits on a port of 10 Gb/s only.
#[test]
fn a_rate_is_one_that_the_port_has() {
    for (mbps, words, answers) in [
        (10_000, "max_tx_rate 10000", "........"),
        (10_000, "max_tx_rate 10001", ".ooonnn."),
        (25_000, "max_tx_rate 10001", ".ooo.n.."),
        (25_000, "max_tx_rate 100", ".ooo.n.."),
        (1_000, "max_tx_rate 0", "........"),
    ] {
        for (profile, answer) in Profile::all().zip(answers.chars()) {
            let words = format!("vf 1 set {words}");
            let bare = like(profile);
            let refused_before = bare.with(&command(&words)).is_err();
            if answer == '.' && refused_before {
                assert!(["falcon", "siena", "ef10"].contains(&&*profile.to_string()));
                continue; // it limits nothing
            }
            let port = bare.clone().with_port_rate(mbps * 1_000_000).unwrap();
            let said = port.with(&command(&words));
            assert_eq!(said.is_ok(), answer == '.', "{profile}: {words}: {said:?}");
            // The other way round it is the same.
            if let (false, Ok(before)) = (refused_before, bare.with(&command(&words))) {
                let plugged = before.with_port_rate(mbps * 1_000_000);
                assert_eq!(plugged.is_ok(), answer == '.', "{profile}: {words}");
            }
        }
    }
}

/// i40e: 18 filters on addresses without trust, its own and broadcast among them; what is one too many is refused and not in force.
#[test]
fn addresses_and_groups_share_their_room_on_i40e() {
    let list = |n: u32, m: u32| {
        let macs = (0..n).map(|i| MacAddr([2, 0, 0, 1, 0, 0]).offset(i).to_string());
        let groups = (0..m).map(|i| MacAddr([1, 0, 0x5e, 0, 0, 0]).offset(i).to_string());
        let all: Vec<_> = macs.chain(groups).collect();
        command(&format!("vf 0 request table {}", all.join(" ")))
    };
    for (profile, trust, asked, in_force, says) in [
        (Profile::I40e, "off", (10, 6), (10, 6), "yes"),
        (
            Profile::I40e,
            "off",
            (10, 7),
            (10, 6),
            "at most 16 further addresses and groups together (1024 with trust)",
        ),
        (
            Profile::I40e,
            "off",
            (17, 3),
            (16, 0),
            "at most 16 further addresses (1024 with trust)",
        ),
        (Profile::I40e, "on", (17, 40), (17, 40), "yes"),
        (Profile::Ixgbe, "off", (16, 31), (16, 30), "yes"),
        (Profile::Mlx5Legacy, "off", (16, 30), (16, 30), "yes"),
    ] {
        let what = format!("{profile} {trust} {asked:?}");
        let policy = like(profile)
            .with(&command(&format!("vf 0 set trust {trust}")))
            .unwrap();
        let asks = list(asked.0, asked.1);
        let policy = policy.with(&asks).unwrap();
        let rx = policy.in_force(VfIndex(0));
        let groups = rx.multicast.as_ref().map_or(0, Vec::len) as u32;
        assert_eq!((rx.unicast.len() as u32, groups), in_force, "{what}");
        let said = policy.answers(&asks).join("");
        assert!(said.contains(says), "{what}: {said}");
        // With trust the rest is in force, as after the reset that drivers do then.
        let trusted = policy.with(&command("vf 0 set trust on")).unwrap();
        let rx = trusted.in_force(VfIndex(0));
        assert_eq!(rx.unicast.len() as u32, asked.0, "{what}");
    }
}

/// The queues of a VF are as many as its family gives it.
#[test]
fn a_filter_names_a_queue_that_a_vf_of_the_family_has() {
    for (profile, queue, says) in [
        (Profile::Igb, 1, None),
        (
            Profile::Igb,
            2,
            Some("action 2: EINVAL, the queues of a VF of igb are 0 to 1"),
        ),
        (Profile::Ixgbe, 3, None),
        (
            Profile::Ixgbe,
            4,
            Some("action 4: EINVAL, the queues of a VF of ixgbe are 0 to 3"),
        ),
    ] {
        let words = format!("filter add flow-type ether proto 0x88b5 vf 1 action {queue}");
        let said = like(profile).with(&command(&words));
        let why = said.err().map(|why| why.to_string());
        match says {
            None => assert_eq!(why, None, "{profile} {queue}"),
            Some(says) => assert!(why.unwrap().contains(says), "{profile} {queue}"),
        }
    }
}

/// danm-cni/danm#246.
#[test]
fn a_port_vlan_switches_spoofchk_on_where_drivers_do_that() {
    for (profile, checks) in [(Profile::Generic, false), (Profile::Mlx5Legacy, true)] {
        let off = like(profile)
            .with(&command("vf 0 set spoofchk off"))
            .unwrap();
        let vlan = off.with(&command("vf 0 set vlan 10")).unwrap();
        assert_eq!(vlan.vf(VfIndex(0)).spoofchk, checks, "{profile}");
        let again = vlan.with(&command("vf 0 set spoofchk off")).unwrap();
        assert!(!again.vf(VfIndex(0)).spoofchk);
    }
}

#[test]
fn profiles_say_the_same_things_of_themselves_and_differ() {
    let names = |profile: Profile| {
        profile
            .facts()
            .iter()
            .map(|fact| fact.name)
            .collect::<Vec<_>>()
    };
    let values = |profile: Profile| {
        profile
            .facts()
            .into_iter()
            .map(|fact| fact.value)
            .collect::<Vec<_>>()
    };
    for profile in Profile::all() {
        assert_eq!(names(profile), names(Profile::Generic));
        for other in Profile::all().filter(|other| *other != profile) {
            assert_ne!(values(profile), values(other), "{profile} {other}");
        }
    }
}

fn like(profile: Profile) -> Policy {
    Policy::new(NicConfig {
        vfs: 2,
        mac_base: MacAddr([2, 0, 0, 0, 0, 0]),
        profile,
    })
}

#[test]
fn a_range_of_vfs_or_vlans_is_set_as_a_whole_or_not_at_all() {
    let mut policy = policy();
    apply(&mut policy, &command("vf 1-3 set trust on mtu 1400")).unwrap();
    let trusted = (0..8).map(VfIndex).filter(|vf| policy.vf(*vf).trust);
    assert_eq!(trusted.collect::<Vec<_>>(), [1, 2, 3].map(VfIndex));
    apply(&mut policy, &command("vf 2 vlan add 110")).unwrap();
    let before: Vec<_> = (0..8)
        .map(|vf| (*policy.vf(VfIndex(vf)), policy.filters(VfIndex(vf)).clone()))
        .collect();
    // VF 2 has one of them and cannot be in a port VLAN, and the last VLAN is not there to delete.
    for refused in [
        "vf 0-3 vlan add 100-119",
        "vf 1-2 set vlan 5",
        "vf 2 vlan del 110-111",
    ] {
        assert!(apply(&mut policy, &command(refused)).is_err(), "{refused}");
        let after = (0..8).map(|vf| (*policy.vf(VfIndex(vf)), policy.filters(VfIndex(vf)).clone()));
        assert!(after.eq(before.iter().cloned()), "{refused}");
    }
    apply(&mut policy, &command("vf 3-4 vlan add 100-119")).unwrap();
    for vf in [3, 4] {
        assert_eq!(policy.filters(VfIndex(vf)).vlans().len(), 20);
    }
    apply(&mut policy, &command("vf 3-4 vlan del 100-119")).unwrap();
    assert_eq!(policy.filters(VfIndex(3)).vlans(), []);
}

#[test]
fn no_more_is_guaranteed_than_there_is() {
    let mut policy = policy().with_port_rate(10_000_000_000).unwrap();
    apply(&mut policy, &command("vf 0-3 set min_tx_rate 2000")).unwrap();
    let refused = |policy: &Policy, words: &str| {
        let refusal = policy.with(&command(words)).unwrap_err();
        refusal.to_string()
    };
    assert_eq!(
        refused(&policy, "vf 4-5 set min_tx_rate 1001"),
        "min_tx_rate: 10002 Mb/s would be guaranteed to VFs in all, and the port has 10000"
    );
    assert_eq!(
        refused(&policy, "vf 0 set max_tx_rate 1999"),
        "min_tx_rate 2000: the VF has a max_tx_rate of 1999, which is less"
    );
    apply(
        &mut policy,
        &command("vf 4-5 min_tx_rate 1000 max_tx_rate 1000"),
    )
    .unwrap();
    assert!(policy.clone().with_port_rate(9_999_000_000).is_err());
    apply(&mut policy, &command("vf 0-5 min_tx_rate 0")).unwrap();
    assert!(policy.with_port_rate(1_000_000).is_ok());
}

/// What EF10's exclusive RSS context is to the policy.
#[test]
fn a_driver_spreads_its_flows_as_it_likes_until_it_starts_anew() {
    let mut policy = like(Profile::Ef10);
    let vf = VfIndex(0);
    let spread = |policy: &Policy| policy.rss(vf).spread().to_string();
    let ask = |policy: &mut Policy, words: &str| {
        apply(policy, &command(&format!("vf 0 request {words}"))).map_err(|why| why.to_string())
    };
    let table = ["table"]
        .into_iter()
        .chain(["1", "0", "0", "1"].into_iter().cycle().take(128));
    let table: Vec<_> = table.collect();
    let key = ["5a"; 40].join(":");
    let own = format!("rss types ipv4 tcpv4 hkey {key} {}", table.join(" "));
    let shown = command(&format!("vf 0 request {own}")).to_string();
    assert_eq!(
        shown,
        format!("vf 0 request {own}"),
        "the words are those that it is read from"
    );
    ask(&mut policy, &own).unwrap();
    assert_eq!(spread(&policy), table.join(" "));
    assert_eq!(
        (policy.rss(vf).key().to_string(), policy.rss(vf).entry(3, 4)),
        (key, 1)
    );
    // What the administrator says meanwhile holds when the driver's is gone; and the file that is saved has that.
    apply(&mut policy, &command("vf 0 rss equal 2")).unwrap();
    assert_eq!(spread(&policy), table.join(" "));
    let saved = policy.saved().vfs[0].rss_spread.clone();
    assert_eq!(saved.unwrap().to_string(), "equal 2");
    for gone in ["request rss delete", "request reset", "reset"] {
        ask(&mut policy, "rss types none weight 1 3").unwrap();
        assert_eq!(spread(&policy), "weight 1 3");
        apply(&mut policy, &command(&format!("vf 0 {gone}"))).unwrap();
        assert_eq!(spread(&policy), "equal 2", "{gone}");
    }
    for (words, says) in [
        ("rss types", "types: none, or some of ipv4"),
        ("rss types ipv5", "types 'ipv5': "),
        (
            "rss table 0 1",
            "1: a queue for each of 128 entries must follow",
        ),
        ("rss evn", "rss 'evn': "),
    ] {
        let words: Vec<_> = ["vf", "0", "request"]
            .into_iter()
            .chain(words.split(' '))
            .collect();
        let refused = Command::parse(&words).unwrap_err().to_string();
        assert!(refused.contains(says), "{words:?}: {refused}");
    }
    let beyond = own.replace("table 1", "table 16");
    assert!(
        ask(&mut policy, &beyond)
            .unwrap_err()
            .contains("1 to 16 queues")
    );
    assert_eq!(spread(&policy), "equal 2");
    assert!(
        ask(&mut like(Profile::Ixgbe), &own).is_err(),
        "the 82599's is its PF's"
    );
}

/// The mailbox of an SR-IOV NIC, with the answers of Linux's PF drivers.
#[test]
fn what_a_driver_asks_over_the_mailbox() {
    let mut policy = policy();
    let ask = |policy: &mut Policy, words: &str| {
        let command = command(words);
        match apply(policy, &command) {
            Ok(()) => policy.answers(&command).join("; "),
            Err(refusal) => format!("refused: {refusal}"),
        }
    };
    let many: Vec<String> = (0..17).map(|i| format!("02:00:00:01:00:{i:02x}")).collect();
    let many = format!("vf 0 request macvlan {}", many.join(" "));
    for (words, answer) in [
        ("vf 0 request link", "vf0: up"),
        (
            "vf 0 request rss",
            "refused: the key of the hash and its table are not for the VF to read: set query_rss on",
        ),
        (
            "vf 0 request promisc on",
            "vf0: yes, but a VF without trust receives only what is for it; it is remembered, and in force as soon as that is allowed",
        ),
        ("vf 0 request mac 02:00:00:00:00:99", "vf0: yes"),
        ("vf 0 request vlan add 5", "vf0: yes"),
        ("vf 0 request multicast 01:00:5e:00:00:01", "vf0: yes"),
        (
            &many,
            "vf0: no, not all of it: a VF has at most 16 further addresses (1024 with trust); it is remembered, and in force as \
             soon as that is allowed",
        ),
        (
            "vf 0 request multicast 02:00:00:00:00:01",
            "refused: mac 02:00:00:00:00:01: a group's address is needed",
        ),
        ("vf 0 set mtu 1400", ""),
        (
            "vf 0 request mtu 1500",
            "refused: mtu 1500: the VF has an MTU of 1400",
        ),
        ("vf 0 request mtu 1300", "vf0: yes"),
        ("vf 0-1 request link", "vf0: up; vf1: up"),
    ] {
        let said = ask(&mut policy, words);
        match answer.starts_with("refused: mac") {
            true => assert!(said.starts_with("refused: "), "{words}: {said}"),
            false => assert_eq!(said, answer, "{words}"),
        }
    }
    let vf = VfIndex(0);
    let in_force = policy.in_force(vf).clone();
    assert!(!in_force.mode.promisc && in_force.unicast.len() == 16);
    assert_eq!(in_force.multicast.as_ref().map(Vec::len), Some(1));
    assert_eq!(
        (policy.tx_mtu(vf).get(), policy.rx_mtu(vf).get()),
        (1400, 1300)
    );
    assert_eq!(ask(&mut policy, "vf 0 set trust on query_rss on"), "");
    assert!(policy.in_force(vf).mode.promisc && policy.in_force(vf).unicast.len() == 17);
    assert!(ask(&mut policy, "vf 0 request rss").starts_with("vf0: hkey 6d:5a:"));
    assert!(ask(&mut policy, "vf 0 request rss").ends_with(" default"));
    // A reset forgets what the driver has asked for, and nothing of the administrator's.
    let said = *policy.vf(vf);
    assert_eq!(ask(&mut policy, "vf 0 reset"), "");
    assert_eq!((*policy.vf(vf), policy.resets(vf)), (said, 1));
    assert_eq!(policy.in_force(vf), &vf_model::RxFilter::default());
    assert_eq!(policy.rx_mtu(vf).get(), 1400);
}

/// As a hand that takes the cable does.
#[test]
fn who_takes_the_cable_of_a_flapping_link_ends_that() {
    for (words, is_out) in [
        ("link set carrier off", true),
        ("link set carrier on", false),
    ] {
        let mut policy = policy();
        apply(&mut policy, &command("link set flap up 2s down 200ms")).unwrap();
        let flapped = Command::SetLink(vec![LinkSetting::Flapped(false)]);
        apply(&mut policy, &flapped).unwrap();
        assert!(policy.is_cable_out() && policy.flap().is_some());
        apply(&mut policy, &command(words)).unwrap();
        assert_eq!(
            (policy.is_cable_out(), policy.flap()),
            (is_out, None),
            "{words}"
        );
        assert_eq!(policy.saved().cable_out, is_out);
    }
}

/// Whoever knows an address beforehand would have all that comes for it, and could send in its name.
#[test]
fn an_address_that_another_vf_is_given_is_no_drivers_whoever_came_first() {
    const MAC: &str = "52:54:00:12:34:56";
    let receivers = |policy: &Policy, mac: MacAddr| {
        let source = vf_model::Source::Vf(VfIndex(0));
        let mut frame = [mac.0, policy.mac(VfIndex(0)).0].concat();
        frame.extend([0x88, 0xb5]);
        frame.resize(60, 0);
        let meta = vf_model::FrameMeta { len: 60, gso: None };
        let vfs = policy.why(source, &frame, &meta).verdict.vfs;
        vfs.iter().map(|vf| vf.0).collect::<Vec<_>>()
    };
    let mac: MacAddr = MAC.parse().unwrap();
    let table = format!("vf 1 request table {MAC}");
    for asked in [format!("vf 1 request mac {MAC}"), table] {
        for given in ["vf 2 set mac", "vf 2 mac add"] {
            let mut policy = policy();
            let own = policy.mac(VfIndex(1));
            apply(&mut policy, &command(&asked)).unwrap();
            assert_eq!(receivers(&policy, mac), [1], "nobody else has it");
            apply(&mut policy, &command(&format!("{given} {MAC}"))).unwrap();
            assert_eq!(receivers(&policy, mac), [2], "{asked}, {given}");
            assert_eq!(policy.mac(VfIndex(1)), own);
            // When it is nobody's again, its driver has it, which has not been told.
            let back = match given {
                "vf 2 set mac" => "vf 2 set mac 02:00:00:00:00:77".to_owned(),
                _ => format!("vf 2 mac del {MAC}"),
            };
            apply(&mut policy, &command(&back)).unwrap();
            assert_eq!(receivers(&policy, mac), [1], "{asked}, {given}");
        }
        // Nor what the switch has been told to be behind the PF.
        let mut policy = policy();
        apply(&mut policy, &command(&asked)).unwrap();
        apply(&mut policy, &command(&format!("fdb add {MAC} self"))).unwrap();
        assert!(receivers(&policy, mac).is_empty(), "{asked}");
    }
    // Nor what the NIC has given to a VF whose driver uses another one.
    let mut policy = policy();
    let theirs = policy.mac(VfIndex(2));
    apply(&mut policy, &command(&format!("vf 2 request mac {MAC}"))).unwrap();
    let take = command(&format!("vf 1 request mac {theirs}"));
    let refused = apply(&mut policy, &take);
    assert_eq!(refused, Err(Refusal::MacTaken(theirs)));
    // Who is trusted may have any.
    apply(&mut policy, &command("vf 1 set trust on")).unwrap();
    apply(&mut policy, &take).unwrap();
    assert_eq!(policy.mac(VfIndex(1)), theirs);
}
