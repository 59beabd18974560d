//! What a user can say about NICs, VFs, wires and the hypervisor: the TOML file, and the defaults without one.
//! Everything is checked here; later rooms get a [`Config`] that cannot be wrong. Opens nothing but that file.

mod access;
mod cpu;
mod device;
mod error;
mod file;
mod needs;
mod nic;
mod place;
mod policy;
mod save;
mod socket_dir;
mod vf;
mod wire;

use std::path::PathBuf;

use crate::metrics::MetricsAddress;
use crate::tap_port::TapDevice;
use crate::thread::Polling;
use crate::uplink::UplinkSpec;

pub use access::{SocketAccess, SocketMode, SocketModeError};
pub use cpu::{CpuList, CpuListError, HypervisorCpu, PollMode};
pub use device::{DeviceKind, Offloads};
pub use error::ConfigError;
pub use file::{HypervisorSection, Overrides, Sections, one_line, read_text};
pub use nic::{LoopbackSettings, NicSection, NicSettings, default_queue_pairs};
pub use policy::initial_policy;
pub use socket_dir::{default_socket_dir, temporary_socket_dir};
pub use vf::{LinkMethod, QmpOf, SocketRole, VfSettings};
pub use wire::{WireSection, WireSettings, parse_rate};

/// A complete, checked description of what to run.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where sockets are made unless a VF names its own.
    pub socket_dir: PathBuf,
    /// The control socket, if it is not `ctl.sock` there.
    pub ctl: Option<PathBuf>,
    /// The socket of observers, who may ask and change nothing, if there is one.
    pub observe: Option<PathBuf>,
    /// Where scrapes of metrics are answered, if anywhere.
    pub metrics: Option<MetricsAddress>,
    /// Who may connect to the sockets of VFs, of observers and of scrapers.
    pub access: SocketAccess,
    /// The group of administrators, who may connect to the control socket.
    pub ctl_group: Option<String>,
    /// How the mediated path pays for its work, if that is said; each clock has a default of its own.
    pub hypervisor: Option<HypervisorCpu>,
    /// How workers wait for work.
    pub poll: Polling,
    /// Threads that all NICs' direct paths share; a NIC with more workers has as many.
    pub threads: u16,
    /// CPUs that these threads run on, one each in turn; any if it is empty.
    pub cpus: CpuList,
    /// At least one.
    pub nics: Vec<NicSettings>,
    /// Wires between two of the NICs.
    pub wires: Vec<WireSettings>,
}

impl Config {
    /// The control socket.
    #[must_use]
    pub fn ctl_socket(&self) -> PathBuf {
        let default = || self.socket_dir.join("ctl.sock");
        self.ctl.clone().unwrap_or_else(default)
    }

    /// That no uplink is this device, and no VF but this one of this NIC (by their places) has it.
    ///
    /// # Errors
    /// Who has it, on one line.
    pub fn check_tap_is_free(&self, tap: &TapDevice, to: (usize, usize)) -> Result<(), String> {
        check_tap_is_free(&self.nics, tap, to)
    }
}

