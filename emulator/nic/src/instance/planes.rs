//! The planes of a NIC before anybody owns them, and the policy that they begin with. Moves no ring.

use std::sync::Arc;

use vf_model::{Command, LinkConfig, LinkSetting, Nanos, NicConfig, Policy, Refusal, VfIndex};

use crate::config::NicSettings;
use crate::plane::{DirectPlane, MediatedPlane, PolicyCell};
use crate::queue::{PfEnd, Pool};
use crate::uplink::Uplink;

/// The planes of a host, before anybody owns them.
pub struct Planes {
    /// The direct path, by worker.
    pub workers: Vec<DirectPlane>,
    /// The mediated path.
    pub hypervisor: MediatedPlane,
    /// What they judge by.
    pub policies: PolicyCell,
}

impl Planes {
    /// Planes for a NIC with its initial policies, without rings.
    ///
    /// # Errors
    /// The refusal of an initial setting, with its VF.
    pub fn new(
        settings: &NicSettings,
        workers: usize,
        uplink: Option<Box<dyn Uplink>>,
        pool: &Pool,
        cost: Option<vf_model::CostModel>,
    ) -> Result<Planes, (VfIndex, Refusal)> {
        let rate = uplink.as_ref().map(|uplink| uplink.link().rate_bps());
        let rate = rate.unwrap_or(LinkConfig::default().rate_bps);
        let refused = |refusal| (VfIndex::default(), refusal);
        let policy = initial_policy(settings)?.with_port_rate(rate);
        let policies = PolicyCell::new(Arc::new(policy.map_err(refused)?));
        let (nic_end, hypervisor_end) = PfEnd::pair();
        Ok(Planes {
            workers: DirectPlane::team(&policies, workers, nic_end, uplink, pool),
            hypervisor: MediatedPlane::new(&policies, hypervisor_end, pool.clone(), cost),
            policies,
        })
    }
}

impl Planes {
    /// Which NIC of its process it is, so that the same seed gives each other impairments; `slack` is how far ahead of now its
    /// transmitter may be filled.
    pub fn set_place(&mut self, nic: usize, slack: Nanos) {
        let workers = self.workers.iter_mut();
        workers.for_each(|worker| worker.set_place(nic, slack));
        self.hypervisor.set_place(nic);
    }
}

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
