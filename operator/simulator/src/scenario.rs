//! A pipeline in a world: everything but the trace that a simulation needs.

use layra_autoscaler::{Learned, Policy};

use super::{
    policies::{Peer, Settings, scalers},
    simulation::{self, Outcome},
    trace::Trace,
    world::Setup,
};

/// Everything but the trace.
#[derive(Clone, Debug)]
pub(super) struct Scenario {
    pub(super) setup: Setup,
    pub(super) policy: Policy,
    /// What the core knows of the workers from the start.
    pub(super) learned: Option<Learned>,
    pub(super) settings: Settings,
}

impl Scenario {
    /// Seconds within which a document should be done.
    pub(super) fn drain_target(&self) -> u32 {
        u32::try_from(self.policy.drain_target.as_secs()).unwrap_or(u32::MAX)
    }

    /// This operator, then the peers.
    pub(super) fn run(&self, trace: &Trace, peers: &[Peer]) -> Vec<Outcome> {
        let learned = self.learned.map(|learned| Learned {
            startup_seconds: self.setup.startup_seconds.into(),
            ..learned
        });
        scalers(&self.policy, learned, peers, self.settings)
            .iter_mut()
            .map(|scaler| simulation::run(trace, &self.setup, self.drain_target(), scaler.as_mut()))
            .collect()
    }
}
