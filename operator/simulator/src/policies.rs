//! The policies with their names and settings.

use clap::ValueEnum;
use layra_autoscaler::{Learned, Policy};

use super::{
    flink::{self, Flink},
    hpa::Hpa,
    keda::{self, Keda},
    layra::Layra,
    llmd::{self, Llmd},
    numaflow::{self, Numaflow},
    scaler::{Bounds, Scaler},
};

/// Another autoscaler to compare with: our implementation of its published formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Peer {
    /// KEDA's `apache-kafka` scaler with the HPA that it creates.
    Keda,
    /// A Kubernetes HPA on the lag, at least one worker.
    Hpa,
    /// Numaflow's autoscaler for a source.
    Numaflow,
    /// The Flink autoscaler, at least one worker.
    Flink,
    /// What llm-d proposes for batch inference: KEDA on the backlog and the time left until
    /// deadlines.
    #[value(name = "llm-d")]
    Llmd,
}

/// Where the settings of the peers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settings {
    /// Their documented defaults.
    Defaults,
    /// Tuned for the drain target, with the true speed of the workers and size of the documents.
    ForDrainTarget,
}

/// What people would measure and enter by hand.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Workload {
    /// Documents per second of one worker.
    pub(super) documents_per_second: f64,
    /// Seconds.
    pub(super) drain_target: f64,
    /// Seconds from the creation of a pod to its readiness, a new node included.
    pub(super) seconds_until_ready: f64,
}

impl Peer {
    /// The policy with its settings.
    pub(super) fn scaler(
        self,
        bounds: Bounds,
        settings: Settings,
        workload: Workload,
    ) -> Box<dyn Scaler> {
        let in_time = (workload.documents_per_second * workload.drain_target)
            .floor()
            .max(1.0);
        let target = workload.drain_target;
        let (threshold, backlog, processing, catch_up) = match settings {
            Settings::Defaults => (
                keda::LAG_THRESHOLD,
                llmd::BACKLOG_THRESHOLD,
                numaflow::TARGET_PROCESSING,
                flink::CATCH_UP,
            ),
            Settings::ForDrainTarget => (in_time, in_time, target, target),
        };
        match self {
            Self::Keda => Box::new(Keda::new(bounds, threshold)),
            Self::Hpa => Box::new(Hpa::new(bounds, threshold)),
            Self::Numaflow => Box::new(Numaflow::new(bounds, processing)),
            Self::Flink => Box::new(Flink::new(bounds, catch_up)),
            Self::Llmd => Box::new(Llmd::new(bounds, workload, backlog)),
        }
    }
}

/// This operator's policy, then the peers'.
pub(super) fn scalers(
    policy: &Policy,
    learned: Option<Learned>,
    peers: &[Peer],
    settings: Settings,
    workload: Workload,
) -> Vec<Box<dyn Scaler>> {
    let bounds = Bounds {
        min: policy.floor,
        max: policy.max.get(),
    };
    let own: Box<dyn Scaler> = Box::new(Layra::new(policy.clone(), learned));
    let others = peers
        .iter()
        .map(|peer| peer.scaler(bounds, settings, workload));
    std::iter::once(own).chain(others).collect()
}