fn check_tap_is_free(
    nics: &[NicSettings],
    tap: &TapDevice,
    to: (usize, usize),
) -> Result<(), String> {
    for (n, nic) in nics.iter().enumerate() {
        let uplink = nic.uplink.as_ref().and_then(UplinkSpec::host_device);
        if uplink == Some(tap.name.as_str()) && tap.netns.is_none() {
            return Err(format!(
                "{tap} is the uplink of {}: say another name",
                nic.name
            ));
        }
        let mut vfs = nic.vf.iter().enumerate();
        let other = vfs.find(|(i, vf)| (n, *i) != to && vf.tap.as_ref() == Some(tap));
        if let Some((i, _)) = other {
            let nic = &nic.name;
            return Err(format!(
                "{tap} is on {nic} vf {i} already: say another name"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use vf_model::VfSetting;

    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        Config::from_toml(text, Path::new("test.toml"), &Overrides::default(), false)
    }

    #[test]
    fn without_a_file_there_is_one_nic_with_two_vfs() {
        let over = Overrides {
            socket_dir: Some("/s".into()),
            ..Overrides::default()
        };
        let config = Config::load(None, &over).unwrap();
        assert_eq!(config.nics.len(), 1);
        let sockets: Vec<_> = config.nics[0].vf.iter().map(|v| v.socket.clone()).collect();
        assert_eq!(
            sockets,
            [Path::new("/s/vf0.sock"), Path::new("/s/vf1.sock")]
        );
        assert_eq!(config.ctl_socket(), Path::new("/s/ctl.sock"));
    }

    #[test]
    fn paths_are_those_of_the_folder_in_which_they_are_said() {
        let folder = tempfile::tempdir_in(".").unwrap();
        let file = std::fs::File::create(folder.path().join("x.pcap")).unwrap();
        pcap_file::pcap::PcapWriter::new(file).unwrap();
        let pcap = Path::new(folder.path().file_name().unwrap()).join("x.pcap");
        let pcap = pcap.display();
        let config = load(&format!(
            "socket_dir='t'\nctl='c/ctl'\nobserve='o'\nmetrics='unix:m'\n\
             [[nic]]\nname='a'\nuplink='pcap {pcap} delay 2s'\n[[nic.vf]]\nindex=0\nqmp='q'\n\
             [[nic]]\nname='b'\nuplink='vhost-user v/s'\n[[nic.vf]]\nindex=1\nsocket='five'\n\
             [[nic]]\nname='c'\nuplink='tap t0'\n",
        ));
        let config = config.unwrap();
        let here = std::env::current_dir().unwrap();
        let nics = &config.nics;
        let paths = [
            (Some(&config.socket_dir), "t"),
            (config.ctl.as_ref(), "c/ctl"),
            (config.observe.as_ref(), "o"),
            (nics[0].vf[0].qmp.as_ref(), "t/q"),
            (Some(&nics[0].vf[0].socket), "t/a-vf0.sock"),
            (Some(&nics[1].vf[1].socket), "t/five"),
        ];
        for (path, said) in paths {
            assert_eq!(path, Some(&here.join(said)));
        }
        let metrics = config.metrics.unwrap().to_string();
        assert_eq!(metrics, format!("unix:{}/m", here.display()));
        let uplinks = nics
            .iter()
            .map(|nic| nic.uplink.as_ref().unwrap().to_string());
        let here = here.display();
        assert_eq!(
            uplinks.collect::<Vec<_>>(),
            [
                format!("pcap {here}/{pcap} delay 2s"),
                format!("vhost-user {here}/v/s"),
                "tap t0".to_owned()
            ]
        );
    }

    #[test]
    fn two_nics_back_to_back() {
        let config = load(
            "[[nic]]\nname='a'\nvfs=3\nmac_base='02:00:00:00:0a:00'\n[[nic.vf]]\nindex=1\npath='mediated'\nvlan=7\n\
             [[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\nrate='2.5G'\npropagation_ns=100\n",
        )
        .unwrap();
        // The path is said first, and depends on nothing.
        assert_eq!(
            config.nics[0].vf[1].policy,
            [
                VfSetting::Vlan(7),
                VfSetting::Path(vf_model::Path::Mediated)
            ]
        );
        assert_eq!(config.wires[0].link.rate_bps, 2_500_000_000);
        assert!(config.nics[1].vf[0].socket.ends_with("b-vf0.sock"));
    }

    #[test]
    fn addresses_that_nobody_has_chosen_are_the_machines_and_the_folders_own() {
        let bases = |machine: Option<&str>, dir: &str| {
            let over = Overrides {
                socket_dir: Some(dir.into()),
                machine: machine.map(str::to_owned),
                ..Overrides::default()
            };
            let text = "[[nic]]\nname='a'\n[[nic]]\nname='b'\nmac_base='02:00:00:00:0a:00'\n[[nic]]\nname='c'\n";
            let config = Config::from_toml(text, Path::new("test.toml"), &over, false);
            let nics = config.unwrap().nics.into_iter();
            nics.map(|nic| nic.mac_base.to_string()).collect::<Vec<_>>()
        };
        let none = bases(None, "/run/vfnic");
        assert_eq!(
            none,
            [
                "02:76:66:00:00:00",
                "02:00:00:00:0a:00",
                "02:76:66:00:02:00"
            ]
        );
        let here = bases(Some("3d1219c7\n"), "/run/vfnic");
        assert_eq!(
            here,
            bases(Some("3d1219c7"), "/run/vfnic"),
            "after a restart"
        );
        assert_eq!(here[1], "02:00:00:00:0a:00", "chosen");
        for other in [
            bases(Some("3d1219c7"), "/run/other"),
            bases(Some("5e"), "/run/vfnic"),
        ] {
            assert_ne!(here[0][..11], other[0][..11]);
            assert_eq!(here[0][..11], here[2][..11]);
            assert_ne!(here[0], here[2]);
        }
    }

    #[test]
    fn every_key_of_vf_set_is_a_key_of_the_file() {
        let mac = "02:00:00:00:00:01";
        let config = load(&format!(
            "[[nic]]\nname='a'\n[[nic.vf]]\npath='mediated'\nmtu=9000\nquery_rss=true\nstorm_control=500\nmin_tx_rate=4\nmax_tx_rate=5\nstate='disable'\nprivilege='+PROMISCUOUS'\ntrust=true\nspoofchk=false\n\
             proto='802.1ad'\nqos=3\nvlan=7\nmac='{mac}'\nindex=1\nsocket='s'\nsocket_role='client'\n"
        ));
        let vf = config.unwrap().nics[0].vf[1].clone();
        assert!(vf.socket.ends_with("s") && vf.role == SocketRole::Client);
        let words: Vec<_> = vf.policy.iter().map(VfSetting::words).collect();
        let said = [
            mac,
            "7",
            "3",
            "802.1ad",
            "off",
            "on",
            "+PROMISCUOUS",
            "disable",
            "5",
            "4",
            "500",
            "on",
            "9000",
            "mediated",
        ];
        let keys = vf_model::SETTING_KEYS.iter().map(|key| key.name);
        let keys = keys.filter(|key| *key != "rate");
        let said = keys.zip(said.map(str::to_owned));
        assert_eq!(words, said.collect::<Vec<_>>());
    }

    #[test]
    fn what_can_be_added_to_a_vf_can_be_written_in_the_file() {
        let config = load(
            "[[nic]]\nname='a'\n[[nic.vf]]\nindex=1\nmacs=['02:00:00:00:00:07', '02:00:00:00:00:08 vlan 5']\n\
             vlans=[5, '100-119']\nrss='weight 3 1'\n",
        );
        let policy = crate::config::initial_policy(&config.unwrap().nics[0]).unwrap();
        let vf = vf_model::VfIndex(1);
        assert_eq!(policy.filters(vf).macs().len(), 2);
        assert_eq!(policy.filters(vf).vlans().len(), 21);
        assert_eq!(policy.rss(vf).spread().to_string(), "weight 3 1");
        for (text, says) in [
            (
                "vlans=[4095]",
                "line 5: a vf0: vlans: vlan 4095: VLANs are 1 to 4094",
            ),
            ("vlans=[1.5]", "a VLAN such as 100"),
            ("macs=['02:00']", "a vf0: macs: mac '02:00'"),
            (
                "macs=['ff:ff:ff:ff:ff:ff']",
                "a vf0: macs: mac ff:ff:ff:ff:ff:ff",
            ),
            ("rss='even'", "line 5: a vf0: rss: "),
            ("netem='los 1%'", "line 5: a vf0: netem: netem: 'los'"),
            (
                "netem_ingress='loss'",
                "line 5: a vf0: netem_ingress: netem: loss",
            ),
            (
                "trust=true\nvlan=5000",
                "line 6: a vf0: vlan 5000: VLANs are 1 to 4094",
            ),
            (
                "qos=3",
                "line 5: a vf0: qos and proto belong to a port VLAN",
            ),
            ("vlan=5\nqos=9", "line 6: a vf0: qos"),
            ("vlans=[5]\nvlan=7", "not both"),
        ] {
            let text = format!("[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\n{text}");
            let error = match load(&text) {
                Err(error) => error.to_string(),
                Ok(config) => match crate::config::initial_policy(&config.nics[0]) {
                    Err((_, refusal)) => refusal.to_string(),
                    Ok(_) => panic!("{text}"),
                },
            };
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn vfs_and_link_may_be_fewer_and_down_at_the_start() {
        let config = load(
            "[[nic]]\nname='a'\nvfs=8\nnumvfs=2\nlink='down'\n[[nic.vf]]\nindex=5\nsocket='five'\n[[nic.vf]]\nindex=1\nvlans=[5]\ntrust=true\n",
        );
        let nic = config.unwrap().nics.remove(0);
        assert_eq!((nic.vfs, nic.num_vfs()), (8, 2));
        let policy = crate::config::initial_policy(&nic).unwrap();
        assert_eq!((policy.num_vfs(), policy.vf_count()), (2, 8));
        assert!(!policy.port_up());
        let vf = vf_model::VfIndex(1);
        assert!(policy.vf(vf).trust && policy.filters(vf).vlans().len() == 1);
    }

    #[test]
    fn impairments_of_a_wire_are_those_of_both_ends() {
        let nics = "[[nic]]\nname='a'\n[[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\n";
        let said = |config: Config| {
            let netems = config.nics.into_iter().map(|nic| nic.netem.egress);
            netems
                .map(|netem| netem.map(|spec| spec.to_string()))
                .collect::<Vec<_>>()
        };
        let both = load(&format!("{nics}netem='delay 1ms loss 0.1%'")).unwrap();
        let words = Some("delay 1ms loss 0.1%".to_owned());
        assert_eq!(said(both), [words.clone(), words]);
        let one = nics.replacen("name='a'", "name='a'\nnetem='loss 1%'", 1);
        assert_eq!(
            said(load(&one).unwrap()),
            [Some("loss 1%".to_owned()), None]
        );
        // `tap` is another way to say it.
        for uplink in ["uplink='tap tap7'", "tap='tap7'"] {
            let config = load(&format!("[[nic]]\nname='a'\nnetem='loss 1%'\n{uplink}")).unwrap();
            assert_eq!(
                config.nics[0].uplink.as_ref().unwrap().to_string(),
                "tap tap7"
            );
        }
    }

    #[test]
    fn mistakes_are_refused_in_one_line() {
        for (text, says) in [
            ("", "no [[nic]]"),
            ("[[nic]]\nname='a'\nvfs=0", "1 to 256"),
            (
                "[[nic]]\nname='a'\nprofile='igb'\nvfs=8",
                "a NIC of profile igb has 1 to 7 VFs",
            ),
            ("[[nic]]\nname='a'\nvfss=1", "vfss"),
            (
                "socket_dir='/tmp/x'\nctl='/tmp/x/a-vf1.sock'\n[[nic]]\nname='a'",
                "socket /tmp/x/a-vf1.sock is used twice: it is of one VF, or the control socket",
            ),
            ("[[nic]]\nname='a/b'", "letters"),
            ("[[nic]]\nname='a'\n[[nic]]\nname='a'", "differ"),
            ("[[nic]]\nname='a'\nmac_base='01:00:00:00:00:00'", "unicast"),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\n\n[[nic.vf]]\ntrust=true\nindex = 2 # the third",
                "line 8: a: [[nic.vf]] index = 2: the VFs are 0 to 1",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=1\n[[nic.vf]]\nindex=1",
                "line 6: a: [[nic.vf]] index = 1",
            ),
            (
                "[[nic]]\nname='a'\nprofile='ixgbe'\n[[nic.vf]]\nindex=1\nmin_tx_rate=5\n[[nic]]\nname='b'\n[[nic.vf]]\nindex=1\nmin_tx_rate=6",
                "line 6: a vf1: min_tx_rate",
            ),
            (
                "[[nic]]\nname='a'\nloopback_rate='fast'",
                "line 3: a: loopback_rate: rate 'fast'",
            ),
            ("[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nvlna=3", "vlna"),
            ("[[nic]]\nname='a'\n[[wire]]\nbetween=['a','x']", "no NIC"),
            (
                "[[nic]]\nname='a'\n[[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\nrate='fast'",
                "line 7: rate 'fast': a number of bits a second with k, M, G or T, such as 10G",
            ),
            (
                "[[nic]]\nname='a'\nmtu=20",
                "a: mtu 20: an MTU is 68 to 9216 bytes",
            ),
            ("[[nic]]\nname='a'\nworkers=0", "1 to 16 workers"),
            ("[[nic]]\nname='a'\nvfs=64\nworkers=17", "1 to 16 workers"),
            ("[[nic]]\nname='a'\nworkers=3", "of which it has 2"),
            (
                "[[nic]]\nname='a'\nfilters=['flow-type ether']",
                "a: filters, 'flow-type ether': filter:",
            ),
            ("[[nic]]\nname='a'\nprofile='82599'", "ixgbe"),
            (
                "[[nic]]\nname='a'\nnumvfs=3",
                "a: numvfs: numvfs 3: ERANGE, this NIC can have 0 to 2 VFs",
            ),
            (
                "[[nic]]\nname='a'\nnumvfs=1\nfilters=['flow-type ether proto 2048 vf 1']",
                "0 to 0",
            ),
            (
                "[[nic]]\nname='a'\nlink='off'",
                "unknown variant `off`, expected `up` or `down`",
            ),
            (
                "[[nic]]\nname='a'\nhwmode='hub'",
                "a: hwmode: hwmode 'hub': veb, vepa, floating or none",
            ),
            (
                "[[nic]]\nname='a'\nprofile='ef10'\nhwmode='vepa'",
                "a: hwmode: hwmode vepa: ef10 has veb",
            ),
            (
                "[[nic]]\nname='a'\nfdb=['01:00:5e:00:00:01']",
                "line 3: a: fdb: fdb 01:00:5e:00:00:01: a station has",
            ),
            (
                "[[nic]]\nname='a'\nprofile='falcon'\nfilters=['flow-type ether proto 2048 vf 1']",
                "profile falcon holds 0",
            ),
            (
                "[[nic]]\nname='a'\nfilters=['flow-type ether proto 2048 vf 2']",
                "0 to 1",
            ),
            (
                "[[nic]]\nname='a'\nuplink='tun tun0'",
                "an uplink is 'tap NAME' or 'macvtap NAME' or 'packet NAME' or 'vxlan id VNI remote ADDR ...' or 'vhost-user SOCKET' or 'passt [OPTION ...]' or 'pcap FILE [delay TIME] [repeat]' or 'hairpin'",
            ),
            ("[[nic]]\nname='a'\nuplink='tap'", "an uplink is 'tap NAME'"),
            (
                "[[nic]]\nname='a'\nuplink='tap t'\ntap='t'",
                "a NIC has one",
            ),
            (
                "[[nic]]\nname='a'\ntap='t'\nnetem='los 1%'",
                "line 4: netem: 'los' is not one of",
            ),
            (
                "[[nic]]\nname='a'\nnetem='loss 1%'\n[[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']\nnetem='delay 1ms'",
                "leave one of them out",
            ),
            (
                "[[nic]]\nname='a'\nuplink='tap t'\n[[nic]]\nname='b'\n[[wire]]\nbetween=['a','b']",
                "a wire or another uplink, not both",
            ),
            ("[[nic]\nname='a'", "line 1"),
            (
                "socket-dir='x'",
                "line 1: unknown field `socket-dir`, expected one of `socket_dir`, `ctl`,",
            ),
            ("thread=2\n[[nic]]\nname='a'", "(did you mean `threads`?)"),
            ("[[nic]]\nname='a'\nvf=3", "line 3"),
            ("[[nic]]\nname='a'\nworker=3", "(did you mean `workers`?)"),
            (
                "[[nic]]\nname='a'\n[[wire]]\nbetwen=['a','b']",
                "(did you mean `between`?)",
            ),
            (
                "[[nic]]\nname='a'\nvfs=300",
                "test.toml: line 3: a: vfs = 300: a NIC of profile generic has 1 to 256 VFs",
            ),
            (
                "[[nic]]\nname='a'\n[[nic]]\nname='b'\n# few\n workers =  3\n[[nic.vf]]\nindex=0",
                "test.toml: line 6: b: workers = 3",
            ),
            (
                "[[nic]]\nname='a'\nprofile='igb'\nvfs=8",
                "test.toml: line 4: a: vfs = 8",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nvlna=3",
                "line 5: unknown field `vlna`, expected one of index, socket, socket_role, device, qmp, link_method, tap, netns, macs, vlans, rss, rss_contexts, netem, netem_ingress, mac, vlan,",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nnetns='blue'",
                "a vf0: netns = \"blue\" is where a tap is: say tap = \"eth0\", too",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\ntap='eth0'\ndevice='sfc'",
                "a vf0: device = \"sfc\" is for a VM",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\ntap='a/b'",
                "a vf0: tap = \"a/b\": a name of 1 to 15 letters",
            ),
            (
                "[[nic]]\nname='a'\n[[nic]]\nname='b'\n[[nic.vf]]\nindex=0\ntap='t'\nnetns='n'\n[[nic.vf]]\nindex=1\ntap='t'\nnetns='n'",
                "line 9: b vf1: tap t in netns n is on b vf 0 already: say another name",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=1\ntap='t'\n[[nic]]\nname='b'\n[[nic.vf]]\nindex=1\ntap='t'",
                "line 8: b vf1: tap t is on a vf 1 already: say another name",
            ),
            (
                "[[nic]]\nname='a'\nuplink='tap t'\n[[nic.vf]]\nindex=0\ntap='t'",
                "line 4: a vf0: tap t is the uplink of a: say another name",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nspoofchk=3",
                "line 5: spoofchk '3': on or off",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\npath='fast'",
                "line 5: path 'fast': direct, mediated or auto",
            ),
            (
                "[[nic]]\nname='a'\n[[nic.vf]]\nindex=0\nmac=[3]",
                "line 5: invalid type: sequence, expected a MAC address",
            ),
            ("[[nic]]\nname='a'\n[[nic.vf]]\ntrust=true", "`index`"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text:?} gave {error:?}");
            assert!(!error.contains('\n'), "{error:?}");
        }
    }
}
