//! `[[nic.vf]]`: the socket of a VF and its policy at the start.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use vf_model::{MacAddr, Mbps, Path as VfPath, VfLinkState, VlanProto};

/// One VF.
#[derive(Clone, Debug)]
pub struct VfSettings {
    /// Its socket.
    pub socket: PathBuf,
    /// Who listens on it.
    pub role: SocketRole,
    /// What is applied at the start, in the words of `vfnic vf N set`.
    pub policy: PolicySettings,
}

/// Who listens on a VF's socket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SocketRole {
    /// We do; the VMM connects.
    #[default]
    Server,
    /// The VMM does (`server=on` on QEMU's chardev); we connect, for ever.
    Client,
}

/// Settings of a VF that are applied before it first runs.
#[derive(Clone, Debug, Default)]
pub struct PolicySettings {
    /// The administrator's MAC address.
    pub mac: Option<MacAddr>,
    /// Port VLAN, 1 to 4094.
    pub vlan: Option<u16>,
    /// Priority bits of the port VLAN's tag.
    pub qos: Option<u8>,
    /// Kind of the port VLAN's tag.
    pub proto: Option<VlanProto>,
    /// Whether frames with a foreign source MAC are dropped.
    pub spoofchk: Option<bool>,
    /// Whether the guest is trusted.
    pub trust: Option<bool>,
    /// Link state.
    pub state: Option<VfLinkState>,
    /// Limit on what the guest sends.
    pub max_tx_rate: Option<Mbps>,
    /// Which path its traffic takes.
    pub path: Option<VfPath>,
}

/// One `[[nic.vf]]` as a file has it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct VfSection {
    pub(super) index: u16,
    socket: Option<PathBuf>,
    socket_role: Option<SocketRole>,
    mac: Option<MacAddr>,
    vlan: Option<u16>,
    qos: Option<u8>,
    proto: Option<VlanProto>,
    spoofchk: Option<bool>,
    trust: Option<bool>,
    state: Option<VfLinkState>,
    max_tx_rate: Option<Mbps>,
    path: Option<VfPath>,
}

impl VfSection {
    /// Puts what the file says in the place of what holds otherwise.
    pub(super) fn apply(self, settings: &mut VfSettings, socket_dir: &Path) {
        if let Some(socket) = self.socket {
            settings.socket = socket_dir.join(socket);
        }
        settings.role = self.socket_role.unwrap_or(settings.role);
        settings.policy = PolicySettings {
            mac: self.mac,
            vlan: self.vlan,
            qos: self.qos,
            proto: self.proto,
            spoofchk: self.spoofchk,
            trust: self.trust,
            state: self.state,
            max_tx_rate: self.max_tx_rate,
            path: self.path,
        };
    }
}
