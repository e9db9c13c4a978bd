//! A pipeline in a simulated world: everything that a simulation needs except the trace.

use layra_autoscaler::{Learned, Policy};

use super::{
    policies::{Peer, Settings, Workload, scalers},
    simulation::{self, Outcome},
    trace::Trace,
    world::Setup,
};

/// Mean pages of a document, for what people would measure.
pub(super) const PAGES_PER_DOCUMENT: f64 = 10.0;

/// Everything that a simulation needs except the trace.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) setup: Setup,
    pub(super) policy: Policy,
    /// What the autoscaler has already learned at the start.
    pub(super) learned: Option<Learned>,
    pub(super) settings: Settings,
}

impl Scenario {
    /// Seconds within which a document should be processed.
    pub(super) fn drain_target(&self) -> u32 {
        u32::try_from(self.policy.drain_target.as_secs()).unwrap_or(u32::MAX)
    }

    /// Runs this operator's policy, then the peers'.
    pub(super) fn run(&self, trace: &Trace, peers: &[Peer]) -> Vec<Outcome> {
        let provisioning = trace.nodes.map_or(0.0, |nodes| nodes.seconds.into());
        let learned = self.learned.map(|learned| Learned {
            provisioning_seconds: provisioning,
            startup_seconds: self.setup.startup_seconds.into(),
            ..learned
        });
        let workload = Workload {
            documents_per_second: self.setup.pages_per_second / PAGES_PER_DOCUMENT,
            drain_target: self.policy.drain_target.as_secs_f64(),
            seconds_until_ready: provisioning + f64::from(self.setup.startup_seconds),
        };
        scalers(&self.policy, learned, peers, self.settings, workload)
            .iter_mut()
            .map(|scaler| simulation::run(trace, &self.setup, self.drain_target(), scaler.as_mut()))
            .collect()
    }
}
