//! The words that a configuration file and a JSON reader see.

use vf_model::{
    AddrError, Command, MAX_UNTRUSTED_FILTERS, MacAddr, Mbps, NicConfig, Path, Policy, Profile,
    Refusal, SettingError, VfFilter, VfFilterError, VfIndex, VfLinkState, VfSetting, VlanProto,
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
        &command("vf 5 set vlan 10 qos 3 path mediated max_tx_rate 100 state disable"),
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
            "path": "mediated",
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
    for i in 0..MAX_UNTRUSTED_FILTERS {
        apply(&mut policy, &command(&format!("vf 0 vlan add {}", i + 1))).unwrap();
    }
    let full = Err(Refusal::Filter(VfFilterError::Full {
        room: MAX_UNTRUSTED_FILTERS,
    }));
    assert_eq!(apply(&mut policy, &command("vf 0 vlan add 100")), full);
    apply(&mut policy, &command("vf 0 set trust on")).unwrap();
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
        vf,
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
