//! The policy that a NIC begins with, as its configuration says. Puts nothing in force.

use std::sync::Arc;

use vf_model::{Command, LinkSetting, NicConfig, Policy, Refusal, VfIndex};

use super::nic::NicSettings;

/// What a NIC's configuration says of its VFs and filters.
///
/// # Errors
/// The refusal of an initial setting, with its VF.
pub fn initial_policy(settings: &NicSettings) -> Result<Policy, (VfIndex, Refusal)> {
    let config = NicConfig {
        vfs: settings.vfs,
        mac_base: settings.mac_base,
        profile: settings.profile,
    };
    let mut policy = Policy::new(config);
    let mtu = settings.mtu.map(|mtu| LinkSetting::Mtu(mtu.get().into()));
    let mtu = mtu.map(|mtu| Command::SetLink(vec![mtu]));
    let netem = settings.netem.iter().map(|(way, spec)| {
        let spec = Some(Arc::clone(spec));
        Command::SetLinkNetem { way, spec }
    });
    let netem: Vec<_> = netem.collect();
    for command in mtu.iter().chain(&netem).chain(&settings.switch) {
        let refused = |refusal| (VfIndex::default(), refusal);
        policy = policy.with(command).map_err(refused)?;
    }
    // Those of which nothing is said need not be there.
    let said = settings.vf.iter().enumerate();
    for (i, vf) in said.filter(|(_, vf)| !vf.policy.is_empty()) {
        let command = Command::SetVf {
            vfs: VfIndex::from(i).into(),
            settings: vf.policy.clone(),
        };
        let refused = |refusal| (VfIndex::from(i), refusal);
        policy = policy.with(&command).map_err(refused)?;
    }
    // Last, as some drivers take no rate while there is no link.
    let down = (!settings.link_up).then_some(LinkSetting::Up(false));
    // One that comes and goes begins in the port.
    let out = settings.cable_out && policy.flap().is_none();
    let out = out.then_some(LinkSetting::Carrier(false));
    let link: Vec<_> = down.into_iter().chain(out).collect();
    let link = (!link.is_empty()).then_some(Command::SetLink(link));
    for command in settings.filters.iter().chain(&link) {
        let refused = |refusal| (VfIndex::default(), refusal);
        policy = policy.with(command).map_err(refused)?;
    }
    Ok(policy)
}
